//! Whom a frontend is for, and what is left alone.

use integration::agent::Agent;
use integration::client::{ask, dial, udp};
use integration::host;
use integration::lab;
use integration::netns;
use integration::server::{Backends, Kind};
use integration::spec::{service, services};
use std::net::SocketAddr;
use std::thread;

const EVERYWHERE: &str = "10.96.0.10:80";
const HOST: &str = "10.96.0.20:80";
const LOOPBACK: &str = "127.0.0.1:30080";
const LOOPBACK6: &str = "[::1]:30080";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Runs `test` in the namespace that frontends of the host are for: the agent's, or the kernel's first
/// one where the kernel names none; there, `backends` get servers of their own.
fn at_home(kind: Kind, backends: &[SocketAddr], test: impl FnOnce() + Send) {
    if host::has("netns_cookie") {
        return test();
    }
    let there = || {
        netns::enter_initial();
        let _servers = Backends::start(kind, backends.iter().map(|address| (*address, "backend")));
        test();
    };
    thread::scope(|scope| scope.spawn(there).join().expect("the test holds there"));
}

/// A loopback frontend and one with `scope: host` are for the agent's network namespace. A thread in
/// another one, under the same cgroup, reaches what it dials; a frontend for all is translated there
/// too, which shows that its sockets do pass through the programs.
#[test]
fn host_frontends_are_the_hosts() {
    lab::run("scope-host", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["backend"]);
        let backends6 = Backends::tcp("::1", ["backend"]);
        let web = service("web")
            .frontend(EVERYWHERE)
            .host_frontend(HOST)
            .frontend(LOOPBACK)
            .frontend(LOOPBACK6)
            .backend(backends.at(0))
            .backend(backends6.at(0));
        let _agent = Agent::start(lab, &services(&[web]));
        let scoped = [HOST, LOOPBACK, LOOPBACK6].map(addr);
        at_home(Kind::Tcp, &[backends.at(0), backends6.at(0)], || {
            for to in scoped.into_iter().chain([addr(EVERYWHERE)]) {
                let call = dial(to).unwrap();
                assert_eq!((call.tag.as_str(), call.peer()), ("backend", to));
            }
        });
        let elsewhere = || {
            netns::enter_new();
            netns::add_address("10.96.0.20");
            let own = Backends::start(Kind::Tcp, scoped.map(|address| (address, "own")));
            for to in scoped {
                let call = dial(to).unwrap();
                assert_eq!((call.tag.as_str(), call.peer()), ("own", to));
            }
            // The backend's address, in this namespace.
            let _other = Backends::start(Kind::Tcp, [(backends.at(0), "translated")]);
            assert_eq!(dial(addr(EVERYWHERE)).unwrap().tag, "translated");
            drop(own);
        };
        thread::scope(|scope| scope.spawn(elsewhere).join().unwrap());
    });
}

/// UDP, unconnected: the other hook.
#[test]
fn host_frontends_for_datagrams() {
    lab::run("scope-host-udp", |lab| {
        let backends = Backends::udp("127.0.0.1", ["backend"]);
        let dns = service("dns").udp(LOOPBACK).udp(EVERYWHERE).backend(backends.at(0));
        let _agent = Agent::start(lab, &services(&[dns]));
        at_home(Kind::Udp, &[backends.at(0)], || {
            let socket = udp("0.0.0.0:0");
            for to in [LOOPBACK, EVERYWHERE].map(addr) {
                let reply = ask(&socket, to).unwrap();
                assert_eq!((reply.tag.as_str(), reply.source), ("backend", to));
            }
        });
        let elsewhere = || {
            netns::enter_new();
            let own = [(addr(LOOPBACK), "own"), (backends.at(0), "translated")];
            let _own = Backends::start(Kind::Udp, own);
            let socket = udp("0.0.0.0:0");
            for (to, tag) in [(LOOPBACK, "own"), (EVERYWHERE, "translated")] {
                let reply = ask(&socket, addr(to)).unwrap();
                assert_eq!((reply.tag.as_str(), reply.source), (tag, addr(to)));
            }
        };
        thread::scope(|scope| scope.spawn(elsewhere).join().unwrap());
    });
}

/// Another address, another port of a frontend's address, and the other protocol on its very port
/// reach what they dial.
#[test]
fn others_are_left_alone() {
    lab::run("scope-others", |lab| {
        netns::add_address("10.96.0.10");
        netns::add_address("10.96.0.11");
        netns::add_address("fd00:96::10");
        let backends = Backends::tcp("127.0.0.1", ["backend"]);
        let udp_backends = Backends::udp("127.0.0.1", ["backend"]);
        let v6 = "[fd00:96::10]:80";
        let v6_backends = Backends::tcp("::1", ["backend"]);
        let web = service("web").frontend(EVERYWHERE).frontend(v6);
        let agent = Agent::start(
            lab,
            &services(&[
                web.backend(backends.at(0)).backend(v6_backends.at(0)),
                service("dns").udp("10.96.0.10:53").backend(udp_backends.at(0)),
            ]),
        );
        let tcp = ["10.96.0.11:80", "10.96.0.10:81", "10.96.0.10:53", "[fd00:96::10]:81"];
        let _tcp = Backends::start(Kind::Tcp, tcp.map(|at| (addr(at), at)));
        let datagram = ["10.96.0.11:53", "10.96.0.10:54", "10.96.0.10:80", "[fd00:96::10]:80"];
        let _udp = Backends::start(Kind::Udp, datagram.map(|at| (addr(at), at)));
        for at in tcp {
            let call = dial(addr(at)).unwrap();
            assert_eq!((call.tag.as_str(), call.peer()), (at, addr(at)));
        }
        for at in datagram {
            let socket = udp(if addr(at).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
            let reply = ask(&socket, addr(at)).unwrap();
            assert_eq!((reply.tag.as_str(), reply.source), (at, addr(at)));
            socket.connect(addr(at)).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), addr(at));
        }
        agent.expect_no_connections();
        // And the frontends themselves are translated, though their addresses exist.
        for to in [EVERYWHERE, v6] {
            assert_eq!(dial(addr(to)).unwrap().tag, "backend");
        }
        assert_eq!(ask(&udp("0.0.0.0:0"), addr("10.96.0.10:53")).unwrap().tag, "backend");
    });
}

/// A thread outside the agent's cgroup is not touched.
#[test]
fn other_cgroups_are_left_alone() {
    lab::run("scope-cgroup", |lab| {
        netns::add_address("10.96.0.10");
        let backends = Backends::tcp("127.0.0.1", ["backend"]);
        let web = service("web").frontend(EVERYWHERE).backend(backends.at(0));
        let _agent = Agent::start(lab, &services(&[web]));
        let _own = Backends::start(Kind::Tcp, [(addr(EVERYWHERE), "own")]);
        let outside = integration::cgroup::Cgroup::create(&format!(
            "{}-outside",
            lab.cgroup().path().file_name().unwrap_or_default().display()
        ));
        let elsewhere = || {
            outside.enter();
            assert_eq!(dial(addr(EVERYWHERE)).unwrap().tag, "own");
        };
        thread::scope(|scope| scope.spawn(elsewhere).join().unwrap());
        assert_eq!(dial(addr(EVERYWHERE)).unwrap().tag, "backend");
    });
}
