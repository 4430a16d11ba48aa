//! Whatever happens: a table that follows the changes holds what one that is filled anew holds.

use super::*;
use crate::desired::Entry;
use crate::model::{
    AdminState, Affinity, Backend, Client, Exposure, HealthPolicy, Lists, Masquerade, NoBackend,
    Passage, Policy, Reach, Way,
};
use proptest::prelude::*;
use std::net::SocketAddr;

/// A table that takes changes as the kernel does.
#[derive(Debug, Default, PartialEq)]
struct Held {
    elements: HashMap<Key, Value>,
}

impl Held {
    fn apply(&mut self, change: Change) {
        for (key, value) in change.removed {
            assert_eq!(self.elements.remove(&key), Some(value), "only what is there is removed");
        }
        for (key, value) in change.added {
            assert_eq!(self.elements.insert(key, value), None, "only what is not there is added");
        }
    }
}

fn backend() -> impl Strategy<Value = (u8, Backend)> {
    let lists = prop_oneof![Just(Lists::Cluster), Just(Lists::Node), Just(Lists::Both)];
    (0u8..5, 1u16..4, any::<bool>(), lists).prop_map(|(number, weight, ready, lists)| {
        let state = if ready { AdminState::Ready } else { AdminState::Drain };
        (number, Backend { weight, state, lists, ..Backend::default() })
    })
}

fn exposure() -> impl Strategy<Value = Exposure> {
    let reach = || prop_oneof![Just(Reach::Cluster), Just(Reach::Node)];
    let masquerade = prop_oneof![
        Just(Masquerade::Never),
        Just(Masquerade::UnlessPod),
        Just(Masquerade::IfLocal),
        Just(Masquerade::Always)
    ];
    (reach(), reach(), masquerade, any::<[bool; 3]>()).prop_map(
        |(reach, outside, masquerade, [restricted, whole_address, packets])| {
            let passage = Passage { outside, masquerade, restricted, whole_address };
            let way = if packets { Way::Packets(passage) } else { Way::Both(passage) };
            Exposure { reach, way, ..Exposure::default() }
        },
    )
}

fn service(number: u8) -> impl Strategy<Value = Service> {
    let frontends = prop::collection::btree_map(0u16..3, exposure(), 0..3);
    let backends = prop::collection::vec(backend(), 0..6);
    let none = || {
        prop_oneof![Just(NoBackend::Refuse), Just(NoBackend::Unreachable), Just(NoBackend::Pass)]
    };
    (frontends, backends, any::<bool>(), none(), none()).prop_map(
        move |(frontends, backends, sticky, no_backend, no_node_backend)| {
            let frontend = |port: u16, v4: bool| {
                let ip =
                    if v4 { format!("10.96.0.{number}") } else { format!("[fd00:96::{number}]") };
                format!("{ip}:{}/udp", port + 80).parse().unwrap()
            };
            let address = |number: u8, v4: bool| -> SocketAddr {
                let ip =
                    if v4 { format!("10.1.0.{number}") } else { format!("[fd00:1::{number}]") };
                format!("{ip}:53").parse().unwrap()
            };
            Service {
                frontends: frontends
                    .into_iter()
                    .flat_map(|(port, e)| [true, false].map(|v4| (frontend(port, v4), e)))
                    .collect(),
                backends: backends
                    .into_iter()
                    .flat_map(|(n, b)| [true, false].map(|v4| (address(n, v4), b.clone())))
                    .collect(),
                backends_from: Vec::new(),
                policy: Policy::Random,
                affinity: sticky.then_some(Affinity { client: Client::Netns, timeout_seconds: 60 }),
                no_backend,
                no_node_backend,
                health: HealthPolicy::default(),
                source_ranges: vec!["198.51.100.0/24".parse().unwrap()],
            }
        },
    )
}

/// Services as they follow each other; what is not there is gone.
fn history() -> impl Strategy<Value = Vec<Vec<Option<Service>>>> {
    let moment = (0u8..4).map(|number| prop::option::of(service(number))).collect::<Vec<_>>();
    prop::collection::vec(moment, 1..8)
}

