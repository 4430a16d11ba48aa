//! `explain`: from manifests to what is printed. Neither agent nor kernel nor cluster is there.

use crate::fixture::{Ran, lbctl};
use std::fs;
use std::path::Path;

const CLUSTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ctl/manifests/cluster.yaml");

fn run(arguments: &[&str]) -> Ran {
    let nowhere = Path::new("/nowhere");
    let mut command = lbctl(&nowhere.join("socket"), nowhere, &["explain"]);
    Ran::from(command.args(arguments).output().unwrap())
}

/// On node n1.
fn explain(arguments: &str) -> Ran {
    let mut all = vec!["--manifests", CLUSTER, "--node", "n1"];
    all.extend(arguments.split_whitespace());
    run(&all)
}

#[track_caller]
fn prints(arguments: &str, code: i32, expected: &str) {
    let ran = explain(arguments);
    assert_eq!(ran.out, expected, "lbctl explain {arguments}");
    assert_eq!((ran.err.as_str(), ran.code), ("", Some(code)), "lbctl explain {arguments}");
}

#[test]
fn a_connection_that_comes_about() {
    prints(
        "10.96.0.10:80",
        0,
        "\
To:         10.96.0.10:80/tcp
From:       a pod on node n1 (zone a)
Verdict:    connects to one of 2 endpoints
Service:    shop/web, port http
Address:    ClusterIP
Policy:     internalTrafficPolicy: Cluster
Uses:       those that are ready and have hints for this zone
Affinity:   a client stays with its endpoint for 3h

Endpoints:
  ENDPOINT        NODE   ZONE
  10.1.0.1:8080   n1     a
  10.1.0.2:8080   n3     a

Left out:
  ENDPOINT           NODE   ZONE   RULE
  10.1.0.1:8080      n1     a      another slice has the same address, which counts
  10.1.0.9           n1     a      its slice has no port of this name and protocol
  10.1.1.1:8080      n2     b      its hints are for other zones: b
  10.1.1.2:8080      n2     b      not ready
  10.1.1.3:8080      n2     b      terminating, and others are ready
  10.1.1.4:8080      n2     b      terminating, and no longer serving
  [fd00:1::1]:8080   n2     b      of the other address family
",
    );
    prints("10.96.0.10:80 -o name", 0, "10.1.0.1:8080\n10.1.0.2:8080\n");
}

#[test]
fn a_connection_that_fails() {
    prints(
        "10.96.0.20:6379 --from node",
        1,
        "\
To:         10.96.0.20:6379/tcp
From:       node n1 (zone a)
Verdict:    fails at once (EHOSTUNREACH)
Because:    there are endpoints, but none on this node, and others must not be used
Service:    default/cache
Address:    ClusterIP
Policy:     internalTrafficPolicy: Local
Uses:       those that are ready, on this node
Affinity:   none

Left out:
  ENDPOINT         NODE   ZONE   RULE
  10.1.1.20:6379   n2     -      not on this node, and the policy is Local
",
    );
}

#[test]
fn packets_from_outside() {
    prints(
        "192.0.2.1:30040 --from outside --no-headers",
        1,
        "\
To:         192.0.2.1:30040/tcp
From:       outside, by way of node n1 (zone a)
Verdict:    dropped: no answer
Because:    there are endpoints, but none on this node, and others must not be used
Done by:    the packet path; nothing is translated when it connects
Service:    default/far
Address:    NodePort
Policy:     externalTrafficPolicy: Local
Uses:       those that are ready, on this node
Affinity:   none

Left out:
  10.1.1.40:8443   n2   -   not on this node, and the policy is Local

Notes:
  Service default/far: port `bad`: 0 is not a port; use 1 to 65535
",
    );
}

