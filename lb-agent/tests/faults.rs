//! The planner against a dataplane that fails: whatever step fails, observing and planning again
//! converges, and no reader is ever shown a half-made change (the fake refuses such steps).

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use lb_agent::dataplane::{Dataplane, Fake, Grace};
use lb_agent::desired::{Desired, Entry};
use lb_agent::model::{
    AdminState, Affinity, Backend, Client, Exposure, Frontend, Lists, NoBackend, Policy, Protocol,
    Reach, Rejection, Scope, Service, ServiceName,
};
use lb_agent::plan::{Action, Limits, Planner};
use lb_common::rows::FrontendKey;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

const LIMITS: Limits = Limits { frontends: 64, services: 16, rows: 512, backends: 256 };
/// Enough for any number of failures that a case arranges.
const ROUNDS: usize = 50;

/// A planner and its dataplane, driven as the reconcile loop drives them.
struct Driver {
    fake: Fake,
    planner: Planner,
    /// A grace period under way, and the rounds it goes on for.
    grace: Option<(Grace, usize)>,
    /// Rounds that each grace period takes.
    slowness: usize,
    /// Whether only what has changed since the last round is planned, and what was desired then.
    by_changes: Option<Desired>,
}

impl Driver {
    fn new(limits: Limits) -> Self {
        let mut fake = Fake::default();
        let planner = Planner::adopt(limits, fake.observe().unwrap()).unwrap();
        Self { fake, planner, grace: None, slowness: 0, by_changes: None }
    }

    fn restart(&mut self, limits: Limits) {
        self.grace = None;
        self.fake.grace()().unwrap();
        self.planner = Planner::adopt(limits, self.fake.observe().unwrap()).unwrap();
    }

