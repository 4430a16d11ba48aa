//! Both nodes have an agent: what a pod sends to the other node's NodePort is left alone here, and
//! served there.

use integration::kubernetes::{
    Endpoint, FAR, NEAR, PACKETS, TCP, UDP, endpoint, reaches, reaches_as, silent,
};
use integration::packets::{self, NODE_PORT, PODS, Scene};
use integration::pods::{Pair, Place, Pod, Way};
use integration::wait::eventually;
use serde_json::json;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

/// Only the far node's pods are pods to it; the near node never sees these packets come in.
const FAR_PODS: &str = "pod_ranges: [10.244.2.0/24, \"fd00:244:2::/64\"]";

fn pods(scene: &Scene<'_>) -> ([Pod; 2], [Endpoint; 2]) {
    let pods = [scene.pod("a", 8080), scene.far_pod("c", 8080)];
    let endpoints = [0, 1].map(|index| endpoint(&pods[index]));
    (pods, endpoints)
}

/// Puts the service and waits until the far node serves it so, too.
#[track_caller]
fn put(scene: &Scene<'_>, web: &integration::kubernetes::Svc, endpoints: &[Endpoint]) {
    scene.put(web, endpoints);
    scene.settle_far();
}

fn far_door(scene: &Scene<'_>) -> Pair {
    scene.world.other.addresses()
}

#[test]
fn a_node_port_of_the_other_node() {
    packets::run_both("both-cluster", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        put(scene, &Scene::web(), &endpoints);
        let pod = scene.world.node.pod("pod");
        let (far, gateway) = (far_door(scene), scene.world.other.gateway());
        for from in [&*pod, &scene.world.node, &scene.client, &scene.guest] {
            reaches_as(from, TCP, far.at(NODE_PORT), &[("a", far), ("c", gateway)]);
            reaches_as(from, UDP, far.at(NODE_PORT), &[("a", far), ("c", gateway)]);
        }
        // Pods there know their node as pods here know theirs.
        let far_pod = scene.world.other.pod("far-pod");
        let near = scene.world.node.addresses();
        reaches(&far_pod, TCP, far.at(NODE_PORT), &["a", "c"]);
        reaches(&far_pod, TCP, near.at(NODE_PORT), &["a", "c"]);
        reaches(&far_pod, TCP, Scene::web().at(80), &["a", "c"]);
    });
}

/// With `externalTrafficPolicy: Local` and no endpoint there, the other node's NodePort leads nowhere.
#[test]
fn a_node_port_of_the_other_node_without_an_endpoint_there() {
    packets::run_both("both-local", FAR_PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        let web = Scene::web().with("externalTrafficPolicy", json!("Local"));
        put(scene, &web, &endpoints);
        let pod = scene.world.node.pod("pod");
        let far = far_door(scene).at(NODE_PORT);
        let outsiders: [&Place; 2] = [&pod, &scene.client];
        for from in outsiders {
            reaches_as(from, TCP, far, &[("c", from.addresses())]);
            reaches_as(from, UDP, far, &[("c", from.addresses())]);
        }
        put(scene, &web, &endpoints[..1]);
        for from in outsiders {
            silent(from, &[Way::Tcp, Way::Connected], far);
        }
        // By its own node's, it is no outsider.
        reaches(&pod, TCP, scene.world.node.addresses().at(NODE_PORT), &["a"]);
        let far_pod = scene.world.other.pod("far-pod");
        reaches(&far_pod, TCP, far, &["a"]);
    });
}

/// A node that takes all pods for its own leads this one to its endpoint, under its own address: the
/// answer does not come back by the node that was dialled, and is none.
#[test]
fn pods_of_other_nodes_are_not_masqueraded() {
    packets::run_both("both-known", PODS, |scene| {
        let (pods, endpoints) = pods(scene);
        let web = Scene::web().with("externalTrafficPolicy", json!("Local"));
        put(scene, &web, &endpoints[..1]);
        let pod = scene.world.node.pod("pod");
        let far = far_door(scene).at(NODE_PORT);
        reaches(&pod, TCP, web.at(80), &["a"]);
        let before = pods[0].answered();
        silent(&pod, &[Way::Tcp, Way::Connected], far);
        // A datagram of each family; no connection, as what answers takes another way.
        eventually("both to be led to the endpoint", DEADLINE, || pods[0].answered() >= before + 2);
        let so_far = pods[0].answered();
        silent(&scene.client, &[Way::Tcp, Way::Connected], far);
        assert_eq!(pods[0].answered(), so_far);
    });
}

/// The NodePort of the near node and that of the far one, and who answers an outsider there.
#[track_caller]
fn answer(scene: &Scene<'_>, near: &[&str], far: &[&str]) {
    let doors = [scene.world.node.addresses(), far_door(scene)];
    for (door, who) in doors.into_iter().zip([near, far]) {
        reaches(&scene.client, PACKETS, door.at(NODE_PORT), who);
    }
}

/// Gives an endpoint a hint for a node with this name and zone.
type Hint = fn(Endpoint, (&str, &str)) -> Endpoint;

/// Each node goes by its own zone or name, also for packets, and only where all endpoints have hints.
/// `trafficDistribution` comes to such hints.
#[test]
fn hints_for_zones_and_nodes() {
    packets::run_both("both-hints", PODS, |scene| {
        let (_pods, [a, c]) = pods(scene);
        let ways: [Hint; 2] = [
            |endpoint, (_, zone)| endpoint.for_zones(&[zone]),
            |endpoint, (node, _)| endpoint.for_nodes(&[node]),
        ];
        for hinted in ways {
            let web = Scene::web();
            put(scene, &web, &[hinted(a.clone(), NEAR), hinted(c.clone(), FAR)]);
            answer(scene, &["a"], &["c"]);
            // Guests of a node are served by it, at cluster addresses, too.
            reaches(&scene.guest, PACKETS, web.at(80), &["a"]);
            // The other way round: nobody prefers what is on the node.
            put(scene, &web, &[hinted(a.clone(), FAR), hinted(c.clone(), NEAR)]);
            answer(scene, &["c"], &["a"]);
            put(scene, &web, &[hinted(a.clone(), NEAR), c.clone()]);
            answer(scene, &["a", "c"], &["a", "c"]);
            // A node that has an endpoint of its own must take that one.
            let local = web.with("externalTrafficPolicy", json!("Local"));
            put(scene, &local, &[hinted(a.clone(), FAR), hinted(c.clone(), NEAR)]);
            answer(scene, &["a"], &["c"]);
        }
    });
}

/// They are ready for whoever publishes them, on whichever node the client asks.
#[test]
fn terminating_and_unready_endpoints_that_are_published() {
    packets::run_both("both-publish", PODS, |scene| {
        let (_pods, [a, c]) = pods(scene);
        let web = Scene::web().with("publishNotReadyAddresses", json!(true));
        let published = [a.conditions(true, false, true), c.conditions(true, false, false)];
        put(scene, &web, &published);
        answer(scene, &["a", "c"], &["a", "c"]);
        let pod = scene.world.node.pod("pod");
        for door in [scene.world.node.addresses(), far_door(scene)] {
            reaches(&pod, TCP, door.at(NODE_PORT), &["a", "c"]);
        }
    });
}
