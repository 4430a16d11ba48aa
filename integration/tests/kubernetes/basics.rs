//! Services with a cluster address: who is reached, from where, and seen as whom.

use integration::kubernetes::{
    Endpoint, Svc, TCP, UDP, endpoint, nobody, reaches, refused, run, unreachable,
};
use integration::pods::{Place, Way};
use integration::server::Kind;
use serde_json::json;

#[test]
fn a_basic_endpoint_is_served_from_pods() {
    run("k8s-basic", |world| {
        let web = Svc::new("web", 10).tcp_and_udp(80, 8080);
        let (a, c) = (world.pod("a", 8080), world.far_pod("c", 8080));
        let client = world.node.pod("client");
        let clients: [&Place; 3] = [&client, &a, &world.node];
        let steps: [(Vec<Endpoint>, &[&str]); 4] = [
            (vec![endpoint(&a)], &["a"]),
            (vec![endpoint(&a), endpoint(&c)], &["a", "c"]),
            (vec![endpoint(&c)], &["c"]),
            (vec![], &[]),
        ];
        for (endpoints, who) in steps {
            world.put(&web, &endpoints);
            for (from, ways) in clients.iter().flat_map(|from| [(from, TCP), (from, UDP)]) {
                if who.is_empty() {
                    refused(from, ways, web.at(80));
                } else {
                    reaches(from, ways, web.at(80), who);
                }
            }
        }
    });
}

#[test]
fn multiport_endpoints_are_served_from_pods() {
    run("k8s-multiport", |world| {
        // As in the conformance test: each port has endpoints of its own.
        let web = Svc::new("web", 10).tcp("one", 80, 100).tcp("two", 81, 101);
        let (a, b) = (world.node.pod("a"), world.node.pod("b"));
        a.serve(Kind::Tcp, 100);
        b.serve(Kind::Tcp, 101);
        let client = world.node.pod("client");
        let slices = |one: &[Endpoint], two: &[Endpoint]| {
            let only = |name: &str| {
                let [one, two] = [("one", 80, 100), ("two", 81, 101)];
                let (_, port, target) = if name == "one" { one } else { two };
                Svc::new("web", 10).tcp(name, port, target)
            };
            let one = only("one").slices_named("one-", one);
            one.into_iter().chain(only("two").slices_named("two-", two))
        };
        world.apply([web.object()].into_iter().chain(slices(&[endpoint(&a)], &[])));
        for from in [&*client, &world.node] {
            reaches(from, TCP, web.at(80), &["a"]);
            refused(from, TCP, web.at(81));
        }
        world.apply(slices(&[endpoint(&a)], &[endpoint(&b)]));
        for from in [&*client, &world.node] {
            reaches(from, TCP, web.at(80), &["a"]);
            reaches(from, TCP, web.at(81), &["b"]);
        }
        world.apply(slices(&[], &[endpoint(&b)]));
        refused(&client, TCP, web.at(80));
        reaches(&client, TCP, web.at(81), &["b"]);
    });
}

#[test]
fn a_service_is_updated_after_ports_are_added_or_deleted() {
    run("k8s-ports", |world| {
        let a = world.node.pod("a");
        a.serve_as(Kind::Tcp, 8080, "first");
        a.serve_as(Kind::Tcp, 8081, "second");
        let client = world.node.pod("client");
        let first = Svc::new("web", 10).tcp("first", 80, 8080);
        world.put(&first, &[endpoint(&a)]);
        reaches(&client, TCP, first.at(80), &["first"]);
        nobody(&client, TCP, first.at(81));
        let both = first.clone().tcp("second", 81, 8081);
        world.put(&both, &[endpoint(&a)]);
        for from in [&*client, &world.node] {
            reaches(from, TCP, both.at(80), &["first"]);
            reaches(from, TCP, both.at(81), &["second"]);
        }
        let second = first.without_ports().tcp("second", 81, 8081);
        world.put(&second, &[endpoint(&a)]);
        for from in [&*client, &world.node] {
            nobody(from, TCP, second.at(80));
            reaches(from, TCP, second.at(81), &["second"]);
        }
    });
}

