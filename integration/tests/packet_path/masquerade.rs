//! Whom clients end up with and as whom they are seen there: by the policies of a service, where
//! the client is, which address it dials, and whether the agent knows pods by their addresses.

use integration::kubernetes::{
    Endpoint, PACKETS, SCTP, Svc, TCP, UDP, endpoint, reaches_as, silent,
};
use integration::packets::{self, NODE_PORT, PODS, Scene};
use integration::pods::{Pair, Place, Pod};
use serde_json::json;
use std::net::SocketAddr;

/// Who asks.
#[derive(Clone, Copy, Debug)]
enum Who {
    Guest,
    Node,
    Outside,
}

/// Who answers: all endpoints or those of the node, and whether under the node's address.
#[derive(Clone, Copy, Debug)]
enum To {
    All,
    AllMasqueraded,
    Local,
    LocalMasqueraded,
}

use To::{All, AllMasqueraded, Local, LocalMasqueraded};
use Who::{Guest, Node, Outside};

/// For each who asks: what becomes of the cluster address, and of all others.
type Row = [(Who, To, To); 3];

/// The service with a policy that says `Local`, if any.
fn web(policy: Option<&str>) -> Svc {
    policy.into_iter().fold(Scene::web(), |web, policy| web.with(policy, json!("Local")))
}

fn pods(scene: &Scene<'_>) -> ([Pod; 2], [Endpoint; 2]) {
    let pods = [scene.pod("a", 8080), scene.far_pod("c", 8080)];
    let endpoints = [0, 1].map(|index| endpoint(&pods[index]));
    (pods, endpoints)
}

fn place<'a>(scene: &'a Scene<'_>, from: Who) -> &'a Place {
    match from {
        Guest => &scene.guest,
        Node => &scene.stranger,
        Outside => &scene.client,
    }
}

/// `a` is on the node, `c` is not; the way to each begins at another address of the node.
fn expected(scene: &Scene<'_>, from: Who, to: To) -> Vec<(&'static str, Pair)> {
    let (near, gateway) = (scene.world.node.addresses(), scene.world.node.gateway());
    let own = place(scene, from).addresses();
    match to {
        All => vec![("a", own), ("c", own)],
        AllMasqueraded => vec![("a", gateway), ("c", near)],
        Local => vec![("a", own)],
        LocalMasqueraded => vec![("a", gateway)],
    }
}

#[track_caller]
fn holds(scene: &Scene<'_>, policy: Option<&str>, row: Row) {
    for (from, cluster, doors) in row {
        let place = place(scene, from);
        for (to, what) in [(web(policy).at(80).to_vec(), cluster), (scene.doors(), doors)] {
            for ways in [TCP, UDP, SCTP] {
                reaches_as(place, ways, to.iter().copied(), &expected(scene, from, what));
            }
        }
    }
}

#[test]
fn policies_cluster() {
    packets::run("masq-cluster", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&web(None), &endpoints);
        let row = [
            (Guest, All, AllMasqueraded),
            (Node, AllMasqueraded, AllMasqueraded),
            (Outside, AllMasqueraded, AllMasqueraded),
        ];
        holds(scene, None, row);
    });
}

#[test]
fn external_traffic_policy_local() {
    packets::run("masq-etp", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        let policy = Some("externalTrafficPolicy");
        scene.put(&web(policy), &endpoints);
        let row = [
            (Guest, All, All),
            (Node, AllMasqueraded, AllMasqueraded),
            (Outside, AllMasqueraded, Local),
        ];
        holds(scene, policy, row);
    });
}

#[test]
fn internal_traffic_policy_local() {
    packets::run("masq-itp", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        let policy = Some("internalTrafficPolicy");
        scene.put(&web(policy), &endpoints);
        let row = [
            (Guest, Local, AllMasqueraded),
            (Node, LocalMasqueraded, AllMasqueraded),
            (Outside, LocalMasqueraded, AllMasqueraded),
        ];
        holds(scene, policy, row);
    });
}

/// Nobody knows who is a pod, so nobody's cluster traffic is masqueraded, and pods are outsiders.
/// The answers of an endpoint elsewhere would find their own way to a client outside.
#[test]
fn without_ranges_of_pods() {
    packets::run("masq-no-ranges", "", |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&web(None), &endpoints);
        for from in [Guest, Node] {
            let who = expected(scene, from, All);
            reaches_as(place(scene, from), PACKETS, web(None).at(80), &who);
        }
        for from in [Guest, Node, Outside] {
            let who = expected(scene, from, AllMasqueraded);
            reaches_as(place(scene, from), PACKETS, scene.doors(), &who);
        }
        let policy = Some("externalTrafficPolicy");
        scene.put(&web(policy), &endpoints);
        for (from, to) in [(Guest, Local), (Node, AllMasqueraded), (Outside, Local)] {
            let who = expected(scene, from, to);
            reaches_as(place(scene, from), PACKETS, scene.doors(), &who);
        }
        scene.put(&web(policy), &endpoints[1..]);
        silent(&scene.guest, PACKETS, scene.doors());
        scene.put(&web(None), &endpoints[..1]);
        let who = expected(scene, Outside, Local);
        reaches_as(&scene.client, PACKETS, web(None).at(80), &who);
    });
}

#[test]
fn masquerade_all() {
    packets::run("masq-all", &format!("{PODS}, masquerade_all: true"), |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&web(None), &endpoints);
        for from in [Guest, Node, Outside] {
            let who = expected(scene, from, AllMasqueraded);
            reaches_as(place(scene, from), PACKETS, web(None).at(80), &who);
        }
    });
}

/// Without knowing pods, all the same.
#[test]
fn masquerade_all_without_ranges_of_pods() {
    packets::run("masq-all-no-ranges", "masquerade_all: true", |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&web(None), &endpoints);
        for from in [Guest, Node, Outside] {
            let who = expected(scene, from, AllMasqueraded);
            reaches_as(place(scene, from), PACKETS, web(None).at(80), &who);
        }
    });
}

/// Who is led to itself would drop what comes from its own address.
#[test]
fn hairpin() {
    packets::run("masq-hairpin", PODS, |scene| {
        for kind in packets::ALL_KINDS {
            scene.guest.serve(kind, 8080);
        }
        let own = [endpoint(&scene.guest)];
        let gateway = scene.world.node.gateway();
        for policy in [None, Some("internalTrafficPolicy"), Some("externalTrafficPolicy")] {
            scene.put(&web(policy), &own);
            let to: Vec<SocketAddr> = [web(policy).at(80).to_vec(), scene.doors()].concat();
            reaches_as(&scene.guest, PACKETS, to, &[("guest", gateway)]);
        }
        // Nobody else is concerned.
        let other = scene.world.node.guest(scene.world.lab, "other");
        let node_port = scene.world.node.addresses().at(NODE_PORT);
        let to = [web(None).at(80), node_port].concat();
        reaches_as(&other, PACKETS, to, &[("guest", other.addresses())]);
    });
}
