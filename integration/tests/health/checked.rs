//! Checks through a whole agent: who gets new connections, and what is shown.

use crate::trial::{Server, request};
use integration::agent::Agent;
use integration::client::{ask, dial, udp};
use integration::lab::{self, Lab};
use integration::netns::add_address;
use integration::server::{Backends, Kind, closed};
use integration::spec::{Spec, service, services};
use integration::wait::{eventually, let_pass, wait_for};
use lb_agent::health::board::CheckResult;
use lb_agent::health::effective::Why;
use lb_agent::status::{BackendStatus, CheckStatus, HealthStatus};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
const DEADLINE: Duration = Duration::from_secs(20);
const TCP: &str = "checks: [{tcp: {interval: 100ms, fast_interval: 50ms}}]";
const HTTP: &str = "checks: [{http: {path: /, interval: 300ms, fast_interval: 50ms}}]";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[track_caller]
fn health(agent: &Agent<'_>, service: &str, backend: SocketAddr) -> HealthStatus {
    agent.backend(service, backend).health.map(|health| *health).expect("something is known of it")
}

#[track_caller]
fn check(agent: &Agent<'_>, service: &str, backend: SocketAddr) -> CheckStatus {
    health(agent, service, backend).check.expect("it is checked")
}

/// Waits until that is so, and the tables follow: health is as of now, and they are as of the last publication.
#[track_caller]
fn becomes(agent: &Agent<'_>, service: &str, backend: SocketAddr, why: Why) {
    wait_for(&format!("{backend} to be {why:?}"), DEADLINE, || {
        let told = agent.service(service);
        let health = |backend: &BackendStatus| {
            backend.health.as_ref().map(|health| (health.why, health.share))
        };
        let of_it = told.backends.iter().find(|told| told.address == backend).and_then(health);
        let shares = told.backends.iter().filter_map(health).filter(|(_, share)| *share > 0);
        let follows = told.frontends[0].usable == shares.count();
        (follows && of_it.is_some_and(|(now, _)| now == why)).then_some(())
    });
}

/// Who answers how many of so many connects.
#[track_caller]
fn counts(vip: &str, connects: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..connects {
        *counts.entry(dial(addr(vip)).expect("somebody answers").tag).or_default() += 1;
    }
    counts
}

fn tags(counts: &BTreeMap<String, usize>) -> Vec<&str> {
    counts.keys().map(String::as_str).collect()
}

/// Waits until these answer so many connects, and nobody else, and sees that it stays so: health is
/// known a moment before the tables follow.
#[track_caller]
fn answers(vip: &str, connects: usize, wanted: &[&str]) {
    eventually(&format!("answers of {wanted:?} only"), DEADLINE, || {
        tags(&counts(vip, connects)) == wanted
    });
    assert_eq!(tags(&counts(vip, connects)), wanted);
}

/// Answers requests as the test says: `good` or not.
fn moody() -> (Server, Arc<AtomicBool>) {
    let good = Arc::new(AtomicBool::new(true));
    let mood = Arc::clone(&good);
    let server = Server::start(move |mut stream| {
        request(&mut stream);
        let status = if mood.load(Ordering::SeqCst) { "200 OK" } else { "500 Oh no" };
        // The client may have gone.
        let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    });
    (server, good)
}

/// Answers good and bad requests by turns, beginning with a bad one or a good one.
fn flapping(first: usize) -> (Server, Arc<AtomicUsize>) {
    let turn = Arc::new(AtomicUsize::new(first));
    let turns = Arc::clone(&turn);
    let server = Server::start(move |mut stream| {
        request(&mut stream);
        let good = turns.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        let status = if good { "200 OK" } else { "500 Oh no" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    });
    (server, turn)
}

fn start<'a>(lab: &'a Lab, spec: Spec) -> Agent<'a> {
    Agent::start(lab, &services(&[spec]))
}

