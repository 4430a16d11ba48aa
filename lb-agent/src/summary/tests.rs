//! What services come to.

use super::*;
use crate::model::{NoBackend, Policy, Scope};
use crate::status::{FrontendStatus, HealthStatus, OutcomeCounts, ServiceCounts};

pub(crate) fn frontend(text: &str, usable: usize) -> FrontendStatus {
    let frontend = text.parse().unwrap();
    FrontendStatus {
        frontend,
        scope: Scope::Everywhere,
        comes: Default::default(),
        installed: true,
        usable,
        reach: Default::default(),
    }
}

pub(crate) fn backend(
    address: &str,
    state: AdminState,
    health: Option<(Why, u16)>,
) -> BackendStatus {
    BackendStatus {
        address: address.parse().unwrap(),
        id: None,
        state,
        weight: 1,
        zone: None,
        lease: None,
        lease_left: None,
        lists: Default::default(),
        said: None,
        health: health.map(|(why, share)| {
            Box::new(HealthStatus { why, share, check: None, ejected_for: None })
        }),
        since: None,
        active: 2,
        connects: 0,
        outcomes: None,
    }
}

pub(crate) fn service(
    frontends: Vec<FrontendStatus>,
    backends: Vec<BackendStatus>,
) -> ServiceStatus {
    ServiceStatus {
        name: "web".to_owned(),
        id: None,
        source: "file:x".to_owned(),
        frontends,
        policy: Policy::Random,
        affinity: None,
        no_backend: NoBackend::Refuse,
        no_node_backend: None,
        fails_open: false,
        backends,
        counters: ServiceCounts::default(),
    }
}

#[test]
fn levels_and_reasons() {
    use AdminState::{Drain, Ready};
    let a = |why| backend("10.0.0.1:80", Ready, Some((why, 1)));
    let b = |why| backend("10.0.0.2:80", Ready, Some((why, 1)));
    let plain = backend("10.0.0.3:80", Ready, None);
    let drained = backend("10.0.0.4:80", Drain, None);
    let one = |usable| vec![frontend("10.96.0.1:80", usable)];
    let dual = vec![frontend("10.96.0.1:80", 1), frontend("[fd00::1]:80", 0)];
    let absent = vec![FrontendStatus { installed: false, ..frontend("10.96.0.1:80", 1) }];
    for (frontends, backends, level, why) in [
        (one(2), vec![plain.clone(), a(Why::Serving)], Level::Ok, ""),
        (one(1), vec![plain.clone(), drained.clone()], Level::Ok, "1 draining"),
        (one(1), vec![a(Why::Failing), b(Why::Serving)], Level::Degraded, "1 failing"),
        (
            one(1),
            vec![a(Why::Ejected), b(Why::Failing), plain.clone()],
            Level::Degraded,
            "1 failing, 1 ejected",
        ),
        (one(0), vec![drained], Level::Down, "no backend: 1 draining"),
        (one(0), vec![], Level::Down, "no backend"),
        (dual, vec![plain.clone()], Level::Down, "no backend for [fd00::1]:80/tcp"),
        (absent, vec![plain], Level::Down, "10.96.0.1:80/tcp is not in the kernel"),
    ] {
        let found = summary(&service(frontends, backends));
        assert_eq!((found.level, found.why.as_str()), (level, why));
    }
    let open = ServiceStatus {
        fails_open: true,
        ..service(one(2), vec![a(Why::FailOpen), b(Why::FailOpen)])
    };
    let found = summary(&open);
    assert_eq!((found.level, found.why.as_str()), (Level::FailOpen, "too few healthy backends"));
    assert_eq!((found.usable, found.active), (2, 4));
}

#[test]
fn times_count_by_what_they_measured() {
    let measured = |address, established, millis: Option<u64>| BackendStatus {
        outcomes: Some(Box::new(OutcomeCounts {
            established,
            refused: 1,
            unanswered: 2,
            srtt: millis.map(Duration::from_millis),
            ..OutcomeCounts::default()
        })),
        ..backend(address, AdminState::Ready, None)
    };
    let backends = vec![
        measured("10.0.0.1:80", 3, Some(2)),
        measured("10.0.0.2:80", 1, Some(6)),
        measured("10.0.0.3:80", 9, None),
    ];
    let found = summary(&service(vec![], backends));
    assert_eq!(found.srtt, Some(Duration::from_millis(3)));
    assert_eq!(found.failures, 9);
    assert_eq!(summary(&service(vec![], vec![])).srtt, None);
}

#[test]
fn a_share_is_of_the_family() {
    use AdminState::{Drain, Ready};
    let weighs = |weight, backend| BackendStatus { weight, ..backend };
    let backends = vec![
        weighs(1, backend("10.0.0.1:80", Ready, None)),
        weighs(3, backend("10.0.0.2:80", Ready, None)),
        weighs(9, backend("10.0.0.3:80", Drain, None)),
        weighs(7, backend("[fd00::1]:80", Ready, None)),
    ];
    assert_eq!(shares(&service(vec![], backends)), [25.0, 75.0, 0.0, 100.0]);
    let known = vec![
        backend("10.0.0.1:80", Ready, Some((Why::Failing, 0))),
        backend("10.0.0.2:80", Ready, Some((Why::Serving, 4))),
    ];
    assert_eq!(shares(&service(vec![], known)), [0.0, 100.0]);
}