#[test]
fn the_source_pod_address_is_preserved() {
    run("k8s-source", |world| {
        let web = Svc::new("web", 10).tcp_and_udp(80, 8080);
        let (a, c) = (world.pod("a", 8080), world.far_pod("c", 8080));
        let clients = [world.node.pod("client"), world.node.pod("another")];
        for server in [&a, &c] {
            world.put(&web, &[endpoint(server)]);
            for client in &clients {
                for (to, way) in web.at(80).into_iter().flat_map(|to| Way::ALL.map(|way| (to, way)))
                {
                    let asked = client.ask(way, to).expect("an answer");
                    assert_eq!(asked.tag, server.name());
                    assert_eq!(asked.seen.ip(), client.addresses().like(to), "{way:?} {to}");
                }
            }
        }
    });
}

#[test]
fn pods_hairpin_back_to_themselves() {
    run("k8s-hairpin", |world| {
        let web = Svc::new("web", 10).tcp_and_udp(80, 8080).node_port(30080);
        let a = world.pod("a", 8080);
        world.put(&web, &[endpoint(&a)]);
        let node_port = world.node.addresses().at(30080);
        for to in web.at(80).into_iter().chain(node_port) {
            for way in Way::ALL {
                let asked = a.ask(way, to).expect("an answer");
                assert_eq!((asked.tag.as_str(), asked.peer), ("a", to));
                assert_eq!(asked.seen.ip(), a.addresses().like(to), "{way:?} {to}");
            }
        }
    });
}

#[test]
fn same_port_and_different_protocols() {
    run("k8s-protocols", |world| {
        let web = Svc::new("web", 10);
        let a = world.node.pod("a");
        a.serve_as(Kind::Tcp, 8080, "stream");
        a.serve_as(Kind::Udp, 8080, "datagram");
        let client = world.node.pod("client");
        world.put(&web.clone().tcp_and_udp(80, 8080), &[endpoint(&a)]);
        reaches(&client, TCP, web.at(80), &["stream"]);
        reaches(&client, UDP, web.at(80), &["datagram"]);
        // One protocol goes, then the other comes back in its place.
        world.put(&web.clone().tcp("tcp", 80, 8080), &[endpoint(&a)]);
        reaches(&client, TCP, web.at(80), &["stream"]);
        nobody(&client, &[Way::Connected], [web.at(80)[0]]);
        world.put(&web.clone().udp("udp", 80, 8080), &[endpoint(&a)]);
        nobody(&client, TCP, web.at(80));
        reaches(&client, UDP, web.at(80), &["datagram"]);
    });
}

