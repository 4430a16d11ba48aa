//! `/metrics` of a real agent: well-formed, documented, true, bounded, and quick.

use integration::agent::Agent;
use integration::client::{Call, dial};
use integration::exposition::{Exposition, Format};
use integration::http::{Answer, ask};
use integration::lab;
use integration::server::{Backends, closed};
use integration::spec::{service, services};
use integration::wait::wait_for;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);
/// Seconds: what a source that is looked at every two is never behind.
const FRESH: f64 = 5.0;

fn address() -> SocketAddr {
    ([127, 0, 0, 1], 9777).into()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[track_caller]
pub(super) fn ask_metrics(headers: &str) -> Answer {
    let answer = ask(address(), "GET /metrics", headers).expect("the agent answers");
    assert_eq!(answer.code, 200, "{answer:?}");
    answer
}

#[track_caller]
pub(super) fn scrape() -> Exposition {
    let answer = ask_metrics("");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    Exposition::parse(&answer.body, Format::Prometheus).expect("it is well-formed")
}

/// Scrapes until a sample has this value.
#[track_caller]
fn expect(name: &str, labels: &[(&str, &str)], value: f64) -> Exposition {
    let mut last = None;
    let found = integration::wait::within(DEADLINE, || {
        let metrics = scrape();
        last = metrics.value(name, labels);
        (last == Some(value)).then_some(metrics)
    });
    found.unwrap_or_else(|| panic!("{name} {labels:?} is {last:?}, not {value}"))
}

/// An agent with a bit of everything, so that no family is without a sample.
#[track_caller]
pub(super) fn with_everything(lab: &lab::Lab) -> (Agent<'_>, Backends) {
    let backends = Backends::tcp("127.0.0.1", ["a", "b", "c"]);
    lab.set_settings("metrics: {per_backend: true}\nnames: {hosts: hosts}");
    let web = service("web")
        .frontend("10.96.0.10:80")
        .backends(backends.addresses())
        .with("checks: [tcp]");
    let agent = Agent::start(lab, &services(&[web]));
    dial(addr("10.96.0.10:80")).expect("a backend answers");
    wait_for("what is only there after a while", DEADLINE, || {
        let metrics = scrape();
        let names = metrics.names();
        let late = ["lb_probes_total", "lb_backend_probe_seconds", "lb_backend_handshake_seconds"];
        late.iter().all(|name| names.contains(name)).then_some(())
    });
    (agent, backends)
}

#[test]
fn what_happens_is_counted() {
    lab::run("metrics-counts", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["a", "b", "c"]);
        let gone = closed("127.0.0.1");
        let web =
            || service("web").frontend("10.96.0.10:80").backends(backends.addresses().take(2));
        let specs = [
            web(),
            service("none").frontend("10.96.0.20:80"),
            service("closed").frontend("10.96.0.30:80").backend(gone),
        ];
        let agent = Agent::start(lab, &services(&specs));
        let calls: Vec<Call> = (0..7).map(|_| dial(addr("10.96.0.10:80")).unwrap()).collect();
        dial(addr("10.96.0.20:80")).unwrap_err();
        dial(addr("10.96.0.30:80")).unwrap_err();

        let web_labels = |verdict| [("service", "web"), ("verdict", verdict)];
        let metrics = expect("lb_service_connects_total", &web_labels("translated"), 7.0);
        for (name, labels, value) in [
            ("lb_service_connects_total", &web_labels("no_backend")[..], 0.0),
            ("lb_service_connects_total", &[("service", "none"), ("verdict", "no_backend")], 1.0),
            ("lb_service_open_sockets", &[("service", "web")], 7.0),
            ("lb_service_backends", &[("service", "web"), ("state", "serving")], 2.0),
            ("lb_service_backends", &[("service", "none"), ("state", "serving")], 0.0),
            ("lb_service_fails_open", &[("service", "web")], 0.0),
            ("lb_services", &[], 3.0),
            ("lb_frontends", &[("state", "installed")], 3.0),
            ("lb_backends", &[("state", "serving")], 3.0),
            ("lb_backends", &[("state", "draining")], 0.0),
            ("lb_ready", &[], 1.0),
            ("lb_refused_items", &[], 0.0),
            ("lb_table_entries", &[("table", "FRONTENDS")], 3.0),
            ("lb_destroyed_sockets_total", &[("protocol", "tcp")], 0.0),
            ("lb_errors_total", &[("kind", "source")], 0.0),
            ("lb_lost_events_total", &[], 0.0),
        ] {
            assert_eq!(metrics.value(name, labels), Some(value), "{name} {labels:?}");
        }
        let config = lab.config_file().display().to_string();
        let source = format!("file:{config}");
        let of = |name, metrics: &Exposition| metrics.value(name, &[("source", &source)]);
        assert_eq!(of("lb_source_up", &metrics), Some(1.0));
        // It is looked at every two seconds.
        wait_for("a fresh look", DEADLINE, || {
            of("lb_source_lag_seconds", &scrape()).filter(|lag| *lag < FRESH)
        });
        assert_eq!(of("lb_source_revisions_total", &metrics), Some(1.0));
        assert_eq!(of("lb_source_publish_seconds_count", &metrics), Some(1.0));
        assert!(metrics.value("process_resident_memory_bytes", &[]).unwrap() > 1e6);
        assert!(metrics.value("process_open_fds", &[]).unwrap() > 10.0);
        let series = |metrics: &Exposition| {
            metrics.samples().filter(|s| s.labels.contains_key("backend")).count()
        };
        assert_eq!(series(&metrics), 0, "backends only where asked for");

        // What became of connects, also of those to a backend that went since.
        let outcome = |outcome| [("service", "closed"), ("outcome", outcome)];
        let outcomes = "lb_service_connect_outcomes_total";
        expect(outcomes, &outcome("refused"), 1.0);
        agent.reload(&services(&[
            web(),
            service("closed").frontend("10.96.0.30:80").backend(backends.at(2)),
        ]));
        dial(addr("10.96.0.30:80")).unwrap();
        let metrics = expect(outcomes, &outcome("established"), 1.0);
        assert_eq!(metrics.value(outcomes, &outcome("refused")), Some(1.0));
        assert_eq!(metrics.value("lb_service_open_sockets", &[("service", "none")]), None);

        // States follow, and what is closed is not open any more.
        drop(calls);
        expect("lb_service_open_sockets", &[("service", "web")], 0.0);
        let backend = format!("web/{}", backends.at(0));
        assert_eq!(lab.lbctl(&["drain", &backend]).code, Some(0));
        let metrics = expect("lb_backends", &[("state", "draining")], 1.0);
        let states =
            |state| metrics.value("lb_service_backends", &[("service", "web"), ("state", state)]);
        assert_eq!((states("serving"), states("draining")), (Some(1.0), Some(1.0)));

        // A source that is wrong, and an item that is.
        agent.refused("services: [\n");
        let metrics = expect("lb_errors_total", &[("kind", "source")], 1.0);
        assert_eq!(of("lb_source_up", &metrics), Some(0.0));
        wait_for("the lag to grow", DEADLINE, || {
            of("lb_source_lag_seconds", &scrape()).filter(|lag| *lag > FRESH)
        });
        lab.write_config("services: [{name: bad}]\n");
        let metrics = expect("lb_refused_items", &[], 1.0);
        assert_eq!(of("lb_source_up", &metrics), Some(1.0));
        wait_for("the lag to be gone", DEADLINE, || {
            of("lb_source_lag_seconds", &scrape()).filter(|lag| *lag < FRESH)
        });
    });
}