#[test]
fn a_backend_that_is_also_a_frontend_is_probed_itself() {
    lab::run("probe-own", |lab| {
        // Nobody listens there; who dials it as a client gets to the other service's backend.
        add_address("10.96.0.77");
        let both = addr("10.96.0.77:80");
        let server = Backends::tcp("127.0.0.1", ["other"]);
        let x = service("x").frontend(VIP).backend(both).with(TCP);
        let y = service("y").frontend(both).backend(server.at(0)).with(TCP);
        let agent = Agent::start(lab, &services(&[x, y]));
        becomes(&agent, "y", server.at(0), Why::Serving);
        wait_for("a result", DEADLINE, || {
            let check = agent.backend("x", both).health?.check?;
            check.result.map(|_| ())
        });
        let seen = check(&agent, "x", both);
        assert_eq!((seen.up, seen.text.as_deref()), (false, Some("L4CON connection refused")));
        assert_eq!(dial(both).unwrap().tag, "other");
    });
}

#[test]
fn flapping_changes_no_table() {
    lab::run("probe-flap", |lab| {
        let (up, turns) = flapping(0);
        let (down, _) = flapping(1);
        // A try may take as long as the interval: a server that is slow once is no bad answer more.
        let quick = "checks: [{http: {path: /, interval: 1s, fast_interval: 30ms}}]";
        let spec = service("web").frontend(VIP).backends([up.address, down.address]).with(quick);
        let agent = start(lab, spec);
        becomes(&agent, "web", down.address, Why::Failing);
        becomes(&agent, "web", up.address, Why::Serving);
        let (publishes, turn) = (agent.status().work.publishes, turns.load(Ordering::SeqCst));
        eventually("many tries", 3 * DEADLINE, || turns.load(Ordering::SeqCst) > turn + 40);
        assert_eq!(agent.status().work.publishes, publishes);
        assert_eq!(health(&agent, "web", up.address).why, Why::Serving);
        assert_eq!(health(&agent, "web", down.address).why, Why::Failing);
    });
}

#[test]
fn a_share_grows_after_a_return_and_not_at_the_start() {
    lab::run("probe-slow", |lab| {
        let (steady, _) = moody();
        let (returns, good) = moody();
        let (a, b) = (steady.address, returns.address);
        let spec = service("web").frontend(VIP).backends([a, b]).with(HTTP);
        let agent = start(lab, spec.with("slow_start: 3s"));
        let share = |backend| health(&agent, "web", backend).share;
        becomes(&agent, "web", b, Why::Serving);
        wait_for("a first result", DEADLINE, || check(&agent, "web", b).result.map(|_| ()));
        assert_eq!(share(a), share(b));
        good.store(false, Ordering::SeqCst);
        becomes(&agent, "web", b, Why::Failing);
        assert_eq!(share(b), 0);
        good.store(true, Ordering::SeqCst);
        becomes(&agent, "web", b, Why::Serving);
        let mut seen = Vec::new();
        eventually("the whole share", DEADLINE, || {
            let service = agent.service("web");
            let of = |address| {
                let backend = service.backends.iter().find(|b| b.address == address).unwrap();
                f64::from(backend.health.as_ref().unwrap().share)
            };
            let part = of(b) / of(a);
            if seen.last() != Some(&part) {
                seen.push(part);
            }
            part == 1.0
        });
        assert!(seen.is_sorted(), "{seen:?}");
        assert!(seen.len() >= 4 && seen[0] < 0.5, "{seen:?}");
    });
}

#[test]
fn backups_serve_when_all_others_are_down() {
    lab::run("probe-backup", |lab| {
        let (first, backup) =
            (Backends::tcp("127.0.0.1", ["a", "b"]), Backends::tcp("127.0.0.1", ["backup"]));
        let spec = service("web").frontend(VIP).backends(first.addresses());
        let spec = spec.backend_with(backup.at(0), "priority: 1").with(TCP);
        let agent = start(lab, spec);
        let addresses: Vec<_> = first.addresses().collect();
        becomes(&agent, "web", backup.at(0), Why::Standby);
        answers(VIP, 50, &["a", "b"]);
        drop(first);
        becomes(&agent, "web", backup.at(0), Why::Serving);
        answers(VIP, 20, &["backup"]);
        let back = addresses.iter().copied().zip(["a", "b"]);
        let _first = Backends::start(Kind::Tcp, back);
        becomes(&agent, "web", backup.at(0), Why::Standby);
        becomes(&agent, "web", addresses[0], Why::Serving);
        becomes(&agent, "web", addresses[1], Why::Serving);
        answers(VIP, 50, &["a", "b"]);
    });
}

