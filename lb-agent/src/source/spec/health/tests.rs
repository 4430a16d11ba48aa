use super::*;
use crate::model::OnRemoval;
use crate::model::check::Initial;
use crate::source::spec::{Translation, translate};

/// A service with these lines, from line 4 on.
fn read(lines: &str, exec: bool) -> Translation {
    let claims = Claims { exec, ..Claims::default() };
    let head = "services:\n  - name: web\n    frontends: [\"10.96.0.1:80\"]\n";
    translate("f", &format!("{head}{lines}\n"), &claims, false).unwrap()
}

fn policy(lines: &str) -> HealthPolicy {
    let translation = read(lines, true);
    assert_eq!(translation.rejections, [], "{lines}");
    let services = translation.snapshot.services;
    services.into_values().next().unwrap().health.clone()
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn everything_that_can_be_said_of_health() {
    let policy = policy(
        r#"
    checks:
      - tcp
      - tcp: {port: 9000, interval: 10s, timeout: 3s, fast_interval: 1s, rise: 1, fall: 9, initial: down, jitter: 20%}
      - http: {path: "/healthz?full=1", method: HEAD, host: web.example.com, status: "200-299,404", body: ok}
      - https: {path: /, verify: false, server_name: web}
      - https: {path: /, ca: /etc/ca.pem}
      - grpc
      - grpc: {service: web.v1, tls: true}
      - exec: {command: [check-db, "-q"], timeout: 1500ms}
    ejection: {failures: 3, time: 10s, max_time: 1m, max_ejected: 30%}
    panic_threshold: 40
    min_zone_healthy: 70%
    slow_start: 30s
    on_removal: reset
"#,
    );
    let told: Vec<String> = policy.checks.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "tcp",
            "tcp on port 9000",
            "http /healthz?full=1",
            "https /",
            "https /",
            "grpc",
            "grpc web.v1",
            "exec check-db"
        ]
    );
    assert_eq!(*policy.checks[0], Check::new(Probe::Tcp));
    let second = Check {
        probe: Probe::Tcp,
        port: Some(9000),
        interval: millis(10_000),
        fast_interval: millis(1000),
        timeout: millis(3000),
        rise: 1,
        fall: 9,
        initial: Initial::Down,
        jitter: 20,
    };
    assert_eq!(*policy.checks[1], second);
    let http = HttpProbe {
        tls: None,
        method: "HEAD".into(),
        path: "/healthz?full=1".into(),
        host: Some("web.example.com".into()),
        status: vec![(200, 299), (404, 404)],
        body: Some("ok".into()),
    };
    assert_eq!(policy.checks[2].probe, Probe::Http(http));
    let tls = |n: usize| match &policy.checks[n].probe {
        Probe::Http(http) => http.tls.clone(),
        Probe::Grpc(grpc) => grpc.tls.clone(),
        _ => None,
    };
    let name = Some("web".to_owned());
    assert_eq!(tls(3), Some(ProbeTls { verify: false, server_name: name, ca: None }));
    assert_eq!(tls(4).unwrap().ca, Some("/etc/ca.pem".into()));
    assert_eq!((tls(5), tls(6)), (None, Some(ProbeTls::default())));
    let command = vec!["check-db".to_owned(), "-q".to_owned()];
    assert_eq!(policy.checks[7].probe, Probe::Exec(ExecProbe { command }));
    assert_eq!(
        policy.ejection,
        EjectionPolicy {
            failures: 3,
            time: millis(10_000),
            max_time: millis(60_000),
            max_ejected: 30
        }
    );
    assert_eq!(policy.rule.panic_threshold, 40);
    assert_eq!(policy.rule.min_zone_healthy, Some(70));
    assert_eq!(policy.slow_start, millis(30_000));
    assert_eq!(policy.on_removal, OnRemoval::Reset);
}

