//! What the page is told.

use super::*;
use crate::model::{AdminState, Rejection};
use crate::status::{BackendStatus, CheckStatus, HealthStatus};
use crate::summary::tests::{backend, frontend, service};

fn agent() -> AgentStatus {
    AgentStatus { ready: true, ..crate::report::empty_status(SystemTime::UNIX_EPOCH) }
}

fn source(error: Option<&str>) -> SourceStatus {
    SourceStatus {
        name: "etcd:<b>\u{1b}[2J".to_owned(),
        cached: false,
        synced: true,
        revision: 1,
        applied: 1,
        delivered: None,
        services: 1,
        refused: 0,
        held: Vec::new(),
        error: error.map(str::to_owned),
        error_since: None,
        heard: Default::default(),
    }
}

fn named(name: &str, backends: Vec<BackendStatus>) -> ServiceStatus {
    let usable = backends.iter().filter(|b| summary::why(b) == Why::Serving).count();
    let frontends = vec![frontend("10.96.0.1:80", usable)];
    ServiceStatus { name: name.to_owned(), ..service(frontends, backends) }
}

fn serving(address: &str) -> BackendStatus {
    backend(address, AdminState::Ready, Some((Why::Serving, 1)))
}

fn failing(address: &str, text: &str) -> BackendStatus {
    let check = CheckStatus {
        check: "tcp".to_owned(),
        up: false,
        standing: "2/2".to_owned(),
        result: None,
        text: Some(text.to_owned()),
        took: None,
        at: None,
    };
    let health =
        HealthStatus { why: Why::Failing, share: 0, check: Some(check), ejected_for: None };
    BackendStatus { health: Some(Box::new(health)), ..serving(address) }
}

fn look(before: Option<&Look>, agent: AgentStatus, services: &[ServiceStatus]) -> Look {
    Look::new(before, Moment { at: 7, time: 8 }, agent, services)
}

fn parsed(text: serde_json::Result<String>) -> Value {
    serde_json::from_str(&text.unwrap()).unwrap()
}

/// The news from one look to the next, without their tone.
fn told(before: &[ServiceStatus], now: &[ServiceStatus]) -> Vec<String> {
    let first = look(None, agent(), before);
    let change = parsed(look(Some(&first), agent(), now).change(&first, now));
    let text = |news: &Value| {
        let service = news["service"].as_str().unwrap_or("-");
        format!("{} {service} {}", news["tone"].as_str().unwrap(), news["text"].as_str().unwrap())
    };
    change["news"].as_array().map(|news| news.iter().map(text).collect()).unwrap_or_default()
}

#[test]
fn a_change_has_what_is_different_and_nothing_else() {
    let web = named("web", vec![serving("10.0.0.1:80"), serving("10.0.0.2:80")]);
    let dns = named("dns", vec![serving("10.0.0.3:53")]);
    let first = look(None, agent(), &[web.clone(), dns.clone()]);
    let whole = parsed(first.whole());
    let rows = whole["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dns", "web"]);
    assert_eq!(rows[1]["counts"], json!([0, 4, 0, 0]));
    assert_eq!((&rows[1]["usable"], &rows[1]["level"]), (&json!(2), &json!("ok")));

    let same = [web.clone(), dns];
    let second = look(Some(&first), agent(), &same);
    assert_eq!(parsed(second.change(&first, &same)), json!({ "at": 7, "time": 8, "lags": [] }));

    let mut busier = web;
    busier.counters.connects = 9;
    let third = [busier, named("new", vec![])];
    let after = look(Some(&second), agent(), &third);
    let change = parsed(after.change(&second, &third));
    // `dns` was told of first and had number 1 or 0, `new` has one that nobody had.
    let web = rows[1]["id"].clone();
    assert_eq!(change["counts"], json!([[web, [9, 4, 0, 0]]]));
    assert_eq!(change["gone"], json!([rows[0]["id"]]));
    assert_eq!(change["rows"][0]["name"], "new");
    assert_eq!(change["rows"][0]["id"], 2);
    assert_eq!(change["agent"], Value::Null);
}

