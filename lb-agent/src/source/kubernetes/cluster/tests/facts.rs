//! What is told besides the services.

use super::*;
use crate::source::kubernetes::objects::Family;
use k8s_openapi::api::networking::v1::ServiceCIDR;

#[test]
fn what_the_node_object_says() {
    let mut lab = Lab::new();
    let mut object = node("here", "", &["192.0.2.1", "fd00::1", "192.0.2.010"]);
    object["status"]["addresses"][1]["type"] = json!("ExternalIP");
    let facts = |lab: &mut Lab| lab.cluster.facts().node.clone().unwrap();
    lab.put(&object);
    let expected =
        NodeFacts { addresses: vec!["192.0.2.1".parse().unwrap()], ..NodeFacts::default() };
    assert_eq!(facts(&mut lab), expected);
    let leading = "`192.0.2.010` has leading zeros, which some programs take for octal numbers; \
                   write it as 192.0.2.10";
    assert_eq!(lab.rejections(), [format!("Node here: status.addresses: {leading}")]);
    let before = lab.cluster.facts();
    lab.put(&object);
    assert!(Arc::ptr_eq(&before, &lab.cluster.facts()));
    object["spec"] = json!({ "podCIDRs": ["10.0.0.0/24", "10.0.0.0/33"] });
    object["spec"]["taints"] = json!([{ "key": "node.kubernetes.io/x", "effect": "NoSchedule" }]);
    let read = facts(lab.put(&object));
    assert_eq!((read.leaving, read.pod_ranges), (false, vec!["10.0.0.0/24".parse().unwrap()]));
    object["spec"]["taints"][0]["key"] = json!("ToBeDeletedByClusterAutoscaler");
    assert!(facts(lab.put(&object)).leaving);
    object["spec"] = json!({});
    object["metadata"]["deletionTimestamp"] = json!("2026-11-27T00:00:00Z");
    assert!(facts(lab.put(&object)).leaving);
}

#[test]
fn what_was_first_of_the_node_stays() {
    let mut lab = Lab::new();
    let first = |lab: &mut Lab| {
        let NodeFacts { addresses, pod_ranges, .. } = &lab.cluster.facts().node_at_first;
        (format!("{addresses:?}"), format!("{pod_ranges:?}"))
    };
    let known = |addresses: &str, ranges: &str| (addresses.to_owned(), ranges.to_owned());
    assert_eq!(first(lab.put(&node("here", "", &[]))), known("[]", "[]"));
    assert_eq!(first(lab.put(&node("here", "", &["192.0.2.1"]))), known("[192.0.2.1]", "[]"));
    let mut object = node("here", "", &["192.0.2.2"]);
    for range in ["10.0.0.0/24", "10.0.1.0/24"] {
        object["spec"] = json!({ "podCIDRs": [range] });
        assert_eq!(first(lab.put(&object)), known("[192.0.2.1]", "[10.0.0.0/24]"));
    }
    lab.delete(&object);
    assert_eq!(first(lab.list(&[])), known("[192.0.2.1]", "[10.0.0.0/24]"));
}

#[test]
fn service_cidrs_come_and_go() {
    let mut lab = Lab::new();
    let cidr = |name: &str, ranges: &[&str]| {
        json!({
            "kind": "ServiceCIDR", "metadata": { "name": name }, "spec": { "cidrs": ranges },
        })
    };
    lab.put(&cidr("a", &["10.96.0.0/12", "x"])).put(&cidr("b", &["fd00::/108", "10.96.0.0/12"]));
    let ranges = |lab: &mut Lab| -> Vec<String> {
        lab.cluster.facts().service_cidrs.iter().map(ToString::to_string).collect()
    };
    assert_eq!(ranges(&mut lab), ["10.96.0.0/12", "fd00::/108"]);
    assert_eq!(lab.cluster.refused(), 1);
    lab.delete(&cidr("b", &[]));
    assert_eq!(ranges(&mut lab), ["10.96.0.0/12"]);
    assert_eq!(ranges(lab.list(&[])), [""; 0]);
    assert_eq!(lab.rejections(), [""; 0]);
    assert_eq!(lab.cluster.refused(), 1);
}

