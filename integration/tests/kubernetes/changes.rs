//! Services that come, go, change their type, or are somebody else's.

use integration::kubernetes::{Svc, TCP, UDP, World, endpoint, nobody, reaches, refused, run};
use integration::pods::{Place, Pod};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A service whose name leads to another name; it has no addresses.
fn external_name(service: &Svc) -> Value {
    let no_address = json!(null);
    service
        .clone()
        .without_ports()
        .with("type", json!("ExternalName"))
        .with("externalName", json!("example.com"))
        .with("clusterIP", no_address.clone())
        .with("clusterIPs", no_address.clone())
        .with("ipFamilies", no_address)
        .object()
}

#[test]
fn services_go_up_and_down() {
    run("k8s-up-down", |world| {
        let names = [("up-1", 11), ("up-2", 12), ("up-3", 13)];
        let [one, two, three] = names.map(|(name, host)| Svc::new(name, host).tcp("", 80, 8080));
        let (a, b) = (world.pod("a", 8080), world.pod("b", 8080));
        let client = world.node.pod("client");
        let clients: [&Place; 2] = [&client, &world.node];
        world.put(&one, &[endpoint(&a)]);
        world.put(&two, &[endpoint(&b)]);
        for from in clients {
            reaches(from, TCP, one.at(80), &["a"]);
            reaches(from, TCP, two.at(80), &["b"]);
        }
        world.remove(&two);
        for from in clients {
            reaches(from, TCP, one.at(80), &["a"]);
            nobody(from, TCP, two.at(80));
        }
        world.put(&three, &[endpoint(&b)]);
        for from in clients {
            reaches(from, TCP, one.at(80), &["a"]);
            nobody(from, TCP, two.at(80));
            reaches(from, TCP, three.at(80), &["b"]);
        }
    });
}

/// With the same addresses: whatever was kept of the first must not speak for the second.
#[test]
fn a_service_works_after_it_has_been_recreated() {
    run("k8s-recreated", |world| {
        let web = Svc::new("web", 10).tcp_and_udp(80, 8080).node_port(30080);
        let (a, c) = (world.pod("a", 8080), world.far_pod("c", 8080));
        let client = world.node.pod("client");
        let all: Vec<SocketAddr> =
            web.at(80).into_iter().chain(world.node.addresses().at(30080)).collect();
        for (pod, who) in [(&a, "a"), (&c, "c"), (&a, "a")] {
            world.put(&web, &[endpoint(pod)]);
            for from in [&*client, &world.node] {
                reaches(from, TCP, all.clone(), &[who]);
                reaches(from, UDP, all.clone(), &[who]);
            }
            world.remove(&web);
            nobody(&client, TCP, all.clone());
        }
        // Its slices may outlive it, and be there before it.
        world.put(&web, &[endpoint(&a)]);
        world.api.delete("services", "default", "web").expect("it is there");
        world.settle();
        nobody(&client, TCP, all.clone());
        world.apply([web.object()]);
        reaches(&client, TCP, all, &["a"]);
    });
}

/// A service of type `ClusterIP`, and the two pods behind it.
fn service(world: &World<'_>) -> (Svc, Pod, Pod) {
    let web = Svc::new("web", 10).tcp_and_udp(80, 8080);
    (web, world.pod("a", 8080), world.far_pod("c", 8080))
}

#[test]
fn type_changes_from_external_name_to_cluster_ip() {
    run("k8s-name-cluster", |world| {
        let (web, a, c) = service(world);
        world.apply([external_name(&web)]);
        nobody(&a, TCP, web.at(80));
        world.put(&web, &[endpoint(&a), endpoint(&c)]);
        for from in [&*a, &world.node] {
            reaches(from, TCP, web.at(80), &["a", "c"]);
            reaches(from, UDP, web.at(80), &["a", "c"]);
        }
    });
}

#[test]
fn type_changes_from_cluster_ip_to_external_name() {
    run("k8s-cluster-name", |world| {
        let (web, a, c) = service(world);
        world.put(&web, &[endpoint(&a), endpoint(&c)]);
        reaches(&a, TCP, web.at(80), &["a", "c"]);
        world.apply([external_name(&web)]);
        for from in [&*a, &world.node] {
            nobody(from, TCP, web.at(80));
        }
    });
}

