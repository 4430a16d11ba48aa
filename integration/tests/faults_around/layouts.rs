//! An agent whose tables are of another layout takes over on live links, and hands back.
//!
//! A version is but a number to the agent, so what one of another left is made by renaming. Of the tables
//! that agents write, which may have any form there, the pins are spoilt. `two_builds` has an agent that really
//! is another.

use super::upgrade::{DEADLINE, Held, Scene, links, rebuilt};
use aya::programs::{ProgramFd, loaded_programs};
use integration::agent::Agent;
use integration::client::{Reply, ask, cookie, dial, reply, udp};
use integration::lab;
use integration::server::Backends;
use integration::spec::{service, services};
use integration::sys::replace_program;
use integration::tables::Tables;
use integration::wait::{eventually, patience};
use lb_common::{MEMORY_VERSION, control};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MANY: &str = "10.96.0.20:53";
const STAYS: &str = "10.96.0.30:80";
const TAGS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Services of which it matters by which backend a client is served.
struct Choices {
    datagrams: Backends,
    streams: Backends,
}

impl Choices {
    fn new() -> Self {
        Self {
            datagrams: Backends::udp("127.0.0.1", TAGS),
            streams: Backends::tcp("127.0.0.1", TAGS),
        }
    }

    /// The configuration, without the backend of this tag.
    fn services(&self, scene: &Scene, but: Option<&str>) -> String {
        let but = but.map(|tag| self.datagrams.tagged(tag));
        let datagrams = self.datagrams.addresses().filter(|address| Some(*address) != but);
        let stays = service("stays").frontend(STAYS).backends(self.streams.addresses());
        services(&[
            scene.web(),
            service("many").udp(MANY).backends(datagrams),
            stays.with("affinity: {client: uid, timeout: 1h}"),
        ])
    }
}

/// A connected socket that names its frontend with each datagram: only its own backend's answer reaches
/// it.
fn named() -> (UdpSocket, String) {
    let socket = udp("0.0.0.0:0");
    socket.connect(addr(MANY)).expect("the service is there");
    let tag = asked(&socket).tag;
    (socket, tag)
}

#[track_caller]
fn asked(socket: &UdpSocket) -> Reply {
    let reply = ask(socket, addr(MANY)).expect("an answer");
    assert_eq!(reply.source, addr(MANY));
    reply
}

/// Ids of all services, and of their backends.
pub(super) fn ids(agent: &Agent<'_>) -> BTreeMap<String, (Option<u32>, Vec<Option<u32>>)> {
    let ids = |service: lb_agent::status::ServiceStatus| {
        let backends = service.backends.iter().map(|backend| backend.id).collect();
        (service.name, (service.id, backends))
    };
    agent.services().into_iter().map(ids).collect()
}

/// Whether the agent before ends in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Killed,
}

/// Ends an agent and makes what it leaves another layout's; where that is.
fn leave(agent: Agent<'_>, end: End) -> PathBuf {
    let pins = agent.status().pin_dir;
    let other = pins.with_file_name("4095");
    match end {
        End::Stopped => assert!(agent.stop().success()),
        End::Killed => agent.kill9(),
    }
    fs::rename(&pins, &other).expect("the pins are there");
    other
}

/// As if what agents write had another form there.
fn spoil(other: &Path) {
    for name in ["FRONTENDS", "BLOCKS", "BACKENDS", "FAILURES"] {
        fs::remove_file(other.join(name)).expect("the table is pinned");
    }
    fs::rename(other.join("EVENTS"), other.join("BACKENDS")).expect("bpffs takes names");
}