#[test]
fn as_json() {
    let ran = explain("10.96.0.53:53/udp -o json");
    let expected = serde_json::json!({
        "to": "10.96.0.53:53/udp",
        "from": "pod",
        "node": "n1",
        "zone": "a",
        "verdict": "connects",
        "why": "",
        "by_packet": false,
        "service": {
            "name": "kube-system/dns",
            "port": "dns",
            "kind": "clusterIP",
            "policy": "internalTrafficPolicy: Cluster",
            "list": "cluster",
            "rule": "terminating",
            "affinity_seconds": null
        },
        "endpoints": [{"address": "10.1.0.53:53", "node": "n1", "zone": null}],
        "left_out": [{
            "address": "10.1.1.53:53",
            "node": "n2",
            "zone": null,
            "reason": "terminating, and no longer serving"
        }],
        "notes": []
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&ran.out).unwrap(), expected);
    assert_eq!(ran.code, Some(0));
}

/// Every kind of address, every verdict, every caller.
#[test]
fn verdicts() {
    let only = "connects to the only endpoint";
    let two = "connects to one of 2 endpoints";
    let alone = "left alone";
    let refused = "refused (ECONNREFUSED)";
    let no_answer = "dropped: no answer";
    for (arguments, code, verdict, part) in [
        ("[fd00:96::10]:80", 0, only, "[fd00:1::1]:8080"),
        ("198.51.100.7:80", 0, two, "Address:    externalIP"),
        ("203.0.113.5:80", 0, two, "Address:    load balancer"),
        ("192.0.2.1:30080", 0, two, "Address:    NodePort"),
        ("[2001:db8::1]:30080", 0, only, "Address:    NodePort"),
        ("192.0.2.1:30080 --zone b", 0, only, "10.1.1.1:8080"),
        ("192.0.2.1:30080", 0, two, "Because:    who is on this node is not outside"),
        ("127.0.0.1:30080 --from node", 0, two, "Address:    NodePort"),
        ("127.0.0.1:30080 --from pod", 1, alone, "a pod's loopback addresses are its own"),
        ("127.0.0.1:30080 --from outside", 1, alone, "nobody outside reaches a loopback"),
        ("192.0.2.1:30040", 0, only, "have hints for this node"),
        ("192.0.2.1:30040 --node-ip 192.0.2.9", 1, alone, "no address and port of a Service"),
        ("--node-ip 192.0.2.9 192.0.2.9:30040", 0, only, "Address:    NodePort"),
        (
            "192.0.2.9:30040 --node-ip 192.0.2.9 --node-ip 192.0.2.8",
            0,
            only,
            "Address:    NodePort",
        ),
        ("192.0.2.1:30030", 1, refused, "no endpoint anywhere can be used"),
        ("10.96.0.30:80", 1, refused, "no endpoint anywhere can be used"),
        ("10.96.0.53:53/udp", 0, only, "those that terminate and still serve"),
        ("203.0.113.40:443", 1, alone, "loadBalancerSourceRanges"),
        (
            "10.96.0.53:53",
            1,
            alone,
            "is the ClusterIP of kube-system/dns, which has no port 53/tcp",
        ),
        ("10.96.77.1:80", 1, alone, "is in a ServiceCIDR and no Service has it"),
        ("[fd00:96::77]:80", 1, alone, "is in a ServiceCIDR and no Service has it"),
        ("198.51.100.7:81", 1, alone, "is an address of shop/web, which has no port 81/tcp"),
        ("192.0.2.1:22", 1, alone, "the connection goes where it was sent"),
        ("192.0.2.1:30080 --from outside", 0, only, "the endpoint sees the client's own address"),
        ("10.96.0.10:80 --from outside", 0, two, "sees this node's address as the client's"),
        ("203.0.113.40:443 --from outside", 1, no_answer, "not in loadBalancerSourceRanges"),
        ("10.96.0.20:6379 --from outside", 1, no_answer, "none on this node"),
        ("192.0.2.1:30030 --from outside", 1, "refused (a reset", "no endpoint anywhere"),
        ("192.0.2.1:22 --from outside", 1, alone, "packets go where it was sent"),
    ] {
        let ran = explain(arguments);
        let told =
            ran.out.lines().find_map(|line| line.strip_prefix("Verdict:")).unwrap_or_default();
        assert!(told.trim().starts_with(verdict), "{arguments}: {}", ran.out);
        assert!(ran.out.contains(part), "{arguments}: `{part}` is not in\n{}", ran.out);
        assert_eq!((ran.code, ran.err.as_str()), (Some(code), ""), "{arguments}");
    }
}

