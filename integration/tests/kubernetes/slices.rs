//! EndpointSlices: before their service, in parts, twice, and very large.

use integration::kubernetes::{
    Endpoint, Svc, TCP, UDP, World, endpoint, nobody, reaches, refused, run,
};
use integration::netns;
use integration::pods::Way;
use integration::server::{Backends, Kind};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

fn service() -> Svc {
    Svc::new("web", 10).tcp_and_udp(80, 8080)
}

/// How many endpoints the TCP port has, both families together.
fn backends(world: &World<'_>) -> usize {
    world.agent().service("default/web:tcp").backends.len()
}

#[test]
fn slices_come_before_their_service() {
    run("k8s-early", |world| {
        let (a, client) = (world.pod("a", 8080), world.node.pod("client"));
        world.apply(service().slices(&[endpoint(&a)]));
        nobody(&client, TCP, service().at(80));
        world.apply([service().object()]);
        for from in [&*client, &world.node] {
            reaches(from, TCP, service().at(80), &["a"]);
            reaches(from, UDP, service().at(80), &["a"]);
        }
    });
}

/// In parts, of which one is renewed while another stays; and a slice that becomes another
/// service's.
#[test]
fn slices_come_in_parts() {
    run("k8s-parts", |world| {
        let (a, b) = (world.pod("a", 8080), world.pod("b", 8080));
        let (c, client) = (world.far_pod("c", 8080), world.node.pod("client"));
        let web = service();
        let part = |part: &str, endpoints: &[Endpoint]| web.slices_named(part, endpoints);
        world.apply([web.object()].into_iter().chain(part("1-", &[endpoint(&a)])));
        reaches(&client, TCP, web.at(80), &["a"]);
        world.apply(part("2-", &[endpoint(&b), endpoint(&c)]));
        reaches(&client, TCP, web.at(80), &["a", "b", "c"]);
        reaches(&client, UDP, web.at(80), &["a", "b", "c"]);
        // One family's part at a time.
        let [v4, v6] = part("2-", &[endpoint(&c)]);
        world.apply([v4]);
        reaches(&client, TCP, [web.at(80)[0]], &["a", "c"]);
        reaches(&client, TCP, [web.at(80)[1]], &["a", "b", "c"]);
        world.apply([v6]);
        reaches(&client, TCP, web.at(80), &["a", "c"]);
        // The first part becomes another service's.
        let other = Svc::new("other", 11).tcp_and_udp(80, 8080);
        let moved = part("1-", &[endpoint(&a)]).map(|mut slice| {
            slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!("other");
            slice
        });
        world.apply([other.object()].into_iter().chain(moved));
        reaches(&client, TCP, web.at(80), &["c"]);
        reaches(&client, TCP, other.at(80), &["a"]);
    });
}

#[test]
fn an_endpoint_in_several_slices_is_one() {
    run("k8s-twice", |world| {
        let (a, c) = (world.pod("a", 8080), world.far_pod("c", 8080));
        let client = world.node.pod("client");
        let web = service();
        let put = |one: &[Endpoint], two: &[Endpoint]| {
            let slices = web.slices_named("1-", one).into_iter().chain(web.slices_named("2-", two));
            world.apply([web.object()].into_iter().chain(slices));
        };
        put(&[endpoint(&a), endpoint(&c)], &[endpoint(&a)]);
        assert_eq!(backends(world), 4);
        reaches(&client, TCP, web.at(80), &["a", "c"]);
        // While a pod moves from slice to slice, the one that does not call it terminating is right.
        put(&[endpoint(&a).terminating(), endpoint(&c)], &[endpoint(&a)]);
        reaches(&client, TCP, web.at(80), &["a", "c"]);
        put(&[endpoint(&a), endpoint(&c)], &[endpoint(&a).terminating()]);
        reaches(&client, TCP, web.at(80), &["a", "c"]);
        put(&[endpoint(&c)], &[endpoint(&a)]);
        reaches(&client, TCP, web.at(80), &["a", "c"]);
        put(&[endpoint(&c)], &[]);
        reaches(&client, TCP, web.at(80), &["c"]);
    });
}

