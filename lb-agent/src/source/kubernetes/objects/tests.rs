mod arbitrary;

use super::super::cluster::tests::{Lab, listed, service, settings, slice};
use serde_json::{Value, json};

/// What is said of an object, without its name, and how many services there are.
fn refused(object: &Value) -> (Vec<String>, usize) {
    let mut lab = Lab::new();
    lab.put(object);
    let services = lab.cluster.snapshot().map_or(0, |snapshot| snapshot.services.len());
    let all = lab
        .rejections()
        .into_iter()
        .map(|line| line.split_once(": ").map_or(String::new(), |(_, reason)| reason.to_owned()));
    (all.collect(), services)
}

#[test]
fn what_is_wrong_with_a_service() {
    let port = json!({ "name": "good", "port": 80 });
    let address = "write it as 10.0.0.1 or fd00::1";
    for (spec, services, expected) in [
        (json!({ "ports": [] }), 0, vec!["has no ports, so it serves nothing; add one"]),
        (json!({ "ports": null }), 0, vec!["has no ports, so it serves nothing; add one"]),
        (
            json!({ "ports": [port, { "name": "zero", "port": 0 }, { "name": "b", "port": 65536 }] }),
            1,
            vec![
                "port `zero`: 0 is not a port; use 1 to 65535",
                "port `b`: 65536 is not a port; use 1 to 65535",
            ],
        ),
        (
            json!({ "ports": [port, { "name": "x", "port": 1, "protocol": "Tcp" }] }),
            1,
            vec!["port `x`: protocol `Tcp` is not known; use TCP, UDP or SCTP"],
        ),
        (
            json!({ "ports": [port, { "name": "good", "port": 81 }, { "name": "a/b", "port": 82 }] }),
            1,
            vec![
                "port `good`: the name is used twice, and the first one counts; use another",
                "port `a/b`: that is not a name; use 1 to 63 letters, digits and - . _",
            ],
        ),
        (
            json!({ "ports": [{ "port": 80, "nodePort": -1 }] }),
            1,
            vec!["port ``: nodePort: -1 is not a port; use 1 to 65535"],
        ),
        (json!({ "ports": [{ "port": 80, "protocol": "SCTP" }] }), 1, vec![]),
        (
            json!({ "clusterIP": "10.96.0.01", "clusterIPs": ["10.96.0.01"] }),
            0,
            vec![
                "clusterIPs: `10.96.0.01` has leading zeros, which some programs take for octal \
                 numbers; write it as 10.96.0.1",
                "has no cluster address that is any good, so it is not served",
            ],
        ),
        (
            json!({ "clusterIPs": ["10.96.0.1", "10.96.0.2"], "ipFamilies": ["IPv4", "IPv6"] }),
            1,
            vec![
                "clusterIPs: 10.96.0.2 is not an IPv6 address, which it is said to be; correct \
                 one of the two",
            ],
        ),
        (
            json!({ "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4"] }),
            1,
            vec!["clusterIPs: `fd00::1` has no place in ipFamilies; name its family there"],
        ),
        (
            json!({ "ipFamilies": ["IPv4", "IPv6"] }),
            1,
            vec![
                "ipFamilies: `IPv6` has no address in clusterIPs; add it there, or remove the \
                 family",
            ],
        ),
        (
            json!({ "clusterIPs": ["10.96.0.1", "10.96.0.2"], "ipFamilies": ["IPv4", "IPv4"] }),
            1,
            vec![
                "clusterIPs: 10.96.0.2 is left out: a Service has one IPv4 address, and another \
                 comes first; remove one of the two",
            ],
        ),
        (
            json!({ "ipFamilies": ["IPv5"] }),
            0,
            vec![
                "clusterIPs: ipFamilies: `IPv5` is not known and not heeded; use IPv4 or IPv6",
                "has no cluster address that is any good, so it is not served",
            ],
        ),
        (
            json!({ "externalIPs": ["x", "127.0.0.1", "0.0.0.0", "fd00::9", "198.51.100.1"] }),
            1,
            vec![
                &format!("externalIPs: `x` is not an IP address; {address}"),
                "externalIPs: 127.0.0.1 is a loopback address, which is another one in every pod; \
                 use the address to connect to",
                "externalIPs: 0.0.0.0 is the unspecified address; use the address to connect to",
                "externalIPs: fd00::9 is left out: the Service has no IPv6 cluster address; add \
                 the family, or remove the address",
            ],
        ),
        (
            json!({
                "type": "Loadbalancer", "sessionAffinity": "clientIP",
                "internalTrafficPolicy": "PreferLocal", "externalTrafficPolicy": "local\n",
            }),
            1,
            vec![
                "type: `Loadbalancer` is not known and not heeded; use ClusterIP, NodePort, \
                 LoadBalancer or ExternalName",
                "internalTrafficPolicy: `PreferLocal` is not known and not heeded; use Cluster or \
                 Local",
                "externalTrafficPolicy: `local\\n` is not known and not heeded; use Cluster or \
                 Local",
                "sessionAffinity: `clientIP` is not known and not heeded; use None or ClientIP",
            ],
        ),
        (
            json!({
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 86_401 } },
            }),
            1,
            vec!["sessionAffinityConfig: timeoutSeconds 86401 is taken as 10800; use 1 to 86400"],
        ),
        (
            json!({ "loadBalancerSourceRanges": ["10.0.0.0/33"] }),
            1,
            vec![
                "loadBalancerSourceRanges: `10.0.0.0/33` is not an address range; write it as \
                 10.0.0.0/8 or fd00::/64",
            ],
        ),
        (json!({ "clusterIP": "", "ports": [] }), 0, vec![]),
        (json!({ "type": "ExternalName", "ports": [] }), 0, vec![]),
    ] {
        let (lines, count) = refused(&service("a", spec.clone()));
        assert_eq!(lines, expected, "{spec}");
        assert_eq!(count, services, "{spec}");
    }
    let mut balanced = service("a", json!({}));
    balanced["status"]["loadBalancer"]["ingress"] =
        json!([{ "ip": "x" }, { "ip": "203.0.113.1", "ipMode": "vip" }, { "ip": "fd00::1" }]);
    let expected = [
        &format!("status.loadBalancer: `x` is not an IP address; {address}"),
        "status.loadBalancer: ipMode: `vip` is not known and not heeded; use VIP or Proxy",
    ];
    assert_eq!(refused(&balanced).0, expected);
}