/// As the node is set up: by its configuration, and by what is given over it.
#[test]
fn what_the_node_is_told_by_its_operator_counts() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    let iptables = file("iptables.conf", head);
    let nftables = file("nftables.conf", &format!("{head}mode: nftables\nhostnameOverride: n2\n"));
    let far = file("far.conf", &format!("{head}nodePortAddresses: [198.51.100.0/24]\n"));
    let own = file(
        "lb.yaml",
        "sources:\n  - kubernetes: {node: n1, node_port_addresses: primary, \
         localhost_node_ports: true, socket_scope: host}\n",
    );
    let (yes, alone) = ("connects to", "left alone");
    for (arguments, verdict, part) in [
        ("127.0.0.1:30080 --from node", yes, "NodePort"),
        ("127.0.0.2:30080 --from node", alone, "on 127.0.0.1 and ::1, not on all of 127.0.0.0/8"),
        ("192.0.2.1:30080 --config IPTABLES", yes, "NodePort"),
        ("127.0.0.1:30080 --config IPTABLES --from node", yes, "NodePort"),
        // The primary address only, and no loopback.
        ("192.0.2.1:30080 --config NFTABLES", yes, "NodePort"),
        ("127.0.0.1:30080 --config NFTABLES --from node", alone, "where it was sent"),
        ("127.0.0.2:30080 --config NFTABLES --from node", alone, "where it was sent"),
        ("192.0.2.7:30080 --config NFTABLES --node-ip 192.0.2.7 --node-ip 192.0.2.1", yes, ""),
        ("192.0.2.1:30080 --config NFTABLES --node-ip 192.0.2.7 --node-ip 192.0.2.1", alone, ""),
        ("192.0.2.1:30080 --config FAR", alone, "where it was sent"),
        ("192.0.2.1:30080 --config FAR --nodeport-addresses all", yes, "NodePort"),
        ("192.0.2.1:30080 --config NFTABLES --nodeport-addresses 192.0.2.0/24", yes, ""),
        ("192.0.2.1:30080 --nodeport-addresses 198.51.100.0/24,fd00::/8", alone, ""),
        ("192.0.2.1:30080 --nodeport-addresses primary", yes, ""),
        ("127.0.0.1:30080 --nodeport-addresses primary --from node", alone, ""),
        ("127.0.0.1:30080 --config OWN --from node", yes, ""),
        ("10.96.0.10:80 --config OWN", alone, "socket scope: host"),
        ("10.96.0.10:80 --config OWN --from node", yes, ""),
        ("10.96.0.10:80 --config OWN --socket-scope everywhere", yes, ""),
        ("10.96.0.10:80 --socket-scope host", alone, "socket scope: host"),
        ("10.96.0.10:80 --socket-scope host --from node", yes, ""),
    ] {
        let all = arguments
            .replace("IPTABLES", &iptables)
            .replace("NFTABLES", &nftables)
            .replace("FAR", &far)
            .replace("OWN", &own);
        let ran = explain(&all);
        let told =
            ran.out.lines().find_map(|line| line.strip_prefix("Verdict:")).unwrap_or_default();
        assert!(told.trim().starts_with(verdict), "{arguments}: {ran:?}");
        assert!(ran.out.contains(part), "{arguments}: `{part}` is not in\n{}", ran.out);
    }
    // The configuration names the node, too.
    let ran = run(&["10.96.0.10:80", "--manifests", CLUSTER, "--config", &own, "--from", "node"]);
    assert!(ran.out.contains("From:       node n1 (zone a)"), "{ran:?}");
    let empty = file("empty.yaml", "sources: []\n");
    let bad = file("bad.conf", &format!("{head}mode: x\n"));
    for (arguments, part) in [
        (["--config", "/no/such"], "/no/such: No such file"),
        (["--config", &empty], "one source `kubernetes` is needed"),
        (["--config", &bad], "`mode`: `x` is not possible"),
        (["--nodeport-addresses", "10.0.0.0/8,x"], "`x` is not a range such as 10.0.0.0/8"),
        (["--socket-scope", "pods"], "invalid value 'pods'"),
    ] {
        let start = ["10.96.0.10:80", "--manifests", CLUSTER, "--node", "n1"];
        let ran = run(&[&start[..], &arguments[..]].concat());
        assert!(ran.err.contains(part), "{arguments:?}: {ran:?}");
        assert!(ran.out.is_empty() && ran.code != Some(0), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn what_is_not_in_one_file_may_be_in_another() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("services.json"), dir.path().join("slices.yaml"));
    let service = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service",
        "metadata":{"name":"web"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}},
        {"apiVersion":"v1","kind":"Service","metadata":{"name":"new"},"spec":{"ports":[{"port":80}]}}]}"#;
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
                 metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n\
                 ports: [{name: '', port: 8080}]\nendpoints: [{addresses: [10.1.0.1]}]\n";
    fs::write(&first, service).unwrap();
    fs::write(&second, slice).unwrap();
    let [first, second] = [&first, &second].map(|path| path.to_str().unwrap());
    let ran = run(&["--node", "n", "--manifests", first, "--manifests", second, "10.96.0.1:80"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("connects to the only endpoint"), "{}", ran.out);
    assert!(ran.out.contains("Service default/new has no clusterIP yet"), "{}", ran.out);
    let without = run(&["10.96.0.1:80", "--node", "n", "--manifests", first]);
    assert!(without.out.contains("refused (ECONNREFUSED)"), "{}", without.out);
}

