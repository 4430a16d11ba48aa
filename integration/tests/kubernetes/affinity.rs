//! `sessionAffinity: ClientIP`, by a service's cluster address and by NodePorts.

use integration::kubernetes::{Endpoint, Svc, World, endpoint, run};
use integration::pods::{Place, Pod, Way};
use integration::wait::{eventually, let_pass};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// How often a client asks to find out whether it stays with an endpoint. Of three, the same one is
/// chosen so often by chance once in 10^14 times.
const OFTEN: usize = 30;

/// Where a service is dialled.
type Addresses = fn(&World<'_>, &Svc) -> Vec<SocketAddr>;

fn cluster_ip(_: &World<'_>, service: &Svc) -> Vec<SocketAddr> {
    service.at(80).into()
}

fn node_port(world: &World<'_>, _: &Svc) -> Vec<SocketAddr> {
    world.node.addresses().at(30080).into()
}

fn service() -> Svc {
    Svc::new("web", 10).tcp_and_udp(80, 8080).node_port(30080)
}

/// Three pods, two of them on the node, and their endpoints.
fn pods(world: &World<'_>) -> ([Pod; 3], [Endpoint; 3]) {
    let pods = [world.pod("a", 8080), world.pod("b", 8080), world.far_pod("c", 8080)];
    let endpoints = [0, 1, 2].map(|index| endpoint(&pods[index]));
    (pods, endpoints)
}

/// Who answers this client, asked often.
#[track_caller]
fn who(from: &Place, way: Way, to: SocketAddr) -> BTreeSet<String> {
    (0..OFTEN).map(|_| from.ask(way, to).expect("an answer").tag).collect()
}

#[track_caller]
fn stays(world: &World<'_>, from: &Place, all: Addresses, service: &Svc) {
    for (to, way) in each(&all(world, service)) {
        let who = who(from, way, to);
        assert_eq!(who.len(), 1, "{}: {way:?} to {to}: {who:?}", from.name());
    }
}

#[track_caller]
fn roams(world: &World<'_>, from: &Place, all: Addresses, service: &Svc) {
    for (to, way) in each(&all(world, service)) {
        let who = who(from, way, to);
        assert!(who.len() > 1, "{}: {way:?} to {to}: {who:?}", from.name());
    }
}

fn each(all: &[SocketAddr]) -> impl Iterator<Item = (SocketAddr, Way)> {
    all.iter().flat_map(|&to| Way::ALL.map(|way| (to, way)))
}

fn sticks(name: &str, all: Addresses) {
    run(name, |world| {
        let (_pods, endpoints) = pods(world);
        let clients = [world.node.pod("client"), world.node.pod("another")];
        let web = service().sticky(10800);
        world.put(&web, &endpoints);
        let places: [&Place; 3] = [&clients[0], &clients[1], &world.node];
        places.into_iter().for_each(|from| stays(world, from, all, &web));
        // The endpoint goes; its clients choose another and stay there.
        let to = all(world, &web)[0];
        let tag = clients[0].ask(Way::Tcp, to).expect("an answer").tag;
        let index = ["a", "b", "c"].iter().position(|name| *name == tag).expect("one of three");
        let rest: Vec<Endpoint> =
            (0..3).filter(|other| *other != index).map(|other| endpoints[other].clone()).collect();
        world.put(&web, &rest);
        stays(world, &clients[0], all, &web);
        assert_ne!(clients[0].ask(Way::Tcp, to).expect("an answer").tag, tag);
    });
}

fn times_out(name: &str, all: Addresses) {
    run(name, |world| {
        let (_pods, endpoints) = pods(world);
        let client = world.node.pod("client");
        let web = service().sticky(1);
        world.put(&web, &endpoints);
        for to in all(world, &web) {
            let first = client.ask(Way::Tcp, to).expect("an answer").tag;
            let mut tags = BTreeSet::from([first]);
            eventually("another endpoint after the timeout", Duration::from_secs(60), || {
                let_pass(Duration::from_millis(2100));
                tags.insert(client.ask(Way::Tcp, to).expect("an answer").tag);
                tags.len() > 1
            });
        }
        // Each connection renews it.
        let renewed = service().sticky(5);
        world.put(&renewed, &endpoints);
        let to = all(world, &renewed)[0];
        let first = client.ask(Way::Tcp, to).expect("an answer").tag;
        for _ in 0..8 {
            let_pass(Duration::from_millis(800));
            assert_eq!(client.ask(Way::Tcp, to).expect("an answer").tag, first);
        }
    });
}

fn switches(name: &str, all: Addresses) {
    run(name, |world| {
        let (_pods, endpoints) = pods(world);
        let client = world.node.pod("client");
        let (none, sticky) = (service(), service().sticky(10800));
        for _ in 0..2 {
            world.put(&none, &endpoints);
            roams(world, &client, all, &none);
            world.put(&sticky, &endpoints);
            stays(world, &client, all, &sticky);
        }
        let said = none.with("sessionAffinity", json!("None"));
        world.put(&said, &endpoints);
        roams(world, &client, all, &said);
    });
}

#[test]
fn session_affinity_of_a_cluster_ip() {
    sticks("k8s-affinity", cluster_ip);
}

#[test]
fn session_affinity_timeout_of_a_cluster_ip() {
    times_out("k8s-timeout", cluster_ip);
}

#[test]
fn session_affinity_of_a_cluster_ip_is_switched() {
    switches("k8s-switch", cluster_ip);
}

#[test]
fn session_affinity_of_a_node_port() {
    sticks("k8s-affinity-node", node_port);
}

#[test]
fn session_affinity_timeout_of_a_node_port() {
    times_out("k8s-timeout-node", node_port);
}

#[test]
fn session_affinity_of_a_node_port_is_switched() {
    switches("k8s-switch-node", node_port);
}

/// A port's addresses share what they know of a client; its ports don't.
#[test]
fn a_ports_addresses_share_affinity() {
    run("k8s-affinity-shared", |world| {
        let (_pods, endpoints) = pods(world);
        let web = service().sticky(10800);
        world.put(&web, &endpoints);
        let clients: Vec<Pod> =
            ["k", "l", "m", "n"].into_iter().map(|name| world.node.pod(name)).collect();
        for client in &clients {
            for (to, other) in web.at(80).into_iter().zip(world.node.addresses().at(30080)) {
                let tag = client.ask(Way::Tcp, to).expect("an answer").tag;
                assert_eq!(who(client, Way::Tcp, other), BTreeSet::from([tag]));
            }
        }
    });
}
