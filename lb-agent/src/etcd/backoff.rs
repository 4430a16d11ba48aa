//! How long to wait before the next try: from 50 ms to 2 s, longer each time, with a random part, so
//! that hosts that lost a server together don't come back together.
//!
//! Pure: the clock and the random number are arguments.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// After it has gone well for so long, the next failure is a first one.
const GOOD: Duration = Duration::from_secs(10);

/// The pauses between tries.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    good_since: Option<Instant>,
}

// === impl Backoff ===

impl Backoff {
    /// Nothing has failed yet.
    pub(super) fn new() -> Self {
        Self { next: FIRST, good_since: None }
    }

    /// It goes well now.
    pub(super) fn good(&mut self, now: Instant) {
        self.good_since.get_or_insert(now);
    }

    /// It has failed: how long to wait. `chance` is from 0 to 1.
    pub(super) fn failed(&mut self, now: Instant, chance: f64) -> Duration {
        let good = self.good_since.take();
        if good.is_some_and(|since| now.saturating_duration_since(since) >= GOOD) {
            self.next = FIRST;
        }
        let pause = self.next.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds() {
        let (mut backoff, now) = (Backoff::new(), Instant::now());
        let pauses: Vec<u128> = (0..8).map(|_| backoff.failed(now, 1.0).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.failed(now, 0.0).as_millis(), 1000, "half of it is chance");
    }

    #[test]
    fn ten_good_seconds_are_forgiveness() {
        let (mut backoff, now) = (Backoff::new(), Instant::now());
        for _ in 0..8 {
            backoff.failed(now, 1.0);
        }
        backoff.good(now);
        backoff.good(now + Duration::from_secs(9));
        assert_eq!(backoff.failed(now + Duration::from_secs(9), 1.0).as_millis(), 2000);
        let later = now + Duration::from_secs(20);
        backoff.good(later);
        assert_eq!(backoff.failed(later + Duration::from_secs(10), 1.0).as_millis(), 50);
        assert_eq!(backoff.failed(later + Duration::from_secs(10), 1.0).as_millis(), 100);
    }
}
