//! Words that many endpoints say: each is kept once.
//!
//! Pure.

use super::objects::Hints;
use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Fewest of a kind that are looked through for such as nobody uses any more.
const FEWEST: usize = 1024;

/// Names of nodes, zones, ports and services, and what endpoints hint at.
#[derive(Debug, Default)]
pub struct Words {
    texts: Kept<str>,
    hints: Kept<Hints>,
}

#[derive(Debug)]
struct Kept<T: ?Sized> {
    all: HashSet<Arc<T>>,
    /// How many there may be before those are dropped that nobody uses.
    limit: usize,
}

// === impl Words ===

impl Words {
    /// The one copy of this text.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        self.texts.get(text, || text.into())
    }

    /// The one copy of these hints.
    pub fn hints(&mut self, hints: Hints) -> Arc<Hints> {
        match self.hints.all.get(&hints) {
            Some(known) => Arc::clone(known),
            None => self.hints.add(Arc::new(hints)),
        }
    }
}

// === impl Kept ===

impl<T: ?Sized> Default for Kept<T> {
    fn default() -> Self {
        Self { all: HashSet::new(), limit: FEWEST }
    }
}

impl<T: ?Sized + Eq + Hash> Kept<T> {
    fn get(&mut self, value: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T>
    where
        Arc<T>: Borrow<T>,
    {
        match self.all.get(value) {
            Some(known) => Arc::clone(known),
            None => self.add(make()),
        }
    }

    fn add(&mut self, value: Arc<T>) -> Arc<T> {
        if self.all.len() >= self.limit {
            self.all.retain(|value| Arc::strong_count(value) > 1);
            self.limit = FEWEST.max(2 * self.all.len());
        }
        self.all.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kept_once_and_only_while_it_is_used() {
        let mut words = Words::default();
        let zone = words.get("zone-a");
        assert!(Arc::ptr_eq(&zone, &words.get("zone-a")));
        let hints = |words: &mut Words| {
            let zones = [words.get("zone-a")].into();
            words.hints(Hints { zones, ..Hints::default() })
        };
        let kept = hints(&mut words);
        assert!(Arc::ptr_eq(&kept, &hints(&mut words)));
        for number in 0..10 * FEWEST {
            words.get(&number.to_string());
        }
        assert!(words.texts.all.len() <= FEWEST, "{}", words.texts.all.len());
        assert!(Arc::ptr_eq(&zone, &words.get("zone-a")));
    }
}
