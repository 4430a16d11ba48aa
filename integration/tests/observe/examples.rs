//! The alert rules and the dashboard name only metrics and labels that a real agent has.

use super::metrics::{scrape, with_everything};
use integration::exposition::Exposition;
use integration::lab;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use yaml_rust2::YamlLoader;

pub(super) const DASHBOARD: &str = include_str!("../../../examples/prometheus/dashboard.json");
pub(super) const ALERTS: &str = include_str!("../../../examples/prometheus/alerts.yaml");
pub(super) const SCRAPE: &str = include_str!("../../../examples/prometheus/prometheus.yaml");

/// What Prometheus itself adds to every sample, or puts in place.
const ADDED: [&str; 2] = ["instance", "job"];

/// Words of the language that are no metrics.
const WORDS: [&str; 17] = [
    "and",
    "by",
    "histogram_quantile",
    "ignoring",
    "increase",
    "label_values",
    "max",
    "min",
    "on",
    "or",
    "rate",
    "sum",
    "unless",
    "up",
    "without",
    "avg",
    "count",
];

#[derive(Debug, PartialEq)]
struct Selector {
    metric: String,
    /// Labels with the values that are asked for, where they are plain text.
    labels: Vec<(String, Vec<String>)>,
}

/// The words of an expression outside of text, and what is selected.
fn selectors(expression: &str) -> (BTreeSet<String>, Vec<Selector>) {
    let mut words = BTreeSet::new();
    let mut found: Vec<Selector> = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            rest = after;
            if word.starts_with("lb_") || word.starts_with("process_") {
                let mut labels = Vec::new();
                if let Some((inside, after)) =
                    rest.strip_prefix('{').and_then(|rest| rest.split_once('}'))
                {
                    rest = after;
                    labels =
                        inside.split(',').filter(|part| !part.is_empty()).map(matcher).collect();
                }
                found.push(Selector { metric: word.to_owned(), labels });
            } else {
                words.insert(word.to_owned());
            }
        } else if first == '$' {
            let end = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            rest = end.map_or("", |end| &rest[end + 1..]);
        } else if first == '{' || first == '"' {
            let close = if first == '{' { '}' } else { '"' };
            let end = rest[1..].find(close).expect("what opens closes");
            rest = &rest[end + 2..];
        } else if first.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
            rest = end.map_or("", |end| &rest[end..]);
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    (words, found)
}

fn matcher(text: &str) -> (String, Vec<String>) {
    let (label, value) = text.split_once('=').expect("label=\"value\"");
    let value = value.trim_start_matches('~').trim_matches('"');
    let values = value.split('|').filter(|value| !value.starts_with('$')).map(str::to_owned);
    (label.trim_end_matches('!').to_owned(), values.collect())
}

/// Values that labels may have, beside those of the agent that is asked.
fn possible(label: &str) -> &'static [&'static str] {
    match label {
        "state" => &["serving", "failing", "ejected", "draining"],
        _ => &[],
    }
}

#[track_caller]
fn check(metrics: &Exposition, expressions: &[String]) {
    let mut labels: BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for sample in metrics.samples() {
        let known = labels.entry(&sample.name).or_default();
        for (label, value) in &sample.labels {
            known.entry(label).or_default().insert(value);
        }
    }
    let mut used = 0;
    for expression in expressions {
        let (words, selectors) = selectors(expression);
        let all: BTreeSet<&str> = selectors
            .iter()
            .filter_map(|selector| labels.get(selector.metric.as_str()))
            .flat_map(|labels| labels.keys().copied())
            .collect();
        for word in &words {
            let word = word.as_str();
            let known = WORDS.contains(&word) || ADDED.contains(&word) || all.contains(word);
            assert!(known, "`{word}` in {expression}");
        }
        for Selector { metric, labels: asked } in selectors {
            let known = labels.get(metric.as_str());
            let known = known.unwrap_or_else(|| panic!("no metric {metric}: {expression}"));
            for (label, values) in asked {
                if ADDED.contains(&&*label) {
                    continue;
                }
                let has = known.get(label.as_str());
                let has = has.unwrap_or_else(|| panic!("{metric} has no {label}: {expression}"));
                for value in &values {
                    let value = value.as_str();
                    // A table that is not excluded need not be there.
                    let fits = has.contains(value) || possible(&label).contains(&value);
                    assert!(fits, "{metric}: {label} is never {value:?}: {expression}");
                }
            }
            used += 1;
        }
    }
    assert!(used > 10, "only {used} metrics are used");
}

/// Every text under this key, at any depth.
pub(super) fn texts<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_str));
            fields.values().for_each(|value| texts(value, key, found));
        }
        Value::Array(items) => items.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_names_real_metrics() {
    lab::run("example-dashboard", |lab| {
        let _agent = with_everything(lab);
        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let mut expressions = Vec::new();
        texts(&dashboard, "expr", &mut expressions);
        texts(&dashboard, "definition", &mut expressions);
        let expressions: Vec<String> = expressions.into_iter().map(str::to_owned).collect();
        check(&scrape(), &expressions);
        // Panels lie beside each other, within the width there is.
        let mut taken = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(x < 24 && taken.insert((x, y)), "{}", panel["title"]);
                }
            }
        }
    });
}

#[test]
fn the_alerts_name_real_metrics() {
    lab::run("example-alerts", |lab| {
        let _agent = with_everything(lab);
        let rules = &YamlLoader::load_from_str(ALERTS).unwrap()[0];
        let rules = rules["groups"][0]["rules"].as_vec().unwrap();
        let expressions = rules.iter().map(|rule| {
            assert!(rule["alert"].as_str().unwrap().starts_with("Lb"), "{rule:?}");
            assert!(
                ["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap())
            );
            assert!(rule["annotations"]["summary"].as_str().is_some(), "{rule:?}");
            rule["expr"].as_str().unwrap().to_owned()
        });
        check(&scrape(), &expressions.collect::<Vec<_>>());
        let scrape = &YamlLoader::load_from_str(SCRAPE).unwrap()[0];
        let targets = &scrape["scrape_configs"][0]["static_configs"][0]["targets"];
        assert_eq!(
            targets[0].as_str(),
            Some("127.0.0.1:9777"),
            "where an agent listens by default"
        );
    });
}

#[test]
fn expressions_are_taken_apart() {
    let (words, found) = selectors(
        "sum by (le) (rate(lb_a{b=~\"x|$y\",c!=\"z\"}[5m])) / on (d) lb_e > 0.85 or up{job=\"f\"} == $g",
    );
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(words, ["by", "d", "le", "on", "or", "rate", "sum", "up"]);
    let labels =
        vec![("b".to_owned(), vec!["x".to_owned()]), ("c".to_owned(), vec!["z".to_owned()])];
    let wanted = [("lb_a", labels), ("lb_e", Vec::new())];
    let wanted = wanted.map(|(metric, labels)| Selector { metric: metric.to_owned(), labels });
    assert_eq!(found, wanted);
}
