//! docs/configuration.schema.json and docs/configuration.md say what the code says.

use super::{Config, parse};
use crate::claims::Claims;
use crate::json_schema::is_valid;
use crate::source::spec::translate;
use crate::yaml::Document;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::path::Path;

const SCHEMA: &str = include_str!("../../../docs/configuration.schema.json");
const GUIDE: &str = include_str!("../../../docs/configuration.md");
const HEALTH: &str = include_str!("../../../docs/health.md");
const NAMES: &str = include_str!("../../../docs/names.md");

/// Every mapping of a file: a key put in its place that nobody knows, and where the schema has it.
const MAPPINGS: [(&str, &str); 25] = [
    ("zzz: 1\nservices: []", ""),
    ("metrics: {zzz: 1}\nservices: []", "/properties/metrics"),
    ("tables: {zzz: 1}\nservices: []", "/properties/tables"),
    ("names: {dns: true, zzz: 1}\nservices: []", "/properties/names"),
    ("names: {dns: {zzz: 1}}\nservices: []", "/properties/names/properties/dns/anyOf/1"),
    ("names: {coredns: {zzz: 1}}\nservices: []", "/properties/names/properties/coredns"),
    ("sources: [{zzz: 1}]", "/$defs/source"),
    ("sources: [{etcd: {zzz: 1}}]", "/$defs/etcd"),
    ("sources: [{etcd: {endpoints: [a], tls: {zzz: 1}}}]", "/$defs/etcd/properties/tls"),
    ("sources: [{etcd: {endpoints: [a], user: {zzz: 1}}}]", "/$defs/etcd/properties/user"),
    ("sources: [{kubernetes: {zzz: 1}}]", "/$defs/kubernetes"),
    ("services: [{zzz: 1}]", "/$defs/service"),
    ("services: [{affinity: {zzz: 1}}]", "/$defs/service/properties/affinity"),
    ("services: [{ejection: {zzz: 1}}]", "/$defs/service/properties/ejection/anyOf/1"),
    ("services: [{frontends: [{zzz: 1}]}]", "/$defs/frontend"),
    ("services: [{backends: [{zzz: 1}]}]", "/$defs/own_backend"),
    ("services: [{backends_from: {zzz: 1}}]", "/$defs/pool"),
    ("services: [{checks: [{zzz: 1}]}]", "/$defs/check"),
    ("services: [{checks: [{tcp: {zzz: 1}}]}]", "/$defs/check/anyOf/1/properties/tcp"),
    ("services: [{checks: [{http: {zzz: 1}}]}]", "/$defs/check/anyOf/2/properties/http"),
    ("services: [{checks: [{https: {zzz: 1}}]}]", "/$defs/check/anyOf/3/properties/https"),
    ("services: [{checks: [{grpc: {zzz: 1}}]}]", "/$defs/check/anyOf/4/properties/grpc"),
    ("services: [{checks: [{exec: {zzz: 1}}]}]", "/$defs/check/anyOf/5/properties/exec"),
    (
        "names: {coredns: {endpoints: [a], tls: {zzz: 1}}}\nservices: []",
        "/$defs/etcd/properties/tls",
    ),
    (
        "names: {coredns: {endpoints: [a], user: {zzz: 1}}}\nservices: []",
        "/$defs/etcd/properties/user",
    ),
];

fn schema() -> Json {
    serde_json::from_str(SCHEMA).unwrap()
}

/// All that is wrong with a file, its services included.
fn problems(text: &str) -> Vec<String> {
    let parsed = parse(Path::new("/f"), text);
    let claims = parsed.as_ref().map_or_else(|_| Claims::default(), |c| c.claims(Vec::new()));
    let claims = Claims { exec: true, ..claims };
    let settings = parsed.err().unwrap_or_default();
    let services = if text.contains("services:") {
        translate("/f", text, &claims, true).map_or_else(|problem| vec![problem], |t| t.rejections)
    } else {
        Vec::new()
    };
    settings.into_iter().chain(services).map(|rejection| rejection.reason).collect()
}

