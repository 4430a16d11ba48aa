//! What became of connects, as the agent and `lbctl` show it, and what restarts do to it.

use integration::agent::Agent;
use integration::client::dial;
use integration::host;
use integration::lab::{self, Lab};
use integration::server::{Backends, closed};
use integration::spec::{service, services};
use integration::wait::patience;
use lb_agent::status::OutcomeCounts;
use lb_common::LAYOUT_VERSION;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

const VIP: &str = "10.96.0.10:80";
const OTHER: &str = "10.96.0.20:80";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn pin(lab: &Lab, name: &str) -> PathBuf {
    lab.pin_dir().join(LAYOUT_VERSION.to_string()).join(name)
}

#[track_caller]
fn outcomes(agent: &Agent<'_>, service: &str, backend: SocketAddr) -> OutcomeCounts {
    agent
        .backend(service, backend)
        .outcomes
        .map(|outcomes| *outcomes)
        .expect("outcomes are followed")
}

#[test]
fn shown_and_kept() {
    lab::run("outcomes-agent", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let (open, shut) = (server.at(0), closed("127.0.0.1"));
        let agent = Agent::start(
            lab,
            &services(&[
                service("web").frontend(VIP).backend(open),
                service("gone").frontend(OTHER).backend(shut),
            ]),
        );
        let status = agent.status();
        assert_eq!(status.warnings, host::warnings());
        assert_eq!(status.hooks.iter().filter(|hook| hook.hook == "sock_ops").count(), 1);
        for _ in 0..3 {
            dial(addr(VIP)).unwrap();
            dial(addr(OTHER)).unwrap_err();
        }
        let web = outcomes(&agent, "web", open);
        let gone = outcomes(&agent, "gone", shut);
        assert_eq!((web.established, web.consecutive, web.srtt.is_some()), (3, 0, true));
        let refused =
            OutcomeCounts { refused: 3, consecutive: 3, srtt: None, ..OutcomeCounts::default() };
        assert_eq!(gone, refused);
        let used = |name| agent.maps().into_iter().find(|table| table.name == name).unwrap().used;
        assert_eq!((used("BACKEND_OUTCOMES"), used("FAILURES")), (Some(2), None));

        // With and without an agent, and across agents.
        let columns = |service| {
            let wide = lab.lbctl(&["backends", service, "-o", "wide"]).stdout;
            let (names, cells) = wide.split_once('\n').expect("a line of names");
            let column = |name| {
                let mut names = names.split_whitespace();
                let number = names.position(|other| other == name).expect("the column");
                cells.split_whitespace().nth(number).expect("a cell").to_owned()
            };
            ["FAILURES", "RTT"].map(column)
        };
        let listed = || {
            let json = lab.lbctl(&["backends", "gone", "-o", "json"]);
            let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
            assert_eq!(json[0]["outcomes"]["refused"], 3, "{json}");
            columns("gone")
        };
        assert_eq!(listed(), ["3", "-"]);
        let [failures, rtt] = columns("web");
        assert_eq!(failures, "0");
        let rtt: f64 = rtt.strip_suffix("ms").expect("milliseconds").parse().unwrap();
        assert!((0.0..50.0 * f64::from(patience())).contains(&rtt), "{rtt} ms");
        agent.kill9();
        assert_eq!(listed(), ["3", "-"]);
        dial(addr(VIP)).unwrap();
        let agent = Agent::adopt(lab);
        assert_eq!(outcomes(&agent, "web", open).established, 4, "counted without an agent");
        assert_eq!(outcomes(&agent, "gone", shut), gone);
        dial(addr(OTHER)).unwrap_err();
        assert_eq!(outcomes(&agent, "gone", shut).consecutive, 4);
    });
}

/// A backend that gets the id of another begins at zero.
#[test]
fn an_id_that_is_given_away() {
    lab::run("outcomes-reuse", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let stays = service("web").frontend(VIP).backend(server.at(0));
        let gone = |backend| service("gone").frontend(OTHER).backend(backend);
        let agent = Agent::start(lab, &services(&[stays.clone(), gone(closed("127.0.0.1"))]));
        dial(addr(OTHER)).unwrap_err();
        let first = agent.service("gone").backends[0].clone();
        assert_eq!(first.outcomes.unwrap().refused, 1);
        agent.reload(&services(std::slice::from_ref(&stays)));
        agent.kill9();
        // The next agent does not know which ids were used.
        let agent = Agent::adopt(lab);
        let next = closed("127.0.0.1");
        agent.reload(&services(&[stays, gone(next)]));
        let second = agent.backend("gone", next);
        assert_eq!(second.id, first.id, "this test needs an id that was used");
        assert_eq!(second.outcomes, Some(Box::default()));
    });
}

/// Tables and links of an agent that did not follow what becomes of connects.
#[test]
fn pins_of_an_older_agent() {
    lab::run("outcomes-older", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let stays = service("web").frontend(VIP).backend(server.at(0));
        let gone = |backend| service("gone").frontend(OTHER).backend(backend);
        let agent = Agent::start(lab, &services(&[stays.clone(), gone(closed("127.0.0.1"))]));
        dial(addr(OTHER)).unwrap_err();
        let first = agent.service("gone").backends[0].id;
        agent.reload(&services(std::slice::from_ref(&stays)));
        let before = agent.backend("web", server.at(0));
        agent.kill9();
        let later = ["link_sock_ops", "BACKEND_OUTCOMES", "FAILURES"];
        for name in later {
            fs::remove_file(pin(lab, name)).unwrap();
        }

        let told = lab.lbctl(&["backends", "-o", "json"]);
        assert_eq!(told.code, Some(0), "{told:?}");
        assert!(!told.stdout.contains("outcomes"), "{told:?}");
        let told = lab.lbctl(&["maps"]);
        assert_eq!((told.code, told.stdout.contains("FAILURES")), (Some(0), false), "{told:?}");

        let agent = Agent::adopt(lab);
        for name in later {
            assert!(pin(lab, name).exists(), "{name}");
        }
        let web = agent.backend("web", server.at(0));
        assert_eq!((web.id, web.connects), (before.id, before.connects));
        dial(addr(VIP)).unwrap();
        assert_eq!(outcomes(&agent, "web", server.at(0)).established, 1);
        // New tables do not make the old ones new.
        let next = closed("127.0.0.1");
        agent.reload(&services(&[stays, gone(next)]));
        let second = agent.backend("gone", next);
        assert_eq!(second.id, first, "this test needs an id that was used");
        assert_eq!(second.connects, 0);
    });
}
