//! The wall clock jumps by an hour, forth and back, under the agent and under those who register: checks
//! go on, leases are kept, nothing is withdrawn or published anew, and connections notice nothing.

use crate::register::Registrar;
use crate::scene::{addr, backend_key, frontends, service_key, source};
use integration::agent::Agent;
use integration::clock::Clock;
use integration::etcd::Etcd;
use integration::lab;
use integration::process::binary;
use integration::server::Backends;
use integration::traffic::{Traffic, Way};
use integration::wait::{eventually, within};
use lb_agent::health::effective::Why;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

const WEB: &str = "10.96.0.10:80";
/// Nobody dials it: whoever comes to its backends is a check.
const IDLE: &str = "10.96.0.30:80";
const CHECKED: &str = r#"{"frontends": ["10.96.0.30:80"],
    "checks": [{"tcp": {"interval": "500ms", "fast_interval": "100ms"}}]}"#;
const HOUR: i64 = 3600;
const SOON: Duration = Duration::from_secs(20);
/// A lease that is not kept (2 s) ends in this time, and what it has withdrawn would be published.
const LONG: Duration = Duration::from_secs(4);

/// How far the agent's clock is off, as its last self-test tells.
fn off(agent: &Agent<'_>) -> Option<i64> {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_secs()).ok()
    };
    Some(seconds(agent.status().self_test.at?)? - seconds(SystemTime::now())?)
}

#[test]
fn an_hour_forth_and_back_changes_nothing() {
    lab::run("etcd-clock", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let servers = Backends::tcp("127.0.0.1", ["web"]);
        let mut idle = vec![Backends::tcp("127.0.0.1", ["x"]), Backends::tcp("127.0.0.1", ["y"])];
        etcd.put(&service_key("web"), frontends(&[WEB]));
        etcd.put(&service_key("idle"), CHECKED);
        for (id, backends) in ["x", "y"].into_iter().zip(&idle) {
            etcd.put(&backend_key("idle", id), crate::scene::backend(backends.at(0)));
        }
        let clock = Clock::new(lab.scratch());
        let address = servers.at(0).to_string();
        let _registrar = Registrar::under(&clock, lab, &etcd, &address, &["--check", "tcp"]);

        lab.set_settings(&format!("self_test: 1s\n{}", source(&[etcd.endpoint()], "")));
        lab.write_config("services: []\n");
        let mut command = Command::new(binary("lb-agent"));
        clock.rules(command.args(["run", "-c"]).arg(lab.config_file()));
        let mut agent = Agent::spawn_by(lab, &mut command);
        agent.wait_ready();
        let is_well = |service: &str| {
            let backends = agent.service(service).backends;
            let well = |why: Option<Why>| matches!(why, None | Some(Why::Serving));
            !backends.is_empty()
                && backends.iter().all(|b| well(b.health.as_ref().map(|health| health.why)))
        };
        eventually("all backends to serve", SOON, || is_well("web") && is_well("idle"));
        let mut traffic = Traffic::default();
        traffic.joins(addr(WEB), "web");
        traffic.dial(Way::Tcp, addr(WEB));
        traffic.goes_on(10);

        let publishes = agent.status().work.publishes;
        for jump in [HOUR, -HOUR, 0] {
            clock.set(jump);
            let told = within(SOON, || off(&agent).filter(|off| (off - jump).abs() < HOUR / 2));
            assert!(told.is_some(), "{jump}: {:?}", off(&agent));
            let (begin, checks) = (Instant::now(), idle[0].hits()[0]);
            let seen = || idle[0].hits()[0] - checks;
            // Where all takes long, they are fewer at a time; those that a jump stops would be stopped for an hour.
            while begin.elapsed() < LONG || (seen() < 5 && begin.elapsed() < LONG * 10) {
                assert!(is_well("web") && is_well("idle"), "{jump}: {:#?}", agent.services());
                traffic.goes_on(10);
            }
            assert!(seen() >= 5, "{jump}: {} checks in {:?}", seen(), begin.elapsed());
            let status = agent.status();
            assert_eq!(status.work.publishes, publishes, "{jump}");
            assert_eq!(status.pending, [""; 0], "{jump}");
            assert!(status.sources.iter().all(|source| source.error.is_none()), "{status:#?}");
        }
        // While it is wrong, too, what changes is noticed.
        clock.set(HOUR);
        let new = Backends::tcp("127.0.0.1", ["new"]);
        etcd.put(&backend_key("idle", "new"), crate::scene::backend(new.at(0)));
        eventually("the new backend to be checked", SOON, || new.hits()[0] > 3);
        let gone = idle.remove(1).at(0);
        eventually("a backend to be unhealthy", SOON, || {
            let health = agent.backend("idle", gone).health;
            // Health is as of now, and the tables as of the last publication.
            let left = agent.service("idle").frontends[0].usable;
            left == 2 && health.is_some_and(|health| health.why == Why::Failing)
        });
        assert_eq!(
            integration::client::dial(addr(IDLE)).map(|call| call.tag != "y").ok(),
            Some(true)
        );
        traffic.goes_on(10);
    });
}
