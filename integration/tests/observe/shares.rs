//! The shares that `lbctl explain` tells, against where connects really go, for all that bears on the
//! choice: weights, open connections, checks, ejections, priorities, zones, operators, affinity.

use crate::explain::{explained, shares};
use integration::agent::Agent;
use integration::client::dial;
use integration::lab::{self, Lab};
use integration::server::{Backends, Kind, closed};
use integration::spec::{Spec, service, services};
use integration::wait::{eventually, wait_for, within};
use lb_agent::explain::{Explanation, LeftOut, Reason};
use lb_agent::model::AdminState;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

const MOMENT: Duration = Duration::from_secs(30);
const DIALS: u32 = 20_000;
const PORT: u16 = 53;

/// Connects until now, by backend.
pub(crate) fn connects(agent: &Agent<'_>, service: &str) -> BTreeMap<SocketAddr, u64> {
    let backends = agent.service(service).backends;
    backends.into_iter().map(|backend| (backend.address, backend.connects)).collect()
}

fn connected(frontend: SocketAddr) -> UdpSocket {
    let local = if frontend.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(local).expect("a socket");
    socket.connect(frontend).expect("a UDP connect sends nothing");
    socket
}

/// Dials so often, and compares where the connects went with the shares that were told. They must
/// have been told before and after: what changed meanwhile is looked at again.
#[track_caller]
pub(crate) fn agrees(lab: &Lab, agent: &Agent<'_>, name: &str, frontend: SocketAddr, seed: u64) {
    let address = format!("{frontend}/udp");
    for _ in 0..5 {
        let told = shares(&explained(lab, &address));
        let before = connects(agent, name);
        for _ in 0..DIALS {
            drop(connected(frontend));
        }
        let after = connects(agent, name);
        if told == shares(&explained(lab, &address)) {
            let went =
                after.into_iter().map(|(backend, count)| (backend, count - before[&backend]));
            return compare(&told, &went.collect(), &format!("{name}, seed {seed}"));
        }
    }
    panic!("{name} does not settle; seed {seed}");
}

/// Chernoff's bound for each backend: that chance goes so far astray has a probability of less than
/// twice e^-20, which is one in a million for hundreds of backends together.
#[track_caller]
fn compare(told: &BTreeMap<SocketAddr, f64>, went: &BTreeMap<SocketAddr, u64>, what: &str) {
    let total: f64 = told.values().sum();
    assert!((total - 1.0).abs() < 1e-6, "the shares add up to {total}; {what}");
    assert_eq!(went.values().sum::<u64>(), u64::from(DIALS), "{what}");
    let part =
        |seen: f64, expected: f64| if seen == 0.0 { 0.0 } else { seen * (seen / expected).ln() };
    for (backend, count) in went {
        let expected = told.get(backend).copied().unwrap_or(0.0);
        let seen = *count as f64 / f64::from(DIALS);
        let astray = part(seen, expected) + part(1.0 - seen, 1.0 - expected);
        assert!(
            f64::from(DIALS) * astray < 20.0,
            "{backend} got {seen} of the connects and was told to get {expected}; {what}: {told:?}"
        );
    }
}

/// A service of random backends, each with an address of its own; those that are up.
fn random_service(number: u8, random: &mut StdRng) -> (Spec, BTreeSet<SocketAddr>) {
    let mut spec = service(format!("s{number}")).udp(frontend(number));
    let mut up = BTreeSet::new();
    for backend in 1..=random.random_range(3..=9u8) {
        let address = SocketAddr::new(Ipv4Addr::new(127, 1, number, backend).into(), PORT);
        // The first can always serve.
        if backend == 1 || random.random_bool(0.7) {
            up.insert(address);
        }
        let state = if backend > 1 && random.random_bool(0.15) { "drain" } else { "ready" };
        let zone = if random.random_bool(0.5) { "here" } else { "there" };
        let (weight, priority) = (random.random_range(1..=9u16), random.random_range(0..=1u8));
        spec = spec.backend_with(
            address,
            format!("state: {state}, zone: {zone}, weight: {weight}, priority: {priority}"),
        );
    }
    let policy = if number.is_multiple_of(2) { "random" } else { "least_connections" };
    spec = spec
        .with(format!("policy: {policy}"))
        .with(format!("checks: [{{tcp: {{port: {PORT}, interval: 1s, fast_interval: 100ms}}}}]"));
    if random.random_bool(0.6) {
        spec = spec.with(format!("min_zone_healthy: {}", random.random_range(1..=100u8)));
    }
    if random.random_bool(0.3) {
        spec = spec.with(format!("panic_threshold: {}", random.random_range(1..=60u8)));
    }
    (spec, up)
}

