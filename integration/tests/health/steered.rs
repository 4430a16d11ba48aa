//! What operators say of backends, and that it holds.

use integration::agent::Agent;
use integration::client::{Call, dial};
use integration::lab::{self, Lab};
use integration::process::Finished;
use integration::server::Backends;
use integration::spec::{service, services};
use lb_agent::model::AdminState;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const VIP: &str = "10.96.0.10:80";

fn connect() -> Call {
    dial(VIP.parse().expect("an address")).expect("somebody answers")
}

fn tags(connects: usize) -> BTreeSet<String> {
    (0..connects).map(|_| connect().tag).collect()
}

#[track_caller]
fn lbctl(lab: &Lab, arguments: &[&str], code: i32) -> Finished {
    let ran = lab.lbctl(arguments);
    assert_eq!(ran.code, Some(code), "lbctl {arguments:?}: {ran:?}");
    ran
}

#[track_caller]
fn said(agent: &Agent<'_>, backend: SocketAddr) -> (AdminState, u16) {
    let backend = agent.backend("web", backend);
    (backend.state, backend.weight)
}

#[test]
fn drain_waits_for_open_connections() {
    lab::run("steer-drain", |lab| {
        let servers = Backends::tcp("127.0.0.1", ["a", "b"]);
        let web = service("web").frontend(VIP).backends(servers.addresses());
        let agent = Agent::start(lab, &services(&[web.with("affinity: {}")]));
        // Whoever this client is kept on is drained.
        let open = connect();
        assert_eq!(tags(10), BTreeSet::from([open.tag.clone()]));
        let kept = servers.tagged(&open.tag);
        let name = format!("web/{kept}");
        let ran = lbctl(lab, &["drain", &name, "--wait", "--timeout", "1s"], 1);
        assert!(
            ran.stdout.starts_with(&format!("{name} is draining, 1 connection is open")),
            "{ran:?}"
        );
        assert!(ran.stderr.contains("1 connection is open still"), "{ran:?}");
        let other = tags(20);
        assert!(other.len() == 1 && !other.contains(&open.tag), "{other:?}");
        assert_eq!(agent.backend("web", kept).active, 1);
        drop(open);
        let ran = lbctl(lab, &["drain", &name, "--wait", "--timeout", "20s"], 0);
        assert!(ran.stdout.ends_with(&format!("{name} is idle\n")), "{ran:?}");
        assert_eq!(said(&agent, kept), (AdminState::Drain, 1));
        lbctl(lab, &["undrain", &name], 0);
        assert_eq!(said(&agent, kept), (AdminState::Ready, 1));
    });
}

#[test]
fn what_operators_say_outlives_the_agent() {
    lab::run("steer-restart", |lab| {
        let servers = Backends::tcp("127.0.0.1", ["a", "b", "c"]);
        let web = service("web").frontend(VIP).backends(servers.addresses());
        let agent = Agent::start(lab, &services(&[web]));
        let names: Vec<String> = servers.addresses().map(|a| format!("web/{a}")).collect();
        assert_eq!(tags(100).len(), 3);
        lbctl(lab, &["drain", &names[0]], 0);
        lbctl(lab, &["disable", &names[1]], 0);
        lbctl(lab, &["weight", &names[2], "7"], 0);
        let holds = |agent: &Agent<'_>| {
            assert_eq!(said(agent, servers.at(0)), (AdminState::Drain, 1));
            assert_eq!(said(agent, servers.at(1)), (AdminState::Disabled, 1));
            assert_eq!(said(agent, servers.at(2)), (AdminState::Ready, 7));
            assert_eq!(tags(50), BTreeSet::from(["c".to_owned()]));
        };
        holds(&agent);
        assert!(agent.stop().success());
        let agent = Agent::adopt(lab);
        holds(&agent);
        // SIGKILL at once: it has been written by the time `lbctl` says so.
        lbctl(lab, &["undrain", &names[0]], 0);
        lbctl(lab, &["undrain", &names[1]], 0);
        lbctl(lab, &["weight", &names[2], "default"], 0);
        agent.kill9();
        let agent = Agent::adopt(lab);
        for backend in servers.addresses() {
            assert_eq!(said(&agent, backend), (AdminState::Ready, 1));
        }
        assert_eq!(tags(100).len(), 3);
        let ran = lbctl(lab, &["drain", "web/127.0.0.1:1"], 1);
        assert!(!ran.stderr.is_empty(), "{ran:?}");
    });
}
