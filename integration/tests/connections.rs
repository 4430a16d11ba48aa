//! The connection table: collisions, release, and exact counts under many connections.

use integration::agent::Agent;
use integration::client::{Call, ask_connected, cookie, dial, udp};
use integration::lab;
use integration::server::Backends;
use integration::spec::{service, services};
use integration::tables::frontend_of;
use integration::wait::repetitions;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use std::net::SocketAddr;
use std::thread;

const VIP: &str = "10.96.0.10:80";
const VIP6: &str = "[fd00:96::10]:80";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Ten sockets and a table of two rows: the others go to the overflow table, and nobody notices.
#[test]
fn collisions_overflow() {
    lab::run("collisions", |lab| {
        lab.set_settings("tables: {connections: 2}");
        let tcp = Backends::tcp("127.0.0.1", ["t/0", "t/1"]);
        let datagram = Backends::udp("127.0.0.1", ["u/0", "u/1"]);
        let agent = Agent::start(
            lab,
            &services(&[
                service("t").frontend(VIP).backends(tcp.addresses()),
                service("u").udp(VIP).backends(datagram.addresses()),
            ]),
        );
        let tables = agent.tables();
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..5 {
            let mut calls: Vec<Call> = (0..5).map(|_| dial(addr(VIP)).unwrap()).collect();
            let sockets = [(); 5].map(|()| udp("0.0.0.0:0"));
            for socket in &sockets {
                socket.connect(addr(VIP)).unwrap();
            }
            assert!(tables.connections().len() <= 2);
            assert_eq!(tables.connections().len() + tables.overflow().len(), 10);
            agent.expect_active(10);
            // Closing in any order leaves the others their names.
            calls.shuffle(&mut random);
            while let Some(call) = calls.pop() {
                for call in calls.iter().chain([&call]) {
                    assert_eq!(call.peer(), addr(VIP));
                    let row = tables.connection(cookie(&call.stream)).expect("a row");
                    assert_eq!(frontend_of(&row), addr(VIP));
                    assert_eq!(tables.backend_of(row.cookie), Some(tcp.tagged(&call.tag)));
                }
                for socket in &sockets {
                    assert_eq!(socket.peer_addr().unwrap(), addr(VIP));
                }
            }
            for socket in &sockets {
                assert_eq!(ask_connected(socket).unwrap().source, addr(VIP));
            }
            agent.expect_active(5);
            drop(sockets);
            agent.expect_no_connections();
        }
    });
}

#[test]
fn rows_are_gone_after_close() {
    lab::run("rows-gone", |lab| {
        let (v4, v6) = (Backends::tcp("127.0.0.1", ["4"]), Backends::tcp("::1", ["6"]));
        let (u4, u6) = (Backends::udp("127.0.0.1", ["4"]), Backends::udp("::1", ["6"]));
        let agent = Agent::start(
            lab,
            &services(&[
                service("t").frontend(VIP).frontend(VIP6).backend(v4.at(0)).backend(v6.at(0)),
                service("u").udp(VIP).udp(VIP6).backend(u4.at(0)).backend(u6.at(0)),
            ]),
        );
        let tables = agent.tables();
        for to in [VIP, VIP6, "[::ffff:10.96.0.10]:80"].map(addr) {
            let socket = udp(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
            socket.connect(to).unwrap();
            let call = dial(to).unwrap();
            assert_eq!(tables.connections().len() + tables.overflow().len(), 2, "{to}");
            // A duplicate keeps the socket, and with it the row.
            let twin = call.stream.try_clone().unwrap();
            drop(call);
            assert!(tables.connection(cookie(&twin)).is_some(), "{to}");
            drop((twin, socket));
            agent.expect_no_connections();
        }
    });
}

/// A connection that fails on its way (nobody listens there) is forgotten with its socket.
#[test]
fn failed_connections_are_forgotten() {
    lab::run("failed", |lab| {
        let closed = Backends::tcp("127.0.0.1", ["gone"]).at(0);
        let agent = Agent::start(lab, &services(&[service("t").frontend(VIP).backend(closed)]));
        for _ in 0..20 {
            let error = dial(addr(VIP)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        assert_eq!(agent.backend("t", closed).connects, 20);
        agent.expect_no_connections();
    });
}

/// 100,000 connections from four threads, some held for a while and closed in another order: every
/// one is counted, and none is left.
#[test]
fn a_hundred_thousand_connections() {
    const THREADS: u64 = 4;
    lab::run("hundred-thousand", |lab| {
        let each = repetitions(25_000);
        let backends = Backends::tcp("127.0.0.1", ["t/0", "t/1", "t/2"]);
        let web = service("t").frontend(VIP).backends(backends.addresses());
        let agent = Agent::start(lab, &services(&[web]));
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let client = |number: u64| {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(number));
            let mut held: Vec<Call> = Vec::new();
            for _ in 0..each {
                held.push(dial(addr(VIP)).unwrap());
                if held.len() > random.random_range(0..16) {
                    let call = held.swap_remove(random.random_range(0..held.len()));
                    assert_eq!(call.peer(), addr(VIP));
                }
            }
        };
        thread::scope(|scope| {
            for number in 0..THREADS {
                scope.spawn(move || client(number));
            }
        });
        agent.expect_no_connections();
        let service = agent.service("t");
        let connects: Vec<u64> =
            backends.addresses().map(|address| agent.backend("t", address).connects).collect();
        assert_eq!(connects.iter().sum::<u64>(), THREADS * each);
        assert_eq!(connects, backends.hits());
        assert_eq!(service.counters.connects, THREADS * each);
        assert_eq!(service.counters.untracked, 0);
    });
}