#[test]
fn news_of_backends_and_services() {
    let good = || vec![serving("10.0.0.1:80"), serving("10.0.0.2:80")];
    let one_bad = vec![serving("10.0.0.1:80"), failing("10.0.0.2:80", "L4CON refused\n\u{1b}[2J")];
    let all_bad =
        vec![failing("10.0.0.1:80", "x"), failing("10.0.0.2:80", "L4CON refused\n\u{1b}[2J")];
    let one = |backends| [named("web", backends)];
    assert_eq!(
        told(&one(good()), &one(one_bad.clone())),
        ["bad web 10.0.0.2:80 failing: tcp L4CON refused\\n\\u{1b}[2J"]
    );
    assert_eq!(
        told(&one(one_bad.clone()), &one(all_bad.clone())),
        ["bad web 10.0.0.1:80 failing: tcp x", "bad web is down: no backend: 2 failing"]
    );
    assert_eq!(
        told(&one(all_bad), &one(one_bad)),
        ["good web 10.0.0.1:80 serving", "good web is served by 1 of 2 backends again"]
    );
    assert_eq!(
        told(&one(good()), &one(vec![serving("10.0.0.2:80"), serving("10.0.0.9:80")])),
        ["note web 10.0.0.1:80 removed", "note web 10.0.0.9:80 added, serving"]
    );
    assert_eq!(told(&one(good()), &[]), ["note web removed"]);
    assert_eq!(told(&[], &one(good())), ["note web added, 2 of 2 backends serve"]);
    let many: Vec<_> = (0..500).map(|n| named(&format!("s{n}"), vec![])).collect();
    let news = told(&[], &many);
    assert_eq!(news.len(), 41);
    assert_eq!(news[40], "note - and 460 more changes");
}

#[test]
fn news_of_the_agent_and_its_sources() {
    let with = |ready, error, rejected| {
        let rejection = Rejection { origin: "x".to_owned(), service: None, reason: "y".to_owned() };
        let rejections = vec![rejection; rejected];
        AgentStatus { ready, sources: vec![source(error)], rejections, ..agent() }
    };
    let before = look(None, with(false, None, 0), &[]);
    let now = look(Some(&before), with(true, Some("no\u{1b}[2J answer"), 3), &[]);
    let change = parsed(now.change(&before, &[]));
    let texts: Vec<_> =
        change["news"].as_array().unwrap().iter().map(|n| n["text"].as_str().unwrap()).collect();
    assert_eq!(
        texts,
        [
            "the agent is ready",
            "3 items are rejected, 0 before",
            "etcd:<b>\\u{1b}[2J: no\\u{1b}[2J answer",
        ]
    );
    assert_eq!(change["agent"]["sources"][0]["name"], "etcd:<b>\\u{1b}[2J");
}

#[test]
fn lists_and_texts_are_bounded() {
    let rejection = Rejection {
        origin: "k".repeat(10_000),
        service: None,
        reason: "<script>\u{202e}".repeat(1_000),
    };
    let agent = AgentStatus { rejections: vec![rejection; 5_000], ..agent() };
    let whole = look(None, agent, &[]).whole().unwrap();
    assert!(whole.len() < 400_000, "{}", whole.len());
    let whole = parsed(Ok(whole));
    assert_eq!(whole["agent"]["rejected"], 5_000);
    assert!(!whole.to_string().contains('\u{202e}'));
}

#[test]
fn details_have_shares_and_what_was_refused_of_it() {
    let about = |service: Option<&str>| Rejection {
        origin: "x".to_owned(),
        service: service.map(str::to_owned),
        reason: "y".to_owned(),
    };
    let agent = AgentStatus { rejections: vec![about(Some("web")), about(None)], ..agent() };
    let web = named("web", vec![failing("10.0.0.2:80", "L4CON"), serving("10.0.0.1:80")]);
    let told = details(web, &agent);
    assert_eq!(told["rejections"].as_array().unwrap().len(), 1);
    assert_eq!(told["backends"][0]["address"], "10.0.0.1:80");
    assert_eq!(told["backends"][0]["share"], 100.0);
    assert_eq!(told["backends"][1]["why"], "failing");
    assert_eq!(told["backends"][1]["health"]["check"]["text"], "L4CON");
    assert_eq!((&told["level"], &told["why"]), (&json!("degraded"), &json!("1 failing")));
}

#[test]
fn how_far_sources_are_behind_is_no_change_of_the_agent() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let (file, etcd) = (source(None), source(None));
    file.heard.mark(0, at(90));
    let both = AgentStatus { sources: vec![file.clone(), etcd], ..agent() };
    let look = |before: Option<&Look>, seconds: u64| {
        Look::new(before, Moment { at: 7, time: seconds * 1000 }, both.clone(), &[])
    };
    let first = look(None, 100);
    assert_eq!(parsed(first.whole())["lags"], json!([10, null]));
    file.heard.mark(0, at(101));
    let second = look(Some(&first), 101);
    let change = parsed(second.change(&first, &[]));
    assert_eq!(change, json!({ "at": 7, "time": 101_000, "lags": [0, null] }));
}
