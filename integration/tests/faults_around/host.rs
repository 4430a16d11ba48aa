//! A host that runs short: of disk, of descriptors, of time for the agent.

use integration::agent::Agent;
use integration::client::dial;
use integration::lab::{self, Lab};
use integration::server::Backends;
use integration::spec::{service, services};
use integration::traffic::{Traffic, Way};
use integration::wait::{eventually, let_pass};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::Resource;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
const DEADLINE: Duration = Duration::from_secs(20);
/// How long the agent is stopped, without `STOPPED`.
const STOPPED: Duration = Duration::from_secs(3);

fn vip() -> SocketAddr {
    VIP.parse().expect("an address")
}

fn web(backends: &Backends, index: usize) -> String {
    services(&[service("web").frontend(VIP).backend(backends.at(index))])
}

/// The state directory as a file system of its own, of 64 KiB.
struct Disk(PathBuf);

impl Disk {
    fn of(lab: &Lab) -> Self {
        let path = lab.state_dir();
        fs::create_dir_all(&path).expect("the scratch directory is writable");
        mount(Some("disk"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))
            .expect("root may mount");
        Self(path)
    }

    fn remount(&self, flags: MsFlags) {
        let flags = flags | MsFlags::MS_REMOUNT;
        mount(Some("disk"), &self.0, Some("tmpfs"), flags, Some("size=64k"))
            .expect("root may mount again");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("what was mounted can be unmounted");
    }
}

/// What the sources say is served all the same, and is saved once that can be.
#[track_caller]
fn unsaved(lab: &Lab, agent: &Agent<'_>, backends: &Backends, repair: impl FnOnce()) {
    agent.reload(&web(backends, 1));
    assert_eq!(dial(vip()).expect("the service is there").tag, "1");
    let warned = || agent.status().warnings.iter().any(|w| w.contains("the state can't be saved"));
    eventually("a warning", DEADLINE, warned);
    assert!(agent.status().ready, "nothing but the next agent suffers");
    let log = agent.log();
    assert_eq!(log.matches("the state can't be saved").count(), 1, "it is told once: {log}");
    repair();
    eventually("the end of the warning", 3 * DEADLINE, || !warned());
    let saved = fs::read_to_string(lab.state_dir().join("snapshots.json")).expect("it was saved");
    assert!(saved.contains(&backends.at(1).to_string()), "{saved}");
}

#[test]
fn the_disk_is_full() {
    lab::run("faults-disk", |lab| {
        let disk = Disk::of(lab);
        let backends = Backends::tcp("127.0.0.1", ["0", "1"]);
        let agent = Agent::start(lab, &web(&backends, 0));
        let filler = disk.0.join("filler");
        // As much as there is room for.
        fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
        unsaved(lab, &agent, &backends, || fs::remove_file(&filler).unwrap());
        drop(agent);
    });
}

#[test]
fn the_state_directory_is_read_only() {
    lab::run("faults-read-only", |lab| {
        let disk = Disk::of(lab);
        let backends = Backends::tcp("127.0.0.1", ["0", "1"]);
        disk.remount(MsFlags::MS_RDONLY);
        let agent = Agent::start(lab, &web(&backends, 0));
        assert_eq!(dial(vip()).unwrap().tag, "0");
        unsaved(lab, &agent, &backends, || disk.remount(MsFlags::empty()));
        drop(agent);
    });
}

/// Connects need no agent; once it goes on it does what it has missed.
#[test]
fn the_agent_is_stopped_for_a_while() {
    let stopped = match std::env::var("STOPPED") {
        Ok(text) => humantime::parse_duration(&text).expect("STOPPED is a time"),
        Err(_) => STOPPED,
    };
    lab::run("faults-stopped", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["0", "1"]);
        let agent = Agent::start(lab, &web(&backends, 0));
        let mut traffic = Traffic::default();
        traffic.joins(vip(), "0");
        traffic.dial(Way::Tcp, vip());
        traffic.goes_on(10);
        let before = agent.revision();
        let pid = Pid::from_raw(agent.pid().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        traffic.joins(vip(), "1");
        lab.write_config(&web(&backends, 1));
        let_pass(stopped);
        traffic.goes_on(10);
        kill(pid, Signal::SIGCONT).unwrap();
        agent.settled_after(before);
        eventually("what it missed", DEADLINE, || dial(vip()).unwrap().tag == "1");
        traffic.goes_on(10);
        traffic.expect_no_complaint();
        let status = agent.status();
        assert!(status.ready && status.self_test.problems.is_empty(), "{status:?}");
    });
}

/// Limits the descriptors of a process, as `ulimit -n` does.
fn limit_descriptors(pid: u32, most: u64) {
    let limit = format!("--nofile={most}:");
    let done = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    assert!(done.expect("util-linux is installed").success());
}

/// No descriptor is left: connects go on, the agent lives, and goes on when there are some again.
#[test]
fn no_more_descriptors() {
    lab::run("faults-descriptors", |lab| {
        lab.set_settings("self_test: 1s");
        let backends = Backends::tcp("127.0.0.1", ["0", "1"]);
        let agent = Agent::start(lab, &web(&backends, 0));
        let (_, usual) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let mut traffic = Traffic::default();
        traffic.joins(vip(), "0");
        traffic.dial(Way::Tcp, vip());
        traffic.goes_on(10);
        limit_descriptors(agent.pid(), 3);
        traffic.joins(vip(), "1");
        lab.write_config(&web(&backends, 1));
        // Its file can't be opened, and nobody can ask.
        traffic.goes_on(100);
        assert!(agent.try_status().is_none());
        eventually("a self-test without descriptors", DEADLINE, || {
            agent.log().contains("can't be looked at")
        });
        traffic.goes_on(10);
        limit_descriptors(agent.pid(), usual);
        eventually("the change", DEADLINE, || dial(vip()).unwrap().tag == "1");
        eventually("readiness", DEADLINE, || agent.try_status().is_some_and(|s| s.ready));
        traffic.goes_on(10);
        traffic.expect_no_complaint();
        let found = agent.status().self_test;
        assert_eq!(found.repairs, 0, "what it can't look at is not missing: {found:?}");
        let log = agent.log();
        let said = log.lines().filter(|line| line.contains("self-test: the cgroup"));
        let said: Vec<_> = said.collect();
        let [said] = said.as_slice() else { panic!("{log}") };
        assert!(said.contains("serves on; raise") && said.contains("LimitNOFILE"), "{said}");
    });
}