#[test]
fn what_is_left_out_has_its_default() {
    assert!(policy("").is_default());
    assert_eq!(policy("    ejection: off").ejection.failures, 0);
    // A short interval shortens what must fit into it.
    let quick = policy("    checks: [{tcp: {interval: 200ms}}]");
    assert_eq!(quick.checks[0].timeout, millis(200));
    assert_eq!(quick.checks[0].fast_interval, millis(200));
    // One time that is longer than the longest makes that longer.
    assert_eq!(policy("    ejection: {time: 10m}").ejection.max_time, millis(600_000));
}

#[test]
fn mistakes_cost_the_service_and_say_where() {
    for (lines, origin, part) in [
        ("    checks: tcp", "f:4:13", "expected a list for `checks`"),
        ("    checks: [udp]", "f:4:14", "expected `tcp`, `grpc`, or a check such as"),
        ("    checks: [http]", "f:4:14", "an http check needs a `path`: `http: {path: /healthz}`"),
        ("    checks: [{http: {}}]", "f:4:15", "an http check needs a `path`"),
        ("    checks: [{http: {path: healthz}}]", "f:4:28", "is not a path"),
        ("    checks: [{http: {path: /, verify: false}}]", "f:4:31", "unknown field `verify`"),
        ("    checks: [{http: {path: /, status: 20}}]", "f:4:39", "no set of statuses"),
        ("    checks: [{http: {path: /, status: 300-200}}]", "f:4:39", "no set of statuses"),
        ("    checks: [{http: {path: /, method: \"G T\"}}]", "f:4:39", "is not a method"),
        ("    checks: [{https: {path: /, ca: ca.pem}}]", "f:4:36", "write the whole path"),
        ("    checks: [{tcp: {}, grpc: {}}]", "f:4:15", "one check per list item"),
        ("    checks: [{tcp: {rise: 0}}]", "f:4:27", "a whole number from 1 to 100 for `rise`"),
        ("    checks: [{tcp: {port: 0}}]", "f:4:27", "a whole number from 1 to 65535"),
        ("    checks: [{tcp: {jitter: 101}}]", "f:4:29", "a percentage from 0 to 100"),
        ("    checks: [{tcp: {interval: 1ms}}]", "f:4:31", "`interval` of 1ms is out of range"),
        (
            "    checks: [{tcp: {interval: 1s, timeout: 2s}}]",
            "f:4:44",
            "timeout 2s is longer than the interval 1s",
        ),
        ("    checks: [{exec: {command: [x]}}]", "f:4:15", "set `allow_exec: true`"),
        ("    checks: [{exec: {}}]", "f:4:15", "an exec check needs a `command`"),
        ("    ejection: {failures: 0}", "f:4:26", "a whole number from 1 to 1000"),
        ("    min_zone_healthy: 0", "f:4:23", "a percentage from 1 to 100"),
        ("    on_removal: kill", "f:4:17", "expected `drain` or `reset`"),
    ] {
        let translation = read(lines, false);
        assert!(translation.snapshot.services.is_empty(), "{lines}");
        let found = translation
            .rejections
            .iter()
            .any(|rejection| rejection.origin == origin && rejection.reason.contains(part));
        assert!(found, "{lines}: {:#?}", translation.rejections);
    }
}

#[test]
fn a_service_that_speaks_only_udp_needs_a_port_for_its_checks() {
    let text = |check: &str, more: &str| {
        format!(
            "services:\n  - name: dns\n    frontends: [\"10.96.0.1:53/udp\"{more}]\n    \
             checks: [{check}]\n"
        )
    };
    let read = |check, more| {
        let claims = Claims { exec: true, ..Claims::default() };
        translate("f", &text(check, more), &claims, false).unwrap().rejections
    };
    for (check, more, good) in [
        ("tcp", "", false),
        ("{http: {path: /}}", "", false),
        ("tcp", ", \"10.96.0.1:53/tcp\"", true),
        ("{tcp: {port: 8080}}", "", true),
        ("{exec: {command: [dig]}}", "", true),
    ] {
        let rejections = read(check, more);
        assert_eq!(rejections.is_empty(), good, "{check}: {rejections:?}");
        let part = "needs TCP, but the service has UDP frontends only";
        assert!(good || rejections[0].reason.contains(part), "{rejections:?}");
    }
}