#[test]
fn backends_have_series_if_asked_for() {
    lab::run("metrics-backends", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["a"]);
        lab.set_settings("metrics: {per_backend: true}");
        let gone = closed("::1");
        let web = service("web")
            .frontend("10.96.0.10:80")
            .frontend("[fd00:96::10]:80")
            .backends([backends.at(0), gone]);
        let _agent = Agent::start(lab, &services(&[web]));
        let _calls: Vec<Call> = (0..3).map(|_| dial(addr("10.96.0.10:80")).unwrap()).collect();
        dial(addr("[fd00:96::10]:80")).unwrap_err();
        let (first, second) = (backends.at(0).to_string(), gone.to_string());
        let labels = [("service", "web"), ("backend", &*first)];
        let metrics = expect("lb_backend_connects_total", &labels, 3.0);
        assert_eq!(metrics.value("lb_backend_open_sockets", &labels), Some(3.0));
        assert_eq!(metrics.value("lb_backend_state", &labels), Some(1.0));
        assert!(metrics.value("lb_backend_handshake_seconds", &labels).is_some_and(|s| s < 1.0));
        assert_eq!(metrics.value("lb_backends_left_out", &[]), Some(0.0));
        let refused = [("backend", &*second), ("outcome", "refused")];
        expect("lb_backend_connect_outcomes_total", &refused, 1.0);
    });
}

