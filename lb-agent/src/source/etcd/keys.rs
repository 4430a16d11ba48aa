//! Which keys there are: compares lists and changes with what is known, and disbelieves removals
//! that may be a mishap.
//!
//! A list that follows an outage may lack keys because somebody deleted them, or because the store
//! was wiped, restored from an old copy, or is being filled again. So what such a list lacks is kept
//! for a while ("held") and goes when its time is up; whatever is put again by then has never been
//! away. What the store itself says to be deleted goes at once. Pure: what a key means is for the
//! layout to say, the time comes as an argument.

use crate::etcd::{Change, KeyValue};
use crate::status::Held;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::time::{Duration, Instant, SystemTime};

/// Most held removals that are named one by one: a wiped store has as many as it had keys.
const MOST_SHOWN: usize = 100;

/// The time, by the clock that measures and by the one that people read.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For measuring.
    pub instant: Instant,
    /// For people.
    pub system: SystemTime,
}

/// The keys below a prefix.
#[derive(Debug)]
pub struct Keyspace {
    grace: Duration,
    keys: HashMap<Box<str>, Seen>,
    /// When the removal of a key is believed.
    held: BTreeMap<Box<str>, Now>,
    /// Counts changes of `held`.
    changes: u64,
}

/// Enough to tell whether a key is as it was. The number of its last change alone would not do: a
/// store that was wiped counts from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    modified: i64,
    hash: u64,
}

// === impl Keyspace ===

impl Keyspace {
    /// No keys yet. Doubtful removals are held for `grace`.
    pub fn new(grace: Duration) -> Self {
        Self { grace, keys: HashMap::new(), held: BTreeMap::new(), changes: 0 }
    }

    /// Takes in a list of all keys. `gap`: changes may have been missed before it. `apply` gets
    /// each key that is new or another, with its value, and each that is gone, without.
    pub fn listed(
        &mut self,
        keys: &[KeyValue],
        gap: bool,
        now: Now,
        mut apply: impl FnMut(&str, Option<&KeyValue>),
    ) {
        let mut missing: BTreeSet<Box<str>> = BTreeSet::new();
        if self.keys.is_empty() {
            self.keys.reserve(keys.len());
        } else {
            let listed: HashSet<&str> = keys.iter().map(|key| key.key.as_str()).collect();
            missing.extend(self.keys.keys().filter(|key| !listed.contains(&***key)).cloned());
        }
        for key in keys {
            self.put(key, &mut apply);
        }
        // A store does not lose its last key without being told to, unless it was wiped.
        let doubtful = (gap || keys.is_empty()) && !self.grace.is_zero();
        let until = Now { instant: now.instant + self.grace, system: now.system + self.grace };
        for key in missing {
            if self.held.contains_key(&key) {
                continue;
            }
            if doubtful {
                self.held.insert(key, until);
                self.changes += 1;
            } else {
                self.keys.remove(&key);
                apply(&key, None);
            }
        }
    }

    /// Takes in changes, in the order of the store.
    pub fn changed(&mut self, changes: &[Change], mut apply: impl FnMut(&str, Option<&KeyValue>)) {
        for change in changes {
            match change {
                Change::Put(key) => self.put(key, &mut apply),
                Change::Delete { key, .. } => {
                    self.unhold(key);
                    if self.keys.remove(key.as_str()).is_some() {
                        apply(key, None);
                    }
                }
            }
        }
    }

    /// Believes the removals whose time is up; returns how many.
    pub fn expire(
        &mut self,
        now: Instant,
        mut apply: impl FnMut(&str, Option<&KeyValue>),
    ) -> usize {
        let before = self.held.len();
        let keys = &mut self.keys;
        self.held.retain(|key, until| {
            let stays = until.instant > now;
            if !stays {
                keys.remove(key);
                apply(key, None);
            }
            stays
        });
        let removed = before - self.held.len();
        self.changes += u64::from(removed > 0);
        removed
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.held.values().map(|until| until.instant).min()
    }

    /// The removals that are held, soonest first; of very many only some, and how many others.
    pub fn held(&self) -> Vec<Held> {
        let mut all: Vec<_> = self.held.iter().map(|(key, until)| (until.system, key)).collect();
        all.sort();
        let (shown, rest) = all.split_at(all.len().min(MOST_SHOWN));
        let mut held: Vec<Held> = shown
            .iter()
            .map(|(until, key)| Held { item: key.to_string(), until: *until })
            .collect();
        held.extend(
            rest.first().map(|(until, _)| Held {
                item: format!("{} more keys", rest.len()),
                until: *until,
            }),
        );
        held
    }

    /// Whether any removal is held.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Another number whenever other removals are held.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The keys whose removal is held.
    pub fn missing(&self) -> BTreeSet<String> {
        self.held.keys().map(|key| key.to_string()).collect()
    }

    /// How many keys there are, held ones included.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn unhold(&mut self, key: &str) {
        if !self.held.is_empty() && self.held.remove(key).is_some() {
            self.changes += 1;
        }
    }

    fn put(&mut self, key: &KeyValue, apply: &mut impl FnMut(&str, Option<&KeyValue>)) {
        let name = key.key.as_str();
        self.unhold(name);
        let seen = Seen::of(key);
        match self.keys.get_mut(name) {
            Some(known) if *known == seen => return,
            Some(known) => *known = seen,
            None => drop(self.keys.insert(name.into(), seen)),
        }
        apply(name, Some(key));
    }
}

// === impl Seen ===

impl Seen {
    fn of(key: &KeyValue) -> Self {
        let KeyValue { key: _, value, created, modified, lease } = key;
        let mut hasher = DefaultHasher::new();
        (value, created, lease).hash(&mut hasher);
        Self { modified: *modified, hash: hasher.finish() }
    }
}

#[cfg(test)]
mod tests;