    /// One round; true if there is nothing left to do.
    fn round(&mut self, limits: Limits, desired: &Desired) -> bool {
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

    fn converge(&mut self, limits: Limits, desired: &Desired) {
        for _ in 0..ROUNDS {
            if self.round(limits, desired) {
                return;
            }
        }
        panic!("did not converge in {ROUNDS} rounds");
    }

    /// The kernel holds exactly what is desired.
    fn check(&self, desired: &Desired) {
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

fn desired(services: impl IntoIterator<Item = (ServiceName, Service)>) -> Desired {
    let mut taken = BTreeSet::new();
    let entry = |(name, mut service): (ServiceName, Service)| {
        service.frontends.retain(|frontend, _| taken.insert(*frontend));
        (name, Entry::new(Arc::new(service), "test".into()))
    };
    Desired {
        // As in the real thing, a service whose frontends all belong to others is left out.
        services: services
            .into_iter()
            .map(entry)
            .filter(|(_, entry)| !entry.service.frontends.is_empty())
            .collect(),
        complete: true,
        ..Desired::default()
    }
}

fn any_frontend() -> impl Strategy<Value = Frontend> {
    (0u8..12, any::<bool>(), any::<bool>()).prop_map(|(n, v6, udp)| {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        Frontend::new(ip(v6, 96, n), 80, protocol)
    })
}

fn ip(v6: bool, net: u8, host: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, u16::from(net), 0, 0, 0, 0, 0, u16::from(host)).into()
    } else {
        Ipv4Addr::new(10, net, 0, host).into()
    }
}

fn any_exposure() -> impl Strategy<Value = Exposure> {
    let scope = prop_oneof![Just(Scope::Everywhere), Just(Scope::Host)];
    let reach = prop_oneof![2 => Just(Reach::Cluster), 1 => Just(Reach::Node)];
    (scope, reach).prop_map(|(scope, reach)| Exposure { scope, reach, ..Exposure::default() })
}

fn any_service() -> impl Strategy<Value = Service> {
    let state = prop_oneof![
        4 => Just(AdminState::Ready),
        1 => Just(AdminState::Drain),
        1 => Just(AdminState::Disabled),
    ];
    let lists =
        prop_oneof![2 => Just(Lists::Cluster), 1 => Just(Lists::Both), 1 => Just(Lists::Node)];
    let backend = (0u8..20, any::<bool>(), 1u16..5, state, lists);
    let frontends = prop::collection::btree_map(any_frontend(), any_exposure(), 0..4);
    (frontends, prop::collection::vec(backend, 0..8), any::<bool>(), 0u32..3).prop_map(
        |(frontends, backends, least, affinity)| Service {
            frontends,
            backends: backends
                .into_iter()
                .map(|(n, v6, weight, state, lists)| {
                    (
                        SocketAddr::new(ip(v6, 1, n), 8080),
                        Backend { weight, state, lists, ..Backend::default() },
                    )
                })
                .collect(),
            policy: if least { Policy::LeastConnections } else { Policy::Random },
            affinity: (affinity > 0)
                .then_some(Affinity { client: Client::Netns, timeout_seconds: affinity }),
            no_backend: NoBackend::Refuse,
            no_node_backend: Default::default(),
            source_ranges: Vec::new(),
            backends_from: Vec::new(),
            health: Default::default(),
        },
    )
}

fn any_desired() -> impl Strategy<Value = Desired> {
    prop::collection::btree_map(0u8..8, any_service(), 0..6).prop_map(|services| {
        desired(
            services
                .into_iter()
                .map(|(n, service)| (format!("service{n}").parse().expect("a good name"), service)),
        )
    })
}

/// The same while some sources have not delivered, and some services can't be told yet.
fn any_outlook() -> impl Strategy<Value = Desired> {
    let waiting = prop::collection::btree_set(0u8..8, 0..3);
    (any_desired(), waiting, any::<bool>(), any::<bool>()).prop_map(
        |(mut desired, waiting, complete, synced)| {
            let late = Rejection { origin: "test".into(), service: None, reason: "late".into() };
            let name = |n| format!("service{n}").parse::<ServiceName>().expect("a good name");
            for name in waiting.into_iter().map(name) {
                desired.services.remove(&name);
                desired.waiting.insert(name, late.clone());
            }
            desired.complete = complete;
            desired.synced = (complete || synced).then(|| Arc::from("test")).into_iter().collect();
            desired
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A history of states, each with a failure at some step, and restarts between.
    #[test]
    fn any_failed_prefix_converges(
        history in prop::collection::vec((any_desired(), 0usize..40, any::<bool>()), 1..8),
        slowness in 0usize..4,
    ) {
        let mut driver = Driver::new(LIMITS);
        driver.slowness = slowness;
        for (desired, fail_after, restart) in history {
            driver.fake.fail_after(fail_after);
            if restart {
                driver.restart(LIMITS);
            }
            driver.converge(LIMITS, &desired);
            driver.check(&desired);
        }
    }

    /// Planning for what has changed comes to the same as planning for all: at each round, whatever
    /// waits, does not fit, or may only be late.
    #[test]
    fn changes_are_planned_as_all_would_be(
        history in prop::collection::vec((any_outlook(), 0usize..60, any::<bool>(), 1usize..4), 1..12),
        slowness in 0usize..4,
        small in any::<bool>(),
    ) {
        let few = Limits { frontends: 6, services: 3, rows: 30, backends: 12 };
        let limits = if small { few } else { LIMITS };
        let mut drivers = [Driver::new(limits), Driver::new(limits)];
        drivers[1].by_changes = Some(Desired::default());
        drivers.iter_mut().for_each(|driver| driver.slowness = slowness);
        for (desired, fail_after, restart, rounds) in history {
            for driver in &mut drivers {
                driver.fake.fail_after(fail_after);
                if restart {
                    driver.restart(limits);
                }
            }
            for _ in 0..rounds {
                let [all, changes] = drivers.each_mut().map(|driver| {
                    let ended = driver.round(limits, &desired);
                    (ended, driver.fake.take_log())
                });
                prop_assert_eq!(all, changes);
            }
        }
    }

    /// The plan for a state that is already there is empty, also after a restart: ids, indexes and
    /// blocks are all adopted.
    #[test]
    fn a_restart_changes_nothing(desired in any_desired()) {
        let mut driver = Driver::new(LIMITS);
        driver.converge(LIMITS, &desired);
        driver.fake.take_log();
        driver.restart(LIMITS);
        driver.converge(LIMITS, &desired);
        prop_assert_eq!(driver.fake.take_log(), []);
        driver.check(&desired);
    }

    /// Nothing leaks: after any history, removing everything leaves room for a state that fills
    /// the tables.
    #[test]
    fn nothing_leaks(
        history in prop::collection::vec((any_desired(), 0usize..40), 1..8),
        slowness in 0usize..4,
    ) {
        let limits = Limits { frontends: 8, services: 1, rows: 21, backends: 20 };
        let mut driver = Driver::new(limits);
        driver.slowness = slowness;
        for (desired, fail_after) in history {
            driver.fake.fail_after(fail_after);
            for _ in 0..3 {
                driver.round(limits, &desired);
            }
        }
        driver.converge(limits, &desired([]));
        driver.converge(limits, &desired([("full".parse().unwrap(), full_service(8, 19))]));
        driver.check(&desired([("full".parse().unwrap(), full_service(8, 19))]));
    }
}

/// So many frontends and backends, all IPv4.
fn full_service(frontends: u8, backends: u8) -> Service {
    let frontend =
        |n| (Frontend::new(ip(false, 96, n), 80, Protocol::Tcp), Scope::Everywhere.into());
    let backend = |n| {
        let backend = Backend::default();
        (SocketAddr::new(ip(false, 1, n), 80), backend)
    };
    Service {
        frontends: (0..frontends).map(frontend).collect(),
        backends: (0..backends).map(backend).collect(),
        policy: Policy::Random,
        affinity: None,
        no_backend: NoBackend::Refuse,
        no_node_backend: Default::default(),
        source_ranges: Vec::new(),
        backends_from: Vec::new(),
        health: Default::default(),
    }
}

#[test]
fn a_full_table_rejects_the_service_that_did_not_fit_and_names_the_setting() {
    for (limits, table) in [
        (Limits { frontends: 2, ..LIMITS }, "tables.frontends"),
        (Limits { services: 1, ..LIMITS }, "tables.services"),
        (Limits { rows: 6, ..LIMITS }, "tables.rows"),
        (Limits { backends: 4, ..LIMITS }, "tables.backends"),
    ] {
        let small = ("a".parse().unwrap(), full_service(1, 2));
        let mut large = full_service(3, 4);
        large.frontends.pop_first();
        let wanted = desired([small, ("b".parse().unwrap(), large)]);
        let mut driver = Driver::new(limits);
        let plan = driver.planner.plan(&wanted);
        let [rejection] = plan.rejections.as_slice() else {
            panic!("{table}: {:?}", plan.rejections)
        };
        assert_eq!(rejection.service.as_deref(), Some("b"));
        assert!(rejection.reason.contains(table), "{}", rejection.reason);
        driver.fake.apply(&plan.actions).unwrap();
        assert!(driver.fake.lookup(&FrontendKey::new(ip(false, 96, 0), 80, 6)).is_some());
    }
}

#[test]
fn frontends_of_one_family_and_scope_share_a_block() {
    let wanted = desired([("a".parse().unwrap(), full_service(4, 3))]);
    let mut driver = Driver::new(LIMITS);
    let plan = driver.planner.plan(&wanted);
    let count = |kind: fn(&Action) -> bool| plan.actions.iter().filter(|a| kind(a)).count();
    assert_eq!(count(|a| matches!(a, Action::WriteBlock { .. })), 1);
    assert_eq!(count(|a| matches!(a, Action::Publish { .. })), 4);
    assert_eq!(count(|a| matches!(a, Action::InsertFrontend { .. })), 4);
}

#[test]
fn nothing_is_removed_before_every_source_has_delivered() {
    let full = desired([("a".parse().unwrap(), full_service(2, 2))]);
    let mut driver = Driver::new(LIMITS);
    driver.converge(LIMITS, &full);
    let late = Desired { complete: false, ..desired([]) };
    driver.converge(LIMITS, &late);
    driver.check(&full);
    driver.restart(LIMITS);
    driver.converge(LIMITS, &late);
    driver.check(&full);
    driver.converge(LIMITS, &desired([]));
    assert!(driver.fake.frontends().is_empty());
}

#[test]
fn a_service_that_waits_for_another_source_keeps_what_the_kernel_has() {
    let full = desired([("a".parse().unwrap(), full_service(2, 2))]);
    let mut driver = Driver::new(LIMITS);
    driver.converge(LIMITS, &full);
    let late = Rejection { origin: "test".into(), service: None, reason: "late".into() };
    let waiting = [("a".parse().unwrap(), late)].into();
    let late = Desired { complete: false, synced: ["test".into()].into(), waiting, ..desired([]) };
    driver.converge(LIMITS, &late);
    driver.check(&full);
    driver.restart(LIMITS);
    driver.converge(LIMITS, &late);
    driver.check(&full);
}

#[test]
fn what_a_source_has_dropped_goes_although_another_is_late() {
    let mut both = desired([
        ("a".parse().unwrap(), full_service(1, 2)),
        ("b".parse().unwrap(), full_service(2, 2)),
    ]);
    both.services.get_mut(&"b".parse().unwrap()).unwrap().source = "late".into();
    let mut driver = Driver::new(LIMITS);
    driver.converge(LIMITS, &both);
    let dropped = Desired { complete: false, synced: ["test".into()].into(), ..desired([]) };
    driver.converge(LIMITS, &dropped);
    let left = Desired { services: both.services.into_iter().skip(1).collect(), ..desired([]) };
    driver.check(&left);
}

#[test]
fn a_service_that_does_not_fit_takes_no_ids_from_others() {
    let limits = Limits { rows: 16, backends: 20, ..LIMITS };
    let mut large = full_service(1, 18);
    large.frontends = full_service(2, 0).frontends.into_iter().skip(1).collect();
    let wanted =
        desired([("a".parse().unwrap(), large), ("b".parse().unwrap(), full_service(1, 10))]);
    let mut driver = Driver::new(limits);
    let plan = driver.planner.plan(&wanted);
    let rejected: Vec<_> = plan.rejections.iter().map(|r| r.service.as_deref()).collect();
    assert_eq!(rejected, [Some("a")], "{:?}", plan.rejections);
}

#[test]
fn an_id_that_sockets_name_is_not_given_to_another_backend() {
    let limits = Limits { backends: 2, ..LIMITS };
    let mut driver = Driver::new(limits);
    driver.converge(limits, &desired([("a".parse().unwrap(), full_service(1, 2))]));
    driver.fake.set_active([0, 1].into());
    let other = |n| SocketAddr::new(ip(false, 2, n), 80);
    let mut moved = full_service(1, 0);
    moved.backends.insert(other(1), Backend::default());
    let moved = desired([("a".parse().unwrap(), moved)]);
    for _ in 0..5 {
        driver.round(limits, &moved);
    }
    let plan = driver.planner.plan(&moved);
    assert_eq!(plan.rejections.len(), 1, "both ids are still in use");

    // Also after a restart, when only the open sockets tell.
    driver.restart(limits);
    driver.fake.set_active([0].into());
    for _ in 0..5 {
        driver.round(limits, &moved);
    }
    driver.check(&moved);
    let name = "a".parse().unwrap();
    assert_eq!(driver.planner.backend_ids(&name).unwrap().get(&other(1)).copied(), Some(1));
}

#[test]
fn a_backend_that_comes_back_keeps_its_id() {
    let both = desired([("a".parse().unwrap(), full_service(1, 2))]);
    let one = desired([("a".parse().unwrap(), full_service(1, 1))]);
    let mut driver = Driver::new(LIMITS);
    driver.converge(LIMITS, &both);
    let name = "a".parse().unwrap();
    let address = SocketAddr::new(ip(false, 1, 1), 80);
    let id = driver.planner.backend_ids(&name).unwrap().get(&address).copied().unwrap();
    driver.fake.set_active([id].into());
    driver.converge(LIMITS, &one);
    assert_eq!(driver.planner.backend_ids(&name).unwrap().get(&address).copied(), None);
    driver.converge(LIMITS, &both);
    assert_eq!(driver.planner.backend_ids(&name).unwrap().get(&address).copied(), Some(id));
}

/// What a round has left half done is not what was planned before, although that is desired again.
#[test]
fn a_state_that_comes_back_before_its_successor_was_whole_is_planned_again() {
    let other: ServiceName = "other".parse().unwrap();
    let mut elsewhere = full_service(4, 1);
    elsewhere.frontends = elsewhere.frontends.into_iter().skip(2).collect();
    let before = full_service(1, 2);
    // One more frontend, and a backend in place of one that leaves.
    let mut after = full_service(2, 3);
    after.backends.pop_first();
    let named = |service: &Service| ("a".parse().unwrap(), service.clone());

    let mut driver = Driver::new(LIMITS);
    driver.slowness = 3;
    driver.converge(LIMITS, &desired([named(&before), (other, elsewhere)]));
    // The other's frontends are deleted; until that is safe, none is inserted.
    driver.round(LIMITS, &desired([named(&before)]));
    driver.round(LIMITS, &desired([named(&after)]));
    let back = desired([named(&before)]);
    driver.converge(LIMITS, &back);
    driver.check(&back);
}
