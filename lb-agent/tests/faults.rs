//! The planner against a dataplane that fails: whatever step fails, observing and planning again
//! converges, and no reader is ever shown a half-made change (the fake refuses such steps).

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

#[path = "faults/driver.rs"]
mod driver;
#[path = "faults/histories.rs"]
mod histories;
#[path = "faults/steps.rs"]
mod steps;

use driver::Driver;
use lb_agent::dataplane::Dataplane as _;
use lb_agent::desired::{Desired, Entry};
use lb_agent::model::{
    Backend, Frontend, NoBackend, Policy, Protocol, Rejection, Scope, Service, ServiceName,
};
use lb_agent::plan::{Action, Limits};
use lb_common::rows::FrontendKey;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

const LIMITS: Limits = Limits { frontends: 64, services: 16, rows: 512, backends: 256 };
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

fn ip(v6: bool, net: u8, host: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, u16::from(net), 0, 0, 0, 0, 0, u16::from(host)).into()
    } else {
        Ipv4Addr::new(10, net, 0, host).into()
    }
}

/// So many frontends and backends, all IPv4.
fn full_service(frontends: u8, backends: u8) -> Service {
    let frontends = (0..frontends).map(|n| Frontend::new(ip(false, 96, n), 80, Protocol::Tcp));
    service(frontends, (0..backends).map(|n| SocketAddr::new(ip(false, 1, n), 80)))
}

/// A service of anybody's, whose backends are chosen at random.
fn service(
    frontends: impl Iterator<Item = Frontend>,
    backends: impl Iterator<Item = SocketAddr>,
) -> Service {
    Service {
        frontends: frontends.map(|at| (at, Scope::Everywhere.into())).collect(),
        backends: backends.map(|at| (at, Backend::default())).collect(),
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
