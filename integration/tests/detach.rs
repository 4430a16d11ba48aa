//! Who owns what is pinned: one agent at a time, `lbctl` without any, and after `detach` nobody.

use integration::agent::Agent;
use integration::client::dial;
use integration::lab::{self, Lab};
use integration::server::Backends;
use integration::spec::{service, services};
use std::fs;
use std::io;
use std::net::SocketAddr;

const VIP: &str = "10.96.0.10:80";

fn vip() -> SocketAddr {
    VIP.parse().expect("an address")
}

#[test]
fn detach_on_exit_leaves_nothing() {
    lab::run("restart-detach-exit", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        lab.write_config(&services(&[service("web").frontend(VIP).backend(backends.at(0))]));
        let mut agent = Agent::spawn(lab, &["--detach-on-exit"]);
        agent.wait_ready();
        assert_eq!(dial(vip()).unwrap().tag, "web");
        assert_eq!(agent.stop().code(), Some(0));
        expect_nothing(lab);
        // The setting in the file does the same.
        lab.set_settings("detach_on_exit: true");
        let again =
            Agent::start(lab, &services(&[service("web").frontend(VIP).backend(backends.at(0))]));
        assert_eq!(dial(vip()).unwrap().tag, "web");
        assert_eq!(again.stop().code(), Some(0));
        expect_nothing(lab);
    });
}

/// Nothing pinned, and nothing translated.
#[track_caller]
fn expect_nothing(lab: &Lab) {
    let left: Vec<_> = match fs::read_dir(lab.pin_dir()) {
        Ok(entries) => {
            entries.map(|entry| entry.expect("a directory can be read").path()).collect()
        }
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            Vec::new()
        }
    };
    assert!(left.is_empty(), "left pinned: {left:?}");
    let dialled = dial(vip()).map(|call| call.tag).map_err(|error| error.kind());
    assert_eq!(dialled, Err(io::ErrorKind::NetworkUnreachable), "nothing is translated any more");
}

#[test]
fn detach_leaves_nothing() {
    lab::run("restart-detach", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let web = services(&[service("web").frontend(VIP).udp(VIP).backend(backends.at(0))]);
        let pin_dir = lab.pin_dir().display().to_string();
        let config = lab.config_file().display().to_string();
        for arguments in [["detach", "-c", &config], ["detach", "--pin-dir", &pin_dir]] {
            let agent = Agent::start(lab, &web);
            let mut call = dial(vip()).unwrap();
            // Not under a running agent: it would put everything back, or break.
            let refused = lab.lb_agent(&arguments);
            assert_eq!(refused.code, Some(1), "{refused:?}");
            let holder = agent.pid().to_string();
            assert!(refused.stderr.contains(&holder), "{holder}: {refused:?}");
            assert_eq!(dial(vip()).unwrap().tag, "web");
            agent.kill9();
            let detached = lab.lb_agent(&arguments);
            assert_eq!(detached.code, Some(0), "{detached:?}");
            expect_nothing(lab);
            assert!(call.echoes("open connections go on"));
            // Once more is no error: the wish is fulfilled.
            assert_eq!(lab.lb_agent(&arguments).code, Some(0));
        }
        // And the next agent begins from nothing.
        let agent = Agent::start(lab, &web);
        assert_eq!(dial(vip()).unwrap().tag, "web");
        agent.expect_no_connections();
    });
}

/// The second agent on a pin directory is told who holds it, and changes nothing.
#[test]
fn a_second_agent_is_refused() {
    lab::run("restart-second", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web", "intruder"]);
        let spec = |index| services(&[service("web").frontend(VIP).backend(backends.at(index))]);
        let agent = Agent::start(lab, &spec(0));
        let other = lab.scratch().join("second.yaml");
        let text = lab.config(&spec(1)).0.replace("agent.sock", "second.sock");
        fs::write(&other, text.replace("/state\n", "/second\n")).unwrap();
        let before = agent.status();
        let second = lab.lb_agent(&["run", "-c", &other.to_string_lossy()]);
        assert_eq!(second.code, Some(1), "{second:?}");
        let last = second.stderr.lines().last().unwrap_or_default();
        assert!(last.contains(&agent.pid().to_string()), "{second:?}");
        let after = agent.status();
        assert_eq!((after.hooks, after.work.publishes), (before.hooks, before.work.publishes));
        for _ in 0..20 {
            assert_eq!(dial(vip()).unwrap().tag, "web");
        }
        // The lock goes with its holder, however that ends.
        agent.kill9();
        lab.write_config(&spec(1));
        let _agent = Agent::adopt(lab);
        assert_eq!(dial(vip()).unwrap().tag, "intruder");
    });
}

/// lbctl shows the same with and without an agent, from the pinned tables and the state file.
#[test]
fn lbctl_without_an_agent() {
    lab::run("restart-lbctl", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["0", "1"]);
        let web = service("web").frontend(VIP).backend(backends.at(0));
        let web = web.backend_with(backends.at(1), "weight: 3, state: drain");
        let agent = Agent::start(lab, &services(&[web]));
        let _calls = [(); 5].map(|()| dial(vip()).unwrap());
        let told = || {
            let output = lab.lbctl(&["services", "-o", "json"]);
            assert_eq!(output.code, Some(0), "{output:?}");
            let table = lab.lbctl(&["backends", "--no-headers"]);
            assert_eq!(table.code, Some(0), "{table:?}");
            let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
            (json, table.stdout)
        };
        let with = told();
        assert!(with.1.contains("web") && with.1.contains(&backends.at(1).to_string()), "{with:?}");
        agent.kill9();
        let without = told();
        assert_eq!(with.0, without.0);
        assert_eq!(with.1.lines().count(), without.1.lines().count(), "{with:?}, {without:?}");
        // Without the state file names are lost, the numbers are not.
        fs::remove_dir_all(lab.state_dir()).unwrap();
        let table = lab.lbctl(&["backends", "--no-headers"]);
        assert_eq!(table.code, Some(0), "{table:?}");
        let live = table.stdout.lines().find(|l| l.contains(&backends.at(0).to_string()));
        assert!(
            live.is_some_and(|line| line.split_whitespace().any(|word| word == "5")),
            "{table:?}"
        );
    });
}
