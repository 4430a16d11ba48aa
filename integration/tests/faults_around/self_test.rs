//! The self-test: what somebody took away is noticed, said, and put back.

use integration::agent::Agent;
use integration::cgroup::Cgroup;
use integration::client::dial;
use integration::empty_program::EmptyProgram;
use integration::exposition::Exposition;
use integration::http;
use integration::lab::{self, Lab};
use integration::server::Backends;
use integration::spec::{service, services};
use integration::sys::{detach_link, replace_program};
use integration::traffic::{Traffic, Way};
use integration::wait::{eventually, wait_for};
use lb_agent::status::{Place, SelfTestStatus, TableStatus};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
const DEADLINE: Duration = Duration::from_secs(20);
const OFTEN: &str = "self_test: 1s";

fn vip() -> SocketAddr {
    VIP.parse().expect("an address")
}

fn web(backends: &Backends) -> String {
    services(&[service("web").frontend(VIP).backend(backends.at(0))])
}

/// Waits for a self-test that finds what `fits` says yes to.
#[track_caller]
fn tested(agent: &Agent<'_>, what: &str, fits: impl Fn(&SelfTestStatus) -> bool) -> SelfTestStatus {
    wait_for(what, DEADLINE, || Some(agent.status().self_test).filter(|found| fits(found)))
}

/// Waits until `/metrics` tells of so many problems and so many repairs at least: an answer serves for half a second,
/// so that it may be one from before.
#[track_caller]
fn counted(problems: f64, repairs: u64) {
    eventually(&format!("{problems} problems in /metrics, {repairs} repairs"), DEADLINE, || {
        let metrics = Exposition::of_agent();
        let value = |name| metrics.value(name, &[]).expect("it is there at all times");
        let found = value("lb_self_test_problems");
        let repaired = value("lb_self_test_repairs_total");
        found == problems && repaired >= repairs as f64
    });
}

/// The one problem that there is from some time on, which `/readyz`, `lbctl` and `/metrics` tell of, too.
#[track_caller]
fn problem(lab: &Lab, agent: &Agent<'_>, part: &str) {
    let found = tested(agent, part, |found| found.problems.iter().any(|p| p.contains(part)));
    let [problem] = found.problems.as_slice() else { panic!("{found:?}") };
    let (code, pending) = http::get(&lab.socket(), "/readyz").expect("the agent answers");
    assert!(code == 503 && pending.contains(part), "{code} {pending}");
    let shown = lab.lbctl(&["status"]);
    assert_eq!(shown.code, Some(1), "{shown:?}");
    assert!(shown.stdout.contains(problem) && shown.stdout.contains("failed"), "{shown:?}");
    counted(1.0, 0);
}

/// That all is well again, after this many more repairs at least.
#[track_caller]
fn well_again(lab: &Lab, agent: &Agent<'_>, repairs: u64) {
    tested(agent, "a good self-test", |found| {
        found.problems.is_empty() && found.repairs >= repairs
    });
    eventually("readiness", DEADLINE, || {
        http::get(&lab.socket(), "/readyz").is_ok_and(|(code, _)| code == 200)
    });
    counted(0.0, repairs);
}

fn links(agent: &Agent<'_>) -> BTreeMap<String, u32> {
    agent.status().hooks.into_iter().map(|hook| (hook.hook, hook.link_id)).collect()
}

fn ids(maps: Vec<TableStatus>) -> Vec<(String, u32)> {
    maps.into_iter().map(|map| (map.name, map.id)).collect()
}

/// Nothing is translated while there is no cgroup; once it is there again, it is.
#[test]
fn the_cgroup_is_removed_and_made_again() {
    lab::run("faults-cgroup", |lab| {
        lab.set_settings(OFTEN);
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        lab.write_config(&web(&backends));
        let own = lab.cgroup().child("own");
        let path = own.path().to_owned();
        let mut agent = Agent::spawn(lab, &["--cgroup", &path.to_string_lossy()]);
        agent.wait_ready();
        let dial_inside = |cgroup: &Cgroup| {
            cgroup.enter();
            let outcome = dial(vip());
            lab.cgroup().enter();
            outcome
        };
        assert_eq!(dial_inside(&own).unwrap().tag, "web");
        let before = links(&agent);
        drop(own);
        problem(lab, &agent, "nothing is translated there");
        let again = lab.cgroup().child("own");
        well_again(lab, &agent, 10);
        assert_eq!(dial_inside(&again).unwrap().tag, "web");
        assert!(links(&agent).iter().all(|(hook, link)| before[hook] != *link));
        // The next agent finds the new links.
        let now = links(&agent);
        agent.kill9();
        let mut agent = Agent::spawn(lab, &["--cgroup", &path.to_string_lossy()]);
        agent.wait_ready();
        assert_eq!(links(&agent), now);
        assert_eq!(agent.status().self_test.repairs, 0);
        drop(agent);
        fs::remove_dir_all(lab.pin_dir()).unwrap();
    });
}

