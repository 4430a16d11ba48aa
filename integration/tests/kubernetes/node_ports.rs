//! NodePorts: on which of this node's addresses, and never on another's.

use integration::kubernetes::{
    Endpoint, Svc, TCP, UDP, World, endpoint, nobody, reaches, refused, run, run_with,
};
use integration::netns;
use integration::pods::{Pair, Pod, Way};
use integration::server::{Backends, Kind};
use integration::wait::eventually;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

const PORT: u16 = 30080;
const LOOPBACK: Pair = Pair { v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST };

fn service() -> Svc {
    Svc::new("web", 10).tcp_and_udp(80, 8080).node_port(PORT)
}

/// A pod on each node, their endpoints, and a client.
fn pods(world: &World<'_>) -> ([Pod; 3], [Endpoint; 2]) {
    let pods = [world.pod("a", 8080), world.far_pod("c", 8080), world.node.pod("client")];
    let endpoints = [0, 1].map(|index| endpoint(&pods[index]));
    (pods, endpoints)
}

#[test]
fn a_functioning_node_port_service() {
    run("k8s-node-port", |world| {
        let ([_a, _c, client], endpoints) = pods(world);
        world.put(&service(), &endpoints);
        // Every address of the node: that which the others know, and that which its pods do.
        for to in [world.node.addresses(), world.node.gateway()] {
            for from in [&*client, &world.node] {
                reaches(from, TCP, to.at(PORT), &["a", "c"]);
                reaches(from, UDP, to.at(PORT), &["a", "c"]);
            }
        }
        reaches(&client, TCP, service().at(80), &["a", "c"]);
        // Its own port is no NodePort, and a NodePort is none of the cluster address.
        nobody(&client, TCP, world.node.addresses().at(80));
        nobody(&client, TCP, service().at(PORT));
        world.put(&service(), &[]);
        refused(&client, TCP, world.node.addresses().at(PORT));
    });
}

/// A link-local address is one of each interface: which is meant is not in the address.
#[test]
fn link_local_addresses_have_none() {
    run("k8s-link-local", |world| {
        let ([_a, _c, client], endpoints) = pods(world);
        world.put(&service(), &endpoints);
        let own = world.node.run(link_local);
        assert!(!own.is_empty(), "the node has no link-local address");
        for &(address, interface) in &own {
            let to = SocketAddr::from(SocketAddrV6::new(address, PORT, 0, interface));
            nobody(&world.node, TCP, [to]);
        }
        let services = world.agent().services();
        let frontends = services.iter().flat_map(|service| &service.frontends);
        let mut addresses = frontends.map(|frontend| frontend.frontend.address.ip());
        assert!(!addresses.any(|ip| own.iter().any(|(own, _)| ip == *own)), "{services:?}");
        reaches(&client, TCP, world.node.addresses().at(PORT), &["a", "c"]);
    });
}

/// Those of the calling thread's network namespace, with the index of the interface.
fn link_local() -> Vec<(Ipv6Addr, u32)> {
    let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6").expect("IPv6 is there");
    let read = |line: &str| {
        let mut fields = line.split_whitespace();
        let (address, interface) = (fields.next()?, fields.next()?);
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        Some((address, u32::from_str_radix(interface, 16).ok()?))
    };
    let all = table.lines().filter_map(read);
    all.filter(|(address, _)| address.is_unicast_link_local()).collect()
}

#[test]
fn a_node_port_for_both_protocols() {
    run("k8s-node-protocols", |world| {
        let (a, client) = (world.node.pod("a"), world.node.pod("client"));
        a.serve_as(Kind::Tcp, 8080, "stream");
        a.serve_as(Kind::Udp, 8080, "datagram");
        let node_port = world.node.addresses().at(PORT);
        // From a cluster address for TCP alone to NodePorts of one number.
        world.put(&Svc::new("web", 10).tcp("tcp", 80, 8080), &[endpoint(&a)]);
        nobody(&client, TCP, node_port);
        world.put(&service(), &[endpoint(&a)]);
        for from in [&*client, &world.node] {
            reaches(from, TCP, node_port, &["stream"]);
            reaches(from, UDP, node_port, &["datagram"]);
        }
    });
}

