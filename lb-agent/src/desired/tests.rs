use super::*;
use crate::model::{Backend, NoBackend, Policy, Scope};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn service(frontends: &[&str], backends: &[&str]) -> Arc<Service> {
    let backend = Backend::default();
    Arc::new(Service {
        frontends: frontends.iter().map(|f| (f.parse().unwrap(), Scope::Everywhere)).collect(),
        backends: backends.iter().map(|b| (b.parse().unwrap(), backend.clone())).collect(),
        policy: Policy::Random,
        affinity: None,
        no_backend: NoBackend::Refuse,
        backends_from: Vec::new(),
        health: Default::default(),
    })
}

fn snapshot(services: &[(&str, Arc<Service>)]) -> Snapshot {
    let named = |(name, service): &(&str, Arc<Service>)| (name.parse().unwrap(), service.clone());
    Snapshot { services: services.iter().map(named).collect(), ..Snapshot::default() }
}

fn merge_all(snapshots: &[Option<Snapshot>]) -> Desired {
    let names: Vec<Arc<str>> = (0..snapshots.len()).map(|i| format!("s{i}").into()).collect();
    let inputs: Vec<_> = names
        .iter()
        .zip(snapshots)
        .map(|(source, s)| Input { source, snapshot: s.as_ref(), synced: s.is_some() })
        .collect();
    merge(&inputs)
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

/// Few names and frontends, so that conflicts are the rule.
fn sources() -> impl Strategy<Value = Vec<Option<Snapshot>>> {
    let frontends = btree_set(0u8..12, 1..4);
    let service = frontends.prop_map(|set| {
        let texts: Vec<_> = set
            .iter()
            .map(|n| format!("10.96.0.{}:80/{}", n / 2 + 1, if n % 2 == 0 { "tcp" } else { "udp" }))
            .collect();
        service(&texts.iter().map(String::as_str).collect::<Vec<_>>(), &["10.0.0.1:80"])
    });
    let name = (0u8..6).prop_map(|n| format!("n{n}").parse::<ServiceName>().unwrap());
    let snapshot = btree_map(name, service, 0..5)
        .prop_map(|services| Snapshot { services, ..Snapshot::default() });
    vec(proptest::option::weighted(0.9, snapshot), 0..4)
}

proptest! {
    #[test]
    fn frontends_have_one_owner_and_precedence_holds(snapshots in sources()) {
        let desired = merge_all(&snapshots);
        prop_assert_eq!(&desired, &merge_all(&snapshots), "merging is deterministic");

        let mut seen = BTreeSet::new();
        for entry in desired.services.values() {
            prop_assert!(!entry.service.frontends.is_empty());
            for frontend in entry.service.frontends.keys() {
                prop_assert!(seen.insert(*frontend), "{} has two owners", frontend);
            }
        }
        // The model: everybody who asks, in order of precedence, gets what nobody before it has.
        let mut owners = BTreeMap::new();
        let mut served = BTreeSet::new();
        let mut refused = 0;
        for (index, snapshot) in snapshots.iter().enumerate() {
            for (name, service) in snapshot.iter().flat_map(|s| &s.services) {
                if served.contains(name) {
                    refused += 1;
                    continue;
                }
                let free: Vec<_> =
                    service.frontends.keys().copied().filter(|f| !owners.contains_key(f)).collect();
                refused += service.frontends.len() - free.len();
                if !free.is_empty() {
                    served.insert(name.clone());
                }
                owners.extend(free.into_iter().map(|f| (f, (format!("s{index}"), name.clone()))));
            }
        }
        let found: BTreeMap<_, _> = desired
            .services
            .iter()
            .flat_map(|(name, e)| {
                e.service.frontends.keys().map(move |f| (*f, (e.source.to_string(), name.clone())))
            })
            .collect();
        prop_assert_eq!(found, owners);
        prop_assert_eq!(desired.rejections.len(), refused, "every refusal is reported once");
    }
}
