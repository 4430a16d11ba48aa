use super::*;
use serde_json::json;

const TWO: &str = "\
services:
- name: web
  vip: auto
  ports: [80, \"53/udp\"]
- {name: team/db, frontends: [\"10.96.0.1:5432\"], backends: [{address: \"10.0.0.1:1\", weight: 3}]}
";

fn parse(origin: &str, text: &str) -> Result<Vec<Proposal>, Vec<String>> {
    let (mut proposals, mut wrong) = (Vec::new(), Vec::new());
    super::parse(origin, text, &mut proposals, &mut wrong);
    if wrong.is_empty() { Ok(proposals) } else { Err(wrong) }
}

fn store(ranges: Option<&str>) -> Store {
    let settings = crate::etcd::Settings {
        endpoints: Vec::new(),
        tls: crate::etcd::Tls::default(),
        user: None,
    };
    let vip_ranges = ranges.map(|range| vec![range.parse().unwrap()]);
    Store { settings: settings.into(), prefix: "/lb/".to_owned(), vip_ranges }
}

#[test]
fn a_document_is_a_service_or_a_list_of_them() {
    let proposals = parse("two.yaml", TWO).unwrap();
    let seen: Vec<_> =
        proposals.iter().map(|p| (p.name.as_str(), p.origin.as_str(), &p.spec)).collect();
    let web = json!({"vip": "auto", "ports": [80, "53/udp"]});
    let db = json!({
        "frontends": ["10.96.0.1:5432"], "backends": [{"address": "10.0.0.1:1", "weight": 3}]
    });
    assert_eq!(seen, [("web", "two.yaml:2:3", &web), ("team/db", "two.yaml:5:4", &db)]);
    let one = parse("one.json", r#"{"name": "web", "vip": "auto", "ports": [80]}"#).unwrap();
    assert_eq!(one[0].spec, json!({"vip": "auto", "ports": [80]}));
    assert_eq!(parse("f", "services: []").unwrap(), []);
}

#[test]
fn all_that_is_wrong_with_a_document_is_said() {
    for (text, expected) in [
        ("services: {}", &["f:1:1: `services:` must be a list"] as &[_]),
        (
            "services: [x, {}, {name: a b}]",
            &[
                "f:1:12: expected a service",
                "f:1:15: a service needs a `name`",
                "f:1:26: `a b` is not a service name",
            ],
        ),
        ("services: []\nsocket: x", &["f:2:9: `socket` is no service; leave only `services:`"]),
        ("vip: auto", &["f:1:1: a service needs a `name`"]),
        ("{", &["not valid YAML"]),
    ] {
        let problems = parse("f", text).unwrap_err();
        assert_eq!(problems.len(), expected.len(), "{text}: {problems:?}");
        for (problem, part) in problems.iter().zip(expected) {
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
    let twice = [parse("a", TWO).unwrap(), parse("b", TWO).unwrap()].concat();
    assert_eq!(
        doubles(&twice),
        [
            "b:2:3: service `web` stands twice, first at a:2:3; rename or remove one",
            "b:5:4: service `team/db` stands twice, first at a:5:4; rename or remove one",
        ]
    );
}

#[test]
fn what_agents_would_refuse_is_refused() {
    assert_eq!(judge(&store(None), &parse("f", TWO).unwrap()), Vec::<String>::new());
    let bad = parse("f", "services:\n- {name: a, frontends: [x]}\n- {name: b, fronts: []}\n");
    let problems = judge(&store(None), &bad.unwrap());
    assert!(problems.iter().any(|p| p.starts_with("f:2:4: service `a`: ")), "{problems:?}");
    assert!(problems.iter().any(|p| p.starts_with("f:3:4: service `b`: ")), "{problems:?}");
    let problems = judge(&store(Some("10.97.0.0/16")), &parse("f", TWO).unwrap());
    let [outside] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(outside.contains("10.96.0.1:5432") && outside.contains("outside"), "{outside}");
}

#[test]
fn what_an_earlier_try_has_written_is_told_as_its_doing() {
    use Fate::{Configured, Created, Unchanged};
    let first = [Created, Configured, Unchanged, Created];
    assert_eq!(told(&first, &[]), first);
    let second = [Unchanged, Unchanged, Configured, Configured];
    let both = told(&second, &first);
    assert_eq!(both, [Created, Configured, Configured, Configured]);
    assert_eq!(told(&[Unchanged; 4], &both), both);
}

#[test]
fn a_fate_compares_what_is_meant() {
    let proposals = parse("f", TWO).unwrap();
    let key = |key: &str, value: &str| {
        let value = value.as_bytes().to_vec();
        KeyValue { key: key.to_owned(), value, created: 1, modified: 1, lease: None }
    };
    let found = key("/lb/services/web", r#"{ "ports":[80,"53/udp"], "vip":"auto" }"#);
    let there = BTreeMap::from([(found.key.as_str(), &found)]);
    assert_eq!(fate(&store(None), &proposals[0], &there), Fate::Unchanged);
    assert_eq!(fate(&store(None), &proposals[1], &there), Fate::Created);
    let found = key("/lb/services/web", "{");
    let there = BTreeMap::from([(found.key.as_str(), &found)]);
    assert_eq!(fate(&store(None), &proposals[0], &there), Fate::Configured);
}
