//! The examples in a real Prometheus: it takes the configuration, scrapes a real agent, evaluates the
//! alert rules, and answers what the dashboard asks.

use super::examples::{ALERTS, DASHBOARD, SCRAPE, texts};
use super::metrics::with_everything;
use integration::http::ask;
use integration::lab::{self, Lab};
use integration::process::{kill, run};
use integration::wait::wait_for;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

/// A server in this thread's network namespace, ended on drop.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        kill(&mut self.0);
    }
}

fn address() -> SocketAddr {
    ([127, 0, 0, 1], 9090).into()
}

/// The examples as they are, but for how often things happen.
#[track_caller]
fn configuration(lab: &Lab) -> PathBuf {
    // An answer may take as long as that, too, and here nothing is optimised.
    let quick = SCRAPE.replace("scrape_interval: 15s", "scrape_interval: 5s");
    assert_ne!(quick, SCRAPE, "the interval of the example");
    let path = lab.scratch().join("prometheus.yaml");
    let text = format!("global: {{evaluation_interval: 1s}}\n{quick}");
    fs::write(&path, text).expect("the scratch directory is writable");
    fs::write(lab.scratch().join("alerts.yaml"), ALERTS).expect("it is writable");
    path
}

#[track_caller]
fn start(lab: &Lab) -> Prometheus {
    let log = File::create(lab.scratch().join("prometheus.log")).expect("it is writable");
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", configuration(lab).display()))
        .arg(format!("--storage.tsdb.path={}", lab.scratch().join("tsdb").display()))
        .arg(format!("--web.listen-address={}", address()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    Prometheus(child.expect("prometheus can be run: `make setup-tests` installs it"))
}

/// What the API answers, once it does.
#[track_caller]
fn api(path: &str) -> Value {
    let answer = wait_for("an answer of Prometheus", DEADLINE, || {
        ask(address(), &format!("GET /api/v1/{path}"), "").ok().filter(|a| a.code != 503)
    });
    let answer: Value = serde_json::from_str(&answer.body).expect("its answers are JSON");
    assert_eq!(answer["status"], "success", "{path}: {answer}");
    answer["data"].clone()
}

#[track_caller]
fn query(expression: &str) -> Value {
    let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
    api(&format!("query?query={encoded}"))["result"].clone()
}

/// An expression of the dashboard with everything chosen, as Grafana asks it.
fn with_all(expression: &str) -> String {
    let chosen = [("$__rate_interval", "1m"), ("$instance", ".*"), ("$service", ".*")];
    let text =
        chosen.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!text.contains('$'), "a variable that nobody sets: {text}");
    text
}

#[test]
fn a_real_prometheus_takes_the_examples() {
    lab::run("example-prometheus", |lab| {
        let _agent = with_everything(lab);
        let file = configuration(lab);
        let mut check = Command::new("promtool");
        let checked = run(check.args(["check", "config"]).arg(&file), lab.scratch());
        assert_eq!(checked.code, Some(0), "{checked:?}");

        let _prometheus = start(lab);
        wait_for("two scrapes", DEADLINE, || {
            let seen = query("count_over_time(lb_ready[5m]) > 1");
            seen.as_array().is_some_and(|seen| !seen.is_empty()).then_some(())
        });
        let rules = wait_for("all rules to be evaluated", DEADLINE, || {
            let rules = api("rules?type=alert")["groups"][0]["rules"].clone();
            let rules = rules.as_array()?.clone();
            rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
        });
        for rule in &rules {
            assert_eq!(rule["health"], "ok", "{rule}");
            // Nothing is wrong with this agent, so no alert is about to be given.
            assert_eq!(rule["alerts"], Value::Array(Vec::new()), "{rule}");
        }
        assert_eq!(rules.len(), ALERTS.matches("- alert: ").count());

        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let mut expressions = Vec::new();
        texts(&dashboard, "expr", &mut expressions);
        assert!(expressions.len() > 20, "{expressions:?}");
        for expression in expressions {
            let asked = with_all(expression);
            let seen = query(&asked);
            // What is only there when something is wrong is compared with 0.
            assert!(asked.ends_with("> 0") || seen != Value::Array(Vec::new()), "nothing: {asked}");
        }
        // The lists to choose from.
        for (label, metric) in [("instance", "lb_ready"), ("service", "lb_service_open_sockets")] {
            let values = api(&format!("label/{label}/values?match[]={metric}"));
            assert!(values.as_array().is_some_and(|values| !values.is_empty()), "{label}");
        }
    });
}

#[test]
fn the_dashboard_has_what_grafana_wants() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    for key in ["title", "uid", "schemaVersion", "time", "templating", "panels"] {
        assert!(!dashboard[key].is_null(), "{key}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let named: BTreeSet<&str> = variables.iter().filter_map(|v| v["name"].as_str()).collect();
    assert_eq!(named, BTreeSet::from(["datasource", "instance", "service"]));
    let source = &variables[0];
    assert_eq!((&source["type"], &source["query"]), (&"datasource".into(), &"prometheus".into()));
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        let targets = panel["targets"].as_array();
        if panel["type"] == "row" {
            assert!(targets.is_none(), "{title}");
            continue;
        }
        assert!(["stat", "timeseries"].contains(&panel["type"].as_str().unwrap()), "{title}");
        let mut names = BTreeSet::new();
        for target in targets.unwrap() {
            assert!(names.insert(target["refId"].as_str().unwrap()), "{title}: refId");
            assert!(target["expr"].is_string(), "{title}");
        }
        assert!(!names.is_empty(), "{title} asks nothing");
    }
    let mut sources = Vec::new();
    texts(&dashboard, "uid", &mut sources);
    sources.retain(|uid| *uid != dashboard["uid"]);
    assert!(sources.len() > 20 && sources.iter().all(|uid| *uid == "${datasource}"), "{sources:?}");
}
