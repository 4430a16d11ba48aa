//! Another build of the agent takes over on live links, and hands back; one that the kernel refuses
//! changes nothing.

use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET_SOCK_RELEASE, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT,
    BPF_CGROUP_UDP6_SENDMSG,
};
use integration::agent::Agent;
use integration::client::{Call, dial, udp};
use integration::empty_program::EmptyProgram;
use integration::lab::{self, Lab};
use integration::process::{binary, copy_program};
use integration::server::{Backends, Kind};
use integration::spec::{Spec, service, services};
use integration::traffic::{Traffic, Way};
use std::fs::{self, Permissions};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

fn vip() -> SocketAddr {
    VIP.parse().expect("an address")
}

/// A service for both protocols, and clients of all ways that never stop.
pub(super) struct Scene {
    servers: [Backends; 2],
    traffic: Traffic,
}

impl Scene {
    pub(super) fn configure(lab: &Lab) -> Self {
        let scene = Self::new();
        lab.write_config(&services(&[scene.web()]));
        scene
    }

    pub(super) fn new() -> Self {
        let tcp = Backends::tcp("127.0.0.1", ["web"]);
        let datagrams = Backends::start(Kind::Udp, [(tcp.at(0), "web")]);
        Self { servers: [tcp, datagrams], traffic: Traffic::default() }
    }

    pub(super) fn web(&self) -> Spec {
        service("web").frontend(VIP).udp(VIP).backend(self.servers[0].at(0))
    }

    pub(super) fn begin(&mut self) {
        self.traffic.joins(vip(), "web");
        for way in [Way::Tcp, Way::Connected, Way::Unconnected, Way::Kept] {
            self.traffic.dial(way, vip());
        }
        self.traffic.goes_on(10);
    }

    #[track_caller]
    pub(super) fn goes_on(&self) {
        self.traffic.goes_on(10);
        self.traffic.expect_no_complaint();
    }
}

/// Open connections.
pub(super) struct Held(Vec<Call>, UdpSocket);

impl Held {
    pub(super) fn begin() -> Self {
        let datagrams = udp("0.0.0.0:0");
        datagrams.connect(vip()).expect("the service is there");
        Self((0..5).map(|_| dial(vip()).expect("the service is there")).collect(), datagrams)
    }

    #[track_caller]
    pub(super) fn expect_names(&mut self) {
        for call in &mut self.0 {
            assert_eq!(call.peer(), vip());
            assert!(call.echoes("still here"));
        }
        assert_eq!(self.1.peer_addr().expect("a peer"), vip());
    }
}

/// A copy of the agent, whose programs are others to look at and do the same.
fn another_build(lab: &Lab) -> PathBuf {
    rebuilt(lab, |content, name| {
        if name == "license" {
            content.copy_from_slice(b"Dual BSD/GPL\0");
        }
    })
}

/// A copy of the agent, whose programs were changed.
pub(super) fn rebuilt(lab: &Lab, change: impl Fn(&mut [u8], &str)) -> PathBuf {
    let [written, path] = ["written", "rebuilt"].map(|name| lab.scratch().join(name));
    let mut bytes = fs::read(binary("lb-agent")).expect("the agent can be read");
    let mut objects = 0;
    for at in (0..bytes.len().saturating_sub(64)).step_by(4) {
        const BPF: u8 = 247;
        if bytes[at..].starts_with(b"\x7fELF") && bytes[at + 18] == BPF {
            each_section(&mut bytes[at..], &change);
            objects += 1;
        }
    }
    assert_eq!(objects, 2, "the agent has one object, and one for old kernels");
    fs::write(&written, bytes).expect("there is room for a copy of the agent");
    copy_program(&written, &path);
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
    path
}