#[test]
fn service_cidrs_are_late_until_listed_or_withheld() {
    let heard = |cluster: &mut Cluster| cluster.facts().service_cidrs_heard;
    let mut cluster = Cluster::new(settings(), started());
    for part in [Change::Begin, Change::Listed(ServiceCIDR::default())] {
        cluster.service_cidr(part);
        assert!(!heard(&mut cluster));
    }
    cluster.service_cidr(Change::Complete);
    assert!(heard(&mut cluster));
    let mut cluster = Cluster::new(settings(), started());
    cluster.no_more_service_cidrs();
    assert!(heard(&mut cluster));
}

#[test]
fn health_checks_count_ready_endpoints_on_this_node() {
    let mut lab = Lab::new();
    let spec = |port: i32| {
        json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port,
            "ports": [{ "name": "a", "port": 80 }, { "name": "b", "port": 81 }],
        })
    };
    let check = |lab: &mut Lab| {
        let facts = lab.cluster.facts();
        let mut all = facts.health_checks.iter();
        let check = all.next().map(|((namespace, name), check)| {
            (format!("{namespace}/{name}"), check.port, check.local_endpoints)
        });
        assert!(all.next().is_none());
        check
    };
    let expect = |count| Some(("ns/a".to_owned(), 32000, count));
    lab.put(&service("a", spec(32000)));
    assert_eq!(check(&mut lab), expect(0));
    let four = "10.0.0.1@here 10.0.0.2@here=011 10.0.0.3@there 10.0.0.4@here=101";
    lab.put(&slice("a", "a-1", four)).put(&slice("a", "a-2", "10.0.0.1@here"));
    assert_eq!(check(&mut lab), expect(2));
    // The same pods by their other family.
    lab.put(&slice("a", "a-3", "fd00::1@here"));
    assert_eq!(check(&mut lab), expect(2));
    let before = lab.cluster.facts();
    lab.put(&slice("a", "a-2", "10.0.0.9@there"));
    assert!(Arc::ptr_eq(&before, &lab.cluster.facts()));
    lab.put(&service("a", spec(70_000)));
    assert_eq!(check(&mut lab), None);
    assert_eq!(
        lab.rejections(),
        ["Service ns/a: healthCheckNodePort: 70000 is not a port; use 1 to 65535"]
    );
    lab.put(&service("a", spec(32000)));
    assert_eq!(check(&mut lab), expect(2));
    let mut cluster = spec(32000);
    cluster["externalTrafficPolicy"] = json!("Cluster");
    assert_eq!(check(lab.put(&service("a", cluster))), None);
    lab.put(&service("a", spec(32000))).delete(&service("a", json!({})));
    assert_eq!(check(&mut lab), None);
}

