//! Nodes and pods as a fixture, and with services from a file: what the tests of Kubernetes take
//! for granted.

use integration::agent::Agent;
use integration::host;
use integration::lab;
use integration::pods::{Asked, Node, Pair, Place, Way};
use integration::server::Kind;
use integration::spec::{service, services};
use integration::wait::eventually;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

const VIP: Pair = Pair {
    v4: std::net::Ipv4Addr::new(10, 96, 0, 10),
    v6: std::net::Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10),
};

fn serve(place: &Place) {
    place.serve(Kind::Tcp, 8080);
    place.serve(Kind::Udp, 8080);
}

/// Asks both addresses in every way.
fn every_way(from: &Place, to: Pair, port: u16, mut check: impl FnMut(Way, SocketAddr, Asked)) {
    for to in to.at(port) {
        for way in Way::ALL {
            let asked = from.ask(way, to).unwrap_or_else(|error| {
                panic!("{}: {way:?} to {to}: {error}", from.name());
            });
            check(way, to, asked);
        }
    }
}

#[test]
fn everyone_reaches_everyone_directly() {
    lab::run("pods-direct", |lab| {
        let node = Node::here(lab, "near");
        let other = node.beside(lab, 2, "far");
        let third = node.beside(lab, 3, "further");
        let (a, b, c) = (node.pod("a"), node.pod("b"), other.pod("c"));
        let d = third.host_pod("d");
        let places: [&Place; 6] = [&a, &b, &c, &d, &node, &other];
        places.into_iter().for_each(|place| {
            if place.name() != "further" {
                serve(place);
            }
        });
        for from in [&*a, &b, &node] {
            for to in places {
                every_way(from, to.addresses(), 8080, |_, dialled, asked| {
                    assert_eq!(asked.tag, to.name());
                    assert_eq!(asked.peer, dialled);
                    // Nobody rewrites the source.
                    if asked.local.ip().is_unspecified() {
                        assert_eq!(asked.local.port(), asked.seen.port());
                    } else {
                        assert_eq!(asked.local, asked.seen);
                    }
                });
            }
        }
        // From the other node, too.
        every_way(&c, a.addresses(), 8080, |_, dialled, asked| {
            assert_eq!((asked.tag.as_str(), asked.peer), ("a", dialled));
            assert_eq!(asked.seen.ip(), c.addresses().like(dialled));
        });
    });
}

#[test]
fn services_are_reached_from_pods_and_node() {
    lab::run("pods-services", |lab| {
        let node = Node::here(lab, "near");
        let other = node.beside(lab, 2, "far");
        let (a, b, c) = (node.pod("a"), node.pod("b"), other.pod("c"));
        [&a, &b, &c].into_iter().for_each(|pod| serve(pod));
        let endpoints = |pods: &[&Place]| {
            pods.iter().flat_map(|pod| pod.addresses().at(8080)).collect::<Vec<_>>()
        };
        let web = |pods: &[&Place]| {
            let frontends = |spec, to| integration::spec::Spec::udp(spec, to);
            let spec = VIP.at(80).into_iter().fold(service("web"), |spec, to| spec.frontend(to));
            let spec = VIP.at(80).into_iter().fold(spec, frontends);
            services(&[spec.backends(endpoints(pods))])
        };
        let agent = Agent::start(lab, &web(&[&a, &b, &c]));
        let clients: [&Place; 3] = [&a, &b, &node];
        for from in clients {
            let mut reached = BTreeSet::new();
            // One of three is missed by 60 calls once in 3 * 10^10 times.
            for _ in 0..10 {
                every_way(from, VIP, 80, |_, to, asked| {
                    assert_eq!(asked.peer, to);
                    if from.name() != node.name() {
                        assert_eq!(asked.seen.ip(), from.addresses().like(to));
                    }
                    reached.insert(asked.tag);
                });
            }
            assert_eq!(reached, ["a", "b", "c"].map(str::to_owned).into(), "{}", from.name());
        }
        // A pod that reaches itself.
        agent.reload(&web(&[&a]));
        every_way(&a, VIP, 80, |_, to, asked| {
            assert_eq!((asked.tag.as_str(), asked.peer), ("a", to));
            assert_eq!(asked.seen.ip(), a.addresses().like(to));
        });
        // The other node's processes are left alone.
        let error = c.ask(Way::Tcp, VIP.at(80)[0]).expect_err("nobody has the address");
        assert_ne!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");

        // The sockets of pods are found when their backend goes.
        let clients = [&a, &b].map(|pod| pod.connected(VIP.at(80)[0]).0);
        agent.reload(&web(&[&b]));
        for client in clients {
            eventually("the socket to be ended", Duration::from_secs(20), || {
                client.send(b"question").is_err()
            });
        }
        agent.reload(&web(&[]));
        for from in [&*a, &node] {
            for (to, way) in VIP.at(80).into_iter().flat_map(|to| Way::ALL.map(|way| (to, way))) {
                let error = from.ask(way, to).expect_err("nobody serves it");
                let refused = host::errno(libc::ECONNREFUSED);
                assert_eq!(error.raw_os_error(), Some(refused), "{way:?} {to}: {error}");
            }
        }
    });
}