/// Calls `change` with the content and the name of each section of an ELF file.
fn each_section(file: &mut [u8], change: &impl Fn(&mut [u8], &str)) {
    let number = |file: &[u8], at: usize, length: usize| -> usize {
        file[at..at + length].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (headers, size) = (number(file, 0x28, 8), number(file, 0x3a, 2));
    let (count, names) = (number(file, 0x3c, 2), number(file, 0x3e, 2));
    let names = number(file, headers + names * size + 0x18, 8);
    for header in (0..count).map(|index| headers + index * size) {
        const NO_CONTENT: usize = 8;
        if number(file, header + 4, 4) == NO_CONTENT {
            continue;
        }
        let name = names + number(file, header, 4);
        let end = name + file[name..].iter().position(|byte| *byte == 0).expect("names end");
        let name = String::from_utf8(file[name..end].to_vec()).expect("names are text");
        let (at, length) = (number(file, header + 0x18, 8), number(file, header + 0x20, 8));
        change(&mut file[at..at + length], &name);
    }
}

pub(super) fn links(agent: &Agent<'_>) -> Vec<u32> {
    programs(agent).into_iter().map(|(link, _)| link).collect()
}

pub(super) fn programs(agent: &Agent<'_>) -> Vec<(u32, u32)> {
    agent.status().hooks.into_iter().map(|hook| (hook.link_id, hook.program_id)).collect()
}

/// Each link is the same, and has another program.
#[track_caller]
pub(super) fn expect_new_programs(before: &[(u32, u32)], after: &[(u32, u32)]) {
    let is_new =
        |((link, old), (same, new)): (&(u32, u32), &(u32, u32))| link == same && old != new;
    assert_eq!(before.len(), after.len());
    assert!(before.iter().zip(after).all(is_new), "{before:?} {after:?}");
}

/// The same layout: the same links and tables, other programs, and nobody notices.
#[test]
fn another_build_takes_over_and_hands_back() {
    lab::run("faults-build", |lab| {
        let mut scene = Scene::configure(lab);
        let other = another_build(lab);
        // With it goes code that the first build's verified programs do not have.
        let excluded = lab.cgroup().child("excluded");
        let arguments = ["--exclude-cgroup", &excluded.path().to_string_lossy()];
        let agent = Agent::adopt(lab);
        scene.begin();
        let mut held = Held::begin();
        let first = programs(&agent);
        agent.kill9();
        let mut agent = Agent::spawn_from(lab, &other, &arguments);
        agent.wait_ready();
        scene.goes_on();
        let second = programs(&agent);
        expect_new_programs(&first, &second);
        held.expect_names();
        let mut later = Held::begin();
        agent.kill9();
        let agent = Agent::adopt(lab);
        scene.goes_on();
        held.expect_names();
        later.expect_names();
        drop(scene);
        agent.expect_active(12);
        drop((held, later));
        agent.expect_no_connections();
    });
}

/// One program of ten can't be loaded: what was attached serves on, and nothing was changed.
#[test]
fn a_build_that_is_refused_changes_nothing() {
    lab::run("faults-refused", |lab| {
        let mut scene = Scene::configure(lab);
        let broken = rebuilt(lab, |content, name| {
            if name == "cgroup/connect6" {
                // There is no such instruction.
                content[0] = 0xff;
            }
        });
        let agent = Agent::adopt(lab);
        scene.begin();
        let mut held = Held::begin();
        let before = links(&agent);
        agent.kill9();
        let refused = Agent::spawn_from(lab, &broken, &[]);
        assert_eq!(refused.ended().code(), Some(1));
        scene.goes_on();
        let agent = Agent::adopt(lab);
        assert!(
            agent.log().contains("verifier refused the program for connect6"),
            "{}",
            agent.log()
        );
        scene.goes_on();
        held.expect_names();
        assert_eq!(links(&agent), before);
        assert_eq!(agent.status().work.publishes, 0);
        drop(scene);
        agent.expect_active(6);
    });
}

/// It ends between two links: those before it have the new programs, the others the old ones, and all serve on.
/// The next start finds both, and completes it.
#[test]
fn a_take_over_that_ends_half_way_is_completed_by_the_next() {
    lab::run("faults-half-way", |lab| {
        let mut scene = Scene::configure(lab);
        let other = another_build(lab);
        let agent = Agent::adopt(lab);
        scene.begin();
        let mut held = Held::begin();
        let (before, pins) = (programs(&agent), agent.status().pin_dir);
        agent.kill9();
        let attached = |hook: bpf_attach_type| {
            let ids = EmptyProgram::attached(lab.cgroup().path(), hook).expect("it is there");
            assert_eq!(ids.len(), 1, "{hook:?}");
            ids[0]
        };
        let is_old = |hook| before.iter().any(|(_, program)| *program == attached(hook));
        // The last two of all links: the first of them is refused.
        let exchange = || {
            let [one, two, aside] =
                ["link_connect4", "link_connect6", "aside"].map(|n| pins.join(n));
            for (from, to) in [(&one, &aside), (&two, &one), (&aside, &two)] {
                fs::rename(from, to).expect("bpffs renames");
            }
        };
        exchange();
        let failed = Agent::spawn_from(lab, &other, &[]);
        assert_eq!(failed.ended().code(), Some(1));
        let log = fs::read_to_string(lab.log_file()).expect("it has logged");
        assert!(log.contains("link_connect4 is a link of another hook"), "{log}");
        assert!(is_old(BPF_CGROUP_INET4_CONNECT) && is_old(BPF_CGROUP_INET6_CONNECT));
        assert!(!is_old(BPF_CGROUP_INET_SOCK_RELEASE) && !is_old(BPF_CGROUP_UDP6_SENDMSG));
        scene.goes_on();
        held.expect_names();
        let mut later = Held::begin();

        exchange();
        let mut agent = Agent::spawn_from(lab, &other, &[]);
        agent.wait_ready();
        expect_new_programs(&before, &programs(&agent));
        assert_eq!(agent.status().work.publishes, 0);
        scene.goes_on();
        held.expect_names();
        later.expect_names();
        drop(scene);
        agent.expect_active(12);
        drop((held, later));
        agent.expect_no_connections();
    });
}
