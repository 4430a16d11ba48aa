//! What became of connects, summed up per service. The kernel counts per backend; when a backend goes, so does
//! its count, and a plain sum would shrink, which counters must not. Pure.

use crate::status::{OutcomeCounts, ServiceStatus};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The outcomes, in the order of [`Sums`].
pub(super) const OUTCOMES: [&str; 4] = ["established", "refused", "unanswered", "abandoned"];

/// A count per outcome.
pub(super) type Sums = [u64; 4];

/// Sums that only grow.
#[derive(Debug, Default)]
pub(super) struct Tally {
    services: HashMap<String, Sum>,
    /// What each backend's row, by its id, said last; and whose it was.
    rows: HashMap<u32, Row>,
    /// How often sums were taken.
    turn: u64,
}

#[derive(Debug, Default)]
struct Sum {
    sums: Sums,
    turn: u64,
}

#[derive(Debug)]
struct Row {
    owner: u64,
    counts: Sums,
    turn: u64,
}

// === impl Tally ===

impl Tally {
    /// Begins to take the sums of all services anew.
    pub(super) fn begin(&mut self) {
        self.turn += 1;
    }

    /// The sums of a service; `None` where nobody follows that.
    pub(super) fn take(&mut self, service: &ServiceStatus) -> Option<Sums> {
        let turn = self.turn;
        let followed = service.backends.iter().any(|backend| backend.outcomes.is_some());
        let known = self.services.get_mut(&service.name);
        if !followed && known.is_none() {
            return None;
        }
        let sum = match known {
            Some(sum) => sum,
            None => self.services.entry(service.name.clone()).or_default(),
        };
        sum.turn = turn;
        for backend in &service.backends {
            let (Some(id), Some(outcomes)) = (backend.id, &backend.outcomes) else { continue };
            let now = counts(outcomes);
            if now == Sums::default() {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            (&service.name, backend.address).hash(&mut hasher);
            let owner = hasher.finish();
            let before = self.rows.insert(id, Row { owner, counts: now, turn });
            let before = before.filter(|row| {
                // An id that was given to another, or a row that was cleared, begins at 0.
                row.owner == owner && row.counts.iter().zip(&now).all(|(was, is)| was <= is)
            });
            let before = before.map_or(Sums::default(), |row| row.counts);
            for ((sum, is), was) in sum.sums.iter_mut().zip(now).zip(before) {
                *sum += is - was;
            }
        }
        Some(sum.sums)
    }

    /// Forgets what has not been seen since the beginning.
    pub(super) fn end(&mut self) {
        self.services.retain(|_, sum| sum.turn == self.turn);
        self.rows.retain(|_, row| row.turn == self.turn);
    }
}

/// The counts, in the order of [`OUTCOMES`].
pub(super) fn counts(outcomes: &OutcomeCounts) -> Sums {
    let OutcomeCounts { established, refused, unanswered, abandoned, consecutive: _, srtt: _ } =
        *outcomes;
    [established, refused, unanswered, abandoned]
}

#[cfg(test)]
mod tests;
