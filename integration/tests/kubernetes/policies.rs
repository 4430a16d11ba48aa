//! Who is refused, and how; endpoints of this node only.

use integration::kubernetes::{
    Endpoint, Svc, TCP, UDP, World, endpoint, reaches, refused, run, unreachable,
};
use integration::pods::{Place, Pod};
use integration::server::Kind;
use serde_json::json;

/// The one way to be refused, from wherever and however one asks: ECONNREFUSED, at once.
#[track_caller]
fn is_refused(world: &World<'_>, client: &Pod, service: &Svc) {
    let node_port = world.node.addresses().at(30080);
    for from in [&**client, &world.node] {
        for ways in [TCP, UDP] {
            refused(from, ways, service.at(80));
            refused(from, ways, node_port);
        }
    }
}

fn service() -> Svc {
    Svc::new("web", 10).tcp_and_udp(80, 8080).node_port(30080)
}

fn local() -> Svc {
    service().with("internalTrafficPolicy", json!("Local"))
}

#[test]
fn rejected_when_no_endpoints_exist() {
    run("k8s-none", |world| {
        let client = world.node.pod("client");
        // Without any slice, and with slices without endpoints.
        world.apply([service().object()]);
        is_refused(world, &client, &service());
        world.put(&service(), &[]);
        is_refused(world, &client, &service());
        // For want of endpoints anywhere it is no different with policies.
        let both = local().with("externalTrafficPolicy", json!("Local"));
        world.put(&both, &[]);
        is_refused(world, &client, &both);
        let a = world.pod("a", 8080);
        world.put(&service(), &[endpoint(&a)]);
        reaches(&client, TCP, service().at(80), &["a"]);
    });
}

/// An evicted pod stays in the API, and its endpoint goes or is neither ready nor serving.
#[test]
fn rejected_for_evicted_pods() {
    run("k8s-evicted", |world| {
        let (a, client) = (world.pod("a", 8080), world.node.pod("client"));
        world.put(&service(), &[endpoint(&a)]);
        reaches(&client, TCP, service().at(80), &["a"]);
        world.put(&service(), &[endpoint(&a).unready()]);
        is_refused(world, &client, &service());
        // Terminating, and no longer serving.
        world.put(&service(), &[endpoint(&a).conditions(false, false, true)]);
        is_refused(world, &client, &service());
        // Serving without being ready or terminating is not enough.
        world.put(&service(), &[endpoint(&a).conditions(false, true, false)]);
        is_refused(world, &client, &service());
        drop(a);
        world.put(&service(), &[]);
        is_refused(world, &client, &service());
    });
}

/// Endpoints on both nodes, then on the other one only, for this client.
#[track_caller]
fn stays_on_the_node(world: &World<'_>, from: &Place, here: &Endpoint, there: &Endpoint) {
    world.put(&local(), &[here.clone(), there.clone()]);
    reaches(from, TCP, local().at(80), &["here"]);
    reaches(from, UDP, local().at(80), &["here"]);
    // The policy is not the NodePort's.
    let node_port = world.node.addresses().at(30080);
    reaches(from, TCP, node_port, &["here", "there"]);
    world.put(&local(), std::slice::from_ref(there));
    unreachable(from, TCP, local().at(80));
    unreachable(from, UDP, local().at(80));
    reaches(from, TCP, node_port, &["there"]);
    // Whatever its policy said before.
    world.put(&service(), std::slice::from_ref(there));
    reaches(from, TCP, local().at(80), &["there"]);
}

#[test]
fn internal_traffic_policy_local_pod_to_pod() {
    run("k8s-local-pod", |world| {
        let (here, there) = (world.pod("here", 8080), world.far_pod("there", 8080));
        let client = world.node.pod("client");
        stays_on_the_node(world, &client, &endpoint(&here), &endpoint(&there));
    });
}

#[test]
fn internal_traffic_policy_local_host_network_pod_to_pod() {
    run("k8s-local-host", |world| {
        let (here, there) = (world.pod("here", 8080), world.far_pod("there", 8080));
        let client = world.node.host_pod("client");
        stays_on_the_node(world, &client, &endpoint(&here), &endpoint(&there));
    });
}

#[test]
fn internal_traffic_policy_local_pod_and_node_to_host_network_pod() {
    run("k8s-local-to-host", |world| {
        let (here, there) = (world.node.host_pod("here"), world.other.host_pod("there"));
        for pod in [&here, &there] {
            pod.serve(Kind::Tcp, 8080);
            pod.serve(Kind::Udp, 8080);
        }
        let client = world.node.pod("client");
        for from in [&*client, &world.node] {
            stays_on_the_node(world, from, &endpoint(&here), &endpoint(&there));
        }
    });
}

/// An endpoint without a node is on no node.
#[test]
fn an_endpoint_without_a_node_is_not_local() {
    run("k8s-nodeless", |world| {
        let (a, client) = (world.pod("a", 8080), world.node.pod("client"));
        let nodeless = Endpoint::at(a.addresses().both(), "");
        world.put(&local(), &[nodeless]);
        unreachable(&client, TCP, local().at(80));
        reaches(&client, TCP, world.node.addresses().at(30080), &["a"]);
    });
}
