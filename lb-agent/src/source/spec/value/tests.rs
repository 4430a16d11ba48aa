use super::*;
use crate::json_schema::is_valid;
use crate::keys::schemas;

fn service(text: &str) -> Reading<Declaration> {
    let name = "web".parse().unwrap();
    super::service(&name, text.as_bytes(), &Claims::default())
}

#[test]
fn addresses_and_ports_apart() {
    let text = r#"{"vip":["10.96.0.1","fd00::1"],"ports":[80,"53/udp"]}"#;
    let declaration = service(text).value.unwrap();
    let frontends: Vec<_> = declaration.service.frontends.keys().map(ToString::to_string).collect();
    assert_eq!(
        frontends,
        ["10.96.0.1:53/udp", "10.96.0.1:80/tcp", "[fd00::1]:53/udp", "[fd00::1]:80/tcp"]
    );
    assert_eq!(declaration.asked, Asked::default());
    let asked = service(r#"{"vip":"auto6","ports":80}"#).value.unwrap();
    assert!(asked.service.frontends.is_empty());
    assert_eq!((asked.asked.v6, asked.asked.any, asked.ports.len()), (true, false, 1));
}

#[test]
fn a_problem_has_no_place_but_its_key() {
    let reading = service(r#"{"frontends":["10.96.0.1:80","10.96.0.1:80"],"polcy":"x"}"#);
    assert!(reading.value.is_some() && reading.problems.is_empty());
    assert_eq!(reading.warnings.len(), 2);
    assert!(reading.warnings[0].starts_with("unknown field `polcy` is ignored; use `name`"));
    assert_eq!(reading.warnings[1], "frontend 10.96.0.1:80/tcp stands twice; remove one");
    let reading = service(r#"{"frontends":["a:80"],"policy":"x"}"#);
    assert!(reading.value.is_none());
    assert_eq!(reading.problems.len(), 2);
    assert!(reading.problems.iter().all(|problem| !problem.contains("line")));
}

// === the schema ===

fn fits(definition: &str, text: &str) -> bool {
    let [_, (_, schema)] = schemas();
    is_valid(&schema, &schema["$defs"][definition], &serde_json::from_str(text).unwrap())
}

#[test]
fn the_examples_are_good_and_fit_the_schema() {
    for text in [
        include_str!("../../../../../examples/etcd/native/services/web.json"),
        include_str!("../../../../../examples/etcd/native/services/dns.json"),
        include_str!("../../../../../examples/etcd/native/services/db.json"),
    ] {
        let reading = service(text);
        assert_eq!((reading.problems, reading.warnings), (vec![], vec![]), "{text}");
        assert!(fits("service_value", text) && !fits("backend_value", text), "{text}");
    }
    for text in [
        include_str!("../../../../../examples/etcd/native/backends/web/a.json"),
        include_str!("../../../../../examples/etcd/native/backends/web/b.json"),
    ] {
        let reading = backend(text.as_bytes());
        assert_eq!((reading.problems, reading.warnings), (vec![], vec![]), "{text}");
        assert!(fits("backend_value", text) && !fits("service_value", text), "{text}");
    }
    let guide = include_str!("../../../../../docs/etcd.md");
    let json = guide.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(service(json).problems.is_empty() && fits("service_value", json));
}

#[test]
fn the_schema_and_the_parser_agree() {
    for (good, text) in [
        (true, r#"{"frontends":["10.96.0.1:80"]}"#),
        (true, r#"{"vip":"auto","ports":[80,"53/udp"],"backends":[],"policy":"random"}"#),
        (true, r#"{"vip":["auto4","fd00::1"],"ports":"80","affinity":{},"no_backend":"pass"}"#),
        (
            true,
            r#"{"frontends":["10.96.0.1:80"],"backends_from":{"source":"a","service":"b","port":"1"}}"#,
        ),
        (
            true,
            r#"{"frontends":["10.96.0.1:80"],"checks":["tcp",{"http":{"path":"/"}}],"ejection":"off","panic_threshold":"50%","min_zone_healthy":50,"slow_start":"30s","on_removal":"reset"}"#,
        ),
        (true, r#"{"frontends":["10.96.0.1:80"],"ejection":{"failures":3,"time":"10s"}}"#),
        (false, r#"{"frontends":["10.96.0.1:80"],"ejection":"on"}"#),
        (false, r#"{"frontends":["10.96.0.1:80"],"panic_threshold":101}"#),
        (false, r#"{"frontends":["10.96.0.1:80"],"on_removal":"x"}"#),
        (false, "{}"),
        (false, r#"{"frontends":[]}"#),
        (false, r#"{"vip":"auto"}"#),
        (false, r#"{"ports":[80]}"#),
        (false, r#"{"vip":"auto","ports":[]}"#),
        (false, r#"{"vip":"auto","ports":["80/sctp"]}"#),
        (false, r#"{"vip":"auto","ports":[0]}"#),
        (false, r#"{"frontends":["10.96.0.1:80"],"vip":"auto","ports":[80]}"#),
        (false, r#"{"frontends":[{"scope":"host"}]}"#),
        (false, r#"{"frontends":["10.96.0.1:80"],"policy":"x"}"#),
        (false, r#"{"frontends":["10.96.0.1:80"],"affinity":{"client":"x"}}"#),
        (false, r#"{"frontends":["10.96.0.1:80"],"backends":[{"weight":1}]}"#),
        (false, r#"{"frontends":["10.96.0.1:80"],"backends_from":[{"source":"a"}]}"#),
    ] {
        assert_eq!(service(text).value.is_some(), good, "{text}");
        assert_eq!(fits("service_value", text), good, "{text}");
    }
    for (good, text) in [
        (
            true,
            r#"{"address":"10.0.0.1:80","weight":"3","state":"drain","zone":"a","priority":"7"}"#,
        ),
        (false, r#"{"address":"10.0.0.1:80","priority":256}"#),
        (true, r#"{"host":"10.0.0.1","port":80,"registered_by":"h/1"}"#),
        (false, "{}"),
        (false, r#"{"host":"10.0.0.1"}"#),
        (false, r#"{"address":"10.0.0.1:80","host":"10.0.0.1","port":80}"#),
        (false, r#"{"address":"10.0.0.1:80","weight":0}"#),
        (false, r#"{"address":"10.0.0.1:80","weight":65536}"#),
        (false, r#"{"address":"10.0.0.1:80","state":"x"}"#),
        (false, r#"{"address":"10.0.0.1:80","zone":""}"#),
    ] {
        assert_eq!(backend(text.as_bytes()).value.is_some(), good, "{text}");
        assert_eq!(fits("backend_value", text), good, "{text}");
    }
}