/// Open connections keep their peers' names, their count, and what becomes of them; clients keep their
/// backends. Once there, and once back.
#[test]
fn what_is_open_and_counted_goes_over_and_back() {
    lab::run("faults-layout", |lab| {
        let (mut scene, choices) = (Scene::new(), Choices::new());
        let mut agent = Agent::start(lab, &choices.services(&scene, None));
        scene.begin();
        let mut held = Held::begin();
        let named: Vec<_> = (0..4).map(|_| named()).collect();
        let free = udp("0.0.0.0:0");
        let (freely, stays) = (asked(&free).tag, dial(addr(STAYS)).unwrap().tag);
        for end in [End::Stopped, End::Killed] {
            let (ids_before, links_before) = (ids(&agent), links(&agent));
            let other = leave(agent, end);
            spoil(&other);
            scene.goes_on();
            agent = Agent::adopt(lab);
            scene.goes_on();
            assert_eq!(links(&agent), links_before, "each has got its program in one step");
            assert_eq!(ids(&agent), ids_before);
            held.expect_names();
            for (socket, tag) in &named {
                assert_eq!(asked(socket).tag, *tag, "{end:?}");
                assert!(agent.tables().connection(cookie(socket)).is_some());
            }
            assert_eq!(asked(&free).tag, freely, "{end:?}");
            for _ in 0..3 {
                assert_eq!(dial(addr(STAYS)).unwrap().tag, stays, "{end:?}");
            }
            let many = agent.service("many");
            assert_eq!(many.backends.iter().map(|backend| backend.active).sum::<u64>(), 4);
            assert!(many.counters.connects >= 5, "{many:?}");
            let listed = lab.lbctl(&["connections", "many"]);
            assert_eq!(listed.stdout.matches(MANY).count(), 4, "{listed:?}");
            assert!(!other.exists(), "nothing is left of it");
            assert_eq!(agent.status().self_test.earlier, []);
        }
        let (socket, tag) = &named[0];
        socket.set_read_timeout(Some(DEADLINE * patience())).unwrap();
        agent.reload(&choices.services(&scene, Some(tag)));
        let error = reply(socket).expect_err("the socket is ended");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        for (socket, _) in named.iter().filter(|(_, other)| other != tag) {
            asked(socket);
        }
        drop(scene);
        drop((held, named));
        agent.expect_no_connections();
        assert_eq!(agent.status().self_test.problems, [""; 0]);
    });
}

/// One program can't be loaded: the other layout's serve on, and whoever comes next goes on from there.
#[test]
fn one_that_is_refused_leaves_the_other_serving() {
    lab::run("faults-layout-refused", |lab| {
        let mut scene = Scene::new();
        let broken = rebuilt(lab, |content, name| {
            if name == "cgroup/connect6" {
                // There is no such instruction.
                content[0] = 0xff;
            }
        });
        let agent = Agent::start(lab, &services(&[scene.web()]));
        scene.begin();
        let mut held = Held::begin();
        let (pins, links_before) = (agent.status().pin_dir, links(&agent));
        let other = leave(agent, End::Stopped);
        let refused = Agent::spawn_from(lab, &broken, &[]);
        assert_eq!(refused.ended().code(), Some(1));
        assert!(pins.join("CONNECTIONS").exists(), "it had begun");
        scene.goes_on();
        held.expect_names();
        let agent = Agent::adopt(lab);
        scene.goes_on();
        assert_eq!(links(&agent), links_before);
        held.expect_names();
        assert!(!other.exists());
        drop(scene);
        agent.expect_active(6);
    });
}