#[test]
fn both_formats_are_well_formed_and_say_the_same() {
    lab::run("metrics-formats", |lab| {
        // A path is what an operator may make it; names of services can't be hostile.
        let hostile = "x\"\\\n{}\u{1b}[2J\u{202e}<b>.yaml";
        let path = lab.scratch().join(hostile);
        std::fs::write(&path, "services: []\n").unwrap();
        let quoted = "\"x\\\"\\\\\\n{}\\e[2J\\u202e<b>.yaml\"";
        lab.set_settings(&format!("metrics: {{per_backend: true}}\nsources: [{{file: {quoted}}}]"));
        let web = service("a/b:c.d-e_f").frontend("10.96.0.10:80").backend("10.0.0.1:80");
        let _agent = Agent::start(lab, &services(&[web]));
        let plain = ask_metrics("");
        let open = ask_metrics("Accept: application/openmetrics-text; version=1.0.0\r\n");
        assert!(open.head.contains("content-type: application/openmetrics-text"), "{}", open.head);
        let plain = Exposition::parse(&plain.body, Format::Prometheus).unwrap();
        let open = Exposition::parse(&open.body, Format::OpenMetrics).unwrap();
        assert_eq!(plain.names(), open.names());
        let spelt = format!(
            "file:{}",
            lab.scratch().join("x\"\\\\n{}\\u{1b}[2J\\u{202e}<b>.yaml").display()
        );
        assert_eq!(plain.value("lb_source_up", &[("source", &spelt)]), Some(1.0));
        assert_eq!(open.value("lb_source_up", &[("source", &spelt)]), Some(1.0));
    });
}

#[test]
fn every_metric_is_documented_and_no_other() {
    lab::run("metrics-documented", |lab| {
        let _agent = with_everything(lab);
        let guide = include_str!("../../../docs/observability.md");
        let rows = guide.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.strip_suffix('`')?;
            let kind = cells.next()?;
            let labels = cells.next()?;
            let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
            let mut labels: Vec<String> = labels.filter(|label| !label.is_empty()).collect();
            labels.sort();
            let kinds = ["counter", "gauge", "histogram"];
            kinds.contains(&kind).then(|| (name.to_owned(), (kind.to_owned(), labels)))
        });
        let documented: BTreeMap<String, (String, Vec<String>)> = rows.collect();
        let Exposition(families) = scrape();
        let exposed = families.into_iter().map(|family| {
            let labels = family.samples.iter().flat_map(|sample| sample.labels.keys().cloned());
            let mut labels: Vec<String> = labels.filter(|label| label != "le").collect();
            labels.sort();
            labels.dedup();
            (family.name, (family.kind, labels))
        });
        let exposed: BTreeMap<String, (String, Vec<String>)> = exposed.collect();
        for (name, found) in &exposed {
            assert_eq!(documented.get(name), Some(found), "{name} in docs/observability.md");
        }
        for name in documented.keys() {
            assert!(exposed.contains_key(name), "{name} is documented and not there");
        }
    });
}

#[test]
fn names_follow_the_conventions() {
    lab::run("metrics-names", |lab| {
        let _agent = with_everything(lab);
        let Exposition(families) = scrape();
        for family in families {
            let name = &family.name;
            let own = name.starts_with("lb_") || name.starts_with("process_");
            assert!(own, "{name} has no prefix");
            assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name}");
            for unit in ["_ms", "_millis", "_micros", "_kb", "_percent", "_time"] {
                assert!(!name.ends_with(unit), "{name} is not in base units");
            }
        }
    });
}
