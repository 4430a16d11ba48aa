//! Endpoints that are going, or that are published before they are ready.

use integration::kubernetes::{Svc, TCP, UDP, World, endpoint, reaches, refused, run, unreachable};
use integration::pods::Pod;
use serde_json::{Value, json};

fn service(policy: Option<&str>) -> Svc {
    let web = Svc::new("web", 10).tcp_and_udp(80, 8080).node_port(30080);
    policy.into_iter().fold(web, |web, policy| web.with(policy, json!("Local")))
}

/// A pod on this node, one on the other, and a client.
fn pods(world: &World<'_>) -> [Pod; 3] {
    [world.pod("a", 8080), world.far_pod("c", 8080), world.node.pod("client")]
}

#[test]
fn falls_back_to_terminating_endpoints_internal_cluster() {
    run("k8s-term-itc", |world| {
        let [a, c, client] = pods(world);
        let web = service(None);
        let check = |endpoints: &[_], who: &[&str]| {
            world.put(&web, endpoints);
            for from in [&*client, &world.node] {
                reaches(from, TCP, web.at(80), who);
                reaches(from, UDP, web.at(80), who);
            }
        };
        // As long as one is ready, the others' time is over.
        check(&[endpoint(&a).terminating(), endpoint(&c)], &["c"]);
        check(&[endpoint(&a).terminating(), endpoint(&c).terminating()], &["a", "c"]);
        check(&[endpoint(&a).terminating(), endpoint(&c).unready()], &["a"]);
        world.put(&web, &[endpoint(&a).conditions(false, false, true)]);
        refused(&client, TCP, web.at(80));
    });
}

#[test]
fn falls_back_to_terminating_endpoints_internal_local() {
    run("k8s-term-itl", |world| {
        let [a, c, client] = pods(world);
        let web = service(Some("internalTrafficPolicy"));
        let b = world.pod("b", 8080);
        let check = |endpoints: &[_], who: &[&str]| {
            world.put(&web, endpoints);
            for from in [&*client, &world.node] {
                reaches(from, TCP, web.at(80), who);
                reaches(from, UDP, web.at(80), who);
            }
        };
        check(&[endpoint(&a).terminating(), endpoint(&b), endpoint(&c)], &["b"]);
        // One here that is going is nearer than one elsewhere that is not.
        check(&[endpoint(&a).terminating(), endpoint(&b).unready(), endpoint(&c)], &["a"]);
        world.put(&web, &[endpoint(&a).unready(), endpoint(&c).terminating()]);
        unreachable(&client, TCP, web.at(80));
    });
}

/// Clients on the node get all endpoints by its NodePorts; they are the node's own traffic.
#[test]
fn falls_back_to_terminating_endpoints_external_cluster() {
    run("k8s-term-etc", |world| external(world, &service(None)));
}

#[test]
fn falls_back_to_terminating_endpoints_external_local() {
    run("k8s-term-etl", |world| external(world, &service(Some("externalTrafficPolicy"))));
}

#[track_caller]
fn external(world: &World<'_>, web: &Svc) {
    let [a, c, client] = pods(world);
    let node_port = world.node.addresses().at(30080);
    let check = |endpoints: &[_], who: &[&str]| {
        world.put(web, endpoints);
        for from in [&*client, &world.node] {
            for to in [node_port, web.at(80)] {
                reaches(from, TCP, to, who);
                reaches(from, UDP, to, who);
            }
        }
    };
    check(&[endpoint(&a), endpoint(&c)], &["a", "c"]);
    check(&[endpoint(&c)], &["c"]);
    check(&[endpoint(&a).terminating(), endpoint(&c)], &["c"]);
    check(&[endpoint(&a).terminating(), endpoint(&c).unready()], &["a"]);
    check(&[endpoint(&c).terminating()], &["c"]);
    world.put(web, &[endpoint(&c).conditions(false, false, true)]);
    refused(&client, TCP, node_port);
}

/// `publishNotReadyAddresses` is for whoever writes the slices: all endpoints are ready then, also
/// while they terminate. By cluster address and by this node's NodePort.
#[test]
fn terminating_and_unready_endpoints_that_are_published() {
    run("k8s-publish", |world| {
        let [a, c, client] = pods(world);
        let web = service(None).with("publishNotReadyAddresses", Value::Bool(true));
        let published = [
            endpoint(&a).conditions(true, false, true),
            endpoint(&c).conditions(true, false, false),
        ];
        world.put(&web, &published);
        for from in [&*client, &world.node] {
            for to in [web.at(80), world.node.addresses().at(30080)] {
                reaches(from, TCP, to, &["a", "c"]);
                reaches(from, UDP, to, &["a", "c"]);
            }
        }
    });
}

/// An endpoint that becomes ready, is published unready, and goes.
#[test]
fn endpoints_for_unready_pods() {
    run("k8s-unready", |world| {
        let [a, _c, client] = pods(world);
        let web = service(None);
        world.put(&web, &[endpoint(&a).unready()]);
        refused(&client, TCP, web.at(80));
        // What is not said of an endpoint is in its favour.
        let [v4, v6] = web.slices(&[endpoint(&a)]).map(|mut slice| {
            slice["endpoints"][0]["conditions"] = json!({});
            slice
        });
        world.apply([v4, v6]);
        reaches(&client, TCP, web.at(80), &["a"]);
        world.put(&web, &[endpoint(&a).conditions(true, false, false)]);
        reaches(&client, UDP, web.at(80), &["a"]);
        world.put(&web, &[endpoint(&a).unready()]);
        refused(&client, UDP, web.at(80));
    });
}
