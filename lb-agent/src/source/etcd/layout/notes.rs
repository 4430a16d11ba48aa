//! What is wrong with what is stored, kept by key and by what it was built into, so that a change
//! replaces exactly the notes it is about.

use super::text::clean;
use crate::model::Rejection;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest key that is shown.
const SHOWN_KEY: usize = 300;
/// Longest reason that is shown.
const SHOWN_REASON: usize = 600;

/// Something wrong, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// What is wrong and what to do.
    pub(super) reason: String,
    /// Whether it costs an item; a warning does not.
    pub(super) refused: bool,
}

/// A key and the revision of its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    /// The key below the prefix, in as many parts as it is kept in.
    pub(super) path: [&'a str; 2],
    /// The revision.
    pub(super) modified: i64,
}

/// All notes.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// About values, by key below the prefix.
    keys: BTreeMap<Box<str>, Vec<Rejection>>,
    /// About how values go together, by what they were built into.
    groups: BTreeMap<Box<str>, Vec<Rejection>>,
    refused: u64,
    all: Arc<Vec<Rejection>>,
    stale: bool,
}

// === impl Note ===

impl Note {
    /// A note of an item that was refused.
    pub(super) fn refusal(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), refused: true }
    }

    /// A note that costs nothing.
    pub(super) fn warning(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), refused: false }
    }

    /// The note as it is shown.
    pub(super) fn rejection(
        &self,
        prefix: &str,
        origin: Origin<'_>,
        service: Option<&str>,
    ) -> Rejection {
        let [dir, leaf] = origin.path;
        let slash = if dir.is_empty() { "" } else { "/" };
        let key = clean(&format!("{prefix}{dir}{slash}{leaf}"), SHOWN_KEY);
        Rejection {
            origin: format!("{key} (revision {})", origin.modified),
            service: service.map(|name| clean(name, SHOWN_KEY)),
            reason: clean(&self.reason, SHOWN_REASON),
        }
    }
}

// === impl Notes ===

impl Notes {
    /// Replaces what is noted about the value of a key.
    pub(super) fn of_key(&mut self, path: &str, now: Vec<(Rejection, bool)>) {
        self.stale |= replace(&mut self.keys, path, now, &mut self.refused);
    }

    /// Replaces what is noted about what was built under this name.
    pub(super) fn of_group(&mut self, group: &str, now: Vec<(Rejection, bool)>) {
        self.stale |= replace(&mut self.groups, group, now, &mut self.refused);
    }

    /// Whether something is noted about what was built under this name.
    pub(super) fn has_group(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Items refused so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Everything noted, sorted.
    pub(super) fn all(&mut self) -> Arc<Vec<Rejection>> {
        if self.stale {
            self.stale = false;
            let mut all: Vec<_> =
                self.keys.values().chain(self.groups.values()).flatten().cloned().collect();
            all.sort_unstable();
            self.all = Arc::new(all);
        }
        Arc::clone(&self.all)
    }
}

/// Whether anything changed. Only what was not noted before is counted.
fn replace(
    notes: &mut BTreeMap<Box<str>, Vec<Rejection>>,
    name: &str,
    now: Vec<(Rejection, bool)>,
    refused: &mut u64,
) -> bool {
    let before = notes.get(name).map_or(&[][..], Vec::as_slice);
    let new = now.iter().filter(|(note, refused)| *refused && !before.contains(note)).count();
    *refused += new as u64;
    let now: Vec<_> = now.into_iter().map(|(note, _)| note).collect();
    if before == now {
        return false;
    }
    if now.is_empty() {
        notes.remove(name);
    } else {
        notes.insert(name.into(), now);
    }
    true
}
