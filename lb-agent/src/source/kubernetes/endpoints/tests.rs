use super::super::cluster::tests::{object, slice};
use super::super::intern::Words;
use super::super::objects;
use super::*;
use serde_json::{Value, json};

/// What is merged for the port with no name: `address=ready,serving,terminating`, and in
/// parentheses what does not count.
fn merged(slices: &[Value]) -> Vec<String> {
    let mut words = Words::default();
    let read = |value| objects::slice(&object(value), &mut words).value.unwrap();
    let slices: Vec<Slice> = slices.iter().map(read).collect();
    let merged = merge(slices.iter(), Family::V4, "", Protocol::Tcp);
    let text = |(address, endpoint): &(SocketAddr, &Endpoint)| {
        let flags = [endpoint.ready, endpoint.serving, endpoint.terminating];
        format!("{address}={}", flags.map(|flag| if flag { "1" } else { "0" }).concat())
    };
    let duplicates = merged.duplicates.iter().map(text).map(|text| format!("({text})"));
    merged.endpoints.iter().map(text).chain(duplicates).collect()
}

#[test]
fn of_two_with_one_address_the_one_that_lasts() {
    for (first, second, expected) in [
        ("110", "010", ["10.0.0.1:8080=110", "(10.0.0.1:8080=010)"]),
        ("010", "110", ["10.0.0.1:8080=010", "(10.0.0.1:8080=110)"]),
        ("011", "110", ["10.0.0.1:8080=110", "(10.0.0.1:8080=011)"]),
        ("011", "000", ["10.0.0.1:8080=000", "(10.0.0.1:8080=011)"]),
        ("110", "011", ["10.0.0.1:8080=110", "(10.0.0.1:8080=011)"]),
        ("011", "001", ["10.0.0.1:8080=011", "(10.0.0.1:8080=001)"]),
    ] {
        let one = |name: &str, flags: &str| slice("a", name, &format!("10.0.0.1={flags}"));
        assert_eq!(merged(&[one("1", first), one("2", second)]), expected);
    }
}

#[test]
fn conditions_that_are_not_said() {
    let mut one = slice("a", "1", "10.0.0.1 10.0.0.2 10.0.0.3");
    one["endpoints"][0]["conditions"] = json!({});
    one["endpoints"][1]["conditions"] = json!({ "ready": false });
    one["endpoints"][2].as_object_mut().unwrap().remove("conditions");
    let expected = ["10.0.0.1:8080=110", "10.0.0.2:8080=010", "10.0.0.3:8080=110"];
    assert_eq!(merged(&[one]), expected);
}

#[test]
fn ports_go_by_name_and_protocol() {
    let mut some = slice("a", "1", "10.0.0.2 10.0.0.1");
    some["ports"] = json!([
        { "name": "x", "port": 1, "protocol": "TCP" },
        { "name": "", "port": 2, "protocol": "UDP" },
        { "name": "", "port": 3 },
        { "name": "", "port": 3, "protocol": "TCP" },
        { "name": "", "port": 4, "protocol": "TCP" },
        { "name": "", "protocol": "TCP" },
    ]);
    let (mut none, mut first_only) = (slice("a", "2", "10.0.0.3"), slice("a", "3", ""));
    none["ports"] = Value::Null;
    first_only["endpoints"] = json!([{ "addresses": ["10.0.0.4", "10.0.0.5"] }]);
    let expected = ["10.0.0.1:3", "10.0.0.1:4", "10.0.0.2:3", "10.0.0.2:4", "10.0.0.4:8080"];
    let v6 = slice("a", "4", "fd00::1");
    let found = merged(&[some, none, first_only, v6]);
    assert_eq!(found, expected.map(|address| format!("{address}=110")));
}
