//! NodePorts and addresses outside: what hosts outside find there, by the names of Kubernetes' tests.

use integration::kubernetes::{
    Endpoint, PACKETS, Svc, TCP, UDP, endpoint, reaches, refused, silent,
};
use integration::packets::{self, BALANCER, EXTERNAL, NODE_PORT, PODS, Scene};
use integration::pods::{Pod, Way};
use integration::server::Kind;
use integration::wait::eventually;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

fn pods(scene: &Scene<'_>) -> ([Pod; 2], [Endpoint; 2]) {
    let pods = [scene.pod("a", 8080), scene.far_pod("c", 8080)];
    let endpoints = [0, 1].map(|index| endpoint(&pods[index]));
    (pods, endpoints)
}

fn node_port(scene: &Scene<'_>) -> [SocketAddr; 2] {
    scene.world.node.addresses().at(NODE_PORT)
}

fn service() -> Svc {
    Svc::new("web", 10).tcp_and_udp(80, 8080).node_port(NODE_PORT)
}

#[test]
fn a_functioning_node_port_service_for_other_hosts() {
    packets::run("packets-node-port", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&service(), &endpoints);
        reaches(&scene.client, TCP, node_port(scene), &["a", "c"]);
        reaches(&scene.client, UDP, node_port(scene), &["a", "c"]);
        // Its own port is no NodePort, and a NodePort is none of the cluster address.
        refused(&scene.client, TCP, scene.world.node.addresses().at(80));
        refused(&scene.client, TCP, service().at(NODE_PORT));
        // Nothing listens: a NodePort of another node is that node's.
        refused(&scene.client, TCP, scene.world.other.addresses().at(NODE_PORT));
        scene.world.remove(&service());
        scene.settle();
        refused(&scene.client, TCP, node_port(scene));
    });
}

#[test]
fn node_ports_on_primary_addresses_for_other_hosts() {
    let settings = format!("{PODS}, localhost_node_ports: false, node_port_addresses: primary");
    packets::run("packets-primary", &settings, |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&service(), &endpoints);
        for from in [&*scene.client, &scene.guest] {
            reaches(from, TCP, node_port(scene), &["a", "c"]);
        }
        refused(&scene.guest, TCP, scene.world.node.gateway().at(NODE_PORT));
    });
}

#[test]
fn an_external_address_that_no_node_has_for_other_hosts() {
    packets::run("packets-external", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        let web = service().with("externalIPs", json!(EXTERNAL.both()));
        scene.put(&web, &endpoints);
        reaches(&scene.client, TCP, EXTERNAL.at(80), &["a", "c"]);
        reaches(&scene.client, UDP, EXTERNAL.at(80), &["a", "c"]);
        scene.put(&service(), &endpoints);
        silent(&scene.client, TCP, EXTERNAL.at(80));
    });
}

#[test]
fn a_load_balancers_address_for_other_hosts() {
    packets::run("packets-balancer", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        let with = |mode: Value| {
            let entries = BALANCER.both().map(|ip| json!({"ip": ip, "ipMode": mode}));
            service().load_balancer(entries)
        };
        scene.put(&with(json!("VIP")), &endpoints);
        reaches(&scene.client, TCP, BALANCER.at(80), &["a", "c"]);
        reaches(&scene.client, UDP, BALANCER.at(80), &["a", "c"]);
        // A balancer that is a proxy must see its traffic.
        scene.put(&with(json!("Proxy")), &endpoints);
        silent(&scene.client, TCP, BALANCER.at(80));
        reaches(&scene.client, TCP, node_port(scene), &["a", "c"]);
    });
}

#[test]
fn a_node_port_for_both_protocols_for_other_hosts() {
    packets::run("packets-protocols", PODS, |scene| {
        let a = scene.world.node.pod("a");
        a.serve_as(Kind::Tcp, 8080, "stream");
        a.serve_as(Kind::Udp, 8080, "datagram");
        scene.put(&Svc::new("web", 10).tcp("tcp", 80, 8080), &[endpoint(&a)]);
        refused(&scene.client, &[Way::Tcp, Way::Connected], node_port(scene));
        scene.put(&service(), &[endpoint(&a)]);
        reaches(&scene.client, TCP, node_port(scene), &["stream"]);
        reaches(&scene.client, UDP, node_port(scene), &["datagram"]);
    });
}

#[test]
fn type_changes_from_external_name_to_node_port_for_other_hosts() {
    packets::run("packets-from-name", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        let name = Svc::new("web", 10)
            .with("type", json!("ExternalName"))
            .with("externalName", json!("example.com"))
            .with("clusterIP", json!(""))
            .with("clusterIPs", json!([]));
        scene.put(&name, &[]);
        refused(&scene.client, TCP, node_port(scene));
        scene.put(&service(), &endpoints);
        reaches(&scene.client, TCP, node_port(scene), &["a", "c"]);
        // And back.
        scene.put(&name, &[]);
        refused(&scene.client, TCP, node_port(scene));
    });
}

#[test]
fn addresses_that_the_node_gets_and_loses_for_other_hosts() {
    packets::run("packets-new-address", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&service(), &endpoints);
        for ip in ["172.18.0.77", "fd00:18::77"] {
            let to = SocketAddr::new(ip.parse().expect("an address"), NODE_PORT);
            scene.world.node.gets(ip);
            eventually("NodePorts on a new address", Duration::from_secs(20), || {
                scene.client.ask(Way::Tcp, to).is_ok()
            });
            reaches(&scene.client, UDP, [to], &["a", "c"]);
            scene.world.node.loses(ip);
            eventually("no NodePorts on an address that is gone", Duration::from_secs(20), || {
                scene.client.ask_within(Way::Tcp, to, Duration::from_secs(1)).is_err()
            });
        }
    });
}

/// Services of one family alone leave the other's addresses alone.
#[test]
fn dual_stack_for_other_hosts() {
    packets::run("packets-families", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        let v4_only = service()
            .with("clusterIPs", json!([service().addresses().v4]))
            .with("ipFamilies", json!(["IPv4"]))
            .with("ipFamilyPolicy", json!("SingleStack"));
        scene.put(&v4_only, &endpoints);
        let [v4, v6] = node_port(scene);
        reaches(&scene.client, TCP, [v4], &["a", "c"]);
        refused(&scene.client, TCP, [v6]);
        scene.put(&service(), &endpoints[..1]);
        reaches(&scene.client, TCP, [v4, v6], &["a"]);
    });
}

#[test]
fn terminating_and_unready_endpoints_that_are_published_for_other_hosts() {
    packets::run("packets-publish", PODS, |scene| {
        let (pods, _) = pods(scene);
        let web = Scene::web().with("publishNotReadyAddresses", Value::Bool(true));
        let published = [
            endpoint(&pods[0]).conditions(true, false, true),
            endpoint(&pods[1]).conditions(true, false, false),
        ];
        scene.put(&web, &published);
        reaches(&scene.client, PACKETS, scene.doors(), &["a", "c"]);
    });
}