/// Where it is another's form in which sockets are remembered, too, the old programs stay for those.
#[test]
fn what_cannot_be_read_serves_what_is_open() {
    lab::run("faults-layout-beside", |lab| {
        lab.set_settings("self_test: 1s");
        let mut scene = Scene::new();
        let agent = Agent::start(lab, &services(&[scene.web()]));
        scene.begin();
        let mut first = Held::begin();
        let pins = agent.status().pin_dir;
        let other = leave(agent, End::Killed);
        set_version(&other, 99);
        scene.goes_on();
        let agent = Agent::adopt(lab);
        scene.goes_on();
        first.expect_names();
        let mut second = Held::begin();
        // Those of the traffic come and go.
        let open = |agent: &Agent<'_>| {
            agent.status().self_test.earlier.first().map(|e| (e.layout, e.open))
        };
        eventually("the old tables' connections", DEADLINE, || {
            open(&agent) == Some((4095, Some(6)))
        });
        let shown = lab.lbctl(&["status"]);
        assert!(shown.stdout.contains("layout 4095: 6 sockets are open"), "{shown:?}");
        // Back: to this agent, the tables that the other layout's has are its own.
        agent.kill9();
        let swap = pins.with_file_name("4096");
        fs::rename(&pins, &swap).unwrap();
        set_version(&swap, 99);
        fs::rename(&other, &pins).unwrap();
        set_version(&pins, MEMORY_VERSION);
        fs::rename(&swap, &other).unwrap();
        let agent = Agent::adopt(lab);
        scene.goes_on();
        first.expect_names();
        second.expect_names();
        eventually("the other tables' connections", DEADLINE, || {
            open(&agent) == Some((4095, Some(6)))
        });
        // Once nothing is open that needs them, they go.
        drop(second);
        eventually("the end of the other tables", DEADLINE, || !other.exists());
        scene.goes_on();
        first.expect_names();
        drop(scene);
        agent.expect_active(6);
        drop(first);
        agent.expect_no_connections();
        assert_eq!(agent.status().self_test.problems, [""; 0]);
    });
}

/// Says that rows on sockets and clients have this form there.
fn set_version(directory: &Path, version: u64) {
    Tables::at(directory.to_owned()).set_control(control::MEMORY, version);
}

/// Rows of a form that is not known, below our own layout: what serves is left alone, and it is said what
/// to do.
#[test]
fn unknown_rows_are_not_taken_for_ours() {
    lab::run("faults-layout-rows", |lab| {
        let mut scene = Scene::new();
        let agent = Agent::start(lab, &services(&[scene.web()]));
        scene.begin();
        let mut held = Held::begin();
        let (pins, links_before) = (agent.status().pin_dir, links(&agent));
        agent.kill9();
        set_version(&pins, 99);
        let refused = Agent::spawn(lab, &[]);
        eventually("the reason", DEADLINE, || {
            let log = refused.log();
            log.contains("version 99") && log.contains("lb-agent detach")
        });
        assert_eq!(refused.ended().code(), Some(1));
        scene.goes_on();
        held.expect_names();
        set_version(&pins, MEMORY_VERSION);
        let agent = Agent::adopt(lab);
        assert_eq!(links(&agent), links_before);
        held.expect_names();
        drop(scene);
        agent.expect_active(6);
    });
}

/// A take-over among two others was interrupted: some links are here and some there, and the tables are
/// both's.
#[test]
fn what_two_layouts_share_goes_over_once() {
    lab::run("faults-layout-two", |lab| {
        let mut scene = Scene::new();
        let agent = Agent::start(lab, &services(&[scene.web()]));
        scene.begin();
        let mut held = Held::begin();
        let (links_before, ids_before) = (links(&agent), ids(&agent));
        let newer = leave(agent, End::Killed);
        let older = newer.with_file_name("4094");
        fs::create_dir(&older).expect("bpffs takes directories");
        let tables = Tables::at(newer.clone());
        for name in ["CONNECTIONS", "CONNECTIONS_OVERFLOW", "CONNECTION_TIMES", "OVERFLOW_TIMES"]
            .into_iter()
            .chain(["SOCKETS", "AFFINITY", "BACKEND_STATS", "BACKEND_FILTER", "SERVICE_STATS"])
            .chain(["CONTROL", "BACKEND_OUTCOMES"])
        {
            tables.share(name, &older);
        }
        for hook in ["connect4", "connect6", "sendmsg6"].map(|hook| format!("link_{hook}")) {
            fs::rename(newer.join(&hook), older.join(&hook)).expect("the link is pinned");
        }
        scene.goes_on();
        let agent = Agent::adopt(lab);
        scene.goes_on();
        assert_eq!(links(&agent), links_before, "each has got its program in one step");
        assert_eq!(ids(&agent), ids_before);
        held.expect_names();
        assert!(!newer.exists() && !older.exists(), "nothing is left of either");
        assert_eq!(agent.status().self_test.earlier, []);
        drop(scene);
        agent.expect_active(6);
        drop(held);
        agent.expect_no_connections();
    });
}

