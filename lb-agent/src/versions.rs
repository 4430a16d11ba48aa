//! Something large that changes in few places, in two versions: the one that was given out, and the
//! one before, which is usually nobody's by the time of the next change. That is then brought up to
//! date in the few places where it is behind: copying a map of ten thousand services for every change
//! of one would take longer than all the rest.
//!
//! Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Most changes that are caught up with; beyond that a copy is as good.
const MOST: usize = 1000;

/// What changes in places.
pub(crate) trait Places: Clone {
    /// Says where.
    type Place;

    /// Makes this place what it is in `now`.
    fn catch_up(&mut self, now: &Self, place: &Self::Place);
}

/// Something that changes, and can be given out as it is.
#[derive(Debug)]
pub(crate) struct Versions<T: Places> {
    now: Arc<T>,
    /// The version before, if it is worth keeping.
    before: Option<Arc<T>>,
    /// Where that differs from the present one.
    behind: Vec<T::Place>,
}

// === impl Versions ===

impl<T: Places> Versions<T> {
    /// Begins with this.
    pub(crate) fn new(first: T) -> Self {
        Self { now: Arc::new(first), before: None, behind: Vec::new() }
    }

    /// The present version.
    pub(crate) const fn now(&self) -> &Arc<T> {
        &self.now
    }

    /// The present version, to be changed at this place only.
    pub(crate) fn at(&mut self, place: T::Place) -> &mut T {
        if Arc::get_mut(&mut self.now).is_none() {
            // It was given out.
            let unused = self.before.take().and_then(|before| Arc::try_unwrap(before).ok());
            let next = match unused {
                Some(mut next) => {
                    for place in self.behind.drain(..) {
                        next.catch_up(&self.now, &place);
                    }
                    next
                }
                None => T::clone(&self.now),
            };
            self.behind.clear();
            self.before = Some(std::mem::replace(&mut self.now, Arc::new(next)));
        }
        if self.behind.len() == MOST {
            self.before = None;
            self.behind.clear();
        }
        if self.before.is_some() {
            self.behind.push(place);
        }
        // Nobody else's by now, so this copies nothing.
        Arc::make_mut(&mut self.now)
    }
}

impl<T: Places + Default> Default for Versions<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// Replaces what is under a key; `None`: nothing.
pub(crate) fn put<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, key: &K, value: Option<V>) {
    match (value, map.get_mut(key)) {
        (Some(value), Some(place)) => *place = value,
        (Some(value), None) => drop(map.insert(key.clone(), value)),
        (None, _) => drop(map.remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Map(BTreeMap<usize, usize>);

    impl Places for Map {
        type Place = usize;

        fn catch_up(&mut self, now: &Self, place: &usize) {
            put(&mut self.0, place, now.0.get(place).copied());
        }
    }

    fn change(versions: &mut Versions<Map>, key: usize, value: Option<usize>) {
        put(&mut versions.at(key).0, &key, value);
    }

    proptest! {
        /// Whoever keeps which version for how long: each stays as it was given out, and the last
        /// one is what was put.
        #[test]
        fn versions_stay_as_they_were(
            changes in proptest::collection::vec((0..6_usize, any::<bool>(), any::<bool>(), 0..4_usize), 0..60),
        ) {
            let mut versions = Versions::<Map>::default();
            let mut expected = Map::default();
            let mut kept: Vec<(Arc<Map>, Map)> = Vec::new();
            for (number, (key, present, ask, keep)) in (1..).zip(changes) {
                let value = present.then_some(number);
                change(&mut versions, key, value);
                put(&mut expected.0, &key, value);
                prop_assert_eq!(&**versions.now(), &expected);
                if ask {
                    kept.push((Arc::clone(versions.now()), expected.clone()));
                }
                kept.drain(..kept.len().saturating_sub(keep));
                for (given, was) in &kept {
                    prop_assert_eq!(&**given, was);
                }
            }
        }
    }

    #[test]
    fn a_version_that_nobody_has_is_used_again() {
        let mut versions = Versions::<Map>::default();
        (0..100).for_each(|key| change(&mut versions, key, Some(key)));
        let mut given = [(); 3].map(|()| Arc::clone(versions.now()));
        for key in 0..10 {
            given[key % 2] = Arc::clone(versions.now());
            given[2] = Arc::clone(versions.now());
            change(&mut versions, key, Some(100));
            // Only what changed since is put into the older one, if nobody has that any more.
            assert_eq!(versions.behind.len(), 1);
        }
        drop(given);
        (0..=MOST).for_each(|key| change(&mut versions, key % 3, None));
        assert!(versions.before.is_none() && versions.behind.is_empty());
    }
}