#[test]
fn the_own_zone_serves_while_enough_of_it_is_up() {
    lab::run("probe-zone", |lab| {
        lab.set_settings("zone: here\n");
        let one = Backends::tcp("127.0.0.1", ["one"]);
        let two = Backends::tcp("127.0.0.1", ["two"]);
        let far = Backends::tcp("127.0.0.1", ["far"]);
        let spec = service("web")
            .frontend(VIP)
            .backend_with(one.at(0), "zone: here")
            .backend_with(two.at(0), "zone: here")
            .backend_with(far.at(0), "zone: there")
            .with(TCP)
            .with("ejection: off")
            .with("min_zone_healthy: 80%");
        let agent = start(lab, spec);
        becomes(&agent, "web", far.at(0), Why::OtherZone);
        answers(VIP, 50, &["one", "two"]);
        // Half of it is up, 80 percent would be enough: it keeps 50/80 of the connects.
        let gone = two.at(0);
        drop(two);
        becomes(&agent, "web", gone, Why::Failing);
        becomes(&agent, "web", far.at(0), Why::Serving);
        let seen = counts(VIP, 400);
        assert_eq!(tags(&seen), ["far", "one"]);
        assert!((200..=300).contains(&seen["one"]), "{seen:?}");
        let gone = one.at(0);
        drop(one);
        becomes(&agent, "web", gone, Why::Failing);
        answers(VIP, 20, &["far"]);
    });
}

#[test]
fn too_few_healthy_ones_open_the_door() {
    lab::run("probe-panic", |lab| {
        let up = Backends::tcp("127.0.0.1", ["up"]);
        let down = [closed("127.0.0.1"), closed("127.0.0.1")];
        let spec = service("web").frontend(VIP).backend(up.at(0)).backends(down);
        let web = || spec.clone().with(TCP).with("ejection: off");
        let agent = start(lab, web());
        becomes(&agent, "web", down[0], Why::Failing);
        becomes(&agent, "web", down[1], Why::Failing);
        answers(VIP, 20, &["up"]);
        assert!(!agent.service("web").fails_open);
        agent.reload(&services(&[web().with("panic_threshold: 50%")]));
        becomes(&agent, "web", down[0], Why::FailOpen);
        let now = agent.service("web");
        assert!(now.fails_open && now.frontends[0].usable == 3, "{now:#?}");
        let failed = (0..100).filter(|_| dial(addr(VIP)).is_err()).count();
        assert!((30..100).contains(&failed), "{failed} of 100 were sent to who is down");
    });
}

#[test]
fn what_programs_and_first_tries_say() {
    lab::run("probe-said", |lab| {
        lab.set_settings("allow_exec: true\n");
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let quick = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let silent = Server::start(|mut stream| crate::trial::hang(&mut stream));
        let full = "checks: [{exec: {command: [/bin/sh, -c, \"echo disk is full; exit 1\"], \
                    interval: 1s}}]";
        let later = "checks: [{http: {path: /, interval: 4s, timeout: 4s, initial: down}}]";
        let web = service("web").frontend(VIP).backend(server.at(0)).with(full);
        let new = service("new").frontend("10.96.0.11:80");
        let new = new.backends([quick.address, silent.address]).with(later);
        let agent = Agent::start(lab, &services(&[web, new]));
        becomes(&agent, "new", quick.address, Why::Serving);
        let first = check(&agent, "new", silent.address);
        assert_eq!((first.up, first.result), (false, None), "{first:?}");
        assert_eq!(health(&agent, "new", silent.address).why, Why::Failing);
        wait_for("a warning", DEADLINE, || check(&agent, "web", server.at(0)).result);
        let said = check(&agent, "web", server.at(0));
        assert_eq!((said.up, said.result), (true, Some(CheckResult::Warning)));
        assert_eq!(said.text.as_deref(), Some("EXEC 1: disk is full"));
        assert_eq!(dial(addr(VIP)).unwrap().tag, "web");
    });
}

