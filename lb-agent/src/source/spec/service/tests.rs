use super::*;
use crate::model::{AdminState, Backend, PoolRef};
use crate::source::spec::tests::{names, read};
use crate::source::spec::translate;

/// One service named `bad` with these lines, from line 2 on, and a good one after it.
fn around(lines: &str) -> String {
    let good =
        "  - name: good\n    frontends: [\"10.96.9.9:99\"]\n    backends: [\"10.0.0.9:99\"]\n";
    format!("services:\n  - name: bad\n{lines}\n{good}")
}

#[test]
fn everything_a_service_can_say() {
    let translation = read(
        r#"
services:
  - name: default/web:http
    frontends:
      - "10.96.0.10:80"
      - "[fd00::1]:53/udp"
      - {address: "10.96.0.11:80", protocol: udp, scope: host}
      - address: "[::ffff:10.96.0.12]:80"
    backends:
      - "10.0.0.5:8080"
      - {address: "[fd01::6]:8080", weight: 3, state: drain}
    policy: least_connections
    affinity: {client: uid, timeout: 90s}
    no_backend: pass
  - name: plain
    frontends: ["10.96.0.20:80"]
    affinity: {}
"#,
    );
    assert_eq!(translation.rejections, []);
    let services = &translation.snapshot.services;
    let web = &services[&"default/web:http".parse().unwrap()];
    let frontend = |text: &str| text.parse::<Frontend>().unwrap();
    assert_eq!(
        web.frontends,
        BTreeMap::from([
            (frontend("10.96.0.10:80"), Scope::Everywhere.into()),
            (frontend("[fd00::1]:53/udp"), Scope::Everywhere.into()),
            (frontend("10.96.0.11:80/udp"), Scope::Host.into()),
            (frontend("10.96.0.12:80"), Scope::Everywhere.into()),
        ])
    );
    assert_eq!(
        web.backends,
        BTreeMap::from([
            ("10.0.0.5:8080".parse().unwrap(), Backend::default()),
            (
                "[fd01::6]:8080".parse().unwrap(),
                Backend { weight: 3, state: AdminState::Drain, ..Backend::default() }
            ),
        ])
    );
    assert_eq!(web.policy, Policy::LeastConnections);
    assert_eq!(web.affinity, Some(Affinity { client: Client::Uid, timeout_seconds: 90 }));
    assert_eq!(web.no_backend, NoBackend::Pass);
    let plain = &services[&"plain".parse().unwrap()];
    assert!(plain.backends.is_empty());
    assert_eq!(plain.affinity, Some(Affinity { client: Client::Netns, timeout_seconds: 10_800 }));
    assert_eq!((plain.policy, plain.no_backend), (Policy::Random, NoBackend::Refuse));
}