/// By policy, by family, and only where somebody else could serve.
#[test]
fn ports_without_endpoints_on_this_node_are_counted() {
    let mut lab = Lab::new();
    let both = json!({ "clusterIPs": ["10.96.0.1", "fd00:96::1"], "ipFamilies": ["IPv4", "IPv6"] });
    let spec = |more: Value| {
        let mut spec = both.clone();
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let local = |mut more: Value| {
        more["externalTrafficPolicy"] = json!("Local");
        spec(more)
    };
    let node_ports = json!([{ "name": "a", "port": 80, "nodePort": 30080 },
                            { "name": "b", "port": 81, "nodePort": 30081 }]);
    let one = json!([{ "name": "a", "port": 80 }]);
    let inside = spec(json!({ "internalTrafficPolicy": "Local", "ports": one }));
    let balanced =
        local(json!({ "type": "LoadBalancer", "externalIPs": ["198.51.100.1"], "ports": one }));
    let outside = local(json!({ "type": "NodePort", "ports": node_ports }));
    let unreachable = local(json!({ "ports": one }));
    let there = "10.0.0.1@there 10.0.0.2@there";
    let lacking = |internal, external| Lacking { internal, external };
    for (name, spec, endpoints, expected) in [
        ("nobody anywhere", &inside, "", lacking([0, 0], [0, 0])),
        ("elsewhere", &inside, there, lacking([1, 0], [0, 0])),
        ("here", &inside, "10.0.0.1@here 10.0.0.2@there", lacking([0, 0], [0, 0])),
        ("here, unready", &inside, "10.0.0.1@here=000 10.0.0.2@there", lacking([1, 0], [0, 0])),
        (
            "here, about to end",
            &inside,
            "10.0.0.1@here=011 10.0.0.2@there",
            lacking([0, 0], [0, 0]),
        ),
        ("elsewhere, unready", &inside, "10.0.0.2@there=000", lacking([0, 0], [0, 0])),
        ("NodePorts, the other port has none", &outside, there, lacking([0, 0], [1, 0])),
        ("IPv6", &outside, "fd00::1@there", lacking([0, 0], [0, 1])),
        ("an IPv4 external address", &balanced, there, lacking([0, 0], [1, 0])),
        ("an IPv4 external address only", &balanced, "fd00::1@there", lacking([0, 0], [0, 0])),
        ("no way in from outside", &unreachable, there, lacking([0, 0], [0, 0])),
    ] {
        lab.put(&service("a", spec.clone()));
        lab.put(&slice_of_port_a(endpoints));
        assert_eq!(lab.cluster.facts().lacking, expected, "{name}");
    }
    lab.put(&service("a", inside)).put(&slice_of_port_a(there));
    assert_eq!(lab.cluster.facts().lacking, lacking([1, 0], [0, 0]));
    lab.delete(&service("a", json!({})));
    assert_eq!(lab.cluster.facts().lacking, Lacking::default());
}

fn slice_of_port_a(endpoints: &str) -> Value {
    let mut slice = slice("a", "a-1", endpoints);
    slice["ports"][0]["name"] = json!("a");
    slice
}

#[test]
fn nobody_is_told_to_be_without_endpoints_before_they_were_listed() {
    let mut lab = Lab { cluster: Cluster::new(settings(), started()) };
    lab.cluster.without_node();
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
    });
    let (services, slices) = (json!({ "kind": "Service" }), json!({ "kind": "EndpointSlice" }));
    lab.put(&service("a", spec));
    lab.say(&services, |_| Change::Complete);
    assert!(lab.cluster.facts().health_checks.is_empty());
    lab.put(&slice("a", "a-1", "10.0.0.1@here"));
    lab.say(&slices, |_| Change::Complete);
    let checks = &lab.cluster.facts().health_checks;
    assert!(checks.values().eq([&HealthCheck { port: 32000, local_endpoints: 1 }]));
}

#[test]
fn work_counts_what_changed_and_believes_sane_clocks_only() {
    let mut lab = Lab::new();
    let stamped = |name: &str, time: &str, endpoints: &str| {
        let mut slice = slice("a", name, endpoints);
        slice["metadata"]["annotations"] =
            json!({ "endpoints.kubernetes.io/last-change-trigger-time": time });
        slice
    };
    // The agent started at 22:13:20, and it is a minute later.
    let good = "2023-11-14T22:13:21.25Z";
    lab.put(&service("a", json!({}))).put(&service("a", json!({})));
    lab.put(&stamped("1", good, "10.0.0.1"));
    let mut other = stamped("2", "2023-11-14T23:13:22+01:00", "fd00::1");
    other["addressType"] = json!("IPv6");
    lab.put(&other);
    lab.put(&stamped("3", "2023-11-14T22:13:19Z", "10.0.0.1"));
    lab.put(&stamped("4", "2023-11-14T22:14:21Z", "10.0.0.1"));
    lab.put(&stamped("5", "yesterday", "10.0.0.1"));
    // Nothing changed but the annotation.
    lab.put(&stamped("1", "2023-11-14T22:13:40Z", "10.0.0.1"));
    lab.delete(&stamped("1", good, ""));
    lab.delete(&stamped("9", good, ""));
    let after = |millis| started() + Duration::from_millis(millis);
    let triggers = vec![(Family::V4, after(1_250)), (Family::V6, after(2_000))];
    let expected = Work { services: 1, slices: 6, triggers };
    assert_eq!(lab.cluster.take_work(), expected);
    assert_eq!(lab.cluster.take_work(), Work::default());
    assert_eq!(lab.rejections(), [""; 0]);
}
