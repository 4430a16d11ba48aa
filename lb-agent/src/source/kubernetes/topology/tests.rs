use super::super::objects::Hints;
use super::*;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;

/// Rows of kube-proxy's own table for this decision, and some that follow from its rule; the file
/// says where each is from.
const CASES: &str = include_str!("../../../../../integration/conformance/topology_cases.json");

fn cases(name: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(CASES).unwrap();
    all[name].as_array().unwrap().clone()
}

fn texts(value: &Value) -> Box<[Arc<str>]> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().into()).collect()
}

fn traffic(value: &Value) -> Traffic {
    match value.as_str().unwrap() {
        "Local" => Traffic::Local,
        other => {
            assert_eq!(other, "Cluster");
            Traffic::Cluster
        }
    }
}

/// `node_hints`: whether hints at nodes are read, which a gate of earlier versions decided.
fn endpoint(row: &Value, node: &str, node_hints: bool) -> (String, Endpoint) {
    let address = row["addr"].as_str().unwrap();
    let flag = |name: &str| row[name].as_bool().unwrap();
    let nodes = if node_hints { texts(&row["node_hints"]) } else { Box::default() };
    let hints = Hints { zones: texts(&row["zone_hints"]), nodes };
    let endpoint = Endpoint {
        address: address.parse::<SocketAddr>().unwrap().ip(),
        ready: flag("ready"),
        serving: flag("serving"),
        terminating: flag("terminating"),
        node: Some(if flag("local") { node.into() } else { "another".into() }),
        zone: None,
        hints: (hints != Hints::default()).then(|| Arc::new(hints)),
    };
    (address.to_owned(), endpoint)
}

fn members(list: Option<&List>, addresses: &[String]) -> Value {
    let Some(list) = list else { return Value::Null };
    let all = addresses.iter().enumerate().filter(|(at, _)| list.contains(*at));
    all.map(|(_, address)| address.as_str()).collect()
}

#[test]
fn every_row_of_the_table() {
    let cases = cases("cases");
    assert_eq!(cases.len(), 45);
    for case in cases {
        let node = case["node"]["name"].as_str().unwrap();
        let place = Place { node, zone: case["node"]["zone"].as_str() };
        let gate = case["prefer_same_gate"].as_bool().unwrap();
        let rows = case["endpoints"].as_array().unwrap().iter();
        let (addresses, endpoints): (Vec<_>, Vec<_>) =
            rows.map(|row| endpoint(row, node, gate)).unzip();
        let service = &case["service"];
        let uses = Uses::new(
            traffic(&service["internal_policy"]),
            traffic(&service["external_policy"]),
            service["externally_accessible"].as_bool().unwrap(),
        );
        let found = categorize(uses, place, endpoints.iter());
        let (cluster, local) = (found.cluster.as_ref(), found.local.as_ref());
        let either = |at| [cluster, local].into_iter().flatten().any(|list| list.contains(at));
        let all = List { rule: Rule::Ready, members: (0..addresses.len()).map(either).collect() };
        let found = serde_json::json!({
            "cluster": members(cluster, &addresses),
            "local": members(local, &addresses),
            "all": members(Some(&all), &addresses),
            "has_any": found.has_any,
        });
        assert_eq!(found, case["expect"], "{}: {}", case["id"], case["description"]);
    }
}

/// What versions before 1.31 did otherwise is not done. An annotation of the Service decided whether
/// hints count; here it is not read, and each row says whether that makes a difference.
const ANNOTATION: [(&str, bool); 5] =
    [("L01", false), ("L02", false), ("L03", true), ("L04", true), ("L05", true)];
/// A gate decided whether endpoints that are about to end count; here they always do, which the row
/// of the table says that has the same endpoints. With it, which of its lists was empty.
const GATE: [(&str, &str, &str); 3] =
    [("L06", "T18", "cluster"), ("L07", "T23", "cluster"), ("L08", "T24", "local")];

#[test]
fn what_earlier_versions_did_is_not_done() {
    let before = cases("legacy_gate_cases");
    let ids = before.iter().map(|case| case["id"].as_str().unwrap());
    let known = ANNOTATION.map(|(id, _)| id).into_iter().chain(GATE.map(|(id, ..)| id));
    assert!(ids.eq(known));
    for (case, (id, differs)) in before.iter().zip(ANNOTATION) {
        let rows = case["endpoints"].as_object().unwrap().iter().map(|(address, zone)| {
            let row = serde_json::json!({
                "addr": address, "ready": true, "serving": true, "terminating": false,
                "local": false, "zone_hints": [zone], "node_hints": [],
            });
            endpoint(&row, "", true)
        });
        let (addresses, endpoints): (Vec<_>, Vec<_>) = rows.unzip();
        let uses = Uses { cluster: true, local: false };
        let place = Place { node: "", zone: case["node_zone"].as_str() };
        let found = categorize(uses, place, endpoints.iter());
        let found = members(found.cluster.as_ref(), &addresses);
        assert_eq!(found, serde_json::json!(["10.1.2.3:80", "10.1.2.6:80"]), "{id}");
        assert_eq!(found != case["expect_cluster"], differs, "{id}");
    }
    for (id, row, list) in GATE {
        let case = cases("cases").into_iter().find(|case| case["id"] == row).unwrap();
        let now = case["expect"][list].as_array().unwrap();
        assert!(!now.is_empty(), "{id} differs from {row}");
    }
}

#[test]
fn the_rule_that_decided_is_told() {
    let row = |ready: bool, zone: &str, nodes: &[&str]| {
        let row = serde_json::json!({
            "addr": "10.0.0.1:80", "ready": ready, "serving": true, "terminating": !ready,
            "local": false, "zone_hints": [zone], "node_hints": nodes,
        });
        endpoint(&row, "n", true).1
    };
    let unhinted = |ready| Endpoint { hints: None, ..row(ready, "z", &[]) };
    for (endpoints, expected) in [
        (vec![], Rule::Ready),
        (vec![row(true, "z", &["n"]), row(true, "y", &["m"])], Rule::SameNode),
        (vec![row(true, "z", &[]), row(true, "y", &["m"])], Rule::SameZone),
        (vec![row(true, "x", &[]), row(true, "y", &["m"])], Rule::Ready),
        // One that is ready and has no hint makes those of the others void, whomever they name.
        (vec![row(true, "z", &["n"]), row(true, "y", &[])], Rule::SameZone),
        (vec![row(true, "z", &["n"]), unhinted(true)], Rule::Ready),
        (vec![row(true, "z", &[]), unhinted(true)], Rule::Ready),
        // One that is not ready does not count.
        (vec![row(true, "z", &["n"]), unhinted(false)], Rule::SameNode),
        (vec![row(true, "z", &[]), unhinted(false)], Rule::SameZone),
        (vec![row(false, "x", &[])], Rule::Terminating),
    ] {
        let place = Place { node: "n", zone: Some("z") };
        let found = categorize(Uses { cluster: true, local: false }, place, endpoints.iter());
        assert_eq!(found.cluster.unwrap().rule, expected, "{endpoints:?}");
    }
}
