//! What is under way while something changes: connections, datagrams of one socket, and new
//! connections at any moment.

use integration::agent::Agent;
use integration::client::{Call, ask_connected, dial_within, udp};
use integration::kubernetes::{Endpoint, TCP, UDP, endpoint, reaches};
use integration::packets::tcp::Tap;
use integration::packets::{self, NODE_PORT, PODS, Scene};
use integration::pods::{Place, Pod};
use integration::traffic::{Traffic, Way};
use integration::wait::{eventually, patience};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// By ICMP, or by its own host.
const REFUSALS: [i32; 2] = [libc::ECONNREFUSED, libc::EPERM];
const DEADLINE: Duration = Duration::from_secs(20);

fn pods(scene: &Scene<'_>) -> ([Pod; 2], [Endpoint; 2]) {
    let pods = [scene.pod("a", 8080), scene.far_pod("c", 8080)];
    let endpoints = [0, 1].map(|index| endpoint(&pods[index]));
    (pods, endpoints)
}

/// An open connection from each of these, to each address.
#[track_caller]
fn calls(scene: &Scene<'_>) -> Vec<Call> {
    let from = [(&*scene.client, scene.doors()), (&*scene.guest, Scene::web().at(80).to_vec())];
    let dial = |place: &Place, to: SocketAddr| place.run(|| dial_within(to, DEADLINE));
    let calls = from.iter().flat_map(|(place, to)| to.iter().map(|to| dial(place, *to)));
    calls.map(|call| call.expect("an answer")).collect()
}

#[track_caller]
fn all_live(when: &str, calls: &mut [Call]) {
    for call in calls {
        assert!(call.echoes("still there"), "{when}: {} is cut off", call.tag);
    }
}

#[test]
fn established_connections_live_through_changes() {
    packets::run("packets-established", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&Scene::web(), &endpoints);
        let mut calls = calls(scene);
        for (when, endpoints) in
            [("one of two", &endpoints[1..]), ("the other", &endpoints[..1]), ("none", &[])]
        {
            scene.put(&Scene::web(), endpoints);
            all_live(when, &mut calls);
        }
        scene.world.remove(&Scene::web());
        scene.settle();
        all_live("without the service", &mut calls);
        assert_eq!(scene.world.take_agent().stop().code(), Some(0));
        all_live("without the agent", &mut calls);
        scene.world.start_agent();
        scene.settle();
        all_live("with the next agent", &mut calls);
    });
}

/// An endpoint's segment that is out of the window belongs to no connection, for connection tracking:
/// it would reach the client under the endpoint's address, and the client would reset the connection.
#[test]
fn invalid_packets_of_endpoints_end_nothing() {
    packets::run("packets-invalid", PODS, |scene| {
        let (pods, endpoints) = pods(scene);
        scene.put(&Scene::web(), &endpoints[1..]);
        for (to, at) in Scene::web().at(80).into_iter().zip(pods[1].addresses().at(8080)) {
            let call = scene.guest.run(|| dial_within(to, DEADLINE));
            let mut call = call.expect("an answer");
            let tap = pods[1].run(|| Tap::at(at));
            for _ in 0..3 {
                assert!(call.echoes("before"), "{to}");
                tap.send_astray(call.seen);
                assert!(call.echoes("after"), "{to}: the connection is cut off");
            }
        }
    });
}

/// New connections by TCP and UDP, from outside and from a guest, all the time; and where they go.
fn traffic(scene: &Scene<'_>, pods: &[Pod; 2]) -> (Traffic, Vec<SocketAddr>) {
    let mut traffic = Traffic::default();
    for (pod, tag) in pods.iter().zip(["a", "c"]) {
        pod.run(|| traffic.watch(format!("pod {tag}")));
    }
    scene.world.node.run(|| traffic.watch("the node"));
    scene.world.other.run(|| traffic.watch("the other node"));
    let node_port = scene.world.node.addresses().at(NODE_PORT);
    let cluster = Scene::web().at(80);
    let all = [node_port, cluster].concat();
    for to in &all {
        ["a", "c"].into_iter().for_each(|tag| traffic.joins(*to, tag));
    }
    for (from, to) in [(&*scene.client, node_port), (&*scene.guest, cluster)] {
        from.run(|| {
            for to in to {
                traffic.dial(Way::Tcp, to);
                traffic.dial(Way::Unconnected, to);
            }
        });
    }
    (traffic, all)
}