proptest! {
    /// What is wanted follows what is desired, and what was given out stays as it was.
    #[test]
    fn what_is_wanted_follows_what_has_changed(history in history(), complete in any::<[bool; 8]>()) {
        let mut versions = Versions::<Wanted>::default();
        let mut desired = Desired::default();
        let mut given: Option<(Arc<Wanted>, Wanted)> = None;
        for (moment, complete) in history.iter().zip(complete) {
            let mut changed = BTreeSet::new();
            for (number, service) in (0u8..).zip(moment) {
                let name: ServiceName = format!("s{number}").parse().unwrap();
                let known = desired.services.get(&name).map(|entry| &*entry.service);
                if known == service.as_ref() {
                    continue;
                }
                let entry = service.clone().map(|s| Entry::new(Arc::new(s), "test".into()));
                versions::put(&mut desired.services, &name, entry);
                changed.insert(name);
            }
            desired.complete = complete;
            let before = versions.now().complete;
            let told = versions.follow(&desired, &changed);
            let passing = desired.services.iter().filter(|(_, entry)| {
                entry.service.frontends.values().any(|exposure| exposure.passage().is_some())
            });
            let expected: Services =
                passing.map(|(name, entry)| (name.clone(), Arc::clone(&entry.effective))).collect();
            let now = versions.now();
            prop_assert_eq!((&now.services, now.complete), (&expected, complete));
            if let Some((given, was)) = &given {
                prop_assert_eq!((&given.services, given.complete), (&was.services, was.complete));
                prop_assert_eq!(told, was.services != now.services || before != complete);
            }
            given = Some((Arc::clone(now), Wanted::clone(now)));
        }
    }

    #[test]
    fn changes_come_to_the_same_as_beginning_anew(history in history()) {
        for family in Family::ALL {
            let mut contents = Contents::new(family);
            let mut held = Held::default();
            for moment in &history {
                let services: Services = (0..).zip(moment).filter_map(|(number, service): (u8, _)| {
                    let name = format!("s{number}").parse().unwrap();
                    Some((name, Arc::new(service.clone()?)))
                }).collect();
                held.apply(contents.update(&services));
                let mut fresh = Contents::new(family);
                let mut anew = Held::default();
                anew.apply(fresh.update(&services));
                prop_assert_eq!(&held, &anew);
                let difference = contents.difference(&held.elements);
                prop_assert!(difference.is_empty(), "{:?}", difference);
                prop_assert_eq!(contents.all().len(), held.elements.len());
                prop_assert!(contents.draws().is_superset(fresh.draws()));
                // Whatever was taken and dropped, what stays is what is used.
                contents.forget_idle_draws();
                prop_assert_eq!(contents.draws(), fresh.draws());
            }
        }
    }
}

#[test]
fn what_is_found_is_brought_to_what_is_wanted() {
    let read = |backends: &str| {
        let claims = crate::claims::Claims {
            ranges: None,
            host_addresses: Vec::new(),
            strict: false,
            exec: false,
        };
        let text = format!(
            "services: [{{name: a, expose: true, frontends: ['10.96.0.1:80'], backends: [{backends}]}}]"
        );
        crate::source::spec::translate("x", &text, &claims, true).unwrap().snapshot.services
    };
    let mut before = Contents::new(Family::V4);
    before.update(&read("'10.1.0.1:80', '10.1.0.2:80'"));
    let mut held: HashMap<_, _> = before.all().into_iter().collect();
    let mut after = Contents::new(Family::V4);
    after.update(&read("'10.1.0.1:80', '10.1.0.3:80'"));
    let change = after.difference(&held);
    // One slot; what its backend is told by, and what it is masqueraded by if it asks itself.
    assert_eq!((change.removed.len(), change.added.len()), (3, 3), "{change:?}");
    for (key, _) in change.removed {
        held.remove(&key);
    }
    held.extend(change.added);
    assert_eq!(held, after.all().into_iter().collect());
}

/// Somebody who changes a service's timeout all day: each is another chain.
#[test]
fn draws_that_nobody_uses_are_forgotten() {
    let read = |seconds: u32| {
        let claims = crate::claims::Claims {
            ranges: None,
            host_addresses: Vec::new(),
            strict: false,
            exec: false,
        };
        let text = format!(
            "services: [{{name: a, expose: true, frontends: ['10.96.0.1:80'], \
             affinity: {{timeout: {seconds}s}}, backends: ['10.1.0.1:80', '10.1.0.2:80']}}]"
        );
        crate::source::spec::translate("x", &text, &claims, true).unwrap().snapshot.services
    };
    let mut contents = Contents::new(Family::V4);
    let mut forgotten = 0;
    for seconds in 1..=1000 {
        contents.update(&read(seconds));
        let now = Draw::Stay { reach: Reach::Cluster, seconds, slots: 2 };
        assert!(contents.draws().contains(&now), "{seconds}");
        if contents.has_idle_draws() {
            contents.forget_idle_draws();
            forgotten += 1;
            assert_eq!(contents.draws(), &BTreeSet::from([now]));
        }
        assert!(contents.draws().len() <= SPARE.0 + SPARE.1, "{seconds}");
    }
    assert_eq!(forgotten, 3);
}
