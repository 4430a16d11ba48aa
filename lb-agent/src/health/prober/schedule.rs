//! When each target is tried next. Pure: time and chance are arguments.

use crate::health::board::{CheckResult, Target};
use crate::health::tracker::Tracker;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Targets that come are first tried within this time, however long their interval is.
const FIRST: Duration = Duration::from_secs(5);

/// The targets and when each is due.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    targets: HashMap<Arc<Target>, Slot>,
    due: BTreeMap<(Instant, u64), Arc<Target>>,
    /// Tells apart what is due at the same instant.
    next: u64,
}

#[derive(Debug)]
struct Slot {
    tracker: Tracker,
    /// Its place in `due`; `None` while it is being tried.
    place: Option<(Instant, u64)>,
    /// When the last try began.
    begun: Instant,
}

// === impl Schedule ===

impl Schedule {
    /// A new target: first tried somewhere in its interval, or the first part of a long one, so that
    /// targets that come together are not tried together. `chance` is from 0 to 1.
    pub(super) fn add(&mut self, target: Target, now: Instant, chance: f64) {
        let target = Arc::new(target);
        let first = now + target.check.interval.min(FIRST).mul_f64(chance);
        let tracker = Tracker::new(target.check.initial);
        let place = Some(self.place(first, &target));
        let slot = Slot { tracker, place, begun: now };
        if let Some(Slot { place: Some(place), .. }) = self.targets.insert(target, slot) {
            self.due.remove(&place);
        }
    }

    /// A target that nobody wants any more; a try under way is forgotten when it ends.
    pub(super) fn remove(&mut self, target: &Target) {
        if let Some(Slot { place: Some(place), .. }) = self.targets.remove(target) {
            self.due.remove(&place);
        }
    }

    /// When the next target is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// The target that has been due longest, if one is; it is being tried from now on.
    pub(super) fn take(&mut self, now: Instant) -> Option<Arc<Target>> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= now)?;
        let target = entry.remove();
        if let Some(slot) = self.targets.get_mut(&target) {
            slot.place = None;
            slot.begun = now;
        }
        Some(target)
    }

    /// A try ended. `None` if nobody wants the target any more; else whether the result changed
    /// what holds of it.
    pub(super) fn done(
        &mut self,
        target: &Arc<Target>,
        result: CheckResult,
        now: Instant,
        chance: f64,
    ) -> Option<bool> {
        let slot = self.targets.get_mut(target).filter(|slot| slot.place.is_none())?;
        let changed = slot.tracker.record(result != CheckResult::Failing, &target.check);
        self.again(target, now, chance);
        Some(changed)
    }

    /// A try came to nothing; the target is tried again as if there had been none.
    pub(super) fn skip(&mut self, target: &Arc<Target>, now: Instant, chance: f64) {
        self.again(target, now, chance);
    }

    fn again(&mut self, target: &Arc<Target>, now: Instant, chance: f64) {
        let Some(slot) = self.targets.get_mut(target).filter(|slot| slot.place.is_none()) else {
            return;
        };
        let soon = slot.tracker.in_transition();
        let pause = pause(target, soon, chance);
        // From begin to begin; a try that took longer is followed at once.
        let at = (slot.begun + pause).max(now);
        let place = self.place(at, target);
        if let Some(slot) = self.targets.get_mut(target) {
            slot.place = Some(place);
        }
    }

    fn place(&mut self, at: Instant, target: &Arc<Target>) -> (Instant, u64) {
        self.next += 1;
        self.due.insert((at, self.next), Arc::clone(target));
        (at, self.next)
    }
}