fn frontend(number: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 96, 2, number).into(), PORT)
}

#[test]
fn whatever_bears_on_the_choice() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    lab::run("explain-rules", |lab| {
        lab.set_settings("zone: here");
        let made: Vec<_> = (0..8u8).map(|number| random_service(number, &mut random)).collect();
        let all_up = made.iter().flat_map(|(_, up)| up).map(|address| (*address, "up"));
        let _servers = Backends::start(Kind::Tcp, all_up);
        let specs: Vec<Spec> = made.iter().map(|(spec, _)| spec.clone()).collect();
        let agent = Agent::start(lab, &services(&specs));
        for (number, (_, up)) in (0..).zip(&made) {
            let name = format!("s{number}");
            eventually("all checks to have said what there is", MOMENT, || {
                agent.service(&name).backends.iter().all(|backend| {
                    let check = backend.health.as_ref().and_then(|health| health.check.as_ref());
                    let known = |up: bool| {
                        check.is_some_and(|check| check.result.is_some() && check.up == up)
                    };
                    backend.state != AdminState::Ready || known(up.contains(&backend.address))
                })
            });
            // Connections that are open while others are chosen for.
            let open: Vec<UdpSocket> =
                (0..random.random_range(0..40)).map(|_| connected(frontend(number))).collect();
            agrees(lab, &agent, &name, frontend(number), seed);
            // A child that another test has forked holds copies of sockets that are closed here until
            // it executes its program.
            let told = || explained(lab, &format!("{}/udp", frontend(number)));
            let active = |told: &Explanation| -> u64 {
                told.walk.iter().flat_map(|w| &w.candidates).map(|c| c.active).sum()
            };
            within(MOMENT, || (active(&told()) == open.len() as u64).then_some(()));
            let told = told();
            assert_eq!(active(&told), open.len() as u64, "{told:?}; seed {seed}");
        }
    });
}

/// A backend that real connects failed at, and a client that stays with its backend.
#[test]
fn who_is_ejected_and_who_stays() {
    lab::run("explain-ejected", |lab| {
        let (web, stays) = (frontend(1), frontend(2));
        let server = Backends::tcp("127.0.0.1", ["a", "b"]);
        let shut = closed("127.0.0.1");
        let spec = services(&[
            service("web")
                .frontend(web)
                .udp(web)
                .backend_with(server.at(0), "weight: 3")
                .backends([server.at(1), shut])
                .with("ejection: {failures: 3, time: 300s}"),
            service("stays")
                .udp(stays)
                .backends(["127.0.0.1:53", "127.0.0.2:53", "127.0.0.3:53"])
                .with("affinity: {client: process}"),
        ]);
        let agent = Agent::start(lab, &spec);
        let told = wait_for("the backend that refuses to be ejected", MOMENT, || {
            drop(dial(web));
            let told = explained(lab, &format!("{web}/udp"));
            // Before it is known why one is left out, that may be so already.
            let known = |left: &LeftOut| left.address == shut && left.reason != Reason::NotLedTo;
            told.left_out.iter().any(known).then_some(told)
        });
        assert_eq!(told.left_out[0].reason, Reason::Ejected);
        agrees(lab, &agent, "web", web, 0);

        drop(connected(stays));
        let told = explained(lab, &format!("{stays}/udp"));
        let candidates = told.walk.as_ref().expect("a frontend").candidates.iter();
        let own: Vec<_> = candidates.filter(|c| c.clients == Some(1)).map(|c| c.address).collect();
        let before = connects(&agent, "stays");
        for _ in 0..1000 {
            drop(connected(stays));
        }
        for (backend, count) in connects(&agent, "stays") {
            let expected = if own == [backend] { 1000 } else { 0 };
            assert_eq!(count - before[&backend], expected, "{backend} {told:?}");
        }
        let even = shares(&told);
        assert!(even.values().all(|share| (share - 1.0 / 3.0).abs() < 1e-6), "{even:?}");
    });
}