#[test]
fn mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.yaml");
    fs::write(
        &bad,
        "kind: Node\n---\napiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: 7\n",
    )
    .unwrap();
    let worse = dir.path().join("worse.yaml");
    fs::write(&worse, "kind: Node\napiVersion: v1\nmetadata: {name: n}\n---\n[\n").unwrap();
    let [bad, worse] = [&bad, &worse].map(|path| path.to_str().unwrap());
    for (arguments, parts) in [
        (vec!["10.96.0.1:80", "--manifests", CLUSTER], vec!["explain needs --node NAME"]),
        (vec!["--manifests", CLUSTER, "--node", "n1"], vec!["<ADDRESS:PORT[/udp]>"]),
        (
            vec!["10.96.0.1", "--node", "n1", "--manifests", CLUSTER],
            vec!["`10.96.0.1` has no port"],
        ),
        (vec!["10.96.0.1:80", "--node", "n1"], vec!["--manifests <FILE>"]),
        (vec!["10.96.0.1:80/quic", "--node", "n1"], vec!["protocol `quic` is not supported"]),
        (
            vec!["10.96.0.1:80", "--from", "mars"],
            vec!["invalid value 'mars'", "pod, node, outside"],
        ),
        (vec!["10.96.0.1:80", "--node-ip", "x"], vec!["invalid value 'x'"]),
        (vec!["10.96.0.1:80", "--watch", "--manifests", CLUSTER], vec!["--watch is for the verbs"]),
        (
            vec![
                "10.96.0.1:80",
                "--node",
                "n1",
                "--manifests",
                "/no/such.yaml",
                "--manifests",
                bad,
                "--manifests",
                worse,
            ],
            vec![
                "/no/such.yaml: No such file or directory",
                "bad.yaml: document 1: has no apiVersion and kind",
                "worse.yaml: document 2: ",
            ],
        ),
    ] {
        let ran = run(&arguments);
        assert_eq!((ran.code, ran.out.as_str()), (Some(64), ""), "{arguments:?}: {ran:?}");
        for part in parts {
            assert!(ran.err.contains(part), "{arguments:?}: `{part}` is not in: {}", ran.err);
        }
    }
}