#[test]
fn a_bad_service_rejects_only_itself_and_names_the_line() {
    let front = "    frontends: [\"10.96.0.1:80\"]\n";
    for (lines, at, part) in [
        (
            format!("{front}    colour: red"),
            "4:5",
            "unknown field `colour`; use `name`, `frontends`, `vip`, `ports`, `backends`, \
             `backends_from`, `policy`, `affinity`, `expose`, `no_backend`, `checks`,",
        ),
        (
            format!("{front}    backends: [{{address: \"10.0.0.1:80\", weight: 0}}]"),
            "4:49",
            "weight 0 is not a share; use `state: drain`",
        ),
        (
            format!("{front}    backends:\n      - address: \"10.0.0.1:80\"\n        weight: -3"),
            "6:17",
            "a whole number from 1 to 65535 for `weight`, found `-3`",
        ),
        (
            format!("{front}    backends: [{{address: \"10.0.0.1:80\", weight: 65536}}]"),
            "4:49",
            "from 1 to 65535 for `weight`, found `65536`",
        ),
        (
            format!("{front}    backends: [{{address: \"10.0.0.1:80\", weight: [1]}}]"),
            "4:41",
            "for `weight`, found a list",
        ),
        (
            format!("{front}    backends: [{{address: \"10.0.0.1:80\", wait: 1}}]"),
            "4:41",
            "unknown field `wait`; use `address`, `weight`, `state`, `zone` or `priority`",
        ),
        (format!("{front}    backends: [{{weight: 1}}]"), "4:17", "a backend needs an `address`"),
        (format!("{front}    backends: [\"10.0.0.1:0\"]"), "4:16", "port 0 is not a port"),
        (
            format!("{front}    expose: true\n    backends: [\"10.0.0.1:1\", \"127.0.0.2:80\"]"),
            "4:13",
            "backend 127.0.0.2:80 of a service with `expose`: packets of others can't be sent to \
             loopback; give an address of this host",
        ),
        (format!("{front}    backends: [\"10.0.0.1:65536\"]"), "4:16", "`65536` is not a port"),
        (format!("{front}    backends: [\"example.com:80\"]"), "4:16", "names are not looked up"),
        (
            format!("{front}    backends: [{{address: \"10.0.0.1:80\", state: gone}}]"),
            "4:48",
            "expected `ready`, `drain` or `disabled` for `state`, found `gone`",
        ),
        (
            format!("{front}    backends: \"10.0.0.1:80\""),
            "4:15",
            "expected a list for `backends`; write `backends: []` for none, found `10.0.0.1:80`",
        ),
        (
            format!("{front}    backends:"),
            "4:5",
            "expected a list for `backends`; write `backends: []` for none, found nothing",
        ),
        (
            format!("{front}    policy: rnd"),
            "4:13",
            "expected `random` or `least_connections` for `policy`, found `rnd`",
        ),
        (format!("{front}    no_backend: [1]"), "4:5", "for `no_backend`, found a list"),
        (
            format!("{front}    affinity: {{timeout: 500ms}}"),
            "4:25",
            "affinity timeout `500ms` is out of range; use 1s",
        ),
        (
            format!("{front}    affinity: {{timeout: 0s}}"),
            "4:25",
            "affinity timeout `0s` is out of range",
        ),
        (
            format!("{front}    affinity: {{timeout: 200y}}"),
            "4:25",
            "affinity timeout `200y` is out of range",
        ),
        (format!("{front}    affinity: {{timeout: 1500ms}}"), "4:25", "not in whole seconds"),
        (
            format!("{front}    affinity: {{timeout: soon}}"),
            "4:25",
            "`soon` is no time such as `3h`",
        ),
        (
            format!("{front}    affinity: {{client: pod}}"),
            "4:24",
            "expected `netns`, `uid`, `cgroup` or `process` for `client`",
        ),
        (
            format!("{front}    affinity: on"),
            "4:15",
            "expected a mapping for `affinity`; write `affinity: {}`",
        ),
        ("    frontends: []".into(), "3:5", "a service needs a frontend"),
        ("    backends: []".into(), "2:5", "a service needs a frontend"),
        ("    frontends: 80".into(), "3:16", "expected a list for `frontends`, found `80`"),
        ("    frontends: [\"10.96.0.1\"]".into(), "3:17", "has no port"),
        (
            "    frontends: [\"10.96.0.1:80/sctp\"]".into(),
            "3:17",
            "protocol `sctp` is not supported",
        ),
        ("    frontends: [web.example:80]".into(), "3:17", "names are not looked up"),
        ("    frontends: [\"\"]".into(), "3:17", "expected a frontend such as"),
        (
            "    frontends: [[1]]".into(),
            "3:17",
            "expected a frontend such as `10.96.0.1:80` or `10.96.0.1:53/udp`, found a list",
        ),
        (
            "    frontends: [{address: \"10.96.0.1:80\", protocol: icmp}]".into(),
            "3:53",
            "expected `tcp` or `udp` for `protocol`, found `icmp`",
        ),
        (
            "    frontends: [{address: \"10.96.0.1:80\", scope: pod}]".into(),
            "3:50",
            "expected `everywhere` or `host` for `scope`, found `pod`",
        ),
        ("    frontends: [{address: \"10.96.0.1:80/udp\"}]".into(), "3:27", "is not a port"),
        ("    frontends: [{scope: host}]".into(), "3:18", "a frontend needs an `address`"),
        (
            "    frontends: [\"192.0.2.1:80\"]".into(),
            "3:17",
            "outside the ranges allowed for this source (10.96.0.0/12, fd00::/8); add its range",
        ),
    ] {
        let translation = read(&around(&lines));
        assert_eq!(names(&translation.snapshot), ["good"], "{lines}");
        let [rejection] = translation.rejections.as_slice() else {
            panic!("{lines}: {:#?}", translation.rejections);
        };
        assert_eq!(rejection.origin, format!("f.yaml:{at}"), "{lines}: {}", rejection.reason);
        assert_eq!(rejection.service.as_deref(), Some("bad"), "{lines}");
        assert!(rejection.reason.contains(part), "{lines}: {}", rejection.reason);
        assert!(translation.refused.iter().map(ServiceName::as_str).eq(["bad"]), "{lines}");
    }
}

#[test]
fn addresses_apart_from_ports_zones_and_pools_of_others() {
    let translation = read(
        r#"
services:
  - name: pg
    vip: 10.96.0.10
    ports: [5432, 53/udp]
    backends: [{address: "10.0.0.1:80", zone: a}]
    backends_from:
      - {source: etcd:registry, service: batman/primary}
      - {source: etcd:registry, service: www.example.local, port: 8080}
  - name: one
    vip: ["10.96.0.11", "fd00::11"]
    ports: 80
    backends_from: {source: etcd:registry, service: greeter}
"#,
    );
    assert_eq!(translation.rejections, []);
    let services = &translation.snapshot.services;
    let pg = &services[&"pg".parse().unwrap()];
    let frontends: Vec<_> = pg.frontends.keys().map(ToString::to_string).collect();
    assert_eq!(frontends, ["10.96.0.10:53/udp", "10.96.0.10:5432/tcp"]);
    let pool =
        |pool: &str, port| PoolRef { source: "etcd:registry".into(), pool: pool.into(), port };
    assert_eq!(
        pg.backends_from,
        [pool("batman/primary", None), pool("www.example.local", Some(8080))]
    );
    assert_eq!(pg.backends.values().next().unwrap().zone.as_deref(), Some("a"));
    let one = &services[&"one".parse().unwrap()];
    assert_eq!(one.frontends.len(), 2);
    assert_eq!(one.backends_from, [pool("greeter", None)]);
}

