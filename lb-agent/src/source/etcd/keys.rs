//! Which keys there are: compares lists and changes with what is known, and disbelieves removals
//! that may be a mishap.
//!
//! A list that follows an outage may lack keys because somebody deleted them, or because the store
//! was wiped, restored from an old copy, or is being filled again. So what such a list lacks is kept
//! for a while ("held") and goes when its time is up; whatever is put again by then has never been
//! away. What the store itself says to be deleted goes at once, but for one thing: while a store is
//! away nobody can renew a lease there, so soon after its return the leases of the living end with
//! those of the dead, and keys that hung on one are held as if they were missing. Pure: what a key
//! means is for the layout to say, the time comes as an argument.

mod held;

use self::held::Removals;
use crate::etcd::{Change, KeyValue};
use crate::status::Held;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How long after its return a store may still end leases of the living, at least: leases run on for
/// as long as they were granted, and registrars try again every two seconds.
const SETTLING: Duration = Duration::from_secs(30);

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
    held: Removals,
    leases: Leases,
}

/// Whether the end of a lease says that its holder is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leases {
    Trusted,
    /// The store is away.
    Stopped,
    /// It was away; until then they are doubted.
    Settling(Instant),
}

/// Enough to tell whether a key is as it was. The number of its last change alone would not do: a
/// store that was wiped counts from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    modified: i64,
    hash: u64,
    leased: bool,
}

// === impl Keyspace ===

impl Keyspace {
    /// No keys yet. Doubtful removals are held for `grace`.
    pub fn new(grace: Duration) -> Self {
        let (keys, held) = (HashMap::new(), Removals::new(grace));
        Self { grace, keys, held, leases: Leases::Trusted }
    }

    /// The store can't be followed: until it is [`Self::up`] again no removal is believed.
    pub fn down(&mut self) {
        self.leases = Leases::Stopped;
        self.held.stop();
    }

    /// The store is followed again. What is held has its whole time again, to be put again.
    pub fn up(&mut self, now: Now) {
        self.held.go_on(now);
        self.leases = Leases::Settling(self.settled(now));
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
        missing.retain(|key| !self.held.contains(key));
        // What made it lose keys may make it lose leases.
        if doubtful && !missing.is_empty() && self.leases != Leases::Stopped {
            self.leases = Leases::Settling(self.settled(now));
        }
        for key in missing {
            if doubtful {
                self.held.hold(&key, now);
            } else {
                self.keys.remove(&key);
                apply(&key, None);
            }
        }
    }

    /// Takes in changes, in the order of the store.
    pub fn changed(
        &mut self,
        changes: &[Change],
        now: Now,
        mut apply: impl FnMut(&str, Option<&KeyValue>),
    ) {
        let doubtful = self.doubts_leases(now.instant);
        for change in changes {
            match change {
                Change::Put(key) => self.put(key, &mut apply),
                Change::Delete { key, .. } if doubtful && self.is_leased(key) => {
                    self.held.hold(key, now);
                }
                Change::Delete { key, .. } => {
                    self.held.release(key);
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
        let due = self.held.take_due(now);
        for key in &due {
            self.keys.remove(&**key);
            apply(key, None);
        }
        due.len()
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.held.next_deadline()
    }

    /// The removals that are held, soonest first; of very many only some, and how many others.
    pub fn held(&self) -> Vec<Held> {
        self.held.shown()
    }

    /// Whether any removal is held.
    pub fn holds(&self) -> bool {
        self.held.len() > 0
    }

    /// How many are.
    pub fn holding(&self) -> usize {
        self.held.len()
    }

    /// Another number whenever other removals are held, or for another time.
    pub fn changes(&self) -> u64 {
        self.held.changes()
    }

    /// The keys whose removal is held. Of those below `crowd`, a directory with very many, at most
    /// one: it costs nothing to leave out the others.
    pub fn missing(&self, crowd: &str) -> BTreeSet<Arc<str>> {
        let held = self.held.keys();
        let (from, end) = (Arc::<str>::from(crowd), beyond(crowd));
        let before = held.range(..Arc::clone(&from));
        let one = held.range(from..Arc::clone(&end)).take(1);
        before.chain(one).chain(held.range(end..)).map(|(key, _)| Arc::clone(key)).collect()
    }

    /// How many keys there are, held ones included.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn settled(&self, now: Now) -> Instant {
        now.instant + self.grace.max(SETTLING)
    }

    fn doubts_leases(&self, now: Instant) -> bool {
        let doubtful = match self.leases {
            Leases::Trusted => false,
            Leases::Stopped => true,
            Leases::Settling(until) => now < until,
        };
        doubtful && !self.grace.is_zero()
    }

    fn is_leased(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|seen| seen.leased)
    }

    fn put(&mut self, key: &KeyValue, apply: &mut impl FnMut(&str, Option<&KeyValue>)) {
        let name = key.key.as_str();
        self.held.release(name);
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
        Self { modified: *modified, hash: hasher.finish(), leased: lease.is_some() }
    }
}

/// The first text behind all that begin with `prefix`, which ends in `/`.
fn beyond(prefix: &str) -> Arc<str> {
    format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix)).into()
}

#[cfg(test)]
mod tests;
