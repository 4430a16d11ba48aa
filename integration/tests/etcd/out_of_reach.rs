//! Stores that can't be had: the agent says why, in one line, and serves what it has from elsewhere.

use crate::scene::{backend, backend_key, frontends, say, service_key, source, who};
use integration::agent::Agent;
use integration::etcd::Etcd;
use integration::etcd::pki::{Pair, Pki};
use integration::lab::{self, Lab};
use integration::server::Backends;
use integration::spec::{service, services};
use integration::wait::{eventually, within};
use std::time::Duration;

const WEB: &str = "10.96.0.10:80";
const FILE: &str = "10.96.0.30:80";
const DEADLINE: Duration = Duration::from_secs(20);

/// What the agent says about its etcd source while its file's services serve.
#[track_caller]
fn complains_about_the_store(lab: &Lab, settings: &str, part: &str) -> String {
    let servers = Backends::tcp("127.0.0.1", ["file"]);
    let file = service("file").frontend(FILE).backend(servers.at(0));
    lab.set_settings(settings);
    lab.write_config(&services(&[file]));
    let agent = Agent::spawn(lab, &[]);
    let error = within(DEADLINE, || {
        let sources = agent.try_status()?.sources;
        let source = sources.into_iter().find(|source| source.name.starts_with("etcd:"))?;
        assert!(!source.synced, "{source:?}");
        source.error.filter(|error| error.contains(part))
    });
    let error = error.unwrap_or_else(|| {
        panic!("no complaint with `{part}`: {:#?}\n{}", agent.try_status(), agent.log())
    });
    eventually("the file's service", DEADLINE, || who(FILE).as_deref() == Ok("file"));
    let shown = lab.lbctl(&["status"]).stdout;
    assert!(shown.contains(&error), "{error}: {shown}");
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn unreachable_endpoints() {
    lab::run("etcd-bad-endpoints", |lab| {
        let (nobody, blackhole) = ("http://127.0.0.1:9", "http://192.0.2.7:2379");
        let nowhere = source(&[nobody, blackhole].map(str::to_owned), "");
        complains_about_the_store(lab, &nowhere, "connection refused; check that etcd runs there");
        // One that answers is enough.
        let etcd = Etcd::start(lab.scratch());
        let servers = Backends::tcp("127.0.0.1", ["a"]);
        etcd.put(&service_key("web"), frontends(&[WEB]));
        etcd.put(&backend_key("web", "a"), backend(servers.at(0)));
        let some = [nobody.to_owned(), blackhole.to_owned(), etcd.endpoint()];
        lab.set_settings(&source(&some, ""));
        let agent = Agent::start(lab, "services: []\n");
        assert_eq!(who(WEB).as_deref(), Ok("a"));
        drop(agent);
    });
}

#[test]
fn certificates_that_do_not_hold() {
    lab::run("etcd-bad-certificates", |lab| {
        let pki = Pki::create(lab.scratch(), "ours");
        let other = Pki::create(lab.scratch(), "other");
        let good = pki.client();
        let mut etcd = Etcd::with_tls(lab.scratch(), &pki.server(), Some(&pki.ca()));
        let tls = |ca: &Pki, client: &Pair| {
            format!(
                "tls: {{ca: {}, cert: {}, key: {}}}",
                ca.ca().display(),
                client.cert.display(),
                client.key.display()
            )
        };
        let endpoint = [etcd.endpoint()];
        for (what, tls) in [
            ("the server's authority is not ours", tls(&other, &good)),
            ("the client's authority is not the server's", tls(&pki, &other.client())),
            ("the client's has expired", tls(&pki, &pki.expired_client())),
        ] {
            let said = complains_about_the_store(lab, &source(&endpoint, &tls), "certificate");
            say(&format!("{what}: {said}"));
        }
        for bad in [pki.expired_server(), pki.server_named("elsewhere.example")] {
            etcd.set_tls(&bad, Some(&pki.ca()));
            etcd.restart();
            let tls = tls(&pki, &good);
            let said = complains_about_the_store(lab, &source(&endpoint, &tls), "certificate");
            say(&said);
        }
    });
}
