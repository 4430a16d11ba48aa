//! Full tables that the kernel side writes. What the agent writes is in `limits.rs`, the ring of
//! events in `events.rs` and `observe`.

use integration::agent::Agent;
use integration::cgroup::Cgroup;
use integration::client::{ask, dial, udp};
use integration::lab;
use integration::server::Backends;
use integration::spec::{service, services};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use socket2::SockRef;
use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

const VIP: &str = "10.96.0.10:80";
const VIP6: &str = "[fd00:96::10]:80";

fn vip() -> SocketAddr {
    VIP.parse().expect("an address")
}

/// Of ten connections the tables can remember four: the others work, with their backends' names, and
/// are counted as untracked. Room that becomes free is used.
#[test]
fn connections_and_their_overflow() {
    lab::run("full-connections", |lab| {
        lab.set_settings("tables: {connections: 2, overflow: 2}");
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let web = service("web").frontend(VIP).backend(backends.at(0));
        let agent = Agent::start(lab, &services(&[web]));
        let mut calls: Vec<_> = (0..10).map(|_| dial(vip()).unwrap()).collect();
        let tables = agent.tables();
        let remembered = tables.connections().len() + tables.overflow().len();
        assert!((2..10).contains(&remembered), "{remembered}");
        let named = calls.iter().filter(|call| call.peer() == vip()).count();
        assert_eq!(named, remembered);
        assert!(calls.iter().all(|call| [vip(), backends.at(0)].contains(&call.peer())));
        assert!(calls.iter_mut().all(|call| call.echoes("works all the same")));
        let untracked = (10 - remembered) as u64;
        assert_eq!(agent.service("web").counters.untracked, untracked);
        agent.expect_active(remembered as u64);
        drop(calls);
        agent.expect_no_connections();
        assert_eq!(dial(vip()).unwrap().peer(), vip());
        assert_eq!(agent.service("web").counters.untracked, untracked);
    });
}

/// More clients than affinity has room for: who comes last has its entry, at the cost of who was not
/// heard of for longest, who is given a backend anew.
#[test]
fn affinity() {
    lab::run("full-affinity", |lab| {
        const ROOM: usize = 8;
        lab.set_settings(&format!("tables: {{affinity: {ROOM}}}"));
        let backends = Backends::tcp("127.0.0.1", ["0", "1", "2", "3", "4", "5", "6", "7"]);
        let web = service("web")
            .frontend(VIP)
            .backends(backends.addresses())
            .with("affinity: {client: cgroup}");
        let agent = Agent::start(lab, &services(&[web]));
        let clients: Vec<_> = (0..40).map(|n| lab.cgroup().child(&format!("client-{n}"))).collect();
        let number = |client: &Cgroup| fs::metadata(client.path()).expect("it is there").ino();
        let tables = agent.tables();
        // Each processor knows only its own clients' order.
        stay_on_one_processor();
        let mut given = Vec::new();
        for (n, client) in clients.iter().enumerate() {
            client.enter();
            let first = dial(vip()).unwrap().tag;
            for _ in 0..5 {
                assert_eq!(dial(vip()).unwrap().tag, first, "a client that has just been there");
            }
            given.push(first);
            let kept = tables.affinity();
            assert!((1..=ROOM).contains(&kept.len()), "{} entries", kept.len());
            // The kernel may make more room than it needs.
            let last = &clients[n + 1 - kept.len()..=n];
            let mut last: Vec<u64> = last.iter().map(number).collect();
            last.sort_unstable();
            assert_eq!(kept.into_keys().collect::<Vec<_>>(), last, "who was heard of last");
        }
        let anew = clients[..40 - ROOM].iter().zip(&given).filter(|(client, before)| {
            client.enter();
            let now = dial(vip()).unwrap().tag;
            assert!(tables.affinity().contains_key(&number(client)));
            now != **before
        });
        assert!(anew.count() > 0, "{given:?}");
        lab.cgroup().enter();
    });
}

/// Keeps the calling thread where it is now.
fn stay_on_one_processor() {
    let mut own = CpuSet::new();
    own.set(sched_getcpu().expect("a thread runs somewhere")).expect("a processor of the set");
    sched_setaffinity(Pid::from_raw(0), &own).expect("a thread may run where it runs");
}

/// Takes so much of the memory that the kernel allows a socket for options that nothing is left: each
/// group that is joined takes a little.
#[track_caller]
fn use_up_options(socket: &impl AsFd) {
    const LOOPBACK: u32 = 1;
    let group = |number: &u16| Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0, *number);
    let socket = SockRef::from(socket);
    let joined =
        (0..u16::MAX).take_while(|n| socket.join_multicast_v6(&group(n), LOOPBACK).is_ok()).count();
    assert!((10..65_000).contains(&joined), "{joined} groups");
}

/// A UDP socket without memory for what it sends where: it is served, datagram by datagram, and sees
/// the backend as the one who answers.
#[test]
fn memory_of_a_socket() {
    lab::run("full-sockets", |lab| {
        let vip: SocketAddr = VIP6.parse().unwrap();
        let backends = Backends::udp("::1", ["dns"]);
        let dns = service("dns").udp(vip).backend(backends.at(0));
        let agent = Agent::start(lab, &services(&[dns]));
        let full = udp("[::]:0");
        use_up_options(&full);
        let reply = ask(&full, vip).unwrap();
        assert_eq!((reply.tag.as_str(), reply.source), ("dns", backends.at(0)));
        assert_eq!(agent.service("dns").counters.untracked, 1);
        let usual = udp("[::]:0");
        assert_eq!(ask(&usual, vip).unwrap().source, vip);
        assert_eq!(agent.service("dns").counters.untracked, 1);
        agent.expect_active(0);
    });
}