/// On 127.0.0.1 and ::1 it is for the node's own sockets: a pod's loopback is its own.
#[test]
fn loopback_of_the_node() {
    run("k8s-loopback", |world| {
        let ([_a, _c, client], endpoints) = pods(world);
        world.put(&service(), &endpoints);
        let host_pod = world.node.host_pod("host");
        for from in [&*host_pod, &world.node] {
            reaches(from, TCP, LOOPBACK.at(PORT), &["a", "c"]);
            reaches(from, UDP, LOOPBACK.at(PORT), &["a", "c"]);
        }
        // Only these two.
        nobody(&world.node, TCP, [SocketAddr::from(([127, 0, 0, 2], PORT))]);
        nobody(&client, TCP, LOOPBACK.at(PORT));
        let own = client.run(|| {
            [Kind::Tcp, Kind::Udp].map(|kind| {
                Backends::start(kind, LOOPBACK.at(PORT).map(|address| (address, "own")))
            })
        });
        reaches(&client, TCP, LOOPBACK.at(PORT), &["own"]);
        reaches(&client, UDP, LOOPBACK.at(PORT), &["own"]);
        drop(own);
    });
}

#[test]
fn loopback_without_localhost_node_ports() {
    run_with("k8s-no-loopback", "localhost_node_ports: false", |world| {
        let ([_a, _c, client], endpoints) = pods(world);
        world.put(&service(), &endpoints);
        nobody(&world.node, TCP, LOOPBACK.at(PORT));
        for from in [&*client, &world.node] {
            reaches(from, TCP, world.node.addresses().at(PORT), &["a", "c"]);
        }
    });
}

#[test]
fn primary_addresses_only() {
    let settings = "localhost_node_ports: false, node_port_addresses: primary";
    run_with("k8s-primary", settings, |world| {
        let ([_a, _c, client], endpoints) = pods(world);
        world.put(&service(), &endpoints);
        for from in [&*client, &world.node] {
            reaches(from, TCP, world.node.addresses().at(PORT), &["a", "c"]);
            nobody(from, TCP, world.node.gateway().at(PORT));
        }
    });
}

/// Of a family without a range, all.
#[test]
fn addresses_within_ranges() {
    let settings = "localhost_node_ports: true, node_port_addresses: [10.244.0.0/16]";
    run_with("k8s-ranges", settings, |world| {
        let ([_a, _c, client], endpoints) = pods(world);
        world.put(&service(), &endpoints);
        let ([node4, node6], [gateway4, gateway6]) =
            (world.node.addresses().at(PORT), world.node.gateway().at(PORT));
        for from in [&*client, &world.node] {
            reaches(from, TCP, [gateway4, gateway6, node6], &["a", "c"]);
            nobody(from, TCP, [node4]);
        }
    });
}

#[test]
fn addresses_that_the_node_gets_and_loses() {
    run("k8s-new-address", |world| {
        let ([_a, _c, client], endpoints) = pods(world);
        world.put(&service(), &endpoints);
        for ip in ["172.18.0.77", "fd00:18::77"] {
            let to = SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), PORT);
            nobody(&client, TCP, [to]);
            netns::add_address(ip);
            eventually("NodePorts on a new address", Duration::from_secs(20), || {
                client.ask(Way::Tcp, to).is_ok()
            });
            reaches(&client, UDP, [to], &["a", "c"]);
            netns::remove_address(ip);
            eventually("no NodePorts on an address that is gone", Duration::from_secs(20), || {
                client.ask(Way::Tcp, to).is_err()
            });
        }
    });
}

/// Another node decides for itself: what is sent to its NodePort leaves this node as it is.
#[test]
fn another_nodes_node_port_is_left_to_that_node() {
    run("k8s-other-node", |world| {
        let ([_a, _c, client], endpoints) = pods(world);
        let other = world.other.addresses().at(PORT);
        for policy in ["Cluster", "Local"] {
            let web = service().with("externalTrafficPolicy", json!(policy));
            world.put(&web, &endpoints[..1]);
            for from in [&*client, &world.node] {
                reaches(from, TCP, world.node.addresses().at(PORT), &["a"]);
                // There nobody is asked: with the policy Local the other node has no endpoint.
                nobody(from, TCP, other);
            }
        }
        for kind in [Kind::Tcp, Kind::Udp] {
            world.other.serve(kind, PORT);
        }
        for from in [&*client, &world.node] {
            reaches(from, TCP, other, &["far"]);
            reaches(from, UDP, other, &["far"]);
        }
    });
}

/// The short-circuit of `externalTrafficPolicy: Local`: a client on this node is no outsider.
#[test]
fn external_traffic_policy_local_for_clients_on_the_node() {
    run("k8s-short-circuit", |world| {
        let ([_a, _c, client], endpoints) = pods(world);
        let web = service().with("externalTrafficPolicy", json!("Local"));
        for (endpoints, who) in [(&endpoints[..], &["a", "c"][..]), (&endpoints[1..], &["c"])] {
            world.put(&web, endpoints);
            for from in [&*client, &world.node] {
                for to in [world.node.addresses().at(PORT), web.at(80)] {
                    reaches(from, TCP, to, who);
                    reaches(from, UDP, to, who);
                }
            }
        }
    });
}
