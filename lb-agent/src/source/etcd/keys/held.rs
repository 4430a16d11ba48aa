//! Removals that are not believed yet, in the order in which they will be. While the store is away
//! none is: nobody could take it back.

use super::Now;
use crate::status::Held;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Most held removals that are named one by one: a wiped store has as many as it had keys.
pub(super) const MOST_SHOWN: usize = 100;

/// Keys that are missing and serve on.
#[derive(Debug)]
pub(super) struct Removals {
    grace: Duration,
    /// The keys, and when their removal is believed.
    keys: BTreeMap<Arc<str>, Instant>,
    due: BTreeMap<Instant, Due>,
    /// Whether time stands still.
    stopped: bool,
    /// Counts changes of all of the above.
    changes: u64,
}

/// What is believed at one moment.
#[derive(Debug)]
struct Due {
    system: SystemTime,
    keys: BTreeSet<Arc<str>>,
}

// === impl Removals ===

impl Removals {
    pub(super) fn new(grace: Duration) -> Self {
        let (keys, due) = (BTreeMap::new(), BTreeMap::new());
        Self { grace, keys, due, stopped: false, changes: 0 }
    }

    /// Holds a removal; one that is held keeps its time.
    pub(super) fn hold(&mut self, key: &str, now: Now) {
        if self.keys.contains_key(key) {
            return;
        }
        let (key, at) = (Arc::<str>::from(key), now.instant + self.grace);
        self.keys.insert(Arc::clone(&key), at);
        self.due_at(now).keys.insert(key);
        self.changes += 1;
    }

    /// There is nothing to hold any more.
    pub(super) fn release(&mut self, key: &str) {
        let Some(at) = self.keys.remove(key) else { return };
        if let Some(due) = self.due.get_mut(&at) {
            due.keys.remove(key);
            if due.keys.is_empty() {
                self.due.remove(&at);
            }
        }
        self.changes += 1;
    }

    /// The store is away.
    pub(super) fn stop(&mut self) {
        self.changes += u64::from(!self.stopped && !self.keys.is_empty());
        self.stopped = true;
    }

    /// The store is back: what is held has its whole time again.
    pub(super) fn go_on(&mut self, now: Now) {
        self.stopped = false;
        if self.keys.is_empty() {
            return;
        }
        let at = now.instant + self.grace;
        self.keys.values_mut().for_each(|until| *until = at);
        self.due = BTreeMap::new();
        let keys = self.keys.keys().cloned().collect();
        self.due_at(now).keys = keys;
        self.changes += 1;
    }

    /// Takes out the removals whose time is up.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut taken = Vec::new();
        while let Some(next) = self.due.first_entry()
            && *next.key() <= now
            && !self.stopped
        {
            taken.extend(next.remove().keys);
        }
        for key in &taken {
            self.keys.remove(key);
        }
        self.changes += u64::from(!taken.is_empty());
        taken
    }

    /// When the next one's time is up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.first_key_value().map(|(at, _)| *at).filter(|_| !self.stopped)
    }

    /// Soonest first; of very many only some, and how many others.
    pub(super) fn shown(&self) -> Vec<Held> {
        let until = |due: &Due| (!self.stopped).then_some(due.system);
        let all = self.due.values().flat_map(|due| due.keys.iter().map(move |key| (key, due)));
        let mut all = all.map(|(key, due)| Held { item: key.to_string(), until: until(due) });
        let mut held: Vec<Held> = all.by_ref().take(MOST_SHOWN).collect();
        let rest = self.keys.len() - held.len();
        held.extend(all.next().map(|next| Held { item: format!("{rest} more keys"), ..next }));
        held
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys, in order.
    pub(super) fn keys(&self) -> &BTreeMap<Arc<str>, Instant> {
        &self.keys
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// What becomes due when the grace that begins now is over.
    fn due_at(&mut self, now: Now) -> &mut Due {
        let (at, system) = (now.instant + self.grace, now.system + self.grace);
        self.due.entry(at).or_insert_with(|| Due { system, keys: BTreeSet::new() })
    }
}
