//! When changes were heard of that are not in the tables yet.
//!
//! Pure. A source and the loop share it, because the loop takes a source's latest state only: what it
//! jumps over was heard of earlier.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Most revisions that wait. What comes behind them is not measured.
const MOST: usize = 1024;

/// Revisions on their way to the tables. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Underway {
    waiting: Arc<Mutex<VecDeque<(u64, Instant)>>>,
}

// === impl Underway ===

impl Underway {
    /// A [`revision`](super::SourceState::revision) is about to be published, the first of whose
    /// changes was heard of at this time.
    pub(super) fn note(&self, revision: u64, at: Instant) {
        let mut waiting = self.lock();
        if waiting.len() < MOST {
            waiting.push_back((revision, at));
        }
    }

    /// Everything up to `revision` is in the tables: takes when that was heard of, oldest first.
    pub(crate) fn published(&self, revision: u64) -> Vec<Instant> {
        let mut waiting = self.lock();
        let count = waiting.partition_point(|(waits, _)| *waits <= revision);
        waiting.drain(..count).map(|(_, at)| at).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Instant)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_published_is_taken_once() {
        let (underway, begin) = (Underway::default(), Instant::now());
        let at = |revision| begin + Duration::from_secs(revision);
        (1..=3).for_each(|revision| underway.note(revision, at(revision)));
        let loops = underway.clone();
        assert!(loops.published(0).is_empty());
        assert_eq!(loops.published(2), [at(1), at(2)]);
        assert!(loops.published(2).is_empty());
        assert_eq!(loops.published(9), [at(3)]);
    }

    #[test]
    fn what_nobody_takes_does_not_grow() {
        let (underway, begin) = (Underway::default(), Instant::now());
        (1..=5000).for_each(|revision| underway.note(revision, begin));
        assert_eq!(underway.published(u64::MAX).len(), MOST);
    }
}
