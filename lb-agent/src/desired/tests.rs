use super::*;
use crate::model::{Backend, NoBackend, Policy, Scope};

mod changes;
mod keepers;

fn service(frontends: &[&str], backends: &[&str]) -> Arc<Service> {
    let backend = Backend::default();
    Arc::new(Service {
        frontends: frontends
            .iter()
            .map(|f| (f.parse().unwrap(), Scope::Everywhere.into()))
            .collect(),
        backends: backends.iter().map(|b| (b.parse().unwrap(), backend.clone())).collect(),
        policy: Policy::Random,
        affinity: None,
        no_backend: NoBackend::Refuse,
        no_node_backend: Default::default(),
        source_ranges: Vec::new(),
        backends_from: Vec::new(),
        health: Default::default(),
    })
}

fn snapshot(services: &[(&str, Arc<Service>)]) -> Snapshot {
    let named = |(name, service): &(&str, Arc<Service>)| (name.parse().unwrap(), service.clone());
    Snapshot { services: services.iter().map(named).collect(), ..Snapshot::default() }
}

/// What sources s0, s1, ... say who have delivered if they have said anything.
fn inputs(snapshots: &[Option<Snapshot>]) -> Vec<Input> {
    let input = |(index, snapshot): (usize, &Option<Snapshot>)| Input {
        source: format!("s{index}").into(),
        snapshot: snapshot.clone().map(Arc::new),
        synced: snapshot.is_some(),
    };
    snapshots.iter().enumerate().map(input).collect()
}

fn merge_all(snapshots: &[Option<Snapshot>]) -> Desired {
    merge(inputs(snapshots))
}

fn reasons(desired: &Desired) -> Vec<(&str, &str)> {
    desired.rejections.iter().map(|r| (r.origin.as_str(), r.reason.as_str())).collect()
}

#[test]
fn the_first_source_keeps_a_name() {
    let first = snapshot(&[("web", service(&["10.96.0.1:80"], &[]))]);
    let second = snapshot(&[("web", service(&["10.96.0.2:80"], &[]))]);
    let desired = merge_all(&[Some(first.clone()), Some(second)]);
    let entry = &desired.services[&"web".parse().unwrap()];
    assert_eq!(&*entry.source, "s0");
    assert!(Arc::ptr_eq(&entry.service, first.services.values().next().unwrap()));
    assert_eq!(
        reasons(&desired),
        [(
            "s1",
            "service `web` of s1 is also defined by s0, which comes first; rename or remove one"
        )]
    );
}

#[test]
fn the_first_service_keeps_a_frontend() {
    let first = snapshot(&[("b", service(&["10.96.0.1:80"], &[]))]);
    let second = snapshot(&[
        ("a", service(&["10.96.0.1:80", "10.96.0.1:80/udp", "10.96.0.2:80"], &[])),
        ("c", service(&["10.96.0.2:80"], &[])),
    ]);
    let desired = merge_all(&[Some(first), Some(second)]);
    let names: Vec<_> = desired.services.keys().map(ServiceName::as_str).collect();
    assert_eq!(names, ["a", "b"]);
    let kept: Vec<_> = desired.services[&"a".parse().unwrap()].service.frontends.keys().collect();
    assert_eq!(kept, [&"10.96.0.1:80/udp".parse().unwrap(), &"10.96.0.2:80".parse().unwrap()]);
    assert_eq!(
        reasons(&desired),
        [
            (
                "s1",
                "frontend 10.96.0.1:80/tcp of service `a` (s1) belongs to \
                 service `b` (s0), which comes first; remove one"
            ),
            (
                "s1",
                "frontend 10.96.0.2:80/tcp of service `c` (s1) belongs to \
                 service `a` (s1), which comes first; remove one; it has no other and is not served"
            ),
        ]
    );
}

#[test]
fn a_backend_that_is_a_frontend_of_the_same_protocol_is_a_probable_mistake() {
    let all = snapshot(&[
        ("front", service(&["10.96.0.1:80"], &["10.96.0.2:53", "10.0.0.1:80"])),
        ("udp", service(&["10.96.0.2:53/udp"], &["10.96.0.1:80"])),
        ("both", service(&["10.96.0.3:1", "10.96.0.3:1/udp"], &["10.96.0.1:80"])),
    ]);
    let desired = merge_all(&[Some(all)]);
    assert_eq!(desired.services.len(), 3);
    let [(origin, reason)] = reasons(&desired)[..] else { panic!("{:?}", reasons(&desired)) };
    assert_eq!(origin, "s0");
    assert!(reason.starts_with(
        "backend 10.96.0.1:80 of service `both` is itself a frontend (of `front`): \
         connections are translated once and reach it directly; probably a mistake"
    ));
}

#[test]
fn it_is_complete_when_every_source_has_delivered() {
    assert!(merge_all(&[]).complete);
    assert!(merge_all(&[Some(Snapshot::default())]).complete);
    assert!(!merge_all(&[Some(Snapshot::default()), None]).complete);
}