/// The keys that the parser offers in place of one that it does not know.
fn known(text: &str) -> BTreeSet<String> {
    let problems = problems(text);
    let line = problems.iter().find_map(|line| line.strip_prefix("unknown field `zzz`; use "));
    let line = line.unwrap_or_else(|| panic!("{text}: {problems:?}"));
    line.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The keys that a schema has, in any of its forms.
fn keys(schema: &Json) -> BTreeSet<String> {
    let own = schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.clone());
    let forms = schema["anyOf"].as_array().into_iter().flatten().flat_map(keys);
    own.chain(forms).collect()
}

#[test]
fn it_has_the_keys_that_the_parser_knows() {
    let schema = schema();
    for (text, place) in MAPPINGS {
        let found = schema.pointer(place).unwrap_or_else(|| panic!("no {place}"));
        assert_eq!(keys(found), known(text), "{place}");
    }
}

#[test]
fn every_mapping_of_it_is_looked_at() {
    fn mappings(schema: &Json, place: &str, found: &mut BTreeSet<String>) {
        if schema["type"] == "object" {
            found.insert(place.to_owned());
        }
        let parts = schema.as_object().into_iter().flatten().map(|(key, part)| (key.clone(), part));
        let forms = schema.as_array().into_iter().flatten().enumerate();
        for (key, part) in parts.chain(forms.map(|(at, part)| (at.to_string(), part))) {
            mappings(part, &format!("{place}/{key}"), found);
        }
    }
    let mut found = BTreeSet::new();
    mappings(&schema(), "", &mut found);
    // Forms of one thing are compared together.
    found.retain(|place| {
        let form = |of: &str| place.strip_prefix(of).is_some_and(|rest| !rest.contains('p'));
        !form("/$defs/source/anyOf/") && !form("/$defs/check/anyOf/")
    });
    let looked: BTreeSet<_> = MAPPINGS.iter().map(|(_, place)| (*place).to_owned()).collect();
    // Of CoreDNS' store the parser is asked above, under the same names as of a source.
    let coredns = "/properties/names/properties/coredns/properties/";
    let missing: Vec<_> =
        found.difference(&looked).filter(|place| !place.starts_with(coredns)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn its_defaults_are_the_codes() {
    let schema = schema();
    let default = |place: &str| &schema.pointer(place).unwrap()["default"];
    let config = Config::default();
    let tables = config.tables;
    for (key, size) in [
        ("frontends", tables.frontends),
        ("services", tables.services),
        ("rows", tables.rows),
        ("backends", tables.backends),
        ("connections", tables.connections),
        ("overflow", tables.overflow),
        ("affinity", tables.affinity),
    ] {
        assert_eq!(default(&format!("/properties/tables/properties/{key}")), size, "{key}");
    }
    for (key, path) in
        [("pin_dir", &config.pin_dir), ("state_dir", &config.state_dir), ("socket", &config.socket)]
    {
        assert_eq!(default(&format!("/properties/{key}")), &*path.to_string_lossy(), "{key}");
    }
    // What it says is a default can be written, and changes nothing.
    for key in ["detach_on_exit", "allow_exec", "packet_path", "pin_dir"] {
        let text = format!("{key}: {}\nservices: []", default(&format!("/properties/{key}")));
        let read = parse(Path::new("/f"), &text).unwrap();
        assert_eq!(read, Config { has_services: true, ..Config::default() }, "{text}");
    }
    let properties = schema.pointer("/$defs/service/properties").unwrap();
    let service = |more: &str| {
        let text = format!("services: [{{name: a, frontends: ['10.96.0.1:80']{more}}}]");
        let claims = Claims::default();
        translate("/f", &text, &claims, true).unwrap().snapshot.services
    };
    for (key, rule) in properties.as_object().unwrap() {
        if let Some(value) = rule.get("default") {
            assert_eq!(service(&format!(", {key}: {value}")), service(""), "{key}: {value}");
        }
    }
    for (key, forms) in [("affinity", "/affinity"), ("ejection", "/ejection/anyOf/1")] {
        for (inner, rule) in properties.pointer(forms).unwrap()["properties"].as_object().unwrap() {
            let value = &rule["default"];
            let written = service(&format!(", {key}: {{{inner}: {value}}}"));
            assert_eq!(written, service(&format!(", {key}: {{}}")), "{inner}: {value}");
        }
    }
}

#[test]
fn it_and_the_parser_agree() {
    let schema = schema();
    let fits = |text: &str| {
        let document = Document::parse("/f", text).unwrap();
        is_valid(&schema, &schema, &document.item().json())
    };
    let shown = [GUIDE, HEALTH, NAMES].into_iter().flat_map(|page| page.split("```yaml\n").skip(1));
    let shown = shown.map(|rest| rest.split("```").next().unwrap().to_owned());
    let shown: Vec<_> = shown
        .map(|text| {
            let whole = text.contains("services:") || text.contains("sources:");
            if whole { text } else { text + "services: []\n" }
        })
        .collect();
    assert!(shown.len() > 5);
    for text in shown.iter().map(String::as_str).chain([
        include_str!("../../../examples/quickstart.yaml"),
        include_str!("../../../examples/etcd/native/agent.yaml"),
        include_str!("../../../packages/lb-agent.yaml"),
        "http: off\nservices: []",
        "services: [{name: a, vip: 10.96.0.1, ports: [80, 53/udp], ejection: off}]",
        "services: [{name: a, frontends: ['10.96.0.1:80'], checks: [tcp, {exec: {command: [x]}}]}]",
        "services: [{name: a, frontends: [{address: '10.96.0.1:80', scope: host}], expose: true}]",
        "sources: [{kubernetes: {node_port_addresses: primary, pod_ranges: node}}]",
    ]) {
        assert_eq!(problems(text), [""; 0], "{text}");
        assert!(fits(text), "{text}");
    }
    for text in [
        "pin_dir: /x",
        "detach_on_exit: maybe\nservices: []",
        "packet_path: perhaps\nservices: []",
        "tables: {connections: 1}\nservices: []",
        "vip_ranges: 10.0.0.0/8\nservices: []",
        "sources: [{vip_ranges: []}]",
        "sources: [{etcd: {name: a}}]",
        "sources: [{etcd: {endpoints: ['http://a'], layout: consul}}]",
        "sources: [{kubernetes: {}, vip_ranges: []}]",
        "services: [{frontends: ['10.96.0.1:80']}]",
        "services: [{name: a}]",
        "services: [{name: a, frontends: ['10.96.0.1:80'], policy: fastest}]",
        "services: [{name: a, frontends: ['10.96.0.1:80'], checks: [{http: {}}]}]",
        "services: [{name: a, frontends: ['10.96.0.1:80'], backends: [{weight: 2}]}]",
        "services: [{name: a, frontends: ['10.96.0.1:80'], vip: 10.96.0.1, ports: [80]}]",
    ] {
        assert_ne!(problems(text), [""; 0], "{text}");
        assert!(!fits(text), "{text}");
    }
}

#[test]
fn the_guide_has_a_row_for_every_key() {
    // The column of keys of all tables of the pages.
    let cells = [GUIDE, HEALTH, NAMES].into_iter().flat_map(str::lines).filter_map(|line| {
        let cell = line.strip_prefix("| ")?.split(" | ").next()?;
        Some(cell.split('`').skip(1).step_by(2))
    });
    let mut documented: BTreeSet<&str> = cells.flatten().collect();
    // Kinds, and keys that the text or another key's row explains.
    documented.extend(["file", "etcd", "kubernetes", "per_backend", "listen", "ttl"]);
    documented.extend([
        "ca",
        "cert",
        "key",
        "server_name",
        "password_file",
        "verify",
        "tls",
        "user",
    ]);
    documented.extend(["method", "host", "status", "body", "path", "command", "service", "source"]);
    let missing: Vec<_> = MAPPINGS
        .iter()
        .flat_map(|(text, _)| known(text))
        .filter(|key| !documented.contains(key.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
