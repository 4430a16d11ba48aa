//! Rise and fall: how many results in a row change what holds.

use crate::model::check::{Check, Initial};

/// What the results of one check on one target amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracker {
    up: bool,
    tried: bool,
    /// Results in a row that speak against what holds.
    against: u32,
}

// === impl Tracker ===

impl Tracker {
    /// Before the first result.
    pub fn new(initial: Initial) -> Self {
        Self { up: initial == Initial::Up, tried: false, against: 0 }
    }

    /// Takes in a result; whether that changed what holds. The first ever decides by itself.
    pub fn record(&mut self, passed: bool, check: &Check) -> bool {
        let first = !std::mem::replace(&mut self.tried, true);
        if passed == self.up {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = if passed { check.rise } else { check.fall };
        if !first && self.against < needed {
            return false;
        }
        self.up = passed;
        self.against = 0;
        true
    }

    /// What holds.
    pub fn is_up(self) -> bool {
        self.up
    }

    /// Whether there has been a result.
    pub fn is_tried(self) -> bool {
        self.tried
    }

    /// Whether the next results should come soon.
    pub fn in_transition(self) -> bool {
        !self.tried || self.against > 0
    }

    /// Results still in favour of what holds, of how many: `2/3` is one failure of three.
    pub fn standing(self, check: &Check) -> (u32, u32) {
        let of = if self.up { check.fall } else { check.rise };
        (of.saturating_sub(self.against), of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::check::Probe;
    use proptest::prelude::*;

    fn check() -> Check {
        Check::new(Probe::Tcp)
    }

    /// Results as `+` and `-`, what holds after each as `U` and `D`.
    fn run(initial: Initial, results: &str) -> String {
        let mut tracker = Tracker::new(initial);
        let after = |c| {
            tracker.record(c == '+', &check());
            if tracker.is_up() { 'U' } else { 'D' }
        };
        results.chars().map(after).collect()
    }

    #[test]
    fn results_in_a_row_count() {
        for (initial, results, holds) in [
            (Initial::Up, "+++", "UUU"),
            // The first ever counts as enough.
            (Initial::Up, "-", "D"),
            (Initial::Down, "+", "U"),
            (Initial::Down, "-+", "DD"),
            (Initial::Down, "-++", "DDU"),
            (Initial::Up, "+--", "UUU"),
            (Initial::Up, "+---", "UUUD"),
            // The opposite result starts the count again.
            (Initial::Up, "+--+--+--", "UUUUUUUUU"),
            (Initial::Up, "--+-+-++", "DDDDDDDU"),
        ] {
            assert_eq!(run(initial, results), holds, "{initial:?} {results}");
        }
    }

    #[test]
    fn standing_says_how_far_it_is() {
        let mut tracker = Tracker::new(Initial::Up);
        assert!(tracker.in_transition(), "nothing is known yet");
        tracker.record(true, &check());
        assert!(!tracker.in_transition());
        assert_eq!(tracker.standing(&check()), (3, 3));
        tracker.record(false, &check());
        assert!(tracker.in_transition());
        assert_eq!(tracker.standing(&check()), (2, 3));
        tracker.record(false, &check());
        tracker.record(false, &check());
        assert_eq!((tracker.is_up(), tracker.standing(&check())), (false, (2, 2)));
    }

    proptest! {
        /// It never changes on fewer results in a row than it should, the first apart, and always
        /// on that many.
        #[test]
        fn changes_only_on_enough_in_a_row(
            results in prop::collection::vec(any::<bool>(), 1..60), rise in 1_u32..5, fall in 1_u32..5,
        ) {
            let check = Check { rise, fall, ..check() };
            let mut tracker = Tracker::new(Initial::Up);
            let (mut row, mut last) = (0, None);
            for (n, &passed) in results.iter().enumerate() {
                row = if last == Some(passed) { row + 1 } else { 1 };
                last = Some(passed);
                let before = tracker.is_up();
                let changed = tracker.record(passed, &check);
                prop_assert_eq!(changed, before != tracker.is_up());
                let needed = if passed { rise } else { fall };
                prop_assert!(!changed || n == 0 || row >= needed);
                prop_assert!(row < needed || tracker.is_up() == passed);
            }
        }
    }
}
