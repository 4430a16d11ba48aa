//! Which sockets are translated, and which are ended when their endpoint goes.

use integration::client::{ask, ask_connected, udp};
use integration::kubernetes::{Svc, TCP, UDP, World, endpoint, nobody, reaches, run, run_with};
use integration::netns;
use integration::pods::Place;
use integration::server::{Backends, Kind};
use integration::wait::eventually;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until a socket that waits for an answer is told that there will be none.
#[track_caller]
fn is_ended(world: &World<'_>, client: &UdpSocket) {
    client.set_nonblocking(true).expect("a socket can be non-blocking");
    eventually("the socket to be ended", DEADLINE, || {
        let error = client.recv(&mut [0; 8]).expect_err("nobody sends anything");
        let wait = error.kind() == io::ErrorKind::WouldBlock;
        assert!(
            wait || error.kind() == io::ErrorKind::ConnectionAborted,
            "{error}; {:?}",
            world.agent().status().work
        );
        !wait
    });
    client.set_nonblocking(false).expect("a socket can be blocking");
}

/// Of pods and of the node, by cluster address and NodePort: each is told, asks again, and gets
/// another endpoint. Who is connected to one that stays is left alone.
#[test]
fn connected_udp_sockets_to_an_endpoint_that_goes_are_ended() {
    run("k8s-udp", |world| {
        let dns = Svc::new("dns", 10).udp("dns", 53, 8053).node_port(30053);
        let [a, b, client] = ["a", "b", "client"].map(|name| world.node.pod(name));
        let c = world.far_pod("c", 8053);
        for pod in [&a, &b] {
            pod.serve(Kind::Udp, 8053);
        }
        let host = world.node.host_pod("host");
        let places: [&Place; 4] = [&client, &a, &host, &world.node];
        let all: Vec<_> = dns.at(53).into_iter().chain(world.node.addresses().at(30053)).collect();
        for (gone, next, who) in [(&a, &b, "b"), (&b, &c, "c"), (&c, &a, "a")] {
            world.put(&dns, &[endpoint(gone)]);
            let sockets: Vec<_> = places
                .iter()
                .flat_map(|place| all.iter().map(move |&to| (to, place.connected(to).0)))
                .collect();
            // Connected to the endpoint's own address: no business of ours.
            let direct = client.connected(gone.addresses().at(8053)[0]).0;
            world.put(&dns, &[endpoint(gone), endpoint(next)]);
            for (_, socket) in &sockets {
                assert_eq!(ask_connected(socket).expect("an answer").tag, gone.name());
            }
            world.put(&dns, &[endpoint(next)]);
            for (to, socket) in &sockets {
                is_ended(world, socket);
                socket.connect(*to).expect("a socket can be connected again");
                assert_eq!(ask_connected(socket).expect("an answer").tag, who);
            }
            assert_eq!(ask_connected(&direct).expect("an answer").tag, gone.name());
        }
    });
}

/// One that is going but still serves is let finish what it began.
#[test]
fn connected_udp_sockets_to_an_endpoint_that_still_serves_are_left_alone() {
    run("k8s-udp-serving", |world| {
        let dns = Svc::new("dns", 10).udp("dns", 53, 8053);
        let [a, b, client] = ["a", "b", "client"].map(|name| world.node.pod(name));
        for pod in [&a, &b] {
            pod.serve(Kind::Udp, 8053);
        }
        world.put(&dns, &[endpoint(&a)]);
        let socket = client.connected(dns.at(53)[0]).0;
        world.put(&dns, &[endpoint(&a).terminating(), endpoint(&b)]);
        reaches(&client, UDP, dns.at(53), &["b"]);
        // Whoever was to be ended would have been by now: this one is.
        let ended = client.connected(dns.at(53)[1]).0;
        world.put(&dns, &[endpoint(&a).terminating(), endpoint(&b).unready()]);
        is_ended(world, &ended);
        assert_eq!(ask_connected(&socket).expect("an answer").tag, "a");
        world.put(&dns, &[]);
        is_ended(world, &socket);
    });
}

/// It is bound to nothing: each endpoint that takes over answers the next question.
#[test]
fn an_unconnected_udp_socket_follows_the_endpoints() {
    run("k8s-udp-free", |world| {
        let dns = Svc::new("dns", 10).udp("dns", 53, 8053).node_port(30053);
        let (a, c) = (world.pod("a", 8053), world.far_pod("c", 8053));
        let client = world.node.pod("client");
        let all: Vec<_> = dns.at(53).into_iter().chain(world.node.addresses().at(30053)).collect();
        let sockets: Vec<_> = client.run(|| {
            let any = |to: &SocketAddr| if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            all.iter().map(|to| (*to, udp(any(to)))).collect()
        });
        for pod in [&a, &c, &a] {
            world.put(&dns, &[endpoint(pod)]);
            for (to, socket) in &sockets {
                let reply = ask(socket, *to).expect("an answer");
                assert_eq!((reply.tag.as_str(), reply.source), (pod.name(), *to));
            }
            world.put(&dns, &[]);
            for (to, socket) in &sockets {
                let error = ask(socket, *to).expect_err("nobody serves it");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
            }
        }
    });
}

/// With a mesh, pods' own proxies must see the addresses that are dialled: `socket_scope: host`.
#[test]
fn only_the_nodes_own_sockets_with_socket_scope_host() {
    run_with("k8s-host-scope", "socket_scope: host", |world| {
        let web = Svc::new("web", 10).tcp_and_udp(80, 8080).node_port(30080);
        let (a, client) = (world.pod("a", 8080), world.node.pod("client"));
        let host = world.node.host_pod("host");
        // Whoever is not translated ends up here.
        let untranslated = world.other.run(|| {
            for ip in web.addresses().both() {
                netns::add_address(&ip.to_string());
            }
            [Kind::Tcp, Kind::Udp].map(|kind| {
                Backends::start(kind, web.at(80).map(|address| (address, "untranslated")))
            })
        });
        for (ip, via) in web.addresses().both().into_iter().zip(world.other.addresses().both()) {
            netns::add_route(&ip.to_string(), &via.to_string());
        }
        reaches(&client, TCP, web.at(80), &["untranslated"]);
        world.put(&web, &[endpoint(&a)]);
        for from in [&*host, &world.node] {
            for to in [web.at(80), world.node.addresses().at(30080)] {
                reaches(from, TCP, to, &["a"]);
                reaches(from, UDP, to, &["a"]);
            }
        }
        for from in [&client, &a] {
            reaches(from, TCP, web.at(80), &["untranslated"]);
            reaches(from, UDP, web.at(80), &["untranslated"]);
            nobody(from, TCP, world.node.addresses().at(30080));
        }
        drop(untranslated);
    });
}
