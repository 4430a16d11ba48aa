//! Names for CoreDNS: records that are where it looks, as long as an agent runs.

use crate::scene::addr;
use integration::agent::Agent;
use integration::etcd::Etcd;
use integration::lab;
use integration::server::Backends;
use integration::spec::{service, services};
use integration::wait::{eventually, wait_for};
use lb_agent::status::{NamesKind, NamesStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);
const ZONE: &str = "/skydns/internal/lb/";
/// A record of another host.
const OTHER: (&str, &str) =
    ("/skydns/internal/lb/web/other-1", r#"{"host":"10.96.0.11","port":80,"ttl":5}"#);

fn settings(etcd: &Etcd) -> String {
    format!(
        "names: {{coredns: {{endpoints: [{}], ttl: 5s}}}}\n\
         sources: [{{etcd: {{name: dns, endpoints: [{}], layout: coredns}}}}]\n",
        etcd.endpoint(),
        etcd.endpoint()
    )
}

/// What the records of a name below the zone say, by the key.
#[track_caller]
fn records(etcd: &Etcd, name: &str) -> BTreeMap<String, SocketAddr> {
    let read = |(key, value): (String, String)| {
        let value: serde_json::Value = serde_json::from_str(&value).expect("JSON");
        assert_eq!(value["ttl"], 5, "{key}: {value}");
        let host = value["host"].as_str().expect("a host").parse().expect("an address");
        let port = value["port"].as_u64().expect("a port").try_into().expect("a port");
        (key, SocketAddr::new(host, port))
    };
    etcd.list(&format!("{ZONE}{name}/")).into_iter().map(read).collect()
}

fn says(etcd: &Etcd, name: &str, addresses: &[&str]) -> bool {
    let said: BTreeSet<SocketAddr> = records(etcd, name).into_values().collect();
    said == addresses.iter().map(|address| addr(address)).collect()
}

#[track_caller]
fn coredns(agent: &Agent<'_>) -> NamesStatus {
    let mut names = agent.status().names.into_iter();
    names.find(|names| names.kind == NamesKind::Coredns).expect("names for CoreDNS")
}

#[test]
fn records_are_there_while_agents_are() {
    lab::run("names-coredns", |lab| {
        let etcd = Etcd::start(lab.scratch());
        etcd.put(OTHER.0, OTHER.1);
        let (v4, v6) = (Backends::tcp("127.0.0.1", ["v4"]), Backends::tcp("::1", ["v6"]));
        let web = || {
            let web = service("web").frontend("10.96.0.10:80").frontend("[fd00:96::10]:80");
            web.frontend("10.96.0.10:443").backend(v4.at(0)).backend(v6.at(0))
        };
        let team = service("team/db").frontend("10.96.0.20:5432").backend(v4.at(0));
        // Reads back what the agent has written, as what it is.
        let back = service("back")
            .frontend("10.96.0.99:80")
            .with("backends_from: {source: etcd:dns, service: db.team.lb.internal}");
        lab.set_settings(&settings(&etcd));
        let all = services(&[web(), team.clone(), back]);
        let agent = Agent::start(lab, &all);
        let all_of_web = ["10.96.0.10:80", "10.96.0.10:443", "[fd00:96::10]:80", "10.96.0.11:80"];
        eventually("the records", DEADLINE, || says(&etcd, "web", &all_of_web));
        eventually("the names below", DEADLINE, || says(&etcd, "team/db", &["10.96.0.20:5432"]));
        let read_back = wait_for("the records as backends", DEADLINE, || {
            agent.service("back").backends.first().map(|backend| backend.address)
        });
        assert_eq!(read_back, addr("10.96.0.20:5432"));
        eventually("the state", DEADLINE, || coredns(&agent).records == 3);
        assert_eq!(coredns(&agent).error, None);
        assert_eq!(coredns(&agent).place, format!("{} /skydns/", etcd.endpoint()));
        let lease = |key: &String| etcd.lease_of(key);
        let ours = || records(&etcd, "web").into_keys().filter(|key| key != OTHER.0);
        assert!(ours().all(|key| lease(&key).is_some_and(|id| id > 0)));

        // Others' doings are repaired; others' records are theirs.
        let deleted = ours().next().expect("a record");
        assert!(etcd.delete(&deleted));
        eventually("the repair", DEADLINE, || says(&etcd, "web", &all_of_web));
        agent.reload(&services(std::slice::from_ref(&team)));
        eventually("the name to go", DEADLINE, || says(&etcd, "web", &["10.96.0.11:80"]));
        agent.reload(&all);
        eventually("the name to come back", DEADLINE, || says(&etcd, "web", &all_of_web));

        // As the services do, names stay when the agent stops; the next one takes them over.
        let before: Vec<_> = ours().map(|key| (key.clone(), lease(&key))).collect();
        assert_eq!(agent.stop().code(), Some(0));
        assert!(says(&etcd, "web", &all_of_web));
        let agent = Agent::start(lab, &all);
        eventually("the records on a lease of the new agent", DEADLINE, || {
            before.iter().all(|(key, old)| lease(key).is_some_and(|new| Some(new) != *old))
        });
        assert_eq!(
            ours().collect::<Vec<_>>(),
            before.into_iter().map(|(k, _)| k).collect::<Vec<_>>()
        );
        // Without an agent they go.
        agent.kill9();
        eventually("the leases to end", DEADLINE, || says(&etcd, "web", &["10.96.0.11:80"]));
        lab.set_settings(&format!("{}detach_on_exit: true\n", settings(&etcd)));
        let agent = Agent::start(lab, &services(&[web()]));
        eventually("the records", DEADLINE, || says(&etcd, "web", &all_of_web));
        assert_eq!(agent.stop().code(), Some(0));
        assert!(says(&etcd, "web", &["10.96.0.11:80"]), "{:?}", etcd.list(ZONE));
    });
}

/// A store that is away: shown, and nothing else minds.
#[test]
fn a_store_that_is_away_holds_up_nothing() {
    lab::run("names-coredns-away", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        let v4 = Backends::tcp("127.0.0.1", ["v4"]);
        let web = services(&[service("web").frontend("10.96.0.10:80").backend(v4.at(0))]);
        let endpoint = etcd.endpoint();
        lab.set_settings(&format!("names: {{coredns: {{endpoints: [{endpoint}], ttl: 5s}}}}\n"));
        etcd.kill9();
        let agent = Agent::start(lab, &web);
        let error = wait_for("a complaint", DEADLINE, || coredns(&agent).error);
        assert_eq!(error.lines().count(), 1, "{error}");
        etcd.restart();
        eventually("the record", DEADLINE, || says(&etcd, "web", &["10.96.0.10:80"]));
        eventually("the complaint's end", DEADLINE, || {
            let names = coredns(&agent);
            names.error.is_none() && names.records == 1
        });
    });
}
