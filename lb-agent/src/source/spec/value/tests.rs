use super::*;

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