#[test]
fn what_is_wrong_with_a_slice() {
    // Half of it is good, and served.
    let mut object = slice("a", "1", "10.0.0.010 10.0.0.1 fd00::1 x 127.0.0.1 fe80::1");
    object["addressType"] = json!("IPv4");
    let mut lab = Lab::new();
    let found = lab.put(&service("a", json!({}))).put(&object).found();
    assert_eq!(found, ["ns/a 10.96.0.1:80/tcp: 10.0.0.1:8080"]);
    assert_eq!(lab.cluster.refused(), 5);
    assert_eq!(
        refused(&object).0,
        [
            "endpoints[0]: `10.0.0.010` has leading zeros, which some programs take for octal \
             numbers; write it as 10.0.0.10",
            "endpoints[2]: fd00::1 is not an IPv4 address, which it is said to be; correct one \
             of the two",
            "endpoints[3]: `x` is not an IP address; write it as 10.0.0.1 or fd00::1",
            "endpoints[4]: 127.0.0.1 is a loopback address, which is another one in every pod; \
             use the address to connect to",
            "endpoints[5]: fe80::1 is a link-local address, which means nothing without an \
             interface; use the address to connect to",
        ]
    );
    let with = |field: &str, value: Value| {
        let mut object = slice("a", "1", "10.0.0.1");
        object[field] = value;
        refused(&object).0
    };
    assert_eq!(
        with("addressType", json!("FQDN")),
        ["its endpoints are names (addressType FQDN), which are not looked up, so they are not \
             served; write their addresses"]
    );
    assert_eq!(
        with("addressType", json!("ipv4")),
        ["addressType `ipv4` is not known; use IPv4 or IPv6"]
    );
    assert_eq!(
        with("addressType", json!("IPv6")),
        ["endpoints[0]: 10.0.0.1 is not an IPv6 address, which it is said to be; correct one \
             of the two"]
    );
    assert_eq!(
        with("endpoints", json!([{ "addresses": [] }, { "addresses": ["::ffff:10.0.0.1"] }])),
        ["endpoints[0]: has no address; add one"]
    );
    assert_eq!(
        with(
            "ports",
            json!([
                { "name": "a", "port": 0 },
                { "name": "b", "port": 70_000 },
                { "name": "c", "port": 1, "protocol": "QUIC" },
                { "name": "d", "port": 1, "protocol": "SCTP" },
                { "name": "e" },
                { "port": 5 },
            ])
        ),
        [
            "port `a`: 0 is not a port; use 1 to 65535",
            "port `b`: 70000 is not a port; use 1 to 65535",
            "port `c`: protocol `QUIC` is not known; use TCP, UDP or SCTP",
            "port ``: 5 has no name, so no port of a Service leads to it; write \"\"",
        ]
    );
    // Of no Service, or of one that has no address: nothing to say.
    let mut free = slice("", "1", "x");
    assert_eq!(refused(&free).0, [""; 0]);
    free["metadata"]["labels"] = Value::Null;
    assert_eq!(refused(&free).0, [""; 0]);
}

#[test]
fn an_item_is_counted_when_it_comes_up_and_gone_when_it_is_corrected() {
    let mut lab = Lab::new();
    let bad = service("a", json!({ "externalIPs": ["x"] }));
    lab.put(&bad).put(&bad).put(&slice("a", "1", "10.0.0.01"));
    assert_eq!(lab.cluster.refused(), 2);
    let lines = lab.rejections();
    assert!(lines[0].starts_with("EndpointSlice ns/1: endpoints[0]: `10.0.0.01`"), "{lines:?}");
    assert!(lines[1].starts_with("Service ns/a: externalIPs: `x`"), "{lines:?}");
    assert_eq!(lab.cluster.rejections()[1].service.as_deref(), Some("ns/a"));
    lab.put(&service("a", json!({}))).delete(&slice("a", "1", ""));
    assert_eq!(lab.rejections(), [""; 0]);
    assert_eq!(lab.cluster.refused(), 2);
}

#[test]
fn objects_without_names() {
    for (meta, what) in [
        (json!({}), "Service : its namespace `` is not one"),
        (json!({ "name": "a" }), "Service a: its namespace `` is not one"),
        (json!({ "namespace": "ns" }), "Service ns/: its name `` is not one"),
        (json!({ "namespace": "n/s", "name": "a" }), "Service n/s/a: its namespace `n/s` is not"),
        (json!({ "namespace": "ns", "name": "a:b" }), "Service ns/a:b: its name `a:b` is not one"),
    ] {
        let mut object = service("a", json!({}));
        object["metadata"] = meta;
        let mut lab = listed(settings());
        let lines = lab.put(&object).rejections();
        assert!(lines.len() == 1 && lines[0].starts_with(what), "{lines:?}");
        assert_eq!(lab.found(), [""; 0]);
        assert_eq!(lab.delete(&object).rejections(), [""; 0]);
    }
}
