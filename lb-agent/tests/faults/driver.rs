//! The planner and the fake dataplane, driven as the reconcile loop drives them.

use lb_agent::dataplane::{Dataplane, Fake, Grace};
use lb_agent::desired::{Desired, Entry};
use lb_agent::model::{AdminState, Frontend, Scope, ServiceName};
use lb_agent::plan::{Limits, Planner};
use lb_common::rows::FrontendKey;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Enough for any number of failures that a case arranges.
pub(crate) const ROUNDS: usize = 50;

/// A planner and its dataplane, driven as the reconcile loop drives them.
pub(crate) struct Driver {
    pub(crate) fake: Fake,
    pub(crate) planner: Planner,
    /// A grace period under way, and the rounds it goes on for.
    grace: Option<(Grace, usize)>,
    /// Rounds that each grace period takes.
    pub(crate) slowness: usize,
    /// Whether only what has changed since the last round is planned, and what was desired then.
    pub(crate) by_changes: Option<Desired>,
}

impl Driver {
    pub(crate) fn new(limits: Limits) -> Self {
        let mut fake = Fake::default();
        let planner = Planner::adopt(limits, fake.observe().unwrap()).unwrap();
        Self { fake, planner, grace: None, slowness: 0, by_changes: None }
    }

    pub(crate) fn restart(&mut self, limits: Limits) {
        self.grace = None;
        self.fake.grace()().unwrap();
        self.planner = Planner::adopt(limits, self.fake.observe().unwrap()).unwrap();
    }

    /// One round; true if there is nothing left to do.
    pub(crate) fn round(&mut self, limits: Limits, desired: &Desired) -> bool {
        let plan = match self.by_changes.replace(desired.clone()) {
            Some(before) => self.planner.plan_changes(desired, &changed(&before, desired)),
            None => {
                self.by_changes = None;
                self.planner.plan(desired)
            }
        };
        let nothing = plan.actions.is_empty() && plan.deferred.is_empty();
        if let Err(error) = self.fake.apply(&plan.actions) {
            assert!(error.reason.contains("told to fail"), "{error}");
            self.restart(limits);
            return false;
        }
        if self.grace.is_none() && self.planner.needs_grace() {
            self.planner.start_grace();
            self.grace = Some((self.fake.grace(), self.slowness));
        }
        let waited = self.grace.is_some();
        match self.grace.take() {
            Some((wait, 0)) => {
                wait().unwrap();
                self.planner.end_grace();
            }
            Some((wait, rounds)) => self.grace = Some((wait, rounds - 1)),
            None => {}
        }
        let resting = self.planner.resting_backends();
        let idle = self.fake.idle(&resting).unwrap();
        self.planner.free_backends(&idle);
        nothing && !waited && idle.is_empty()
    }

    pub(crate) fn converge(&mut self, limits: Limits, desired: &Desired) {
        for _ in 0..ROUNDS {
            if self.round(limits, desired) {
                return;
            }
        }
        panic!("did not converge in {ROUNDS} rounds");
    }

    /// The kernel holds exactly what is desired.
    pub(crate) fn check(&self, desired: &Desired) {
        let mut wanted = BTreeSet::new();
        for (name, Entry { service, .. }) in &desired.services {
            for (frontend, asked) in &service.frontends {
                wanted.insert(*frontend);
                let block = self.fake.lookup(&key(frontend)).unwrap_or_else(|| {
                    panic!("{name}: {frontend} is not installed");
                });
                let usable = block.usable() as usize;
                let rows = block.rows.iter().enumerate().map(|(slot, row)| {
                    let address = SocketAddr::new(row.address.into(), u16::from_be(row.port));
                    (address, (row.weight, slot < usable))
                });
                let found: BTreeMap<_, _> = rows.collect();
                let expect: BTreeMap<_, _> = service
                    .backends_for(frontend)
                    .map(|(a, b)| (*a, (b.weight, b.state == AdminState::Ready)))
                    .collect();
                assert_eq!(found, expect, "{name}: {frontend}");
                assert!(block.rows[..usable].is_sorted_by_key(|row| row.id));
                let host = frontend.exposure(*asked).scope == Scope::Host;
                assert_eq!(block.header.scope == lb_common::scope::HOST, host);
            }
        }
        assert_eq!(self.fake.frontends().len(), wanted.len(), "frontends nobody wants");
    }
}

/// The services that are not the same in both.
fn changed(before: &Desired, now: &Desired) -> BTreeSet<ServiceName> {
    let differs = |name: &&ServiceName| {
        before.services.get(*name) != now.services.get(*name)
            || before.waiting.contains_key(*name) != now.waiting.contains_key(*name)
    };
    let of = |desired: &Desired| -> BTreeSet<ServiceName> {
        desired.services.keys().chain(desired.waiting.keys()).cloned().collect()
    };
    of(before).union(&of(now)).filter(differs).cloned().collect()
}

fn key(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(frontend.address.ip(), frontend.address.port(), frontend.protocol.number())
}
