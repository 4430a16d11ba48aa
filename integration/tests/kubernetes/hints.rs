//! Topology hints: endpoints that are meant for zones or nodes.

use integration::kubernetes::{NEAR, Svc, TCP, UDP, endpoint, node_in, reaches, run};
use integration::pods::Way;
use integration::wait::eventually;
use std::time::Duration;

#[test]
fn hints_for_zones() {
    run("k8s-zones", |world| {
        let web = Svc::new("web", 10).tcp_and_udp(80, 8080).node_port(30080);
        let (a, b) = (world.pod("a", 8080), world.pod("b", 8080));
        let (c, client) = (world.far_pod("c", 8080), world.node.pod("client"));
        let hinted = [
            endpoint(&a).for_zones(&["z1"]),
            endpoint(&b).for_zones(&["z2"]),
            endpoint(&c).for_zones(&["z1", "z2"]),
        ];
        world.put(&web, &hinted);
        for from in [&*client, &world.node] {
            reaches(from, TCP, web.at(80), &["a", "c"]);
            reaches(from, UDP, web.at(80), &["a", "c"]);
            reaches(from, TCP, world.node.addresses().at(30080), &["a", "c"]);
        }
        // The node moves.
        world.api.put(node_in(&world.node, "z2"));
        eventually("the other zone's endpoints", Duration::from_secs(20), || {
            client.ask(Way::Tcp, web.at(80)[0]).expect("an answer").tag == "b"
        });
        reaches(&client, TCP, web.at(80), &["b", "c"]);
        // To a zone that nobody is meant for.
        world.api.put(node_in(&world.node, "z3"));
        eventually("everybody's endpoints", Duration::from_secs(20), || {
            client.ask(Way::Tcp, web.at(80)[0]).expect("an answer").tag == "a"
        });
        reaches(&client, TCP, web.at(80), &["a", "b", "c"]);
        world.api.put(node_in(&world.node, "z1"));
        eventually("the first zone's endpoints", Duration::from_secs(20), || {
            let service = world.agent().service("default/web:tcp");
            service.frontends.iter().all(|frontend| frontend.usable == 2)
        });
        // One without hints makes those of the others void.
        let [one, two, _] = hinted;
        world.put(&web, &[one, two, endpoint(&c)]);
        reaches(&client, TCP, web.at(80), &["a", "b", "c"]);
    });
}

#[test]
fn hints_for_nodes() {
    run("k8s-node-hints", |world| {
        let web = Svc::new("web", 10).tcp_and_udp(80, 8080);
        let (a, b) = (world.pod("a", 8080), world.pod("b", 8080));
        let (c, client) = (world.far_pod("c", 8080), world.node.pod("client"));
        // Nodes come before zones.
        let hinted = [
            endpoint(&a).for_nodes(&[NEAR.0]).for_zones(&["z1"]),
            endpoint(&b).for_nodes(&["far"]).for_zones(&["z1"]),
            endpoint(&c).for_nodes(&["far"]).for_zones(&["z1"]),
        ];
        world.put(&web, &hinted);
        for from in [&*client, &world.node] {
            reaches(from, TCP, web.at(80), &["a"]);
            reaches(from, UDP, web.at(80), &["a"]);
        }
        // Once the one for this node is not ready, the zone decides.
        let [one, two, three] = hinted;
        world.put(&web, &[one.clone().unready(), two, three.clone()]);
        reaches(&client, TCP, web.at(80), &["b", "c"]);
        // The same if one is meant for no node: those of the others are not complete.
        let elsewhere = endpoint(&c).for_nodes(&["far"]).for_zones(&["z2"]);
        world.put(&web, &[one, endpoint(&b).for_zones(&["z1"]), elsewhere]);
        reaches(&client, TCP, web.at(80), &["a", "b"]);
        reaches(&client, UDP, web.at(80), &["a", "b"]);
        // And if, beside that, one is meant for no zone, nothing is left to decide by.
        let (zoned, noded) = (endpoint(&a).for_zones(&["z1"]), endpoint(&b).for_nodes(&["far"]));
        world.put(&web, &[zoned, noded, three]);
        reaches(&client, TCP, web.at(80), &["a", "b", "c"]);
    });
}