#[test]
fn an_agent_restarts_under_traffic() {
    packets::run("packets-restart", PODS, |scene| {
        let (pods, endpoints) = pods(scene);
        scene.put(&Scene::web(), &endpoints);
        let (traffic, _) = traffic(scene, &pods);
        traffic.goes_on(5);
        let ends: [fn(Agent<'_>); 2] =
            [|agent| assert_eq!(agent.stop().code(), Some(0)), |agent| agent.kill9()];
        for end in ends {
            end(scene.world.take_agent());
            traffic.goes_on(10);
            scene.world.start_agent();
            // It finds what it wants: nothing is written, so nothing can come between.
            eventually("the packet path", DEADLINE, || scene.said()["state"] == "on");
            assert_eq!(scene.said()["changes"], 0, "{}", scene.said());
            scene.settle();
            traffic.goes_on(10);
        }
        traffic.expect_no_complaint();
    });
}

/// Nothing is lost that had a live endpoint, and who has left gets nothing new.
#[test]
fn endpoints_change_while_packets_flow() {
    packets::run("packets-flow", PODS, |scene| {
        let (pods, endpoints) = pods(scene);
        scene.put(&Scene::web(), &endpoints);
        let (traffic, all) = traffic(scene, &pods);
        for turn in 0..12 {
            let (stays, goes) = (turn % 2, ["c", "a"][turn % 2]);
            scene.put(&Scene::web(), &endpoints[stays..=stays]);
            let gone = Instant::now();
            all.iter().for_each(|to| traffic.leaves(*to, goes, gone));
            traffic.goes_on(3);
            all.iter().for_each(|to| traffic.joins(*to, goes));
            scene.put(&Scene::web(), &endpoints);
            traffic.goes_on(3);
        }
        traffic.expect_no_complaint();
    });
}

/// The socket keeps its port, so connection tracking takes its datagrams for the old flow's.
#[track_caller]
fn udp_follows(scene: &Scene<'_>, from: &Place, to: SocketAddr, endpoints: &[Endpoint; 2]) {
    let [a, c] = endpoints;
    let socket = from.run(|| {
        let socket = udp(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
        socket.connect(to).expect("a UDP socket connects");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        socket
    });
    let becomes = |tag: &str| {
        eventually(&format!("{tag} to answer {} at {to}", from.name()), DEADLINE, || {
            ask_connected(&socket).is_ok_and(|reply| reply.tag == tag)
        });
    };
    let refused = || {
        eventually(&format!("{} to be refused at {to}", from.name()), DEADLINE, || {
            ask_connected(&socket)
                .is_err_and(|error| REFUSALS.contains(&error.raw_os_error().unwrap_or_default()))
        });
    };
    scene.put(&Scene::web(), std::slice::from_ref(a));
    becomes("a");
    // The old one would go on answering.
    scene.put(&Scene::web(), std::slice::from_ref(c));
    becomes("c");
    scene.put(&Scene::web(), &[]);
    refused();
    scene.put(&Scene::web(), std::slice::from_ref(a));
    becomes("a");
    // One that ends, but serves, is not taken away from those who have it.
    scene.put(&Scene::web(), &[a.clone().terminating(), c.clone()]);
    // Whatever it still had to read was asked before.
    socket.set_read_timeout(Some(DEADLINE * patience())).expect("a timeout");
    for _ in 0..20 {
        let tag = ask_connected(&socket).map(|reply| reply.tag);
        assert_eq!(tag.ok().as_deref(), Some("a"), "{} at {to}", from.name());
    }
}

#[test]
fn udp_server_pods_cycle_for_other_hosts() {
    packets::run("packets-udp-cycle", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        for to in scene.doors() {
            udp_follows(scene, &scene.client, to, &endpoints);
        }
    });
}

#[test]
fn udp_server_pods_cycle_for_guests_and_the_node() {
    packets::run("packets-udp-guest", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        for to in Scene::web().at(80) {
            udp_follows(scene, &scene.guest, to, &endpoints);
            udp_follows(scene, &scene.stranger, to, &endpoints);
        }
    });
}

/// What was sent before there was a service was somebody else's, for connection tracking.
#[test]
fn udp_clients_that_were_there_before_the_service() {
    packets::run("packets-udp-early", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        for to in scene.world.node.addresses().at(NODE_PORT) {
            let socket = scene.client.run(|| {
                let socket = udp(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
                socket.connect(to).expect("a UDP socket connects");
                socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
                socket
            });
            for _ in 0..3 {
                ask_connected(&socket).expect_err("nobody is there");
            }
            scene.put(&Scene::web(), &endpoints);
            eventually("an answer", DEADLINE, || ask_connected(&socket).is_ok());
            scene.world.remove(&Scene::web());
            scene.settle();
        }
    });
}

/// A socket of the node that is translated when it connects needs none of this, and gets none.
#[test]
fn sockets_of_the_node_are_translated_as_before() {
    packets::run("packets-sockets", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&Scene::web(), &endpoints);
        let pod = scene.world.node.pod("pod");
        for to in Scene::web().at(80) {
            for ways in [TCP, UDP] {
                reaches(&pod, ways, [to], &["a", "c"]);
                let asked = pod.ask(ways[0], to).expect("an answer");
                assert_eq!(asked.seen, asked.local, "nobody has rewritten its address");
            }
        }
    });
}

/// However fast endpoints change, flows end up at one that serves.
#[test]
fn udp_follows_many_changes_in_a_row() {
    packets::run("packets-udp-many", PODS, |scene| {
        let (_pods, endpoints) = pods(scene);
        scene.put(&Scene::web(), &endpoints[..1]);
        let sockets: Vec<_> = scene
            .doors()
            .into_iter()
            .map(|to| {
                scene.client.run(|| {
                    let socket = udp(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
                    socket.connect(to).expect("a UDP socket connects");
                    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
                    socket
                })
            })
            .collect();
        for turn in 1..=60 {
            scene.world.put(&Scene::web(), &endpoints[turn % 2..=turn % 2]);
            let socket = &sockets[turn % sockets.len()];
            // Whoever answers, or nobody: the flow is there.
            drop(ask_connected(socket));
        }
        scene.world.put(&Scene::web(), &endpoints[1..]);
        for socket in &sockets {
            eventually("the last endpoint to answer", DEADLINE, || {
                ask_connected(socket).is_ok_and(|reply| reply.tag == "c")
            });
        }
    });
}