#[test]
fn a_service_with_a_thousand_ports() {
    const PORTS: u16 = 1000;
    run("k8s-thousand", |world| {
        let a = world.node.pod("a");
        let client = world.node.pod("client");
        let asked = [0, 1, 499, 998, 999];
        for index in asked {
            a.serve_as(Kind::Tcp, 10_000 + index, &format!("port-{index}"));
        }
        let web = |ports: std::ops::Range<u16>| {
            ports.fold(Svc::new("web", 10), |web, index| {
                web.tcp(&format!("p{index}"), 1000 + index, 10_000 + index)
            })
        };
        let whole = web(0..PORTS);
        // The API takes 100 ports in a slice.
        let slices = |endpoints: &[Endpoint]| -> Vec<Value> {
            let parts = (0..PORTS).step_by(100).flat_map(|first| {
                web(first..first + 100).slices_named(&format!("{first}-"), endpoints)
            });
            parts.collect()
        };
        world.apply([whole.object()].into_iter().chain(slices(&[endpoint(&a)])));
        assert_eq!(world.agent().services().len(), usize::from(PORTS) + 1);
        for index in asked {
            for from in [&*client, &world.node] {
                reaches(from, TCP, whole.at(1000 + index), &[&format!("port-{index}")]);
            }
        }
        // Nobody listens on the pod's port.
        refused(&client, TCP, whole.at(1000 + 7));
        world.apply([web(0..10).object()]);
        assert_eq!(world.agent().services().len(), 10 + 1);
        reaches(&client, TCP, whole.at(1000), &["port-0"]);
        nobody(&client, TCP, whole.at(1000 + 999));
        world.apply(slices(&[]));
        refused(&client, TCP, whole.at(1000));
    });
}

#[test]
fn a_service_with_five_thousand_endpoints() {
    const ENDPOINTS: u16 = 5000;
    run("k8s-five-thousand", |world| {
        // A pod that has whole networks for itself, so that each endpoint answers.
        let (pod, client) = (world.node.pod("pod"), world.node.pod("client"));
        // Of both families.
        let any: SocketAddr = "[::]:8080".parse().expect("an address");
        let servers = pod.run(|| {
            netns::own_network("10.200.0.0/16");
            netns::own_network("fd00:200::/64");
            Backends::start(Kind::Tcp, [(any, "a")])
        });
        let pair = pod.addresses();
        world.node.run(|| {
            netns::add_route("10.200.0.0/16", &pair.v4.to_string());
            netns::add_route("fd00:200::/64", &pair.v6.to_string());
        });
        let at = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let v4 = Ipv4Addr::new(10, 200, high, low);
            let v6 = Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, number);
            Endpoint::at([v4.to_string(), v6.to_string()], "near")
        };
        let web = Svc::new("web", 10).tcp("tcp", 80, 8080);
        // A hundred in a slice, as the controller makes them.
        let slice = |first: u16, count: u16| {
            let endpoints: Vec<Endpoint> = (first..first + count).map(at).collect();
            web.slices_named(&format!("{first}-"), &endpoints)
        };
        let slices = (0..ENDPOINTS).step_by(100).flat_map(|first| slice(first, 100));
        world.apply([web.object()].into_iter().chain(slices));
        let service = || world.agent().service("default/web:tcp");
        let usable = || service().frontends.iter().map(|f| f.usable).collect::<Vec<_>>();
        assert_eq!(usable(), [usize::from(ENDPOINTS); 2]);
        for to in web.at(80) {
            for _ in 0..100 {
                assert_eq!(client.ask(Way::Tcp, to).expect("an answer").tag, "a");
            }
        }
        // Two hundred of ten thousand: fewer than 150 different ones by chance never happens.
        let used = service().backends.iter().filter(|backend| backend.connects > 0).count();
        assert!(used > 150, "{used} endpoints were used");
        // One goes.
        world.apply(slice(0, 99));
        assert_eq!(usable(), [usize::from(ENDPOINTS) - 1; 2]);
        drop(servers);
    });
}
