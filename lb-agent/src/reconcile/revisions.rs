//! Which revision of each source the tables hold whole. A service may have to wait for a grace period
//! while others of the same revision are served already.
//!
//! Pure.

use crate::model::ServiceName;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What has been applied, and what waits.
#[derive(Debug, Default)]
pub(super) struct Revisions {
    /// By source, the last revision of which nothing waits.
    applied: BTreeMap<Arc<str>, u64>,
    /// Services that wait, with their source and its revision since which they do.
    waiting: BTreeMap<ServiceName, (Arc<str>, u64)>,
}

// === impl Revisions ===

impl Revisions {
    /// A round has succeeded: the tables hold these revisions but for the services that are deferred.
    pub(super) fn applied_but(
        &mut self,
        deferred: impl Iterator<Item = (ServiceName, Arc<str>)>,
        now: impl Iterator<Item = (Arc<str>, u64)>,
    ) {
        let now: BTreeMap<_, _> = now.collect();
        let before = std::mem::take(&mut self.waiting);
        self.waiting = deferred
            .filter_map(|(name, source)| {
                let since = match before.get(&name) {
                    Some((of, since)) if *of == source => *since,
                    _ => *now.get(&source)?,
                };
                Some((name, (source, since)))
            })
            .collect();
        self.applied = now;
        // Others may come and go without end; each keeps back only what it came with.
        for (source, since) in self.waiting.values() {
            if let Some(applied) = self.applied.get_mut(source) {
                *applied = (*applied).min(since.saturating_sub(1));
            }
        }
    }

    /// The last revision of a source that the tables hold whole; 0 if there is none.
    pub(super) fn applied(&self, source: &str) -> u64 {
        self.applied.get(source).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_keeps_back_the_revision_it_came_with() {
        let mut revisions = Revisions::default();
        let mut round = |deferred: &[(&str, &str)], now: &[(&str, u64)]| {
            let deferred =
                deferred.iter().map(|(name, source)| (name.parse().unwrap(), (*source).into()));
            revisions.applied_but(deferred, now.iter().map(|(name, at)| ((*name).into(), *at)));
            now.iter().map(|(name, _)| revisions.applied(name)).collect::<Vec<_>>()
        };
        assert_eq!(round(&[], &[("k", 1), ("f", 1)]), [1, 1]);
        assert_eq!(round(&[("a", "k")], &[("k", 4), ("f", 1)]), [3, 1]);
        // Heard of since, and on time.
        assert_eq!(round(&[("a", "k")], &[("k", 9), ("f", 2)]), [3, 2]);
        // Under a flood somebody always waits, but not always the same.
        assert_eq!(round(&[("b", "k"), ("c", "f")], &[("k", 10), ("f", 3)]), [9, 2]);
        assert_eq!(round(&[("c", "k")], &[("k", 11), ("f", 3)]), [10, 3]);
        assert_eq!(round(&[], &[("k", 11), ("f", 3)]), [11, 3]);
        assert_eq!(revisions.applied("unheard-of"), 0);
    }
}
