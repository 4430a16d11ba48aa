//! Passive checks: backends that real connects failed to reach, taken out for a while.
//!
//! Pure: what failed, and when, is told by the caller.

use crate::model::EjectionPolicy;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The ejected backends of a service, and those that were.
#[derive(Clone, Debug, Default)]
pub struct Ejections {
    backends: BTreeMap<SocketAddr, Record>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    /// While it is out.
    until: Option<Instant>,
    /// How long it was out, or is.
    time: Duration,
    /// When it came back.
    back: Option<Instant>,
    /// Failures in a row that the kernel had counted when it came back: they are paid for.
    paid: u64,
    /// The last count that the kernel told.
    seen: u64,
}

/// What a failure led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Not enough of them, or it is out already.
    Stays,
    /// It is out until then.
    Ejected(Instant),
    /// It would be out, but too many are.
    TooMany,
}

// === impl Ejections ===

impl Ejections {
    /// A connect to `backend` failed, the `consecutive`th in a row; `backends` is the size of the
    /// service.
    pub fn failed(
        &mut self,
        backend: SocketAddr,
        consecutive: u64,
        backends: usize,
        policy: &EjectionPolicy,
        now: Instant,
    ) -> Decision {
        let out = self.count();
        let record = self.backends.entry(backend).or_insert(Record {
            until: None,
            time: Duration::ZERO,
            back: None,
            paid: 0,
            seen: 0,
        });
        // A connect succeeded since, so that the kernel counts from 0 again.
        if consecutive < record.seen {
            record.paid = 0;
        }
        record.seen = consecutive;
        let enough = policy.failures > 0 && consecutive - record.paid >= u64::from(policy.failures);
        if record.until.is_some() || !enough {
            return Decision::Stays;
        }
        if out >= policy.allowed(backends) {
            return Decision::TooMany;
        }
        // Whoever stayed for as long as it was out has a clean record.
        let again = record.back.is_some_and(|back| now.duration_since(back) < record.time);
        record.time = match again {
            true => (record.time * 2).min(policy.max_time),
            false => policy.time.min(policy.max_time),
        };
        let until = now + record.time;
        record.until = Some(until);
        Decision::Ejected(until)
    }

    /// Lets those back whose time is over; whether there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for record in self.backends.values_mut() {
            if record.until.is_some_and(|until| until <= now) {
                record.back = record.until.take();
                record.paid = record.seen;
                any = true;
            }
        }
        // Nothing depends on a clean record.
        self.backends.retain(|_, record| {
            let clean = record.back.is_none_or(|back| now.duration_since(back) >= record.time);
            record.until.is_some() || !clean || record.seen > 0
        });
        any
    }

    /// When the next one comes back.
    pub fn next(&self) -> Option<Instant> {
        self.backends.values().filter_map(|record| record.until).min()
    }

    /// Until when a backend is out, if it is.
    pub fn until(&self, backend: &SocketAddr) -> Option<Instant> {
        self.backends.get(backend)?.until
    }

    /// How many are out.
    pub fn count(&self) -> usize {
        self.backends.values().filter(|record| record.until.is_some()).count()
    }

    /// Forgets backends that the service does not have any more.
    pub fn retain(&mut self, keep: impl Fn(&SocketAddr) -> bool) {
        self.backends.retain(|backend, _| keep(backend));
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 80))
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn enough_failures_eject_for_longer_each_time() {
        let (mut ejections, policy) = (Ejections::default(), EjectionPolicy::default());
        let begin = Instant::now();
        let mut now = begin;
        let mut count = 0;
        for expected in [30, 60, 120, 240, 300, 300] {
            for _ in 1..5 {
                count += 1;
                assert_eq!(ejections.failed(backend(1), count, 4, &policy, now), Decision::Stays);
            }
            count += 1;
            let until = now + seconds(expected);
            let decision = ejections.failed(backend(1), count, 4, &policy, now);
            assert_eq!(decision, Decision::Ejected(until));
            // Connects that were under way still fail.
            count += 3;
            assert_eq!(ejections.failed(backend(1), count, 4, &policy, now), Decision::Stays);
            assert!(!ejections.expire(until - seconds(1)));
            assert_eq!(ejections.next(), Some(until));
            assert!(ejections.expire(until));
            assert_eq!(ejections.until(&backend(1)), None);
            now = until + seconds(1);
        }
        // It stayed in for as long as it was out.
        now += seconds(300);
        ejections.expire(now);
        let decision = ejections.failed(backend(1), count + 5, 4, &policy, now);
        assert_eq!(decision, Decision::Ejected(now + seconds(30)));
    }

    #[test]
    fn a_success_between_starts_the_count_again() {
        let (mut ejections, policy) = (Ejections::default(), EjectionPolicy::default());
        let now = Instant::now();
        assert!(matches!(ejections.failed(backend(1), 5, 4, &policy, now), Decision::Ejected(_)));
        ejections.expire(now + seconds(30));
        let now = now + seconds(31);
        for count in 1..5 {
            assert_eq!(ejections.failed(backend(1), count, 4, &policy, now), Decision::Stays);
        }
        assert!(matches!(ejections.failed(backend(1), 5, 4, &policy, now), Decision::Ejected(_)));
    }

    #[test]
    fn only_a_part_of_a_service_may_be_out() {
        let policy = EjectionPolicy::default();
        let now = Instant::now();
        for (size, allowed) in [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)] {
            let mut ejections = Ejections::default();
            let decide = |n| ejections.failed(backend(n), 5, size, &policy, now);
            let out: Vec<bool> =
                (1..=10).map(decide).map(|d| matches!(d, Decision::Ejected(_))).collect();
            assert_eq!(out.iter().filter(|out| **out).count(), allowed, "of {size}");
            assert_eq!(ejections.count(), allowed);
        }
        let mut ejections = Ejections::default();
        let never = EjectionPolicy { failures: 0, ..policy };
        assert_eq!(ejections.failed(backend(1), 1000, 4, &never, now), Decision::Stays);
    }
}
