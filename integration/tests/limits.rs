//! Services that can't be served as a whole: outside the allowed ranges, without backends of a
//! frontend's family, or more than the tables hold. Each is named; the others are served.

use integration::agent::Agent;
use integration::client::dial;
use integration::lab;
use integration::netns;
use integration::process::Finished;
use integration::server::Backends;
use integration::spec::{service, services};
use integration::wait::wait_for;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
/// Exit code for wrong usage or configuration.
const USAGE: Option<i32> = Some(64);

/// A service that works, as the first item of the list.
fn good(backends: &Backends) -> String {
    service("web").frontend(VIP).backend(backends.at(0)).to_string()
}

fn who(vip: &str) -> std::io::Result<String> {
    let vip: SocketAddr = vip.parse().expect("an address");
    Ok(dial(vip)?.tag)
}

/// Everything printed: the complaint may go to either stream.
fn printed(finished: &Finished) -> Vec<&str> {
    finished.stdout.lines().chain(finished.stderr.lines()).collect()
}

/// That exactly one line complains, and in these words.
#[track_caller]
fn expect_one_line(case: &str, finished: &Finished, code: Option<i32>, parts: &[&str]) {
    assert_eq!(finished.code, code, "{case}: {finished:?}");
    let lines = printed(finished);
    let complaints: Vec<_> =
        lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).collect();
    assert_eq!(complaints.len(), 1, "{case}: wanted one line with {parts:?}: {finished:#?}");
    assert!(!finished.stderr.contains("panicked"), "{case}: {finished:?}");
    assert!(!finished.stderr.contains("backtrace"), "{case}: {finished:?}");
}

/// A frontend outside the ranges that the configuration allows.
#[test]
fn ranges_that_are_not_allowed() {
    lab::run("bad-ranges", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let text = lab.config(&format!(
            "services:\n{}{}",
            good(&backends),
            service("stolen").frontend("192.0.2.1:443").backend(backends.at(0))
        ));
        let narrowed = text.0.replace("0.0.0.0/0, \"::/0\"", "10.96.0.0/16");
        lab.write_by_rename(&lab.config_file(), &narrowed);
        let finished = lab.lb_agent_on_config("check");
        expect_one_line("range", &finished, USAGE, &["192.0.2.1:443", "vip_ranges"]);
        let agent = Agent::adopt(lab);
        let rejections = agent.status().rejections;
        let [rejection] = rejections.as_slice() else { panic!("{rejections:?}") };
        assert_eq!(rejection.service.as_deref(), Some("stolen"));
        assert_eq!(who(VIP).unwrap(), "web");
        assert!(who("192.0.2.1:443").is_err());
        // Without ranges: loopback and the host's own addresses are not for the taking.
        netns::add_address("10.1.0.1");
        agent.kill9();
        let own = ["127.0.0.1:443", "10.1.0.1:443", "[::1]:443", "224.0.0.1:443", "0.0.0.0:443"];
        let specs = own.iter().enumerate().map(|(index, frontend)| {
            service(format!("own-{index}")).frontend(frontend).backend(backends.at(0)).to_string()
        });
        let text =
            lab.config(&format!("services:\n{}{}", good(&backends), specs.collect::<String>()));
        let unlimited = text.0.replace("vip_ranges: [0.0.0.0/0, \"::/0\"]\n", "");
        lab.write_by_rename(&lab.config_file(), &unlimited);
        let agent = Agent::adopt(lab);
        let rejections = agent.status().rejections;
        for (index, frontend) in own.iter().enumerate() {
            let name = format!("own-{index}");
            let said = rejections.iter().any(|rejection| {
                rejection.service.as_deref() == Some(&name) && rejection.reason.contains(frontend)
            });
            assert!(said, "{frontend}: {rejections:#?}");
        }
        assert_eq!(who(VIP).unwrap(), "web");
    });
}

