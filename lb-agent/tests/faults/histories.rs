//! Histories at random: of states that are desired, of failures, and of restarts.

use super::driver::Driver;
use super::{LIMITS, desired, full_service, ip};
use lb_agent::desired::Desired;
use lb_agent::model::{
    AdminState, Affinity, Backend, Client, Exposure, Frontend, Lists, Policy, Protocol, Reach,
    Rejection, Scope, Service, ServiceName,
};
use lb_agent::plan::Limits;
use proptest::prelude::*;
use std::net::SocketAddr;
use std::sync::Arc;

fn any_frontend() -> impl Strategy<Value = Frontend> {
    (0u8..12, any::<bool>(), any::<bool>()).prop_map(|(n, v6, udp)| {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        Frontend::new(ip(v6, 96, n), 80, protocol)
    })
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
            ..full_service(0, 0)
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
