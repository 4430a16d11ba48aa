//! Cgroups that are left alone, with all below them.

use aya::programs::loaded_programs;
use integration::agent::Agent;
use integration::cgroup::{self, Cgroup};
use integration::client::{ask, ask_connected, dial, udp};
use integration::lab::{self, Lab};
use integration::netns;
use integration::process;
use integration::server::{Backends, Kind};
use integration::spec::{service, services};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;

const WEB: [&str; 2] = ["10.96.0.10:80", "[fd00:96::10]:80"];

/// The same frontends over both protocols and families; their addresses exist, and "own" answers who
/// is not translated.
struct Scene {
    _servers: [Backends; 6],
    services: String,
}

impl Scene {
    fn new() -> Self {
        for frontend in WEB {
            netns::add_address(&addr(frontend).ip().to_string());
        }
        let backends = [
            Backends::tcp("127.0.0.1", ["backend"]),
            Backends::tcp("::1", ["backend"]),
            Backends::udp("127.0.0.1", ["backend"]),
            Backends::udp("::1", ["backend"]),
        ];
        let at = |index: usize| backends[index].at(0);
        let tcp = service("tcp").frontend(WEB[0]).frontend(WEB[1]).backend(at(0)).backend(at(1));
        let datagrams = service("udp").udp(WEB[0]).udp(WEB[1]).backend(at(2)).backend(at(3));
        let services = services(&[tcp, datagrams]);
        let [a, b, c, d] = backends;
        let own = |kind| Backends::start(kind, WEB.map(|at| (addr(at), "own")));
        Self { _servers: [a, b, c, d, own(Kind::Tcp), own(Kind::Udp)], services }
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Who answers the calling thread: by connect(2) and sendmsg(2), over both protocols and families.
fn answers() -> [String; 6] {
    let by = |to: SocketAddr| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let call = dial(to).expect("an answer");
        assert_eq!(call.peer(), to);
        let unconnected = ask(&udp(any), to).expect("an answer");
        assert_eq!(unconnected.source, to);
        let socket = udp(any);
        socket.connect(to).expect("connect");
        [call.tag, unconnected.tag, ask_connected(&socket).expect("an answer").tag]
    };
    let [[a, b, c], [d, e, f]] = WEB.map(|to| by(addr(to)));
    [a, b, c, d, e, f]
}

/// That a process in this cgroup is left alone or not, whatever it dials.
#[track_caller]
fn expect(cgroup: &Cgroup, tag: &str) {
    let inside = || {
        cgroup.enter();
        answers()
    };
    let answers = thread::scope(|scope| scope.spawn(inside).join().expect("no panic"));
    assert_eq!(answers, [tag; 6], "in {}", cgroup.path().display());
}

/// The part of a cgroup's path below the mount.
fn relative(path: &Path) -> String {
    let path = path.strip_prefix(cgroup::mount_point()).expect("below the mount");
    path.display().to_string()
}

#[test]
fn what_is_below_an_excluded_cgroup_is_left_alone_and_nothing_else() {
    lab::run("exclude-subtree", |lab| {
        let scene = Scene::new();
        let excluded = lab.cgroup().child("mesh");
        let (nested, deep) = (excluded.child("pod"), lab.cgroup().child("deep"));
        let (inner, sibling) = (deep.child("mesh"), lab.cgroup().child("mesh2"));
        let below = nested.child("container");
        let (first, second) = (relative(excluded.path()), inner.path().display());
        lab.set_settings(&format!("exclude_cgroups: [{first}, \"{second}\"]"));
        let agent = Agent::start(lab, &scene.services);
        for cgroup in [&excluded, &nested, &below, &inner] {
            expect(cgroup, "own");
        }
        for cgroup in [lab.cgroup(), &sibling, &deep] {
            expect(cgroup, "backend");
        }
        agent.expect_no_connections();

        // Without the setting they are like the others.
        agent.stop();
        lab.set_settings("");
        lab.write_config(&scene.services);
        let _agent = Agent::adopt(lab);
        expect(&excluded, "backend");
        expect(&inner, "backend");
    });
}

#[test]
fn the_command_line_stands_in_place_of_the_file_and_takes_four() {
    lab::run("exclude-arguments", |lab| {
        let scene = Scene::new();
        let cgroups = ["a", "b", "c", "d", "e"].map(|name| lab.cgroup().child(name));
        lab.set_settings(&format!("exclude_cgroups: [{}]", relative(cgroups[4].path())));
        lab.write_config(&scene.services);
        let mut arguments = Vec::new();
        for cgroup in &cgroups[..4] {
            arguments.extend(["--exclude-cgroup".to_owned(), relative(cgroup.path())]);
        }
        // Twice is once.
        arguments.extend(["--exclude-cgroup".to_owned(), cgroups[0].path().display().to_string()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut agent = Agent::spawn(lab, &arguments);
        agent.wait_ready();
        for cgroup in &cgroups[..4] {
            expect(cgroup, "own");
        }
        expect(&cgroups[4], "backend");
    });
}

/// Instructions of a hook's program as the kernel keeps it: what can't be reached is not there.
fn instructions(agent: &Agent<'_>, hook: &str) -> u32 {
    const BYTES: u32 = 8;
    let hooks = agent.status().hooks;
    let id = hooks.iter().find(|known| known.hook == hook).expect("a hook").program_id;
    let program = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id);
    let size = program.and_then(|info| info.size_translated());
    size.expect("the kernel tells the size of a program") / BYTES
}

/// Each excluded cgroup has its comparison in the programs, and nobody pays for those that are not.
#[test]
fn the_programs_hold_what_is_needed_and_no_more() {
    lab::run("exclude-code", |lab| {
        let cgroups = ["a", "b", "c", "d"].map(|name| lab.cgroup().child(name));
        for hook in ["connect4", "connect6", "sendmsg4", "sendmsg6"] {
            let mut sizes = Vec::new();
            for count in 0..=cgroups.len() {
                let paths: Vec<String> =
                    cgroups[..count].iter().map(|cgroup| relative(cgroup.path())).collect();
                lab.set_settings(&format!("exclude_cgroups: [{}]", paths.join(", ")));
                let agent = Agent::start(lab, "services: []\n");
                sizes.push(instructions(&agent, hook));
                agent.stop();
            }
            let steps: Vec<u32> =
                sizes.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
            assert!(steps.iter().all(|step| *step > 0), "{hook}: {sizes:?}");
        }
    });
}

/// A cgroup that is removed and made again is another one; a restarted agent looks anew.
#[test]
fn a_cgroup_made_again_takes_a_restart() {
    lab::run("exclude-again", |lab| {
        let scene = Scene::new();
        let path = {
            let first = lab.cgroup().child("mesh");
            lab.set_settings(&format!("exclude_cgroups: [{}]", relative(first.path())));
            let agent = Agent::start(lab, &scene.services);
            expect(&first, "own");
            agent.stop();
            first.path().to_owned()
        };
        assert!(!path.exists());
        let again = lab.cgroup().child("mesh");
        expect(&again, "backend");
        let _agent = Agent::adopt(lab);
        expect(&again, "own");
    });
}

/// Where only a part of the hierarchy can be seen, nobody can tell how deep it lies.
#[test]
fn a_view_of_a_part_of_the_hierarchy_is_not_enough() {
    lab::run("exclude-namespace", |lab| {
        lab.write_config("services: []\n");
        let _child = lab.cgroup().child("mesh");
        let view = lab.scratch().join("view");
        fs::create_dir(&view).unwrap();
        let script = "mount -t cgroup2 none \"$1\" && exec \"$2\" run -c \"$3\" --exclude-cgroup \"$1/mesh\"";
        let mut command = Command::new("unshare");
        command.args(["--cgroup", "--mount", "sh", "-c", script, "sh"]);
        command.arg(&view).arg(process::binary("lb-agent")).arg(lab.config_file());
        let finished = process::run(&mut command, lab.scratch());
        assert_eq!(finished.code, Some(64), "{finished:?}");
        let parts = ["a part of the cgroup2 hierarchy only", "the host's cgroup namespace"];
        assert!(parts.iter().all(|part| finished.stderr.contains(part)), "{finished:#?}");
    });
}

/// That the agent does not start, and says this in one line.
#[track_caller]
fn refused(lab: &Lab, paths: &[&Path], parts: &[&str]) {
    let config = lab.config_file().display().to_string();
    let mut arguments = vec!["run".to_owned(), "-c".to_owned(), config];
    for path in paths {
        arguments.extend(["--exclude-cgroup".to_owned(), path.display().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let finished = lab.lb_agent(&arguments);
    assert_eq!(finished.code, Some(64), "{paths:?}: {finished:?}");
    let complaints: Vec<&str> =
        finished.stderr.lines().filter(|line| line.contains("exclude_cgroups")).collect();
    let [line] = complaints.as_slice() else { panic!("{paths:?}: {finished:#?}") };
    for part in parts {
        assert!(line.contains(part), "{paths:?}: `{part}` is not in: {line}");
    }
}

#[test]
fn cgroups_that_cant_be_excluded() {
    lab::run("exclude-mistakes", |lab| {
        lab.write_config("services: []\n");
        let own = lab.cgroup().path();
        let mount = cgroup::mount_point();
        let mount_text = mount.display().to_string();
        let gone = own.join("gone");
        refused(lab, &[&gone], &["gone: No such file", "name a directory below", &mount_text]);
        refused(lab, &[Path::new("no-such.slice")], &["no-such.slice", "name a directory below"]);
        refused(lab, &[lab.scratch()], &["is no cgroup2 directory", &mount_text]);
        refused(lab, &[&own.join("cgroup.procs")], &["is no cgroup2 directory"]);
        refused(lab, &[own], &["holds all that the agent serves", "name a cgroup below"]);
        refused(lab, &[&mount], &["holds all that the agent serves"]);
        let beside = Cgroup::create(&format!("{}-beside", own.file_name().unwrap().display()));
        refused(lab, &[beside.path()], &["is not below", "remove it"]);
        let children = ["a", "b", "c", "d", "e"].map(|name| lab.cgroup().child(name));
        let paths: Vec<&Path> = children.iter().map(Cgroup::path).collect();
        refused(lab, &paths, &["5 cgroups are more than 4", "name one above"]);
    });
}
