//! The schema of the main file, and the parser: what they take and what they refuse.

use super::parse;
use crate::claims::Claims;
use crate::json_schema::is_valid;
use crate::keys::schemas;
use crate::source::spec::translate;
use crate::yaml::Document;
use std::path::Path;

const GUIDE: &str = include_str!("../../../docs/configuration.md");
const HEALTH: &str = include_str!("../../../docs/health.md");
const NAMES: &str = include_str!("../../../docs/names.md");

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

#[test]
fn it_and_the_parser_agree() {
    let [(_, schema), _] = schemas();
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
