//! A frontend without a usable backend: the service says what the caller sees.

use integration::agent::Agent;
use integration::client::{ask, dial, udp};
use integration::host;
use integration::lab;
use integration::netns;
use integration::server::{Backends, Kind};
use integration::spec::{Spec, service, services};
use std::io;
use std::net::SocketAddr;

/// Each verdict has an address of each family.
const VERDICTS: [(&str, &str, &str); 3] = [
    ("refuse", "10.96.0.1:80", "[fd00:96::1]:80"),
    ("unreachable", "10.96.0.2:80", "[fd00:96::2]:80"),
    ("pass", "10.96.0.3:80", "[fd00:96::3]:80"),
];

/// Dials an address and returns who answered.
type Way = fn(SocketAddr) -> io::Result<String>;

const WAYS: [(&str, Way); 3] = [
    ("TCP", |to| Ok(dial(to)?.tag)),
    ("connected UDP", |to| {
        let socket = any_udp(to);
        socket.connect(to)?;
        assert_eq!(socket.peer_addr()?, to);
        Ok(integration::client::ask_connected(&socket)?.tag)
    }),
    ("unconnected UDP", |to| {
        let reply = ask(&any_udp(to), to)?;
        assert_eq!(reply.source, to);
        Ok(reply.tag)
    }),
];

fn any_udp(to: SocketAddr) -> std::net::UdpSocket {
    udp(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })
}

/// What the caller must see.
fn check(verdict: &str, way: &str, to: SocketAddr, outcome: io::Result<String>) {
    let case = format!("{verdict}, {way}, {to}");
    match verdict {
        "pass" => assert_eq!(outcome.expect(&case), "passed", "{case}"),
        _ => {
            let error = outcome.expect_err(&case);
            let meant = if verdict == "refuse" { libc::ECONNREFUSED } else { libc::EHOSTUNREACH };
            let expected = host::errno(meant);
            assert_eq!(error.raw_os_error(), Some(expected), "{case}: {error}");
        }
    }
}

/// Runs all combinations with whatever `fill` does to a service.
fn matrix(name: &str, fill: impl Fn(Spec) -> Spec + Sync) {
    lab::run(name, |lab| {
        // Addresses that are let through are real ones, with servers.
        netns::add_address("10.96.0.3");
        netns::add_address("fd00:96::3");
        let (_, pass4, pass6) = VERDICTS[2];
        let passed = || [pass4, pass6].map(|to| (to.parse().expect("an address"), "passed"));
        let _servers = [Kind::Tcp, Kind::Udp].map(|kind| Backends::start(kind, passed()));
        let specs = VERDICTS.map(|(verdict, v4, v6)| {
            let spec = service(verdict).frontend(v4).frontend(v6).udp(v4).udp(v6);
            fill(spec.with(format!("no_backend: {verdict}")))
        });
        let agent = Agent::start(lab, &services(&specs));
        for (verdict, v4, v6) in VERDICTS {
            for to in [v4, v6].map(|to| to.parse().expect("an address")) {
                for (way, reach) in WAYS {
                    check(verdict, way, to, reach(to));
                }
            }
            // Two families, three ways, one attempt each.
            assert_eq!(agent.service(verdict).counters.no_backend, 6, "{verdict}");
            assert_eq!(agent.service(verdict).counters.connects, 0, "{verdict}");
        }
        agent.expect_no_connections();
    });
}

#[test]
fn none_listed() {
    matrix("none-listed", |spec| spec);
}

/// Backends that the operator has taken out are as good as none.
#[test]
fn none_ready() {
    let resting = |spec: Spec| {
        spec.backend_with("127.0.0.1:9", "state: drain")
            .backend_with("127.0.0.2:9", "state: disabled")
            .backend_with("[::1]:9", "state: drain")
    };
    matrix("none-ready", resting);
}

/// The default is to refuse; and a service that loses its last backend does so at once, and serves
/// again when it gets one.
#[test]
fn comes_and_goes() {
    lab::run("comes-and-goes", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let vip: SocketAddr = "10.96.0.1:80".parse().unwrap();
        let without = services(&[service("web").frontend(vip)]);
        let with = services(&[service("web").frontend(vip).backend(backends.at(0))]);
        let agent = Agent::start(lab, &without);
        for _ in 0..3 {
            let refused = dial(vip).unwrap_err();
            let expected = host::errno(libc::ECONNREFUSED);
            assert_eq!(refused.raw_os_error(), Some(expected), "{refused}");
            agent.reload(&with);
            assert_eq!(dial(vip).unwrap().tag, "web");
            agent.reload(&without);
        }
    });
}
