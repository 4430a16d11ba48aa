//! Who is refused, who hears nothing, and who is let in.

use integration::kubernetes::{
    PACKETS, SCTP, Svc, TCP, UDP, endpoint, reaches, reaches_as, refused, rejected, silent,
};
use integration::netns;
use integration::packets::{self, BALANCER, EXTERNAL, NODE_PORT, PODS, Scene};
use integration::pods::{Place, Way};
use integration::wait::eventually;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);
/// That there is no way is told when the first packet is sent again.
const PATIENCE: Duration = Duration::from_secs(4);

fn everyone<'a>(scene: &'a Scene<'_>) -> [&'a Place; 3] {
    [&scene.client, &scene.guest, &scene.stranger]
}

/// All addresses of the service `web`.
fn everywhere(scene: &Scene<'_>) -> Vec<SocketAddr> {
    [Scene::web().at(80).to_vec(), scene.doors()].concat()
}

#[test]
fn rejected_when_no_endpoints_exist() {
    packets::run("packets-none", PODS, |scene| {
        let a = scene.pod("a", 8080);
        let both = Scene::web()
            .with("internalTrafficPolicy", json!("Local"))
            .with("externalTrafficPolicy", json!("Local"));
        for web in [Scene::web(), both] {
            scene.put(&web, &[]);
            for from in everyone(scene) {
                rejected(from, PACKETS, everywhere(scene));
            }
            scene.put(&web, &[endpoint(&a).unready()]);
            refused(&scene.client, PACKETS, everywhere(scene));
            scene.put(&web, &[endpoint(&a)]);
            for from in everyone(scene) {
                reaches(from, PACKETS, everywhere(scene), &["a"]);
            }
        }
    });
}

/// Endpoints elsewhere only: outsiders hear nothing, who is on the node is led there.
#[test]
fn external_traffic_policy_local_without_an_endpoint_here() {
    packets::run("packets-etp", PODS, |scene| {
        let (a, c) = (scene.pod("a", 8080), scene.far_pod("c", 8080));
        let web = Scene::web().with("externalTrafficPolicy", json!("Local"));
        scene.put(&web, &[endpoint(&a), endpoint(&c)]);
        reaches(&scene.client, PACKETS, scene.doors(), &["a"]);
        scene.put(&web, &[endpoint(&c)]);
        silent(&scene.client, PACKETS, scene.doors());
        reaches(&scene.client, PACKETS, web.at(80), &["c"]);
        for from in [&*scene.guest, &scene.stranger] {
            reaches(from, PACKETS, everywhere(scene), &["c"]);
        }
        // By packets, too, where the socket is one of this node's.
        let pod = scene.world.node.pod("pod");
        reaches(&pod, SCTP, everywhere(scene), &["c"]);
    });
}

#[test]
fn internal_traffic_policy_local_without_an_endpoint_here() {
    packets::run("packets-itp", PODS, |scene| {
        let c = scene.far_pod("c", 8080);
        let web = Scene::web().with("internalTrafficPolicy", json!("Local"));
        scene.put(&web, &[endpoint(&c)]);
        for from in everyone(scene) {
            silent(from, PACKETS, web.at(80));
            reaches(from, PACKETS, scene.doors(), &["c"]);
        }
    });
}

/// A port or protocol that no service has at an address that one has.
#[test]
fn other_ports_of_a_cluster_address_are_rejected() {
    packets::run("packets-ports", PODS, |scene| {
        let a = scene.pod("a", 8080);
        let web = Svc::new("web", 10).tcp("http", 80, 8080);
        scene.put(&web, &[endpoint(&a)]);
        for from in everyone(scene) {
            reaches(from, TCP, web.at(80), &["a"]);
            rejected(from, PACKETS, web.at(81));
            rejected(from, &PACKETS[1..], web.at(80));
        }
        // Once nobody has the address, nobody answers for it.
        scene.world.remove(&web);
        scene.settle();
        silent(&scene.client, TCP, web.at(80));
    });
}

