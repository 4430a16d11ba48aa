mod packets;

use super::super::cluster::tests::{Lab, listed, node, service, settings, slice};
use super::*;
use crate::source::kubernetes::cluster::{NodePortAddresses, NodePorts, Settings};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a caller on this node finds. The node has 192.0.2.1 and fd00:2::1.
fn found(spec: Value, slices: &[Value]) -> Vec<String> {
    with(settings(), service("a", spec), slices)
}

fn with(settings: Settings, service: Value, slices: &[Value]) -> Vec<String> {
    let mut lab = lab(settings);
    lab.put(&service);
    for slice in slices {
        lab.put(slice);
    }
    lab.found()
}

fn lab(settings: Settings) -> Lab {
    let mut lab = listed(settings);
    let addresses = ["127.0.0.1", "::1", "192.0.2.1", "fd00:2::1", "fe80::1"];
    let addresses = addresses.map(|text| text.parse().unwrap());
    lab.cluster.set_addresses(Arc::new(addresses.into()));
    lab.put(&node("here", "zone", &["192.0.2.1", "fd00:2::1"]));
    lab
}

fn dual(mut spec: Value) -> Value {
    let addresses = json!({
        "clusterIPs": ["10.96.0.1", "fd00:96::1"], "ipFamilies": ["IPv4", "IPv6"],
    });
    spec.as_object_mut().unwrap().extend(addresses.as_object().unwrap().clone());
    spec
}

#[test]
fn every_way_in() {
    let spec = json!({
        "type": "LoadBalancer", "externalIPs": ["198.51.100.1", "fd00:e::1"],
        "ports": [
            { "name": "web", "port": 80, "nodePort": 30080, "targetPort": "http" },
            { "name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP" },
            { "name": "sctp", "port": 5000, "protocol": "SCTP" },
        ],
    });
    let mut object = service("a", dual(spec));
    object["status"] = json!({ "loadBalancer": { "ingress": [
        { "ip": "203.0.113.1" },
        { "ip": "fd00:b::1", "ipMode": "VIP" },
        { "ip": "203.0.113.2", "ipMode": "Proxy" },
        { "hostname": "lb.example" },
        { "ip": "" },
    ] } });
    let (mut four, mut six) =
        (slice("a", "4", "10.0.0.1 10.0.0.2"), slice("a", "6", "fd00::1 fd00::2=010"));
    let ports = json!([
        { "name": "web", "port": 8080, "protocol": "TCP" },
        { "name": "dns", "port": 5353, "protocol": "UDP" },
        { "name": "sctp", "port": 5000, "protocol": "SCTP" },
    ]);
    (four["ports"], six["ports"]) = (ports.clone(), ports);
    let slices = [four, six];
    let all = with(settings(), object.clone(), &slices);
    let dns = "10.0.0.1:5353 10.0.0.2:5353";
    let web = "10.0.0.1:8080 10.0.0.2:8080";
    // The second v6 endpoint serves those who talk to it by UDP and gets nobody else.
    let dns6 = "[fd00::1]:5353 ([fd00::2]:5353)";
    let web6 = "[fd00::1]:8080";
    assert_eq!(
        all,
        [
            format!("ns/a:dns 10.96.0.1:53/udp: {dns}"),
            format!("ns/a:dns 127.0.0.1:30053/udp: {dns} host"),
            format!("ns/a:dns 192.0.2.1:30053/udp: {dns}"),
            format!("ns/a:dns 198.51.100.1:53/udp: {dns}"),
            format!("ns/a:dns 203.0.113.1:53/udp: {dns}"),
            format!("ns/a:dns [::1]:30053/udp: {dns6} host"),
            format!("ns/a:dns [fd00:2::1]:30053/udp: {dns6}"),
            format!("ns/a:dns [fd00:b::1]:53/udp: {dns6}"),
            format!("ns/a:dns [fd00:e::1]:53/udp: {dns6}"),
            format!("ns/a:dns [fd00:96::1]:53/udp: {dns6}"),
            format!("ns/a:web 10.96.0.1:80/tcp: {web}"),
            format!("ns/a:web 127.0.0.1:30080/tcp: {web} host"),
            format!("ns/a:web 192.0.2.1:30080/tcp: {web}"),
            format!("ns/a:web 198.51.100.1:80/tcp: {web}"),
            format!("ns/a:web 203.0.113.1:80/tcp: {web}"),
            format!("ns/a:web [::1]:30080/tcp: {web6} host"),
            format!("ns/a:web [fd00:2::1]:30080/tcp: {web6}"),
            format!("ns/a:web [fd00:b::1]:80/tcp: {web6}"),
            format!("ns/a:web [fd00:e::1]:80/tcp: {web6}"),
            format!("ns/a:web [fd00:96::1]:80/tcp: {web6}"),
        ]
    );
    // Of a family that the Service does not have nothing is served.
    object["spec"]["clusterIPs"] = json!(["10.96.0.1"]);
    object["spec"]["ipFamilies"] = json!(["IPv4"]);
    let found = with(settings(), object.clone(), &slices);
    let v4: Vec<_> = all.into_iter().filter(|line| !line.contains('[')).collect();
    assert_eq!(found, v4);
    let node_ports = NodePorts { addresses: NodePortAddresses::Primary, localhost: false };
    let settings = Settings { node_ports, scope: Scope::Host, ..settings() };
    let found = with(settings, object, &slices);
    let expected: Vec<_> = v4.iter().filter(|line| !line.contains("127.0.0.1")).collect();
    assert_eq!(found, expected.iter().map(|line| format!("{line} host")).collect::<Vec<_>>());
}