/// A frontend that none of the backends can serve, being of the other family, is named.
#[test]
fn a_frontend_without_its_family() {
    lab::run("bad-family", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let web = service("web").frontend(VIP).frontend("[fd00:96::10]:80").backend(backends.at(0));
        let agent = Agent::start(lab, &services(&[web]));
        let status = agent.status();
        let reasons = status.rejections.iter().map(|rejection| &rejection.reason);
        let said: Vec<&String> = reasons.chain(&status.warnings).collect();
        let named = said.iter().filter(|line| line.contains("[fd00:96::10]:80"));
        assert_eq!(named.count(), 1, "{said:?}");
        assert_eq!(who(VIP).unwrap(), "web");
    });
}

/// Tables that are too small: what does not fit is named, what fits is served, and what served
/// before serves on.
#[test]
fn more_than_the_tables_hold() {
    for (table, size) in [("services", 4), ("frontends", 4), ("backends", 4), ("rows", 32)] {
        lab::run(&format!("bad-full-{table}"), |lab| {
            lab.set_settings(&format!("tables: {{{table}: {size}}}"));
            let backends = Backends::tcp("127.0.0.1", ["web"]);
            let web = || service("web").frontend(VIP).backend(backends.at(0));
            let agent = Agent::start(lab, &services(&[web()]));
            let many = (0..40).map(|number| {
                let spec = service(format!("zz-{number}")).frontend(format!("10.96.1.{number}:80"));
                spec.backends([format!("10.0.0.{number}:80"), format!("10.0.1.{number}:80")])
            });
            let before = agent.revision();
            lab.write_config(&services(&[web()].into_iter().chain(many).collect::<Vec<_>>()));
            let rejections = wait_for("rejections", Duration::from_secs(20), || {
                let status = agent.status();
                (status.sources[0].revision > before && !status.rejections.is_empty())
                    .then_some(status.rejections)
            });
            for rejection in &rejections {
                let service = rejection.service.as_deref().unwrap_or_default();
                assert!(service.starts_with("zz-"), "{table}: {rejection:?}");
                assert!(rejection.reason.contains(table), "{table}: {rejection:?}");
            }
            assert_eq!(who(VIP).unwrap(), "web", "{table}");
            // Enough room again.
            agent.reload(&services(&[web()]));
            assert_eq!(agent.status().rejections, [], "{table}");
            assert_eq!(who(VIP).unwrap(), "web", "{table}");
        });
    }
}

/// Ids for some of a service's backends only: it is served by these, and it is said that others lack.
#[test]
fn as_many_backends_as_there_are_ids_for() {
    const PART: &str = "10.96.0.20:80";
    lab::run("bad-part", |lab| {
        lab.set_settings("tables: {backends: 4}");
        let tags = ["web", "0", "1", "2", "3"];
        let backends = Backends::tcp("127.0.0.1", tags);
        let specs = |count| {
            let part = backends.addresses().skip(1).take(count);
            [
                service("web").frontend(VIP).backend(backends.at(0)),
                service("zz-part").frontend(PART).backends(part),
            ]
        };
        let agent = Agent::start(lab, &services(&specs(4)));
        let rejections = agent.status().rejections;
        let [rejection] = rejections.as_slice() else { panic!("{rejections:?}") };
        assert_eq!(rejection.service.as_deref(), Some("zz-part"));
        assert!(rejection.reason.contains("all 4 entries of tables.backends"), "{rejection:?}");
        let told = agent.service("zz-part").backends;
        let with_ids = (1..).zip(&tags[1..]).filter(|(index, _)| {
            let told = told.iter().find(|told| told.address == backends.at(*index));
            told.is_some_and(|told| told.id.is_some())
        });
        let with_ids: BTreeSet<_> = with_ids.map(|(_, tag)| (*tag).to_owned()).collect();
        assert_eq!(with_ids.len(), 3, "{told:?}");
        let served: BTreeSet<_> = (0..100).map(|_| who(PART).unwrap()).collect();
        assert_eq!(served, with_ids);
        assert_eq!(who(VIP).unwrap(), "web");
        // Who left keeps an id as long as a socket may name it.
        agent.reload(&services(&specs(2)));
        wait_for("ids for all", Duration::from_secs(20), || {
            agent.status().rejections.is_empty().then_some(())
        });
    });
}
