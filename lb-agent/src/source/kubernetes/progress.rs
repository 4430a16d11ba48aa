//! What was heard and is not in the tables yet: what kube-proxy's metrics and health tell.
//!
//! Pure. The source notes each revision it publishes; whoever sees the loop's status says which
//! revision has been applied.

use super::cluster::Work;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// Most revisions that are told apart. Where nobody takes them, the oldest become one.
const MOST: usize = 1024;

/// Revisions on their way to the tables.
#[derive(Debug, Default)]
pub struct Progress {
    queued: Mutex<VecDeque<Queued>>,
}

/// A revision and what it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// [`crate::source::SourceState::revision`].
    pub revision: u64,
    /// When the first of its changes was heard of.
    pub heard: SystemTime,
    /// The same on the clock that nobody sets.
    pub since: Instant,
    /// The changes.
    pub work: Work,
}

// === impl Progress ===

impl Progress {
    /// A revision is about to be published.
    pub fn note(&self, queued: Queued) {
        let mut waiting = self.lock();
        waiting.push_back(queued);
        if waiting.len() > MOST
            && let Some(oldest) = waiting.pop_front()
            && let Some(next) = waiting.front_mut()
        {
            next.heard = next.heard.min(oldest.heard);
            next.since = next.since.min(oldest.since);
            next.work.services += oldest.work.services;
            next.work.slices += oldest.work.slices;
            // Their times are no use to anybody who did not ask for so long.
        }
    }

    /// Everything up to `revision` is in the tables: takes what that was, oldest first.
    pub fn applied(&self, revision: u64) -> Vec<Queued> {
        let mut queued = self.lock();
        let count = queued.partition_point(|queued| queued.revision <= revision);
        queued.drain(..count).collect()
    }

    /// What is not in the tables yet, oldest first.
    pub fn pending(&self) -> Vec<Queued> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Queued>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_is_pending_no_more() {
        let (progress, since) = (Progress::default(), Instant::now());
        let queued = |revision| {
            let work = Work { services: revision, ..Work::default() };
            Queued { revision, heard: SystemTime::UNIX_EPOCH, since, work }
        };
        (1..=3).for_each(|revision| progress.note(queued(revision)));
        assert_eq!(progress.applied(0), []);
        assert_eq!(progress.applied(2), [queued(1), queued(2)]);
        assert_eq!(progress.pending(), [queued(3)]);
        assert_eq!(progress.applied(9), [queued(3)]);
        assert_eq!(progress.pending(), []);
    }

    #[test]
    fn what_nobody_takes_does_not_grow() {
        let (progress, since) = (Progress::default(), Instant::now());
        for revision in 1..=5000 {
            let work = Work { slices: 1, ..Work::default() };
            let heard = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(revision);
            progress.note(Queued { revision, heard, since, work });
        }
        let pending = progress.pending();
        assert_eq!(pending.len(), MOST);
        assert_eq!(pending.iter().map(|queued| queued.work.slices).sum::<u64>(), 5000);
        assert_eq!(pending[0].heard, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1));
    }
}
