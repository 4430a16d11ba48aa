//! What packets find: which list, and whose address the backends see.

use super::*;
use crate::source::kubernetes::cluster::Pods;

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Pod,
    Node,
    Outside,
}

/// `10.1.0.1+10.2.0.1 masqueraded`: where a packet for an address may go.
fn decided(services: &Services, address: &str, from: From, pods_known: bool) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let found = services.values().find_map(|service| {
        let mut frontends = service.frontends.iter();
        let (_, exposure) = frontends.find(|(frontend, _)| frontend.address == address)?;
        Some((service, exposure))
    });
    let (service, exposure) = found.unwrap();
    let passage = exposure.passage().unwrap();
    let pod = from == From::Pod && pods_known;
    let reach = if pod || from == From::Node { exposure.reach } else { passage.outside };
    let masqueraded = match passage.masquerade {
        Masquerade::Never => false,
        Masquerade::UnlessPod => !pod,
        Masquerade::IfLocal => from == From::Node,
        Masquerade::Always => true,
    };
    let ready = service.backends_of(true, reach).filter(|(_, b)| b.state == AdminState::Ready);
    let ips: Vec<_> = ready.map(|(address, _)| address.ip().to_string()).collect();
    let none = match reach {
        Reach::Cluster => service.no_backend,
        Reach::Node => service.no_node_backend,
    };
    match (ips.is_empty(), none) {
        (true, none) => format!("{none:?}").to_lowercase(),
        (false, _) => format!("{}{}", ips.join("+"), if masqueraded { " masqueraded" } else { "" }),
    }
}

type Services = BTreeMap<ServiceName, Arc<model::Service>>;

fn services(settings: Settings, spec: Value, slices: &[Value]) -> Services {
    let mut object = service("a", spec);
    object["spec"]["type"] = json!("LoadBalancer");
    object["spec"]["ports"] = json!([{ "port": 80, "nodePort": 30080 }]);
    object["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.1" }] } });
    let mut lab = lab(settings);
    lab.put(&object);
    for slice in slices {
        lab.put(slice);
    }
    lab.cluster.snapshot().unwrap().services.clone()
}

/// One endpoint here, one elsewhere.
fn both() -> Value {
    let mut slice = slice("a", "4", "10.1.0.1 10.2.0.1");
    slice["endpoints"][0]["nodeName"] = json!("here");
    slice["endpoints"][1]["nodeName"] = json!("there");
    slice
}

const CLUSTER: &str = "10.96.0.1:80";
const NODE: &str = "192.0.2.1:30080";
const BALANCER: &str = "203.0.113.1:80";

#[test]
fn the_masquerade_matrix() {
    const BOTH: &str = "10.1.0.1+10.2.0.1";
    const HERE: &str = "10.1.0.1";
    let m = |ips: &str| format!("{ips} masqueraded");
    // pod, node, outside: to the cluster address, then to the others.
    for (internal, external, expected) in [
        ("Cluster", "Cluster", [BOTH.into(), m(BOTH), m(BOTH), m(BOTH), m(BOTH), m(BOTH)]),
        ("Cluster", "Local", [BOTH.into(), m(BOTH), m(BOTH), BOTH.into(), m(BOTH), HERE.into()]),
        ("Local", "Cluster", [HERE.into(), m(HERE), m(HERE), m(BOTH), m(BOTH), m(BOTH)]),
        ("Local", "Local", [HERE.into(), m(HERE), m(HERE), BOTH.into(), m(BOTH), HERE.into()]),
    ] {
        let spec = json!({ "internalTrafficPolicy": internal, "externalTrafficPolicy": external });
        let found = services(settings(), spec, &[both()]);
        let from = [From::Pod, From::Node, From::Outside];
        let to_cluster = from.map(|from| decided(&found, CLUSTER, from, true));
        for other in [NODE, BALANCER] {
            let to_other = from.map(|from| decided(&found, other, from, true));
            let all = [to_cluster.clone(), to_other].concat();
            assert_eq!(all, expected, "{internal} {external} {other}");
        }
    }
}

#[test]
fn pods_that_are_not_known_are_others() {
    let settings = Settings { pods: Pods::Unknown, ..settings() };
    let spec = json!({ "externalTrafficPolicy": "Local" });
    let found = services(settings, spec, &[both()]);
    for from in [From::Pod, From::Node, From::Outside] {
        assert_eq!(decided(&found, CLUSTER, from, false), "10.1.0.1+10.2.0.1", "{from:?}");
    }
    assert_eq!(decided(&found, NODE, From::Pod, false), "10.1.0.1");
}

#[test]
fn all_may_be_masqueraded() {
    let settings = Settings { masquerade_all: true, ..settings() };
    let found = services(settings, json!({}), &[both()]);
    assert_eq!(decided(&found, CLUSTER, From::Pod, true), "10.1.0.1+10.2.0.1 masqueraded");
}

#[test]
fn without_endpoints_here_or_anywhere() {
    let spec = json!({ "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local" });
    let mut elsewhere = slice("a", "4", "10.2.0.1");
    elsewhere["endpoints"][0]["nodeName"] = json!("there");
    let found = services(settings(), spec.clone(), &[elsewhere]);
    assert_eq!(decided(&found, CLUSTER, From::Outside, true), "unreachable");
    assert_eq!(decided(&found, NODE, From::Outside, true), "unreachable");
    assert_eq!(decided(&found, NODE, From::Pod, true), "10.2.0.1", "the short way");
    assert_eq!(decided(&found, NODE, From::Node, true), "10.2.0.1 masqueraded");
    let found = services(settings(), spec, &[]);
    for address in [CLUSTER, NODE, BALANCER] {
        for from in [From::Pod, From::Node, From::Outside] {
            assert_eq!(decided(&found, address, from, true), "refuse", "{address} {from:?}");
        }
    }
}

#[test]
fn who_may_use_a_balancer() {
    let spec = json!({ "loadBalancerSourceRanges": ["198.51.100.0/24", "192.0.2.0/24"] });
    let found = services(settings(), spec, &[both()]);
    let service = found.values().next().unwrap();
    let restricted = |address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        let frontend = Frontend { address, protocol: Protocol::Tcp };
        let exposure = service.frontends[&frontend];
        (exposure.is_for_sockets(), exposure.passage().unwrap().restricted)
    };
    assert_eq!(restricted(BALANCER), (false, true));
    assert_eq!(restricted(NODE), (true, false));
    // This node, 192.0.2.1, is among them, so it may also come from the balancer's address.
    let ranges: Vec<_> = service.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["198.51.100.0/24", "192.0.2.0/24", "203.0.113.1/32"]);
}