/// The interval, varied by up to the jitter in both directions.
fn pause(target: &Target, soon: bool, chance: f64) -> Duration {
    let check = &target.check;
    let interval = if soon { check.fast_interval.min(check.interval) } else { check.interval };
    let jitter = f64::from(check.jitter.min(100)) / 100.0;
    interval.mul_f64(1.0 + jitter * (2.0 * chance - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::check::{Check, Probe};
    use std::net::SocketAddr;

    fn target(n: u16) -> Target {
        let address = SocketAddr::from(([10, 0, 0, 1], n));
        Target { address, backend: address, check: Arc::new(Check::new(Probe::Tcp)) }
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_tries_are_spread_over_the_interval() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for n in 1..=1000 {
            schedule.add(target(n), now, f64::from(n) / 1000.0);
        }
        for tenth in 0..10 {
            let until = now + millis(200 * (tenth + 1));
            let mut taken = 0;
            while schedule.take(until).is_some() {
                taken += 1;
            }
            assert_eq!(taken, 100);
        }
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn intervals_from_begin_to_begin_fast_in_transition() {
        let (mut schedule, begin) = (Schedule::default(), Instant::now());
        schedule.add(target(1), begin, 0.0);
        let mut tries = Vec::new();
        let results = "++--+---";
        for result in results.chars() {
            let at = schedule.next_due().unwrap();
            assert!(schedule.take(at - millis(1)).is_none());
            let taken = schedule.take(at).unwrap();
            assert!(schedule.take(at + millis(60_000)).is_none(), "it is being tried");
            let result = if result == '+' { CheckResult::Passing } else { CheckResult::Failing };
            let changed = schedule.done(&taken, result, at + millis(100), 0.5).unwrap();
            tries.push((at.duration_since(begin).as_millis(), changed));
        }
        let changed = [false, false, false, false, false, false, false, true];
        let at = [0, 2000, 4000, 4500, 5000, 7000, 7500, 8000];
        assert_eq!(tries, at.into_iter().zip(changed).collect::<Vec<_>>());
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_slow_tries_do_not_pile_up() {
        let (mut schedule, begin) = (Schedule::default(), Instant::now());
        schedule.add(target(1), begin, 0.0);
        for (chance, pause) in [(0.0, 1800), (0.5, 2000), (1.0, 2200)] {
            let at = schedule.next_due().unwrap();
            let taken = schedule.take(at).unwrap();
            schedule.done(&taken, CheckResult::Passing, at, chance);
            assert_eq!(schedule.next_due().unwrap().duration_since(at), millis(pause));
        }
        let at = schedule.next_due().unwrap();
        let taken = schedule.take(at).unwrap();
        schedule.done(&taken, CheckResult::Passing, at + millis(9000), 0.5);
        assert_eq!(schedule.next_due(), Some(at + millis(9000)));
    }

    #[test]
    fn a_long_interval_does_not_delay_the_first_try() {
        let (mut schedule, begin) = (Schedule::default(), Instant::now());
        let mut target = target(1);
        Arc::make_mut(&mut target.check).interval = Duration::from_secs(3600);
        schedule.add(target, begin, 1.0);
        assert_eq!(schedule.next_due(), Some(begin + FIRST));
    }

    #[test]
    fn a_try_that_came_to_nothing_counts_neither_way() {
        let (mut schedule, begin) = (Schedule::default(), Instant::now());
        schedule.add(target(1), begin, 0.0);
        let at = schedule.next_due().unwrap();
        let taken = schedule.take(at).unwrap();
        schedule.skip(&taken, at, 0.5);
        // Still before its first result: soon again.
        let at = schedule.next_due().unwrap();
        assert_eq!(at, begin + millis(500));
        let taken = schedule.take(at).unwrap();
        // The first result decides by itself, as nothing came before.
        assert_eq!(schedule.done(&taken, CheckResult::Failing, at, 0.5), Some(true));
        let at = schedule.next_due().unwrap();
        let taken = schedule.take(at).unwrap();
        schedule.remove(&target(1));
        schedule.skip(&taken, at, 0.5);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn a_target_that_goes_while_it_is_tried_does_not_come_back() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.add(target(1), now, 0.0);
        let taken = schedule.take(now).unwrap();
        schedule.remove(&target(1));
        assert_eq!(schedule.done(&taken, CheckResult::Passing, now, 0.5), None);
        assert_eq!(schedule.next_due(), None);
        // Gone and wanted again meanwhile: the old try says nothing of the new one.
        schedule.add(target(2), now, 0.0);
        let taken = schedule.take(now).unwrap();
        schedule.remove(&target(2));
        schedule.add(target(2), now, 0.5);
        assert_eq!(schedule.done(&taken, CheckResult::Failing, now, 0.5), None);
        assert_eq!(schedule.next_due(), Some(now + millis(1000)));
    }
}