#[test]
fn type_changes_from_external_name_to_node_port() {
    run("k8s-name-node", |world| {
        let (web, a, c) = service(world);
        let node_port = world.node.addresses().at(30080);
        world.apply([external_name(&web)]);
        nobody(&a, TCP, node_port);
        world.put(&web.clone().node_port(30080), &[endpoint(&a), endpoint(&c)]);
        for from in [&*a, &world.node] {
            reaches(from, TCP, node_port, &["a", "c"]);
            reaches(from, UDP, node_port, &["a", "c"]);
            reaches(from, TCP, web.at(80), &["a", "c"]);
        }
    });
}

#[test]
fn type_changes_from_node_port_to_external_name() {
    run("k8s-node-name", |world| {
        let (web, a, c) = service(world);
        let node_port = world.node.addresses().at(30080);
        world.put(&web.clone().node_port(30080), &[endpoint(&a), endpoint(&c)]);
        reaches(&a, TCP, node_port, &["a", "c"]);
        // Back to a cluster address alone, then to none.
        world.put(&web, &[endpoint(&a), endpoint(&c)]);
        nobody(&a, TCP, node_port);
        reaches(&a, TCP, web.at(80), &["a", "c"]);
        world.apply([external_name(&web)]);
        for from in [&*a, &world.node] {
            nobody(from, TCP, node_port);
            nobody(from, TCP, web.at(80));
        }
    });
}

/// The API server is asked for those without the label only, so that it need not send the others.
#[track_caller]
fn is_not_asked_for(world: &World<'_>, resource: &str, label: &str) {
    let requests = world.api.requests();
    let mut asked = requests.iter().filter(|request| request.contains(&format!("/{resource}?")));
    let selector = format!("labelSelector=%21{}", label.replace('/', "%2F"));
    assert!(asked.clone().count() > 0, "{requests:?}");
    assert!(asked.all(|request| request.contains(&selector)), "{selector}: {requests:?}");
}

#[test]
fn a_service_with_a_proxy_name_is_somebody_elses() {
    run("k8s-proxy-name", |world| {
        const LABEL: &str = "service.kubernetes.io/service-proxy-name";
        let (web, a, _c) = service(world);
        let mut labelled = web.object();
        labelled["metadata"]["labels"] = json!({ LABEL: "another" });
        world.apply([labelled].into_iter().chain(web.slices(&[endpoint(&a)])));
        nobody(&a, TCP, web.at(80));
        is_not_asked_for(world, "services", LABEL);
        for _ in 0..2 {
            world.label("services", "web", LABEL, None);
            world.settle();
            for from in [&*a, &world.node] {
                reaches(from, TCP, web.at(80), &["a"]);
                reaches(from, UDP, web.at(80), &["a"]);
            }
            world.label("services", "web", LABEL, Some("another"));
            world.settle();
            for from in [&*a, &world.node] {
                nobody(from, TCP, web.at(80));
            }
        }
    });
}

/// The label is the service's; its slices inherit it, and are not looked at any more.
#[test]
fn a_service_that_becomes_headless_has_no_endpoints() {
    run("k8s-headless", |world| {
        const LABEL: &str = "service.kubernetes.io/headless";
        let (web, a, _c) = service(world);
        world.put(&web, &[endpoint(&a)]);
        is_not_asked_for(world, "endpointslices", LABEL);
        for _ in 0..2 {
            reaches(&a, TCP, web.at(80), &["a"]);
            let label = |value| {
                world.label("services", "web", LABEL, value);
                for slice in ["web-ipv4", "web-ipv6"] {
                    world.label("endpointslices", slice, LABEL, value);
                }
                world.settle();
            };
            label(Some(""));
            for from in [&*a, &world.node] {
                refused(from, TCP, web.at(80));
                refused(from, UDP, web.at(80));
            }
            label(None);
        }
        reaches(&a, UDP, web.at(80), &["a"]);
        // One that never had an address is no service of ours.
        let headless = Svc::new("headless", 11).tcp("", 80, 8080);
        let none =
            headless.clone().with("clusterIP", json!("None")).with("clusterIPs", json!(["None"]));
        world.put(&none, &[endpoint(&a)]);
        nobody(&a, TCP, headless.at(80));
    });
}