/// A take-over between two others that can't read each other's tables was interrupted: what began with the
/// newer is ours, and what began with the older stays beside. Numbers of layouts say nothing of age.
#[test]
fn of_two_other_layouts_the_newer_is_inherited() {
    lab::run("faults-layout-newer", |lab| {
        lab.set_settings("self_test: 1s");
        let mut scene = Scene::new();
        let agent = Agent::start(lab, &services(&[scene.web()]));
        scene.begin();
        let mut first = Held::begin();
        let programs = ["connect4", "connect6"].map(|hook| (hook, program(&agent, hook)));
        let older = leave(agent, End::Killed);
        set_version(&older, 99);
        let agent = Agent::adopt(lab);
        scene.goes_on();
        let mut second = Held::begin();
        let (links_before, ids_before) = (links(&agent), ids(&agent));
        let pins = agent.status().pin_dir;
        agent.kill9();
        for (hook, program) in programs {
            let link = format!("link_{hook}");
            replace_program(&pins.join(&link), program.as_fd()).expect("the link is pinned");
            fs::rename(pins.join(&link), older.join(&link)).expect("bpffs renames");
        }
        let newer = older.with_file_name("4094");
        fs::rename(&pins, &newer).expect("the pins are there");
        set_version(&older, MEMORY_VERSION);
        scene.goes_on();

        let agent = Agent::adopt(lab);
        scene.goes_on();
        assert_eq!(links(&agent), links_before, "each has got its program in one step");
        assert_eq!(ids(&agent), ids_before);
        first.expect_names();
        second.expect_names();
        assert!(older.exists() && !newer.exists(), "only the newer's tables are ours");
        // Those of the traffic come and go.
        eventually("the older tables' connections", DEADLINE, || {
            let earlier = agent.status().self_test.earlier;
            earlier.iter().map(|tables| (tables.layout, tables.open)).eq([(4095, Some(6))])
        });
        drop(first);
        eventually("the end of the older tables", DEADLINE, || !older.exists());
        scene.goes_on();
        second.expect_names();
        drop(scene);
        agent.expect_active(6);
        drop(second);
        agent.expect_no_connections();
        assert_eq!(agent.status().self_test.problems, [""; 0]);
    });
}

/// The program of a hook, which stays loaded as long as this is held.
fn program(agent: &Agent<'_>, hook: &str) -> ProgramFd {
    let hooks = agent.status().hooks;
    let id = hooks.iter().find(|known| known.hook == hook).expect("a hook").program_id;
    let found = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id);
    found.expect("the program is loaded").fd().expect("we may hold it")
}

/// A source that is away is waited for while the other layout's programs serve, but not for ever. It takes
/// as long as that.
#[test]
fn the_other_serves_on_until_all_sources_have_delivered() {
    lab::run("faults-layout-waits", |lab| {
        let mut scene = Scene::new();
        let agent = Agent::start(lab, &services(&[scene.web()]));
        scene.begin();
        let other = leave(agent, End::Killed);
        // Nobody listens there.
        lab.set_settings(
            "sources: [{etcd: {endpoints: [\"http://127.0.0.1:1\"]}, vip_ranges: [10.97.0.0/16]}]",
        );
        lab.write_config(&services(&[scene.web()]));
        let begin = Instant::now();
        let agent = Agent::spawn(lab, &[]);
        eventually("it to say so", DEADLINE, || {
            agent.log().contains("serve on until all sources have delivered")
        });
        scene.goes_on();
        eventually("the other's end", DEADLINE, || !other.exists());
        assert!(begin.elapsed() >= Duration::from_secs(10), "{:?}", begin.elapsed());
        scene.goes_on();
        agent.kill9();
    });
}