/// Sent on, they would go round in circles.
#[test]
fn unallocated_addresses_of_a_service_range_are_dropped() {
    packets::run("packets-cidr", PODS, |scene| {
        let a = scene.pod("a", 8080);
        let (web, free) = (Svc::new("web", 10).tcp("http", 80, 8080), Svc::new("free", 99));
        // Who is not dropped learns that there is no way.
        for to in free.addresses().both() {
            netns::add_unreachable(&to.to_string());
        }
        scene.put(&web, &[endpoint(&a)]);
        let outside = [&*scene.client, &scene.guest];
        // What everyone hears of an address that nobody has, until the first packet has been sent again.
        let heard = || -> Vec<io::ErrorKind> {
            let all = outside.into_iter().flat_map(|from| free.at(80).map(|to| (from, to)));
            thread::scope(|scope| {
                let ask =
                    |(from, to): (&Place, SocketAddr)| from.ask_within(Way::Tcp, to, PATIENCE);
                let asking: Vec<_> = all.map(|one| scope.spawn(move || ask(one))).collect();
                let asked = asking.into_iter().map(|asked| asked.join().expect("no panic"));
                asked.map(|asked| asked.expect_err("nobody has it").kind()).collect()
            })
        };
        let all = |kinds: [io::ErrorKind; 2]| heard().iter().all(|kind| kinds.contains(kind));
        let sent_on = || all([io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable]);
        let dropped = || all([io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock]);
        eventually("addresses that nobody knows to be sent on", DEADLINE, sent_on);
        scene.world.api.put(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.0/16", "fd00:96::/64"]},
        }));
        eventually("the ranges to be known", DEADLINE, dropped);
        for from in outside {
            silent(from, PACKETS, free.at(80));
            reaches(from, TCP, web.at(80), &["a"]);
        }
        let allocated = Svc::new("free", 99).tcp("http", 80, 8080);
        scene.put(&allocated, &[endpoint(&a)]);
        for from in outside {
            reaches(from, TCP, allocated.at(80), &["a"]);
        }
        // An agent that starts keeps the ranges that it finds until it has heard which there are.
        scene.world.remove(&allocated);
        scene.settle();
        scene.world.take_agent().kill9();
        scene.world.api.refuse("servicecidrs", Some(503));
        scene.world.start_agent();
        scene.settle();
        assert!(dropped(), "{:?}", heard());
        scene.world.api.delete("ServiceCIDR", "", "kubernetes");
        scene.world.api.refuse("servicecidrs", None);
        // It asks again, at last after half a minute.
        eventually("no ranges to be known", 3 * DEADLINE, sent_on);
    });
}

/// They hold at the load balancer's addresses, for everyone, by the address that is really theirs.
#[test]
fn source_ranges() {
    packets::run("packets-ranges", PODS, |scene| {
        let (a, c) = (scene.pod("a", 8080), scene.far_pod("c", 8080));
        let endpoints = [endpoint(&a), endpoint(&c)];
        let blocked = scene.outsider(10, "blocked");
        let pod = scene.world.node.pod("pod");
        let range = |places: &[&Place]| {
            let all = places.iter().flat_map(|place| place.addresses().both());
            let all = all.map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }));
            json!(all.collect::<Vec<_>>())
        };
        let with = |ranges: Value| Scene::web().with("loadBalancerSourceRanges", ranges);
        let others = [Scene::web().at(80), EXTERNAL.at(80)].concat();

        scene.put(&with(range(&[&scene.client])), &endpoints);
        reaches(&scene.client, PACKETS, BALANCER.at(80), &["a", "c"]);
        for from in [&*blocked, &scene.guest, &scene.stranger, &pod] {
            silent(from, PACKETS, BALANCER.at(80));
            reaches(from, TCP, others.iter().copied(), &["a", "c"]);
            reaches(from, TCP, scene.world.node.addresses().at(NODE_PORT), &["a", "c"]);
        }

        // Pods and the node by theirs.
        scene.put(&with(range(&[&scene.guest, &pod, &scene.stranger])), &endpoints);
        for from in [&*scene.guest, &pod, &scene.stranger] {
            reaches(from, TCP, BALANCER.at(80), &["a", "c"]);
            reaches(from, UDP, BALANCER.at(80), &["a", "c"]);
        }
        silent(&scene.client, PACKETS, BALANCER.at(80));

        // The other family is free; spaces do not matter; what can't be read lets nobody in.
        scene.put(&with(json!([" 192.0.2.0/24 "])), &endpoints);
        let [v4, v6] = BALANCER.at(80);
        silent(&scene.client, PACKETS, [v4]);
        reaches(&scene.client, PACKETS, [v6], &["a", "c"]);
        scene.put(&Scene::web(), &endpoints);
        reaches(&blocked, PACKETS, BALANCER.at(80), &["a", "c"]);

        // An outsider that is let in is an outsider still.
        let local = with(range(&[&scene.client])).with("externalTrafficPolicy", json!("Local"));
        scene.put(&local, &endpoints);
        let seen = scene.client.addresses();
        reaches_as(&scene.client, PACKETS, BALANCER.at(80), &[("a", seen)]);
        silent(&blocked, PACKETS, BALANCER.at(80));
        reaches_as(&blocked, PACKETS, EXTERNAL.at(80), &[("a", blocked.addresses())]);
    });
}

/// Guests reach nothing by NodePorts of loopback, and outsiders even less.
#[test]
fn loopback_is_nobody_elses() {
    packets::run("packets-loopback", PODS, |scene| {
        let a = scene.pod("a", 8080);
        scene.put(&Scene::web(), &[endpoint(&a)]);
        let loopback = ["127.0.0.1", "::1"]
            .map(|ip| SocketAddr::new(ip.parse().expect("an address"), NODE_PORT));
        for from in [&*scene.client, &scene.guest] {
            refused(from, TCP, loopback);
        }
    });
}
