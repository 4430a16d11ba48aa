//! Objects that no API server should send.

use super::super::super::cluster::tests::Lab;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// A value that a field might have, and often has the wrong way.
fn text() -> impl Strategy<Value = String> {
    let known = select(vec![
        "",
        "None",
        "Local",
        "Cluster",
        "ClientIP",
        "IPv4",
        "IPv6",
        "FQDN",
        "TCP",
        "SCTP",
        "10.0.0.1",
        "010.0.0.1",
        "1.2.3.4.5",
        "::",
        "fd00::1",
        "::ffff:10.0.0.1",
        "fe80::1%0",
        "10.0.0.0/8",
        "::/129",
        "ExternalName",
        "LoadBalancer",
        "VIP",
        "here",
        "a/b:c",
        "2026-11-27T00:00:00.123456789Z",
        "9999-99-99T99:99:99Z",
        "-009999-01-01T00:00:00Z",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![select(vec![0, 1, -1, 80, 65535, 65536, i32::MIN, i32::MAX]), any::<i32>()]
}

fn meta() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map(
        select(vec![
            "kubernetes.io/service-name",
            "service.kubernetes.io/headless",
            "service.kubernetes.io/service-proxy-name",
            "topology.kubernetes.io/zone",
        ]),
        text(),
        0..3,
    );
    (prop::option::of(text()), prop::option::of(text()), labels, text()).prop_map(
        |(namespace, name, labels, time)| {
            json!({
                "namespace": namespace, "name": name, "labels": labels,
                "annotations": { "endpoints.kubernetes.io/last-change-trigger-time": time },
            })
        },
    )
}

fn ports() -> impl Strategy<Value = Value> {
    let port = (prop::option::of(text()), number(), prop::option::of(text()), number());
    let port = port.prop_map(|(name, port, protocol, node_port)| {
        json!({ "name": name, "port": port, "protocol": protocol, "nodePort": node_port })
    });
    vec(port, 0..4).prop_map(Value::from)
}

fn services() -> impl Strategy<Value = Value> {
    let texts = || vec(text(), 0..3);
    let spec = (texts(), texts(), texts(), texts(), ports(), [text(), text(), text(), text()]);
    (meta(), spec, number(), text()).prop_map(
        |(meta, (ips, families, external, ranges, ports, words), number, ingress)| {
            json!({
                "kind": "Service", "metadata": meta,
                "spec": {
                    "clusterIP": words[0], "clusterIPs": ips, "ipFamilies": families,
                    "externalIPs": external, "loadBalancerSourceRanges": ranges,
                    "ports": ports, "type": words[1], "internalTrafficPolicy": words[2],
                    "externalTrafficPolicy": words[3], "sessionAffinity": words[2],
                    "healthCheckNodePort": number,
                    "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": number } },
                },
                "status": { "loadBalancer": { "ingress": [
                    { "ip": ingress, "ipMode": words[3] },
                ] } },
            })
        },
    )
}

fn slices() -> impl Strategy<Value = Value> {
    let flags = vec(prop::option::of(any::<bool>()), 3);
    let endpoint = (vec(text(), 0..3), flags, prop::option::of(text()), vec(text(), 0..3));
    let endpoint = endpoint.prop_map(|(addresses, flags, node, hints)| {
        let hints: Vec<_> = hints.iter().map(|name| json!({ "name": name })).collect();
        json!({
            "addresses": addresses, "nodeName": node, "zone": node,
            "hints": { "forZones": hints, "forNodes": hints },
            "conditions": { "ready": flags[0], "serving": flags[1], "terminating": flags[2] },
        })
    });
    (meta(), ports(), text(), vec(endpoint, 0..4)).prop_map(
        |(meta, ports, address_type, endpoints)| {
            json!({
                "kind": "EndpointSlice", "metadata": meta, "ports": ports,
                "addressType": address_type, "endpoints": endpoints,
            })
        },
    )
}

fn nodes() -> impl Strategy<Value = Value> {
    (meta(), vec(text(), 0..3), vec(text(), 0..3)).prop_map(|(mut meta, addresses, cidrs)| {
        meta["name"] = json!("here");
        let addresses = addresses.iter();
        let addresses: Vec<_> =
            addresses.map(|a| json!({ "type": "InternalIP", "address": a })).collect();
        json!({
            "kind": "Node", "metadata": meta, "spec": { "podCIDRs": cidrs },
            "status": { "addresses": addresses },
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever objects say, it is read or refused, on one line each.
    #[test]
    fn objects(
        objects in vec((any::<bool>(), prop_oneof![services(), slices(), nodes()]), 1..6),
    ) {
        let mut lab = Lab::new();
        for (put, object) in &objects {
            if *put { lab.put(object) } else { lab.delete(object) };
            lab.found();
            lab.cluster.facts();
        }
        for line in lab.rejections() {
            prop_assert!(!line.contains(char::is_control), "{line:?}");
        }
        lab.list(&[]);
        prop_assert_eq!(lab.rejections(), Vec::<String>::new());
        prop_assert_eq!(lab.found(), Vec::<String>::new());
    }
}
