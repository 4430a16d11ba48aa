//! How far the store has been followed: what was delivered, what to go on from after a broken
//! connection, and by what to tell that the store is still the one it was.
//!
//! Only events and lists move a position on. The revisions that the server puts into the headers of
//! events and of progress reports may be ahead of events that it has not sent yet.
//!
//! Pure.

use super::kv::{Change, KeyValue, Listing};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};

/// How many keys are remembered to know the store by: some of them may be deleted.
const ANCHORS: usize = 8;

/// Where we are in the history of one store.
#[derive(Debug)]
pub(super) struct Position {
    /// All events before this revision were delivered.
    last: i64,
    /// Of those at this revision, the keys that were. `None`: all were. A transaction's events may
    /// come in several messages.
    partial: Option<BTreeSet<String>>,
    /// The keys that changed last, by revision.
    anchors: BTreeMap<i64, Anchor>,
    /// The cluster's name for itself.
    cluster: u64,
}

/// A key as we have seen it.
#[derive(Debug, PartialEq, Eq)]
struct Anchor {
    key: String,
    created: i64,
    value: u64,
}

// === impl Position ===

impl Position {
    /// Right after a list.
    pub(super) fn after(listing: &Listing, cluster: u64) -> Self {
        let mut position =
            Self { last: listing.revision, partial: None, anchors: BTreeMap::new(), cluster };
        position.anchor_all(&listing.keys);
        position
    }

    /// The last revision of which anything was delivered.
    pub(super) fn last(&self) -> i64 {
        self.last
    }

    /// Where a watch goes on.
    pub(super) fn start(&self) -> i64 {
        if self.partial.is_some() { self.last } else { self.last + 1 }
    }

    /// Takes what a watch says and returns what is new.
    pub(super) fn absorb(&mut self, changes: Vec<Change>) -> Vec<Change> {
        changes.into_iter().filter(|change| self.is_new(change)).collect()
    }

    /// A message without events has come: the last one with events was complete.
    pub(super) fn settle(&mut self) {
        self.partial = None;
    }

    /// A list was made while events came in, of which some may be later.
    pub(super) fn cover(&mut self, listing: &Listing) {
        if listing.revision >= self.last {
            self.last = listing.revision;
            self.partial = None;
            self.anchors.clear();
            self.anchor_all(&listing.keys);
        }
    }

    /// The key to look at, and at which revision, to see whether the store is still the same.
    /// `None` if there is none to tell by.
    pub(super) fn anchor(&self) -> Option<(&str, i64)> {
        let (modified, anchor) = self.anchors.last_key_value()?;
        // What was not delivered of the last revision may have changed it.
        let seen = if self.partial.is_some() { self.last - 1 } else { self.last };
        Some((&anchor.key, seen.max(*modified)))
    }

    /// Whether what was found there is what was there.
    pub(super) fn is_held_by(&self, found: Option<&KeyValue>, cluster: u64) -> bool {
        let (Some((modified, anchor)), Some(found)) = (self.anchors.last_key_value(), found) else {
            return false;
        };
        self.cluster == cluster && found.modified == *modified && Anchor::of(found) == *anchor
    }

    /// Whether this is what the cluster calls itself.
    pub(super) fn is_in(&self, cluster: u64) -> bool {
        self.cluster == cluster
    }

    fn is_new(&mut self, change: &Change) -> bool {
        let (modified, key) = (change.modified(), change.key());
        if modified < self.last {
            return false;
        }
        if modified > self.last {
            self.last = modified;
            self.partial = Some(BTreeSet::new());
        }
        let new = self.partial.as_mut().is_some_and(|seen| seen.insert(key.to_owned()));
        if new {
            match change {
                Change::Put(put) => self.anchor_to(put),
                Change::Delete { key, .. } => {
                    self.anchors.retain(|_, anchor| anchor.key != *key);
                }
            }
        }
        new
    }

    fn anchor_all(&mut self, keys: &[KeyValue]) {
        for key in keys {
            let lowest = self.anchors.first_key_value().map_or(0, |(modified, _)| *modified);
            if self.anchors.len() < ANCHORS || key.modified > lowest {
                self.anchor_to(key);
            }
        }
    }

    fn anchor_to(&mut self, put: &KeyValue) {
        self.anchors.retain(|_, anchor| anchor.key != put.key);
        self.anchors.insert(put.modified, Anchor::of(put));
        if self.anchors.len() > ANCHORS {
            self.anchors.pop_first();
        }
    }
}

// === impl Anchor ===

impl Anchor {
    fn of(put: &KeyValue) -> Self {
        let mut hasher = DefaultHasher::new();
        put.value.hash(&mut hasher);
        Self { key: put.key.clone(), created: put.created, value: hasher.finish() }
    }
}

/// A list with the changes that came in while it was made, as of the last of either.
pub(super) fn advance(listing: Listing, since: Vec<Change>) -> Listing {
    let mut since =
        since.into_iter().filter(|change| change.modified() > listing.revision).peekable();
    if since.peek().is_none() {
        return listing;
    }
    let Listing { mut revision, keys } = listing;
    let mut keys: BTreeMap<String, KeyValue> =
        keys.into_iter().map(|key| (key.key.clone(), key)).collect();
    for change in since {
        revision = revision.max(change.modified());
        match change {
            Change::Put(put) => drop(keys.insert(put.key.clone(), put)),
            Change::Delete { key, .. } => drop(keys.remove(&key)),
        }
    }
    Listing { revision, keys: keys.into_values().collect() }
}

#[cfg(test)]
mod tests;
