use super::*;
use crate::model::Override;
use crate::status::{FrontendStatus, ServiceCounts};
use proptest::prelude::*;

const VIP: &str = "10.96.0.1:80";

fn backend(address: &str, state: AdminState, why: Option<Why>) -> BackendStatus {
    let health =
        why.map(|why| Box::new(HealthStatus { why, share: 1, check: None, ejected_for: None }));
    BackendStatus {
        address: address.parse().unwrap(),
        id: Some(1),
        state,
        weight: 1,
        zone: None,
        lease: None,
        lease_left: None,
        lists: Default::default(),
        said: None,
        health,
        since: None,
        active: 0,
        connects: 0,
        outcomes: None,
    }
}

fn service(name: &str, id: u32, frontends: &[&str], backends: Vec<BackendStatus>) -> ServiceStatus {
    let frontends = frontends.iter().map(|text| FrontendStatus {
        frontend: text.parse().unwrap(),
        scope: Scope::Everywhere,
        comes: Default::default(),
        installed: true,
        usable: 1,
        reach: Default::default(),
    });
    ServiceStatus {
        name: name.to_owned(),
        id: Some(id),
        source: "file:x".to_owned(),
        frontends: frontends.collect(),
        policy: Policy::Random,
        affinity: None,
        no_backend: NoBackend::Refuse,
        no_node_backend: None,
        fails_open: false,
        backends,
        counters: ServiceCounts::default(),
    }
}

fn candidate(address: &str) -> Candidate {
    Candidate {
        address: address.parse().unwrap(),
        id: 1,
        weight: 1,
        share_percent: 100.0,
        active: 0,
        clients: None,
    }
}

fn walk(candidates: &[&str], resting: &[&str]) -> Walk {
    Walk {
        index: 3,
        block: 7,
        service_id: 5,
        policy: Policy::Random,
        no_backend: NoBackend::Refuse,
        affinity: None,
        scope: Scope::Everywhere,
        candidates: candidates.iter().map(|address| candidate(address)).collect(),
        resting: resting.iter().map(|address| candidate(address)).collect(),
    }
}

#[test]
fn who_is_left_out_and_why() {
    use AdminState::{Disabled, Drain, Ready};
    let said = Override { state: Some(Drain), ..Override::default() };
    let backends = vec![
        backend("10.0.0.1:80", Ready, Some(Why::Serving)),
        BackendStatus { said: Some(said), ..backend("10.0.0.2:80", Drain, Some(Why::Draining)) },
        backend("10.0.0.3:80", Disabled, None),
        backend("10.0.0.4:80", Ready, Some(Why::Failing)),
        backend("10.0.0.5:80", Ready, Some(Why::Ejected)),
        backend("10.0.0.6:80", Ready, Some(Why::Standby)),
        backend("10.0.0.7:80", Ready, Some(Why::OtherZone)),
        BackendStatus { id: None, ..backend("10.0.0.8:80", Ready, None) },
        backend("10.0.0.9:80", Ready, Some(Why::Serving)),
        backend("[fd00::1]:80", Drain, None),
    ];
    let services = [service("web", 5, &[VIP], backends)];
    let rejections = [
        Rejection { origin: "a".into(), service: Some("web".into()), reason: "too big".into() },
        Rejection { origin: "b".into(), service: Some("dns".into()), reason: "no".into() },
        Rejection {
            origin: "c".into(),
            service: Some("x".into()),
            reason: format!("{VIP} is web's"),
        },
    ];
    let known = Known { services: &services, rejections: &rejections, frontends: &[] };
    let told = explain(VIP.parse().unwrap(), Some(walk(&["10.0.0.1:80"], &[])), known);
    assert_eq!((told.service.as_deref(), told.source.as_deref()), (Some("web"), Some("file:x")));
    let seen: Vec<_> = told.left_out.iter().map(|l| (l.reason, l.by_operator)).collect();
    let expected = [
        (Reason::Draining, true),
        (Reason::Disabled, false),
        (Reason::Failing, false),
        (Reason::Ejected, false),
        (Reason::Standby, false),
        (Reason::OtherZone, false),
        (Reason::NotInstalled, false),
        (Reason::NotLedTo, false),
        (Reason::OtherFamily, false),
    ];
    assert_eq!(seen, expected);
    let other = format!("refused: c: x: {VIP} is web's");
    assert_eq!(told.notes, ["refused: a: web: too big".to_owned(), other]);
    assert_eq!(told.health.len(), 1);
    assert_eq!(told.closest, []);
}