/// Within the cluster, a load balancer's address is one more address of the service.
#[test]
fn a_load_balancers_address_is_served_inside_the_cluster() {
    run("k8s-balancer", |world| {
        let vips = ["203.0.113.10:80", "[fd00:1b::10]:80"].map(|vip| vip.parse().unwrap());
        let entry = |address: &str, mode: Option<&str>| match mode {
            Some(mode) => json!({"ip": address, "ipMode": mode}),
            None => json!({"ip": address}),
        };
        let web = |mode| {
            let ingress = [entry("203.0.113.10", mode), entry("fd00:1b::10", mode)];
            Svc::new("web", 10).tcp_and_udp(80, 8080).load_balancer(ingress)
        };
        let (a, c) = (world.pod("a", 8080), world.far_pod("c", 8080));
        let client = world.node.pod("client");
        let all = [endpoint(&a), endpoint(&c)];
        for mode in [None, Some("VIP")] {
            world.put(&web(mode), &all);
            for from in [&*client, &world.node] {
                reaches(from, TCP, vips, &["a", "c"]);
                reaches(from, UDP, vips, &["a", "c"]);
            }
        }
        world.put(&web(None), &[]);
        refused(&client, TCP, vips);
        refused(&client, UDP, vips);
        // The short-circuit: who is on this node gets all endpoints, whatever outsiders get.
        let local = web(None).with("externalTrafficPolicy", json!("Local"));
        world.put(&local, &[endpoint(&c)]);
        for from in [&*client, &world.node] {
            reaches(from, TCP, vips, &["c"]);
            reaches(from, UDP, vips, &["c"]);
        }
        // The load balancer must see this traffic itself.
        world.put(&web(Some("Proxy")), &all);
        nobody(&client, TCP, vips);
        reaches(&client, TCP, web(None).at(80), &["a", "c"]);
        // Who may come is not known before the packet has a source.
        let ranges = json!(["10.244.0.0/16", "fd00:244::/32"]);
        world.put(&web(None).with("loadBalancerSourceRanges", ranges), &all);
        nobody(&client, TCP, vips);
        reaches(&client, TCP, web(None).at(80), &["a", "c"]);
        // A range that can't be read opens nothing, in neither family.
        for ranges in [json!(["10.244.0.0/33"]), json!(["10.244.0.0/16", "fd00:244::/x"])] {
            world.put(&web(None).with("loadBalancerSourceRanges", ranges), &all);
            nobody(&client, TCP, vips);
            reaches(&client, TCP, web(None).at(80), &["a", "c"]);
        }
        // Everybody's range opens it.
        let ranges = json!(["0.0.0.0/0", "::/0"]);
        world.put(&web(None).with("loadBalancerSourceRanges", ranges), &all);
        reaches(&client, TCP, vips, &["a", "c"]);
    });
}

#[test]
fn an_external_address_that_no_node_has() {
    run("k8s-external", |world| {
        let external = ["198.51.100.7:80", "[fd00:ee::7]:80"].map(|to| to.parse().unwrap());
        let web = Svc::new("web", 10)
            .tcp_and_udp(80, 8080)
            .with("externalIPs", json!(["198.51.100.7", "fd00:ee::7"]));
        let (a, c) = (world.pod("a", 8080), world.far_pod("c", 8080));
        let client = world.node.pod("client");
        world.put(&web, &[endpoint(&a), endpoint(&c)]);
        for from in [&*client, &world.node] {
            reaches(from, TCP, external, &["a", "c"]);
            reaches(from, UDP, external, &["a", "c"]);
        }
        world.put(&web, &[]);
        refused(&client, TCP, external);
        let local = web.clone().with("externalTrafficPolicy", json!("Local"));
        world.put(&local, &[endpoint(&c)]);
        reaches(&client, TCP, external, &["c"]);
        // What holds inside the cluster does not hold there.
        let inside = web.with("internalTrafficPolicy", json!("Local"));
        world.put(&inside, &[endpoint(&c)]);
        reaches(&client, TCP, external, &["c"]);
        unreachable(&client, TCP, inside.at(80));
    });
}

/// It is nobody's mistake, it does not keep the other ports from being served, and nothing here makes the
/// kernel load its module.
#[test]
fn an_sctp_port_is_left_alone() {
    run("k8s-sctp", |world| {
        let loaded = || {
            let modules = std::fs::read_to_string("/proc/modules").unwrap_or_default();
            modules.lines().any(|line| line.starts_with("sctp "))
        };
        let before = loaded();
        let web = Svc::new("web", 10).tcp("tcp", 80, 8080).sctp("sctp", 80, 8080);
        let (a, client) = (world.pod("a", 8080), world.node.pod("client"));
        world.put(&web, &[endpoint(&a)]);
        reaches(&client, TCP, web.at(80), &["a"]);
        let only_sctp = Svc::new("sctp", 11).sctp("", 80, 8080);
        world.put(&only_sctp, &[endpoint(&a)]);
        nobody(&client, TCP, only_sctp.at(80));
        assert_eq!(world.agent().status().rejections, []);
        assert_eq!(loaded(), before);
    });
}