/// A pin that is deleted takes nothing with it, and comes back: for a link, a table, and all.
#[test]
fn pins_are_deleted_by_hand() {
    lab::run("faults-pins", |lab| {
        lab.set_settings(OFTEN);
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let agent = Agent::start(lab, &web(&backends));
        let (before, maps) = (links(&agent), agent.maps());
        let held = dial(vip()).unwrap();
        let pins = agent.status().pin_dir;
        let mut traffic = Traffic::default();
        traffic.joins(vip(), "web");
        traffic.dial(Way::Tcp, vip());
        traffic.goes_on(10);
        for name in ["link_connect4", "link_sock_release", "FRONTENDS", "CONNECTIONS"] {
            fs::remove_file(pins.join(name)).unwrap();
        }
        well_again(lab, &agent, 4);
        for name in ["link_connect4", "link_sock_release", "FRONTENDS", "CONNECTIONS"] {
            assert!(pins.join(name).exists(), "{name}");
        }
        traffic.goes_on(10);
        // A self-test at that moment puts back what was removed first.
        let remove = || fs::remove_dir_all(lab.pin_dir());
        eventually("all pins to be removed", DEADLINE, || remove().is_ok());
        well_again(lab, &agent, 4 + 1 + 10 + maps.len() as u64);
        traffic.goes_on(10);
        // The lock is on the new directory.
        let second = lab.lb_agent_on_config("run");
        assert!(second.stderr.contains("is in use by process"), "{second:?}");
        assert_eq!(links(&agent), before);
        // What was repaired is good enough for the next agent.
        agent.kill9();
        let agent = Agent::adopt(lab);
        traffic.goes_on(10);
        traffic.expect_no_complaint();
        drop(traffic);
        assert_eq!(links(&agent), before);
        assert_eq!(ids(agent.maps()), ids(maps));
        assert_eq!((held.peer(), agent.status().self_test.repairs), (vip(), 0));
        agent.expect_active(1);
    });
}

/// What somebody took off or replaced at our hooks is put back, and so are pins that lead to something else.
#[test]
fn hooks_and_pins_are_meddled_with() {
    lab::run("faults-meddled", |lab| {
        lab.set_settings(OFTEN);
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let agent = Agent::start(lab, &web(&backends));
        let pins = agent.status().pin_dir;
        let pin = |name: &str| pins.join(name);
        let mut held = dial(vip()).unwrap();
        let (before, maps) = (links(&agent), agent.maps());

        // Taken off: only another link can take its place.
        let detached = ["connect6", "sock_release"];
        for hook in detached {
            detach_link(&pin(&format!("link_{hook}"))).unwrap();
        }
        // Another program on our link, which lets all connects pass as they are.
        let elsewhere = lab.cgroup().child("elsewhere");
        let empty = EmptyProgram::on_connect4(elsewhere.path()).unwrap();
        replace_program(&pin("link_connect4"), empty.program()).unwrap();
        // One pin is missing then, and the other is something else's, for links and for tables.
        let confused = [["link_recvmsg4", "link_recvmsg6"], ["FRONTENDS", "BLOCKS"]];
        for [from, to] in confused {
            fs::rename(pin(from), pin(to)).unwrap();
        }
        well_again(lab, &agent, 7);
        let found = agent.status().self_test;
        assert_eq!(found.repairs, 7, "what is well is not repaired");
        let attached =
            detached.map(|hook| format!("{hook} was not attached any more; it is attached again"));
        let replaced = "somebody had put another program in our place at connect4".to_owned();
        let pinned = confused.as_flattened().iter().map(|name| format!("/{name} was missing"));
        for repair in attached.into_iter().chain([replaced]).chain(pinned) {
            assert!(agent.log().contains(&repair), "{repair} is not in {}", agent.log());
        }
        let shown = lab.lbctl(&["status"]).stdout;
        let last = found.last_repair.expect("there were some").what;
        assert!(shown.contains("repairs: 7") && shown.contains(&last), "{last}: {shown}");
        let now = links(&agent);
        for (hook, link) in &now {
            assert_eq!(before[hook] != *link, detached.contains(&hook.as_str()), "{hook}");
        }
        let call = dial(vip()).unwrap();
        assert_eq!((call.tag.as_str(), call.peer()), ("web", vip()));
        drop(call);

        // They lead to what they should: the next agent has nothing but them.
        agent.kill9();
        let agent = Agent::adopt(lab);
        let found = agent.status().self_test;
        assert!(found.problems.is_empty() && found.repairs == 0, "{found:?}");
        assert_eq!((links(&agent), ids(agent.maps())), (now, ids(maps)));
        let call = dial(vip()).unwrap();
        assert_eq!((call.tag.as_str(), call.peer()), ("web", vip()));
        assert!(held.peer() == vip() && held.echoes("still here"));
        drop(call);
        agent.expect_active(1);
        drop(held);
        agent.expect_no_connections();
    });
}

