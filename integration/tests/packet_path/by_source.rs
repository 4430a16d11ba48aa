//! `sessionAffinity: ClientIP` of clients outside and of guests: by the source address of packets.

use integration::kubernetes::{Endpoint, endpoint};
use integration::packets::nft::{apply, nft, table};
use integration::packets::{self, PODS, Scene};
use integration::pods::{Place, Pod, Way};
use integration::wait::{eventually, let_pass};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// How often a client asks to find out whether it stays with an endpoint. Of three, the same one is
/// chosen so often by chance once in 10^14 times.
const OFTEN: usize = 30;
/// As many clients as are remembered.
const CLIENTS: u32 = lb_agent::nat::sets::CLIENTS;
const WAYS: [Way; 3] = [Way::Tcp, Way::Connected, Way::Sctp];

/// Three pods, two of them on the node, and their endpoints.
fn pods(scene: &Scene<'_>) -> ([Pod; 3], [Endpoint; 3]) {
    let pods = [scene.pod("a", 8080), scene.pod("b", 8080), scene.far_pod("c", 8080)];
    let endpoints = [0, 1, 2].map(|index| endpoint(&pods[index]));
    (pods, endpoints)
}

#[track_caller]
fn one(from: &Place, way: Way, to: SocketAddr) -> String {
    from.ask(way, to).unwrap_or_else(|error| panic!("{way:?} to {to}: {error}")).tag
}

/// Who answers this client, asked often.
#[track_caller]
fn who(from: &Place, way: Way, to: SocketAddr) -> BTreeSet<String> {
    (0..OFTEN).map(|_| one(from, way, to)).collect()
}

/// Cluster address, NodePort, load balancer's and external address, by family.
fn all(scene: &Scene<'_>) -> [Vec<SocketAddr>; 2] {
    let all = [Scene::web().at(80).to_vec(), scene.doors()].concat();
    let (v4, v6) = all.into_iter().partition(SocketAddr::is_ipv4);
    [v4, v6]
}

/// It holds for all addresses of one port together, and for each protocol by itself.
#[test]
fn session_affinity() {
    packets::run("packets-affinity", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&Scene::web().sticky(10_800), &endpoints);
        for from in [&*scene.client, &scene.guest, &scene.stranger] {
            for addresses in all(scene) {
                for way in WAYS {
                    let first = one(from, way, addresses[0]);
                    for to in &addresses {
                        let who = who(from, way, *to);
                        assert_eq!(who, BTreeSet::from([first.clone()]), "{way:?} to {to}");
                    }
                }
            }
        }
        // The endpoint goes; its client chooses another and stays there.
        let to = scene.doors()[0];
        let tag = one(&scene.client, Way::Tcp, to);
        let index = ["a", "b", "c"].iter().position(|name| *name == tag).expect("one of three");
        let rest: Vec<Endpoint> =
            (0..3).filter(|other| *other != index).map(|other| endpoints[other].clone()).collect();
        scene.put(&Scene::web().sticky(10_800), &rest);
        let after = who(&scene.client, Way::Tcp, to);
        assert_eq!(after.len(), 1, "{after:?}");
        assert!(!after.contains(&tag), "{after:?}");
    });
}

#[test]
fn session_affinity_timeout() {
    packets::run("packets-timeout", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&Scene::web().sticky(1), &endpoints);
        for to in scene.doors().into_iter().take(2) {
            let mut tags = BTreeSet::from([one(&scene.client, Way::Tcp, to)]);
            eventually("another endpoint after the timeout", Duration::from_secs(60), || {
                let_pass(Duration::from_millis(2100));
                tags.insert(one(&scene.client, Way::Tcp, to));
                tags.len() > 1
            });
        }
        // Each connection renews it.
        scene.put(&Scene::web().sticky(5), &endpoints);
        let to = scene.doors()[0];
        let mut first = one(&scene.client, Way::Tcp, to);
        let (mut renewed, mut last) = (0, Instant::now());
        eventually("eight that come before the timeout", Duration::from_secs(60), || {
            let_pass(Duration::from_millis(800));
            let begun = std::mem::replace(&mut last, Instant::now());
            let tag = one(&scene.client, Way::Tcp, to);
            if begun.elapsed() < Duration::from_secs(5) {
                assert_eq!(tag, first);
                renewed += 1;
            } else {
                // Where all stood still, it may have moved.
                (first, renewed) = (tag, 0);
            }
            renewed == 8
        });
    });
}

#[test]
fn session_affinity_is_switched() {
    packets::run("packets-switch", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        for _ in 0..2 {
            for (web, sticks) in [(Scene::web(), false), (Scene::web().sticky(10_800), true)] {
                scene.put(&web, &endpoints);
                for to in scene.doors().into_iter().take(2) {
                    let who = who(&scene.client, Way::Tcp, to);
                    assert_eq!(who.len() == 1, sticks, "{to}: {who:?}");
                }
            }
        }
    });
}

/// Endpoints are elements: whoever comes or goes, the rules stay, and so do the clients of the others.
#[test]
fn affinity_outlives_changes_of_others() {
    packets::run("packets-others-change", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        let web = Scene::web().sticky(10_800);
        let put = |indexes: &[usize]| {
            let some: Vec<Endpoint> = indexes.iter().map(|at| endpoints[*at].clone()).collect();
            scene.put(&web, &some);
        };
        let rules = || {
            let text = table("ip", "lb");
            let chain = |count| {
                let name = format!("chain stay-10800-{count} {{");
                let lines = text.lines().skip_while(|line| line.trim() != name);
                lines.skip(1).take_while(|line| line.trim() != "}").count()
            };
            [chain(2), chain(3)]
        };
        put(&[0, 1]);
        put(&[0, 1, 2]);
        let [two, three] = rules();
        assert!(two > 3, "{two}");
        assert_eq!(three, two, "as many rules for three");
        let to = scene.doors()[0];
        let first = one(&scene.client, Way::Tcp, to);
        let own = ["a", "b", "c"].iter().position(|name| *name == first).expect("one of three");
        for other in (0..3).filter(|other| *other != own) {
            put(&[own, other]);
            assert_eq!(who(&scene.client, Way::Tcp, to), BTreeSet::from([first.clone()]));
            put(&[own]);
            put(&[0, 1, 2]);
            assert_eq!(who(&scene.client, Way::Tcp, to), BTreeSet::from([first.clone()]));
        }
    });
}

/// Who can't be remembered any more is served all the same.
#[test]
fn a_full_memory_refuses_nobody() {
    packets::run("packets-full", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        let to = scene.doors()[0];
        scene.put(&Scene::web().sticky(10_800), &endpoints);
        one(&scene.client, Way::Tcp, to);
        nft(&["flush", "map", "ip", "lb", "affinity"]);
        let mut script = String::from("add element ip lb affinity {\n");
        for client in 0..CLIENTS {
            let client = Ipv4Addr::from_bits(client + 1);
            writeln!(script, "0x1 . 0x2 . {client} timeout 1h : 0x0 . 0x3 . 0x4,")
                .expect("a string");
        }
        script.push('}');
        apply(&script);
        // All of them serve, so nobody stays.
        assert!(who(&scene.client, Way::Tcp, to).len() > 1);
        nft(&["flush", "map", "ip", "lb", "affinity"]);
        assert_eq!(who(&scene.client, Way::Tcp, to).len(), 1);
        assert_eq!(scene.said()["repairs"], 0);
    });
}
