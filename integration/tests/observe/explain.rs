//! `lbctl explain`: that it says what connects really do, and names what was meant.

use crate::shares::{agrees, connects};
use integration::agent::Agent;
use integration::lab::{self, Lab};
use integration::server::{Backends, closed};
use integration::spec::{Spec, service, services};
use integration::wait::wait_for;
use lb_agent::explain::{Explanation, Reason};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const MOMENT: Duration = Duration::from_secs(20);

#[track_caller]
pub(crate) fn explained(lab: &Lab, address: &str) -> Explanation {
    let told = lab.lbctl(&["explain", address, "-o", "json"]);
    serde_json::from_str(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told:?}"))
}

#[track_caller]
fn text(lab: &Lab, address: &str, code: i32) -> String {
    let told = lab.lbctl(&["explain", address]);
    assert_eq!(told.code, Some(code), "{told:?}");
    told.stdout
}

pub(crate) fn shares(explanation: &Explanation) -> BTreeMap<SocketAddr, f64> {
    let walk = explanation.walk.as_ref().expect("a frontend");
    walk.candidates.iter().map(|c| (c.address, c.share_percent / 100.0)).collect()
}

/// Services with random weights, some backends drained, some of the other family.
#[test]
fn it_agrees_with_what_connects_do() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    lab::run("explain-shares", |lab| {
        let mut specs: Vec<Spec> = Vec::new();
        let mut frontends = Vec::new();
        for number in 0..6u8 {
            let v6 = random.random_bool(0.3);
            let frontend: SocketAddr = match v6 {
                true => format!("[fd00:96::{number}]:53").parse().unwrap(),
                false => format!("10.96.1.{number}:53").parse().unwrap(),
            };
            let mut spec = service(format!("s{number}")).udp(frontend);
            for backend in 1..=random.random_range(1..12u8) {
                // The last but first is for sure of the family and ready.
                let same = backend == 1 || random.random_bool(0.8);
                let address = match v6 == same {
                    true => format!("[fd00:1::{backend}]:53"),
                    false => format!("10.0.0.{backend}:53"),
                };
                let weight = random.random_range(1..=20u16);
                let state = match backend > 1 && random.random_bool(0.2) {
                    true => "drain",
                    false => "ready",
                };
                spec = spec.backend_with(address, format!("weight: {weight}, state: {state}"));
            }
            if number == 5 {
                spec = spec.with("affinity: {client: process}");
            }
            specs.push(spec);
            frontends.push((format!("s{number}"), frontend));
        }
        // UDP needs a route, but nobody there.
        for range in ["10.0.0.0/24", "fd00:1::/64"] {
            let family = if range.contains(':') { "-6" } else { "-4" };
            let added = std::process::Command::new("ip")
                .args([family, "route", "add", range, "dev", "lo"])
                .status()
                .expect("ip runs");
            assert!(added.success());
        }
        let agent = Agent::start(lab, &services(&specs));
        for (name, frontend) in &frontends {
            let explanation = explained(lab, &format!("{frontend}/udp"));
            assert_eq!(explanation.service.as_ref(), Some(name), "seed {seed}");
            let status = agent.service(name);
            let walk = explanation.walk.as_ref().expect("a frontend");
            let told = walk.candidates.len() + explanation.left_out.len();
            assert_eq!(told, status.backends.len(), "each once; seed {seed}");
            for left in &explanation.left_out {
                let family = left.address.is_ipv4() == frontend.is_ipv4();
                let expected = if family { Reason::Draining } else { Reason::OtherFamily };
                assert_eq!(left.reason, expected, "{left:?}; seed {seed}");
            }
            if name == "s5" {
                continue;
            }
            agrees(lab, &agent, name, *frontend, seed);
        }
        // Who stays with a backend is not drawn for: all connects of this process are one client's.
        let (name, frontend) = frontends.last().unwrap();
        let before = connects(&agent, name);
        for _ in 0..10 {
            let local = if frontend.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            UdpSocket::bind(local).unwrap().connect(frontend).unwrap();
        }
        let after = connects(&agent, name);
        let stays = after.iter().find(|(backend, seen)| **seen > before[backend]).unwrap().0;
        let explanation = explained(lab, &format!("{frontend}/udp"));
        let walk = explanation.walk.unwrap();
        for candidate in &walk.candidates {
            let expected = u64::from(candidate.address == *stays);
            assert_eq!(candidate.clients, Some(expected), "{candidate:?}; seed {seed}");
        }
    });
}

