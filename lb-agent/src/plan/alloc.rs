//! Numbers and rows that the kernel tables hand out: which are free, and which must wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Hands out ids below a limit. Freed ids are reused last, so that stale references have the
/// longest time to die out.
#[derive(Clone, Debug)]
pub struct Ids {
    limit: u32,
    /// Every id from here on has never been used.
    fresh: u32,
    freed: VecDeque<u32>,
}

/// An id, and whether somebody has used it before (so that its counters must be reset).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// The id.
    pub id: u32,
    /// Whether it may carry counts of an earlier owner.
    pub used: bool,
}

/// Hands out runs of rows, best fit. Row 0 is never handed out: a block word of 0 means that there
/// is no block.
#[derive(Clone, Debug)]
pub struct Rows {
    /// First row -> length, never adjacent to each other.
    free: BTreeMap<u32, u32>,
    /// The same, by length.
    by_length: BTreeSet<(u32, u32)>,
    free_rows: u32,
}

// === impl Ids ===

impl Ids {
    /// Ids 0 to `limit - 1`, those of `taken` in use already. Ids below the highest taken one are
    /// treated as used before.
    pub fn new(limit: u32, taken: &BTreeSet<u32>) -> Self {
        let fresh = taken.last().map_or(0, |last| last.saturating_add(1)).min(limit);
        let freed = (0..fresh).filter(|id| !taken.contains(id)).collect();
        Self { limit, fresh, freed }
    }

    /// As [`Ids::new`], for tables that earlier agents have written: any free id may carry counts.
    pub fn adopted(limit: u32, taken: &BTreeSet<u32>) -> Self {
        let freed = (0..limit).filter(|id| !taken.contains(id)).collect();
        Self { limit, fresh: limit, freed }
    }

    /// A free id, if there is one.
    pub fn take(&mut self) -> Option<Id> {
        if self.fresh < self.limit {
            self.fresh += 1;
            return Some(Id { id: self.fresh - 1, used: false });
        }
        self.freed.pop_front().map(|id| Id { id, used: true })
    }

    /// Gives an id back.
    pub fn free(&mut self, id: u32) {
        self.freed.push_back(id);
    }

    /// How many could be taken now.
    pub fn available(&self) -> usize {
        (self.limit - self.fresh) as usize + self.freed.len()
    }
}

// === impl Rows ===

impl Rows {
    /// Rows 1 to `limit - 1`, less the runs (first row, length) in use. `None` if runs overlap or
    /// leave the table: then the tables are not ours to adopt.
    pub fn new(limit: u32, taken: &BTreeMap<u32, u32>) -> Option<Self> {
        let mut rows = Self { free: BTreeMap::new(), by_length: BTreeSet::new(), free_rows: 0 };
        let mut next = 1;
        for (first, length) in taken {
            let gap = first.checked_sub(next)?;
            rows.add(next, gap);
            next = first.checked_add(*length)?;
        }
        rows.add(next, limit.checked_sub(next)?);
        Some(rows)
    }

    /// A run of `length` rows, if there is one.
    pub fn take(&mut self, length: u32) -> Option<u32> {
        let (run, first) = self.by_length.range((length, 0)..).next().copied()?;
        self.remove(first, run);
        self.add(first + length, run - length);
        Some(first)
    }

    /// Whether [`Rows::take`] would find a run of this length.
    pub fn has_run(&self, length: u32) -> bool {
        self.by_length.range((length, 0)..).next().is_some()
    }

    /// Gives a run back.
    pub fn free(&mut self, mut first: u32, mut length: u32) {
        if let Some((before, run)) = self.free.range(..first).next_back().map(|(f, l)| (*f, *l))
            && before + run == first
        {
            self.remove(before, run);
            (first, length) = (before, run + length);
        }
        if let Some(run) = self.free.get(&(first + length)).copied() {
            self.remove(first + length, run);
            length += run;
        }
        self.add(first, length);
    }

    /// How many rows are free, in runs of any length.
    pub fn available(&self) -> u32 {
        self.free_rows
    }

    fn add(&mut self, first: u32, length: u32) {
        if length > 0 {
            self.free.insert(first, length);
            self.by_length.insert((length, first));
            self.free_rows += length;
        }
    }

    fn remove(&mut self, first: u32, length: u32) {
        self.free.remove(&first);
        self.by_length.remove(&(length, first));
        self.free_rows -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_come_fresh_first_then_oldest_freed() {
        let mut ids = Ids::new(3, &BTreeSet::new());
        assert_eq!(ids.take(), Some(Id { id: 0, used: false }));
        ids.free(0);
        assert_eq!(ids.take(), Some(Id { id: 1, used: false }));
        assert_eq!(ids.take(), Some(Id { id: 2, used: false }));
        ids.free(2);
        assert_eq!(ids.take(), Some(Id { id: 0, used: true }));
        assert_eq!(ids.take(), Some(Id { id: 2, used: true }));
        assert_eq!(ids.take(), None);
    }

    #[test]
    fn adopted_ids_are_all_suspect() {
        let mut ids = Ids::adopted(3, &[1].into());
        assert_eq!(ids.available(), 2);
        assert_eq!(ids.take(), Some(Id { id: 0, used: true }));
        assert_eq!(ids.take(), Some(Id { id: 2, used: true }));
        assert_eq!(ids.take(), None);
    }

    #[test]
    fn row_zero_is_never_handed_out() {
        let mut rows = Rows::new(3, &BTreeMap::new()).unwrap();
        assert_eq!(rows.take(1), Some(1));
        assert_eq!(rows.take(1), Some(2));
        assert_eq!(rows.take(1), None);
    }

    #[test]
    fn overlapping_runs_are_refused() {
        assert!(Rows::new(10, &[(1, 4), (3, 2)].into()).is_none());
        assert!(Rows::new(10, &[(8, 4)].into()).is_none());
        assert!(Rows::new(10, &[(0, 1)].into()).is_none());
        assert!(Rows::new(10, &[(1, 4), (5, 5)].into()).is_some());
    }

    proptest! {
        /// Whatever is taken and freed, runs never overlap, and all rows come back as one run.
        #[test]
        fn runs_are_disjoint_and_merge(steps in prop::collection::vec((1u32..9, any::<bool>()), 1..200)) {
            let mut rows = Rows::new(257, &BTreeMap::new()).unwrap();
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (length, free) in steps {
                if free && !held.is_empty() {
                    let (first, length) = held.swap_remove(length as usize % held.len());
                    rows.free(first, length);
                } else if let Some(first) = rows.take(length) {
                    for (other, run) in &held {
                        prop_assert!(first + length <= *other || other + run <= first);
                    }
                    prop_assert!(first >= 1 && first + length <= 257);
                    held.push((first, length));
                }
                let used: u32 = held.iter().map(|(_, run)| run).sum();
                prop_assert_eq!(rows.available(), 256 - used);
            }
            for (first, length) in held.drain(..) {
                rows.free(first, length);
            }
            prop_assert_eq!(rows.take(256), Some(1));
        }
    }
}