#[test]
fn balancer_addresses_for_some_clients_only_are_left_to_the_packets() {
    let served = |ranges: Value, external: &str| {
        let spec = json!({
            "type": "LoadBalancer", "loadBalancerSourceRanges": ranges, "externalIPs": [external],
        });
        let mut object = service("a", dual(spec));
        object["status"] = json!({ "loadBalancer": { "ingress": [
            { "ip": "203.0.113.1" }, { "ip": "fd00:b::1" },
        ] } });
        let found = with(settings(), object, &[]);
        let has = |text: &str| found.iter().any(|line| line.contains(text));
        (has("203.0.113.1"), has("fd00:b::1"))
    };
    let other = "198.51.100.1";
    for (ranges, expected) in [
        (json!([]), (true, true)),
        (json!(["10.0.0.0/8"]), (false, true)),
        (json!([" fd00::/8 "]), (true, false)),
        (json!(["10.0.0.0/8", "fd00::/8"]), (false, false)),
        (json!(["10.0.0.0/8", "0.0.0.0/0"]), (true, true)),
        // Whoever this was for, it was not for everybody.
        (json!(["10.0.0.0/8/8"]), (false, false)),
        (json!(["0.0.0.0/0", "::/0", "x"]), (false, false)),
    ] {
        assert_eq!(served(ranges.clone(), other), expected, "{ranges}");
    }
    // An address that is an external one, too, is still for some only.
    assert!(!served(json!(["10.0.0.0/8"]), "203.0.113.1").0);
}

#[test]
fn policies_and_verdicts() {
    let local = "10.0.0.1@here 10.0.0.2@there";
    let ending = "10.0.0.1@here=011 10.0.0.2@there=011";
    let both = "10.0.0.1:8080 10.0.0.2:8080";
    let node_port = json!([{ "port": 80, "nodePort": 30080 }]);
    let table = [
        // Policies (internal, external), endpoints; the cluster address and the NodePort.
        ("Cluster", "Cluster", local, both, both),
        ("Cluster", "Local", local, both, both),
        ("Local", "Cluster", local, "10.0.0.1:8080", both),
        ("Local", "Local", local, "10.0.0.1:8080", both),
        ("Cluster", "Cluster", ending, both, both),
        ("Local", "Cluster", ending, "10.0.0.1:8080", both),
        ("Local", "Local", "10.0.0.2@there", "unreachable", "10.0.0.2:8080"),
        ("Cluster", "Local", "10.0.0.2@there", "10.0.0.2:8080", "10.0.0.2:8080"),
        ("Local", "Local", "10.0.0.2@there=011", "unreachable", "10.0.0.2:8080"),
        ("Local", "Local", "10.0.0.1@here=010", "refused", "refused"),
        ("Local", "Local", "", "refused", "refused"),
        ("Cluster", "Cluster", "", "refused", "refused"),
        // Each list falls back by itself.
        ("Local", "Cluster", "10.0.0.1@here=011 10.0.0.2", "10.0.0.1:8080", "10.0.0.2:8080"),
        // Published before they are ready: they count as ready, also at their end.
        ("Cluster", "Cluster", "10.0.0.1@here=101 10.0.0.2@there=110", both, both),
    ];
    for (internal, external, endpoints, cluster_ip, node) in table {
        let spec = json!({
            "type": "NodePort", "ports": node_port,
            "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
        });
        let expected = [
            format!("ns/a 10.96.0.1:80/tcp: {cluster_ip}"),
            format!("ns/a 127.0.0.1:30080/tcp: {node} host"),
            format!("ns/a 192.0.2.1:30080/tcp: {node}"),
        ];
        let found = found(spec, &[slice("a", "1", endpoints)]);
        assert_eq!(found, expected, "{internal} {external} {endpoints}");
    }
}