/// A bpffs of the test's own.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount_at(path: &Path) -> Self {
        fs::create_dir_all(path).expect("the scratch directory is writable");
        let flags = MsFlags::empty();
        mount(Some("bpf"), path, Some("bpf"), flags, None::<&str>).expect("root may mount");
        Self(path.to_owned())
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("what was mounted can be unmounted");
    }
}

#[test]
fn bpffs_is_unmounted_and_mounted_again() {
    lab::run("faults-bpffs", |lab| {
        lab.set_settings(OFTEN);
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        lab.write_config(&web(&backends));
        let path = lab.scratch().join("bpffs");
        let first = Bpffs::mount_at(&path);
        let pin_dir = path.join("lb");
        let arguments = ["--pin-dir", &pin_dir.to_string_lossy()];
        let mut agent = Agent::spawn(lab, &arguments);
        agent.wait_ready();
        let before = links(&agent);
        let mut traffic = Traffic::default();
        traffic.joins(vip(), "web");
        traffic.dial(Way::Tcp, vip());
        traffic.goes_on(10);
        drop(first);
        problem(lab, &agent, "no bpffs is mounted");
        traffic.goes_on(10);
        let second = Bpffs::mount_at(&path);
        well_again(lab, &agent, 11);
        assert_eq!(links(&agent), before);
        agent.kill9();
        traffic.goes_on(10);
        let mut agent = Agent::spawn(lab, &arguments);
        agent.wait_ready();
        assert_eq!(links(&agent), before);
        traffic.goes_on(10);
        traffic.expect_no_complaint();
        drop((traffic, agent, second));
    });
}

/// Programs of others are named, and are no fault.
#[test]
fn others_before_and_after() {
    lab::run("faults-others", |lab| {
        lab.set_settings(OFTEN);
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let before = EmptyProgram::on_connect4(lab.cgroup().path()).unwrap();
        let agent = Agent::start(lab, &web(&backends));
        let after = EmptyProgram::on_connect4(lab.cgroup().path()).unwrap();
        // Programs of cgroups above may be there as well.
        let places = |found: &SelfTestStatus| {
            let place = |program: &EmptyProgram| {
                let id = program.id().unwrap();
                let other = found.others.iter().find(|other| other.program_id == id)?;
                assert_eq!(
                    (other.hook.as_str(), other.name.as_deref()),
                    ("connect4", Some("empty"))
                );
                Some(other.place)
            };
            (place(&before), place(&after))
        };
        let both = (Some(Place::Before), Some(Place::After));
        tested(&agent, "both programs", |found| places(found) == both);
        assert_eq!(dial(vip()).unwrap().tag, "web");
        let shown = lab.lbctl(&["status"]);
        assert_eq!(shown.code, Some(0), "{shown:?}");
        assert!(shown.stdout.contains("before ours at connect4"), "{shown:?}");
        assert!(shown.stdout.contains("after ours at connect4"), "{shown:?}");
        let id = after.id().unwrap();
        drop(after);
        tested(&agent, "the end of one", |found| found.others.iter().all(|o| o.program_id != id));
    });
}
