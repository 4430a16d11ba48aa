//! Whether the loop still comes round: it says so each time it does, which is at least once a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A loop that has not come round for this long is stuck. The longest rounds, of a hundred thousand
/// backends at once, take a tenth of it.
const STUCK: Duration = Duration::from_secs(15);

/// The loop's sign of life, shared between the loop and whoever looks.
#[derive(Clone, Debug)]
pub struct Pulse {
    begin: Instant,
    /// Milliseconds from `begin` to the last beat.
    last: Arc<AtomicU64>,
}

// === impl Pulse ===

impl Pulse {
    /// One whose first beat was at `begin`.
    pub fn since(begin: Instant) -> Self {
        Self { begin, last: Arc::default() }
    }

    /// The loop comes round.
    pub fn beat(&self) {
        let passed = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    /// How long ago the loop came round.
    pub fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.begin.elapsed().saturating_sub(last)
    }

    /// What is wrong with a loop that is stuck.
    pub fn complaint(&self) -> Option<String> {
        let seconds = self.age().as_secs();
        (self.age() >= STUCK).then(|| {
            format!("the loop has been stuck for {seconds}s; if it stays so, restart the agent and report its log")
        })
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::{Pulse, STUCK};
    use std::time::Instant;

    #[test]
    fn a_loop_that_does_not_come_round_is_stuck() {
        let pulse = Pulse::since(Instant::now() - 2 * STUCK);
        let complaint = pulse.complaint().unwrap();
        assert!(complaint.contains("stuck for 30s"), "{complaint}");
        pulse.beat();
        assert_eq!(pulse.complaint(), None);
        assert_eq!(Pulse::default().complaint(), None);
    }
}