#[test]
fn families_have_verdicts_of_their_own() {
    let internal = json!({ "internalTrafficPolicy": "Local" });
    let line = |v4: &str, v6: &str| {
        [format!("ns/a 10.96.0.1:80/tcp: {v4}"), format!("ns/a [fd00:96::1]:80/tcp: {v6}")]
    };
    for (endpoints, v4, v6) in [
        ("", "refused", "refused"),
        ("10.0.0.1@there", "unreachable", "refused"),
        ("fd00::1@there", "refused", "unreachable"),
        ("10.0.0.1@there fd00::1@there", "unreachable", "unreachable"),
        ("10.0.0.1@here", "10.0.0.1:8080", "refused"),
        ("10.0.0.1@here fd00::1@there", "10.0.0.1:8080", "unreachable"),
    ] {
        let (v6_ones, v4_ones): (Vec<_>, Vec<_>) =
            endpoints.split_whitespace().partition(|endpoint| endpoint.contains("::"));
        let slices = [slice("a", "4", &v4_ones.concat()), slice("a", "6", &v6_ones.concat())];
        assert_eq!(found(dual(internal.clone()), &slices), line(v4, v6), "{endpoints}");
    }
}

#[test]
fn what_a_service_is_apart_from_its_addresses() {
    let mut lab = lab(settings());
    let affinity = |seconds: Value| {
        json!({
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": seconds } },
        })
    };
    let mut one = |spec: Value| {
        lab.put(&service("a", spec));
        let snapshot = lab.cluster.snapshot().unwrap();
        model::Service::clone(&snapshot.services[&"ns/a".parse().unwrap()])
    };
    let plain = one(json!({}));
    assert_eq!((plain.policy, plain.affinity), (Policy::Random, None));
    assert_eq!(plain.health.ejection.failures, 0);
    assert!(plain.health.checks.is_empty());
    for (seconds, expected) in [(json!(60), 60), (json!(86_400), 86_400), (json!(null), 10_800)] {
        let affinity = one(affinity(seconds)).affinity.unwrap();
        assert_eq!((affinity.client, affinity.timeout_seconds), (Client::Netns, expected));
    }
}

#[test]
fn connected_udp_stays_with_what_still_serves() {
    let spec = json!({ "ports": [{ "port": 53, "protocol": "UDP" }] });
    let state = |endpoints: &str| {
        let mut slice = slice("a", "1", endpoints);
        slice["ports"][0]["protocol"] = json!("UDP");
        found(spec.clone(), &[slice]).concat()
    };
    let frontend = "ns/a 10.96.0.1:53/udp:";
    for (endpoints, expected) in [
        ("10.0.0.1 10.0.0.2=011", "10.0.0.1:8080 (10.0.0.2:8080)"),
        ("10.0.0.1 10.0.0.2=010", "10.0.0.1:8080 (10.0.0.2:8080)"),
        ("10.0.0.1 10.0.0.2=001", "10.0.0.1:8080"),
        ("10.0.0.1=010", "(10.0.0.1:8080) refused"),
    ] {
        assert_eq!(state(endpoints), format!("{frontend} {expected}"), "{endpoints}");
    }
}
