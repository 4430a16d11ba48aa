//! Not at random: every step of some plans fails, and then every step of what makes up for it.

use super::driver::{Driver, ROUNDS};
use super::{LIMITS, desired, ip};
use lb_agent::desired::Desired;
use lb_agent::model::{AdminState, Affinity, Client, Frontend, Policy, Protocol, Scope, Service};
use lb_agent::plan::Limits;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// From one state to another.
struct Change {
    what: &'static str,
    limits: Limits,
    before: Desired,
    after: Desired,
    /// Backend ids that sockets name all the while.
    active: BTreeSet<u32>,
}

/// How it is gone about.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// Rounds that each grace period takes.
    slowness: usize,
    /// Only what has changed is planned.
    by_changes: bool,
    /// Another agent takes over before the change.
    restart: bool,
}

const WAYS: [Way; 3] = [
    Way { slowness: 0, by_changes: false, restart: false },
    Way { slowness: 2, by_changes: true, restart: false },
    Way { slowness: 1, by_changes: true, restart: true },
];

// === impl Change ===

impl Change {
    fn new<const B: usize, const A: usize>(
        what: &'static str,
        before: [(&str, Service); B],
        after: [(&str, Service); A],
    ) -> Self {
        let before = desired(before.map(|(name, service)| (name.parse().unwrap(), service)));
        let after = desired(after.map(|(name, service)| (name.parse().unwrap(), service)));
        Self { what, limits: LIMITS, before, after, active: BTreeSet::new() }
    }

    /// Goes towards `after` until these steps have failed, each counted from the failure before it, and
    /// from there to `end`. Returns the steps that this took.
    fn go(&self, way: Way, failures: &[usize], end: &Desired) -> usize {
        let mut driver = Driver::new(self.limits);
        driver.slowness = way.slowness;
        driver.by_changes = way.by_changes.then(Desired::default);
        driver.converge(self.limits, &self.before);
        driver.fake.set_active(self.active.clone());
        if way.restart {
            driver.restart(self.limits);
        }
        driver.fake.take_log();
        for step in failures {
            driver.fake.fail_after(*step);
            let failed = (0..ROUNDS).any(|_| {
                driver.round(self.limits, &self.after);
                !driver.fake.is_to_fail()
            });
            assert!(failed, "{}, {way:?}: there is no step {step} of {failures:?}", self.what);
            driver.fake.take_log();
        }
        driver.converge(self.limits, end);
        driver.check(end);
        driver.fake.take_log().len()
    }
}

/// TCP; what has an odd number is IPv6.
fn service(frontends: &[u8], backends: &[u8]) -> Service {
    let frontend = |n: &u8| Frontend::new(ip(n % 2 == 1, 96, *n), 80, Protocol::Tcp);
    let backend = |n: &u8| SocketAddr::new(ip(n % 2 == 1, 1, *n), 8080);
    super::service(frontends.iter().map(frontend), backends.iter().map(backend))
}

/// One is drained, one disabled, one has more weight.
fn resting(mut service: Service) -> Service {
    let states = [AdminState::Drain, AdminState::Disabled, AdminState::Ready];
    for (backend, state) in service.backends.values_mut().zip(states) {
        backend.state = state;
        backend.weight = if state == AdminState::Ready { 3 } else { 1 };
    }
    service
}

/// Chosen otherwise, and from this host only.
fn otherwise(mut service: Service) -> Service {
    service.policy = Policy::LeastConnections;
    service.affinity = Some(Affinity { client: Client::Netns, timeout_seconds: 10 });
    service.frontends.values_mut().for_each(|exposure| *exposure = Scope::Host.into());
    service
}

fn changes() -> [Change; 10] {
    let two = || [("a", service(&[0, 1, 2], &[0, 1, 2, 3])), ("b", service(&[4], &[4, 6]))];
    // Two of all that the tables have, and rows for a block and its successor.
    let small = Limits { frontends: 2, services: 1, rows: 7, backends: 2 };
    [
        Change::new("services come", [], two()),
        Change::new("all services go", two(), []),
        Change::new(
            "backends come and go",
            [("a", service(&[0, 1], &[0, 1, 2, 3]))],
            [("a", service(&[0, 1], &[2, 3, 4, 5]))],
        ),
        Change::new(
            "a frontend moves to another service",
            [("a", service(&[0, 2], &[0, 2])), ("b", service(&[4], &[4]))],
            [("a", service(&[0], &[0, 2])), ("b", service(&[2, 4], &[4]))],
        ),
        Change::new(
            "two services exchange their frontends",
            [("a", service(&[0], &[0])), ("b", service(&[2], &[2]))],
            [("a", service(&[2], &[0])), ("b", service(&[0], &[2]))],
        ),
        Change::new(
            "a service gets another name, and a backend",
            [("a", service(&[0, 1], &[0, 1]))],
            [("b", service(&[0, 1], &[0, 1, 2]))],
        ),
        Change::new(
            "backends drain",
            [("a", service(&[0, 2], &[0, 2, 4]))],
            [("a", resting(service(&[0, 2], &[0, 2, 4])))],
        ),
        Change::new(
            "it is chosen otherwise",
            [("a", service(&[0, 1], &[0, 1]))],
            [("a", otherwise(service(&[0, 1], &[0, 1])))],
        ),
        Change {
            limits: small,
            ..Change::new(
                "full tables are filled with something else",
                [("a", service(&[0, 2], &[0, 2]))],
                [("b", service(&[4, 6], &[4, 6]))],
            )
        },
        Change {
            limits: Limits { backends: 4, ..LIMITS },
            active: [0, 1].into(),
            ..Change::new(
                "backends go while sockets are open",
                [("a", service(&[0, 2], &[0, 2]))],
                [("a", service(&[0, 2], &[4, 6]))],
            )
        },
    ]
}

#[test]
fn every_step_of_these_plans_may_fail() {
    let mut all = 0;
    for change in changes() {
        for way in WAYS {
            let steps = change.go(way, &[], &change.after);
            all += steps;
            assert!(steps > 0, "{}, {way:?}: {steps} steps", change.what);
            for first in 0..steps {
                // What was asked for before is asked for again.
                change.go(way, &[first], &change.before);
                let more = change.go(way, &[first], &change.after);
                for second in 0..more {
                    change.go(way, &[first, second], &change.after);
                }
            }
        }
    }
    assert!(all > 100, "{all} steps in all");
}