#[test]
fn what_is_wrong_with_addresses_and_pools() {
    let front = "    frontends: [\"10.96.0.1:80\"]\n";
    for (lines, at, part) in [
        ("    vip: auto\n    ports: [80]".to_owned(), "3:10", "only services in etcd are given an"),
        ("    vip: 10.96.0.1".to_owned(), "3:10", "`vip` needs `ports`"),
        (format!("{front}    ports: [80]"), "4:5", "`ports` needs a `vip`"),
        (format!("{front}    vip: 10.96.0.2\n    ports: [80]"), "4:10", "not both"),
        ("    vip: web\n    ports: [80]".to_owned(), "3:10", "`web` is no service address"),
        ("    vip: 192.0.2.1\n    ports: [80]".to_owned(), "3:10", "outside the ranges"),
        ("    vip: 10.96.0.1\n    ports: [80/x]".to_owned(), "4:13", "protocol `x`"),
        (format!("{front}    backends_from: greeter"), "4:20", "expected a mapping such as"),
        (format!("{front}    backends_from: {{source: a}}"), "4:5", "a `source` and its `service`"),
        (
            format!("{front}    backends_from: [{{source: a, service: b, port: 0}}]"),
            "4:51",
            "from 1 to 65535 for `port`",
        ),
        (
            format!("{front}    backends_from: [{{source: a, pool: b}}]"),
            "4:33",
            "unknown field `pool`; use `source`, `service` or `port`",
        ),
        (
            format!("{front}    backends: [{{host: 10.0.0.1, port: 80}}]"),
            "4:17",
            "unknown field `host`",
        ),
    ] {
        let translation = read(&around(&lines));
        assert_eq!(names(&translation.snapshot), ["good"], "{lines}");
        let found: Vec<_> =
            translation.rejections.iter().map(|r| (r.origin.as_str(), &r.reason)).collect();
        let expected = format!("f.yaml:{at}");
        let said = found.iter().any(|(at, reason)| *at == expected && reason.contains(part));
        assert!(said, "{lines}: {found:?}");
    }
    let doubles = read(&around(&format!(
        "{front}    backends_from: [{{source: a, service: b}}, {{source: a, service: b}}]"
    )));
    assert_eq!(names(&doubles.snapshot), ["bad", "good"]);
    assert_eq!(doubles.rejections[0].reason, "`b` of a is named twice; remove one");
}

#[test]
fn all_problems_of_a_service_are_reported_at_once() {
    let translation = read(&around(
        "    frontends: [\"10.96.0.1:0\", \"a:80\"]\n    backends: [{weight: 0}]\n    polcy: x",
    ));
    let lines: Vec<_> = translation.rejections.iter().map(|r| r.origin.as_str()).collect();
    assert_eq!(lines, ["f.yaml:5:5", "f.yaml:3:17", "f.yaml:3:32", "f.yaml:4:25", "f.yaml:4:17"]);
}

#[test]
fn services_without_a_readable_name() {
    for (item, at, part) in [
        ("{frontends: [\"10.96.0.1:80\"]}", "2:6", "a service needs a `name`"),
        ("{name: \"a b\", frontends: [\"10.96.0.1:80\"]}", "2:12", "`a b` is not a service name"),
        (
            "{name: [a], frontends: [\"10.96.0.1:80\"]}",
            "2:6",
            "expected a service name, found a list",
        ),
        ("web", "2:5", "expected a service (a mapping with `name:`), found `web`"),
    ] {
        let translation = read(&format!("services:\n  - {item}\n"));
        let [rejection] = translation.rejections.as_slice() else {
            panic!("{item}: {:#?}", translation.rejections);
        };
        assert_eq!(rejection.origin, format!("f.yaml:{at}"), "{item}");
        assert!(rejection.reason.contains(part), "{item}: {}", rejection.reason);
        assert!(translation.snapshot.services.is_empty(), "{item}");
    }
}

#[test]
fn a_loopback_frontend_is_the_hosts_whatever_is_asked() {
    let text = "services:
  - name: a
    frontends: ['127.0.0.1:80', {address: '[::1]:80', scope: everywhere}]";
    let claims = Claims {
        ranges: Some(["127.0.0.0/8", "::1/128"].map(|r| r.parse().unwrap()).to_vec()),
        ..Claims::default()
    };
    let snapshot = translate("f.yaml", text, &claims, false).unwrap().snapshot;
    let scopes: Vec<_> = snapshot.services.values().flat_map(|s| s.frontends.values()).collect();
    assert_eq!(scopes, [&Scope::Host.into(), &Scope::Host.into()]);
}