/// The next connect by `least_connections` depends on what is open.
#[test]
fn the_less_loaded_gets_the_next() {
    lab::run("explain-least", |lab| {
        let frontend: SocketAddr = "10.96.0.1:80".parse().unwrap();
        let server = Backends::tcp("127.0.0.1", ["a", "b"]);
        let spec = service("web")
            .frontend(frontend)
            .backends([server.at(0), server.at(1)])
            .with("policy: least_connections");
        let _agent = Agent::start(lab, &services(&[spec]));
        let even = shares(&explained(lab, "10.96.0.1:80"));
        assert!(even.values().all(|share| (share - 0.5).abs() < 1e-6), "{even:?}");
        let call = integration::client::dial(frontend).unwrap();
        let there = server.at(usize::from(call.tag == "b"));
        // It wins only when it is drawn twice.
        let told = shares(&explained(lab, "10.96.0.1:80"));
        assert!((told[&there] - 0.25).abs() < 1e-6, "{told:?}");
    });
}

#[test]
fn who_is_left_out_and_what_is_no_frontend() {
    lab::run("explain-why", |lab| {
        let server = Backends::tcp("127.0.0.1", ["up", "drained"]);
        let down = closed("127.0.0.1");
        let web = service("web")
            .frontend("10.96.0.1:80")
            .frontend("[fd00:96::1]:80")
            .backends([server.at(0), server.at(1), down])
            .with("checks: [{tcp: {interval: 100ms, fast_interval: 50ms}}]");
        let agent = Agent::start(
            lab,
            &services(&[
                web,
                service("none").frontend("10.96.0.2:80").with("no_backend: unreachable"),
                service("dns").udp("10.96.0.3:53").backend("127.0.0.1:53"),
            ]),
        );
        let drained = lab.lbctl(&["drain", &format!("web/{}", server.at(1))]);
        assert_eq!(drained.code, Some(0), "{drained:?}");
        // Before it is known why one is left out, that may be so already.
        let told = wait_for("both to be left out, and why", MOMENT, || {
            let told = explained(lab, "10.96.0.1:80");
            let known = told.left_out.iter().all(|left| left.reason != Reason::NotLedTo);
            (told.left_out.len() == 2 && known).then_some(told)
        });
        let why = |address| told.left_out.iter().find(|left| left.address == address).unwrap();
        assert_eq!(why(down).reason, Reason::Failing);
        let check = why(down).check.as_ref().expect("what the check says");
        assert!(!check.up && check.text.is_some(), "{check:?}");
        let drained = why(server.at(1));
        assert_eq!((drained.reason, drained.by_operator), (Reason::Draining, true));
        assert_eq!(shares(&told), [(server.at(0), 1.0)].into());

        let shown = text(lab, "10.96.0.1:80", 0);
        for part in [
            "is a frontend of web (file:",
            "A connect goes to its one backend.",
            "draining by an operator",
            "failing tcp",
            "L4CON",
        ] {
            assert!(shown.contains(part), "no `{part}` in {shown}");
        }
        let shown = text(lab, "[fd00:96::1]:80", 0);
        assert!(shown.contains("no backend for new connections: a connect is refused"), "{shown}");
        let shown = text(lab, "10.96.0.2:80", 0);
        assert!(shown.contains("EHOSTUNREACH"), "{shown}");
        for (asked, part) in [
            ("10.96.0.3:53", "Did you mean 10.96.0.3:53/udp, of dns?"),
            ("10.96.0.1:8080", "Did you mean 10.96.0.1:80/tcp, of web?"),
            (&server.at(0).to_string(), "a backend's own address, of web"),
        ] {
            let shown = text(lab, asked, 1);
            assert!(shown.contains("is no frontend"), "{shown}");
            assert!(shown.contains(part), "no `{part}` in {shown}");
        }
        let refused = lab.lbctl(&["explain", "web:80"]);
        assert_eq!(refused.code, Some(64), "{refused:?}");

        // Without an agent the tables say the same of who is chosen, and less of why.
        agent.kill9();
        let alone = lab.lbctl(&["explain", "10.96.0.1:80", "-o", "json"]);
        assert!(alone.stderr.contains("reading the tables pinned"), "{alone:?}");
        let alone: Explanation = serde_json::from_str(&alone.stdout).unwrap();
        assert_eq!((alone.walk, alone.service), (told.walk, told.service));
        assert!(text(lab, "10.96.0.9:80", 1).contains("is no frontend"));
    });
}
