//! A copy of a prefix that is kept by following it, and the story of how that went.

use integration::etcd::Etcd;
use lb_agent::etcd::watch::{Timing, follow_at};
use lb_agent::etcd::{Change, Endpoint, Event, Settings, Tls, User};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::Receiver;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const PREFIX: &str = "/lb/";

/// What was heard of the prefix.
pub(crate) struct Mirror {
    pub(crate) keys: BTreeMap<String, String>,
    pub(crate) revision: i64,
    /// `listed`, `gap`, `up`, `down: ...`, in order; changes are not told.
    pub(crate) story: Vec<String>,
    events: Receiver<Event>,
    runtime: Runtime,
}

// === impl Mirror ===

impl Mirror {
    pub(crate) fn follow(settings: Settings) -> Self {
        Self::follow_at(settings, Timing::default())
    }

    pub(crate) fn follow_at(settings: Settings, timing: Timing) -> Self {
        let runtime = runtime();
        let events = {
            let _inside = runtime.enter();
            follow_at(Arc::new(settings), PREFIX.to_owned(), timing)
        };
        Self { keys: BTreeMap::new(), revision: 0, story: Vec::new(), events, runtime }
    }

    /// Takes in what comes until `holds`.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, holds: impl FnMut(&Self) -> bool) {
        self.until_within(DEADLINE, what, holds);
    }

    #[track_caller]
    pub(crate) fn until_within(
        &mut self,
        deadline: Duration,
        what: &str,
        mut holds: impl FnMut(&Self) -> bool,
    ) {
        let end = std::time::Instant::now() + deadline;
        while !holds(self) {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || !self.hear(left) {
                panic!("still waiting for {what}; {:?}, {} keys", self.story, self.keys.len());
            }
        }
    }

    /// Takes in what comes while `span` goes by.
    pub(crate) fn listen(&mut self, span: Duration) {
        let end = std::time::Instant::now() + span;
        while self.hear(end.saturating_duration_since(std::time::Instant::now())) {}
    }

    /// Waits until it is what the store holds.
    #[track_caller]
    pub(crate) fn until_same(&mut self, etcd: &Etcd) {
        let wanted: BTreeMap<String, String> = etcd.list(PREFIX).into_iter().collect();
        self.until("the copy to be complete", |mirror| mirror.keys == wanted);
    }

    /// The story since it was last asked for.
    pub(crate) fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.story)
    }

    /// Waits for a `down` with this in it, and returns that line.
    #[track_caller]
    pub(crate) fn until_down(&mut self, part: &str) -> String {
        let mut found = None;
        self.until(part, |mirror| {
            let about = |line: &&String| line.starts_with("down: ") && line.contains(part);
            found = mirror.story.iter().find(about).cloned();
            found.is_some()
        });
        found.unwrap_or_default()
    }

    /// Takes in one event; false if none comes in time.
    fn hear(&mut self, deadline: Duration) -> bool {
        let next = async { tokio::time::timeout(deadline, self.events.recv()).await };
        match self.runtime.block_on(next) {
            Ok(event) => self.absorb(event.expect("the follower lives")),
            Err(_) => return false,
        }
        true
    }

    fn absorb(&mut self, event: Event) {
        match event {
            Event::Listed { revision, keys, gap } => {
                self.story.push(if gap { "gap" } else { "listed" }.to_owned());
                self.keys = keys.into_iter().map(|found| (found.key, text(&found.value))).collect();
                self.revision = revision;
            }
            Event::Changed { revision, changes } => {
                assert!(!changes.is_empty());
                for change in changes {
                    assert!(change.modified() >= self.revision, "in order: {change:?}");
                    self.revision = change.modified();
                    match change {
                        Change::Put(put) => drop(self.keys.insert(put.key, text(&put.value))),
                        Change::Delete { key, .. } => {
                            let was = self.keys.remove(&key);
                            assert!(was.is_some(), "{key} was not there");
                        }
                    }
                }
                assert_eq!(self.revision, revision);
            }
            Event::Down(why) => {
                let line = format!("down: {why}");
                assert_ne!(self.story.last(), Some(&line), "said twice in a row");
                assert!(!line.contains('\n'), "{line}");
                self.story.push(line);
            }
            Event::Up => self.story.push("up".to_owned()),
        }
    }
}

/// A runtime whose threads are in the test's network namespace.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be made")
}

pub(crate) fn settings<E: AsRef<str>>(endpoints: impl IntoIterator<Item = E>) -> Settings {
    let endpoints =
        endpoints.into_iter().map(|one| one.as_ref().parse::<Endpoint>().expect("an endpoint"));
    Settings { endpoints: endpoints.collect(), tls: Tls::default(), user: None }
}

pub(crate) fn one(etcd: &Etcd) -> Settings {
    settings([etcd.endpoint()])
}

/// The same, as a user with the password in a new file.
pub(crate) fn with_password(mut settings: Settings, directory: &Path, text: &str) -> Settings {
    let file = directory.join("password");
    std::fs::write(&file, text).expect("the scratch directory is writable");
    settings.user = Some(User { name: "lb".to_owned(), password_file: file });
    settings
}

pub(crate) fn password_file(settings: &Settings) -> PathBuf {
    settings.user.as_ref().expect("with_password was called").password_file.clone()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