#[test]
fn a_udp_service_is_checked_at_a_port_of_its_own() {
    lab::run("probe-udp", |lab| {
        let server = Backends::udp("127.0.0.1", ["a"]);
        let other = Backends::udp("127.0.0.2", ["b"]);
        let door = Backends::start(Kind::Tcp, [(addr("127.0.0.1:0"), "door")]);
        let port = door.at(0).port();
        let check =
            format!("checks: [{{tcp: {{port: {port}, interval: 100ms, fast_interval: 50ms}}}}]");
        let spec = service("dns").udp(VIP).backends([server.at(0), other.at(0)]).with(check);
        let agent = start(lab, spec);
        // Nobody listens at that port of the other address.
        becomes(&agent, "dns", other.at(0), Why::Failing);
        becomes(&agent, "dns", server.at(0), Why::Serving);
        for _ in 0..10 {
            assert_eq!(ask(&udp("0.0.0.0:0"), addr(VIP)).unwrap().tag, "a");
        }
    });
}

#[test]
fn a_bad_check_costs_its_service_alone() {
    lab::run("probe-refused", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let bad = |name: &str, n: u8, check: &str| {
            let spec = service(name).frontend(format!("10.96.1.{n}:80")).backend(server.at(0));
            spec.with(format!("checks: [{check}]"))
        };
        let agent = Agent::start(
            lab,
            &services(&[
                service("web").frontend(VIP).backend(server.at(0)).with(TCP),
                bad("late", 1, "{tcp: {interval: 1s, timeout: 2s}}"),
                bad("zero", 2, "{tcp: {rise: 0}}"),
                bad("nowhere", 3, "http"),
                bad("forbidden", 4, "{exec: {command: [/bin/true]}}"),
                service("dns").udp("10.96.1.5:53").backend(server.at(0)).with("checks: [tcp]"),
            ]),
        );
        let names: Vec<_> = agent.services().into_iter().map(|service| service.name).collect();
        assert_eq!(names, ["web"]);
        assert_eq!(dial(addr(VIP)).unwrap().tag, "web");
        let status = lab.lbctl(&["status"]).stdout;
        for (service, reason) in [
            ("late", "timeout 2s is longer than the interval 1s"),
            ("zero", "`rise`"),
            ("nowhere", "needs a `path`"),
            ("forbidden", "set `allow_exec: true`"),
            ("dns", "give the check a `port` of its own"),
        ] {
            let told = status.lines().any(|line| {
                line.split_whitespace().any(|word| word == service) && line.contains(reason)
            });
            assert!(told, "{service}: no `{reason}` in\n{status}");
        }
    });
}

#[test]
fn tries_leave_nothing_open() {
    lab::run("probe-open", |lab| {
        lab.set_settings("allow_exec: true\n");
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let silent = Server::start(|mut stream| crate::trial::hang(&mut stream));
        let often = "interval: 50ms, fast_interval: 50ms, timeout: 50ms";
        let checks = format!(
            "checks: [{{tcp: {{{often}}}}}, {{http: {{path: /, {often}}}}}, {{grpc: {{{often}}}}}, \
             {{https: {{path: /, verify: false, {often}}}}}, \
             {{exec: {{command: [/bin/sh, -c, \"sleep 9 & wait\"], {often}}}}}]"
        );
        let backends = [server.at(0), silent.address, closed("127.0.0.1")];
        let agent = start(lab, service("web").frontend(VIP).backends(backends).with(checks));
        let open = || fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
        // Tries under way have something open; the least that is ever seen has nothing to do with them.
        let least = || {
            let mut least = usize::MAX;
            for _ in 0..50 {
                let_pass(Duration::from_millis(20));
                least = least.min(open());
            }
            least
        };
        least();
        let before = least();
        let_pass(Duration::from_secs(3));
        // Where tries take longer than their intervals, there may be no moment without some; what is left open by
        // those that have ended would stay.
        let mut after = least();
        eventually("no more files to be open than before", DEADLINE, || {
            after = after.min(least());
            after <= before + 10
        });
    });
}
