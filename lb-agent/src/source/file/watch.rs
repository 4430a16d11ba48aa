//! Hints that a file may have changed. A hint may come for nothing and may be missing: the caller
//! looks for itself, and polls as well.
//!
//! The parent directory is watched, not the file: a file that is replaced by rename is another
//! inode, and a `ConfigMap` mounted by Kubernetes swaps a symbolic link beside it.

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// Watches the directory of a file.
pub(super) struct Watch {
    directory: PathBuf,
    hint: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Begins to watch. Where that is impossible there are no hints, and polling must do.
    pub(super) fn new(file: &Path) -> Self {
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut watch = Self { directory, hint: Arc::default(), watcher: None };
        watch.renew();
        watch
    }

    /// No hints at all.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { directory: PathBuf::new(), hint: Arc::default(), watcher: None }
    }

    /// Watches the directory that has the name now: the one watched may have been moved away.
    pub(super) fn renew(&mut self) {
        let hint = Arc::clone(&self.hint);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| settles(&event.kind)) {
                hint.notify_one();
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(&self.directory, RecursiveMode::NonRecursive).map(|()| watcher)
        });
        match watcher {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                if self.watcher.take().is_some() {
                    let directory = self.directory.display();
                    tracing::warn!(%directory, %error, "directory can't be watched; polling it");
                }
            }
        }
    }

    /// Whether changes are announced.
    pub(super) fn works(&self) -> bool {
        self.watcher.is_some()
    }

    /// Waits for a hint.
    pub(super) async fn hint(&self) {
        self.hint.notified().await;
    }

    /// Gives a hint: there is a reason to look again.
    pub(super) fn again(&self) {
        self.hint.notify_one();
    }
}

/// Whether after such an event a file has its new text. Writing is followed by closing, and a file
/// that was only just created is empty; opening and reading is what we do ourselves.
fn settles(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(access) => *access == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(modify) => !matches!(modify, ModifyKind::Data(_)),
        EventKind::Create(_) => false,
        EventKind::Remove(_) | EventKind::Any | EventKind::Other => true,
    }
}