#[test]
fn without_names_the_tables_know_who_rests() {
    let known = Known { services: &[], rejections: &[], frontends: &[] };
    let walk = walk(&["10.0.0.1:80"], &["10.0.0.2:80"]);
    let told = explain(VIP.parse().unwrap(), Some(walk), known);
    let seen: Vec<_> = told.left_out.iter().map(|l| (l.address.to_string(), l.reason)).collect();
    assert_eq!(seen, [("10.0.0.2:80".to_owned(), Reason::Draining)]);
}

#[test]
fn what_is_no_frontend() {
    let services = [
        service(
            "web",
            1,
            &[VIP, "10.96.0.1:443"],
            vec![backend("10.0.0.1:80", AdminState::Ready, None)],
        ),
        service("dns", 2, &["10.96.0.2:53/udp"], Vec::new()),
        service("late", 3, &["10.96.0.3:80"], Vec::new()),
        service("node-port", 4, &["127.0.0.1:30080"], Vec::new()),
    ];
    let frontends =
        [(VIP, 1), ("10.96.0.1:443", 1), ("10.96.0.2:53/udp", 2), ("127.0.0.1:30080", 4)];
    let frontends: Vec<(Frontend, u32)> =
        frontends.iter().map(|(text, id)| (text.parse().unwrap(), *id)).collect();
    let rejections = [Rejection {
        origin: "file".into(),
        service: Some("x".into()),
        reason: "10.96.0.4:80 belongs to web".into(),
    }];
    let known = Known { services: &services, rejections: &rejections, frontends: &frontends };
    for (asked, near, note) in [
        ("10.96.0.2:53", &["dns 10.96.0.2:53/udp"][..], ""),
        ("10.96.0.1:8080", &["web 10.96.0.1:80/tcp", "web 10.96.0.1:443/tcp"], ""),
        ("10.96.0.2:54/udp", &["dns 10.96.0.2:53/udp"], ""),
        ("10.96.0.7:80", &["web 10.96.0.1:80/tcp"], ""),
        ("192.168.7.7:9999", &[], ""),
        ("10.0.0.1:80", &["web 10.96.0.1:80/tcp"], "a backend's own address, of web"),
        ("10.96.0.3:80", &["web 10.96.0.1:80/tcp"], "late asks for it"),
        ("10.96.0.4:80", &["web 10.96.0.1:80/tcp"], "refused: file: x: 10.96.0.4:80 belongs"),
        ("10.96.0.4:8", &[], ""),
        (
            "127.0.0.2:30080",
            &["node-port 127.0.0.1:30080/tcp"],
            "127.0.0.1:30080 is a frontend, the rest of 127.0.0.0/8 is not",
        ),
        ("127.0.0.1:30080/udp", &["node-port 127.0.0.1:30080/tcp"], ""),
        ("127.0.0.2:30080/udp", &[], ""),
    ] {
        let told = explain(asked.parse().unwrap(), None, known);
        let seen: Vec<_> =
            told.closest.iter().map(|near| format!("{} {}", near.service, near.frontend)).collect();
        if !near.is_empty() {
            assert_eq!(seen, near, "{asked}");
        }
        assert_eq!(told.notes.is_empty(), note.is_empty(), "{asked}: {:?}", told.notes);
        assert!(told.notes.iter().all(|told| told.contains(note)), "{asked}: {:?}", told.notes);
    }
}

proptest! {
    /// Against all pairs of draws.
    #[test]
    fn the_less_loaded_of_two(
        loads in proptest::collection::vec((0u64..4, 1u16..4), 1..8)
    ) {
        let total: f64 = loads.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let drawn: Vec<f64> = loads.iter().map(|(_, w)| f64::from(*w) / total).collect();
        let mut expected = vec![0.0; loads.len()];
        for (i, a) in loads.iter().enumerate() {
            for (j, b) in loads.iter().enumerate() {
                let first = pick::first_is_less_loaded(a.0, a.1, b.0, b.1);
                expected[if first { i } else { j }] += drawn[i] * drawn[j];
            }
        }
        for (share, expected) in least_connections_shares(&drawn, &loads).iter().zip(&expected) {
            prop_assert!((share - expected).abs() < 1e-9, "{share} {expected}");
        }
    }
}
