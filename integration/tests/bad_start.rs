//! A machine or a pin directory on which the agent can't start: one line that says why and what to do,
//! and no harm to what serves.

use integration::agent::Agent;
use integration::cgroup;
use integration::client::dial;
use integration::lab;
use integration::process::{self, Finished, binary};
use integration::server::Backends;
use integration::spec::service;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

const VIP: &str = "10.96.0.10:80";
/// Exit codes: wrong configuration, and failure to do what is asked.
const USAGE: Option<i32> = Some(64);
const FAILURE: Option<i32> = Some(1);

/// A service that works, as the first item of the list.
fn good(backends: &Backends) -> String {
    service("web").frontend(VIP).backend(backends.at(0)).to_string()
}

fn who(vip: &str) -> std::io::Result<String> {
    let vip: SocketAddr = vip.parse().expect("an address");
    Ok(dial(vip)?.tag)
}

/// Everything printed: the complaint may go to either stream.
fn printed(finished: &Finished) -> Vec<&str> {
    finished.stdout.lines().chain(finished.stderr.lines()).collect()
}

/// That exactly one line complains, and in these words.
#[track_caller]
fn expect_one_line(case: &str, finished: &Finished, code: Option<i32>, parts: &[&str]) {
    assert_eq!(finished.code, code, "{case}: {finished:?}");
    let lines = printed(finished);
    let complaints: Vec<_> =
        lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).collect();
    assert_eq!(complaints.len(), 1, "{case}: wanted one line with {parts:?}: {finished:#?}");
    assert!(!finished.stderr.contains("panicked"), "{case}: {finished:?}");
    assert!(!finished.stderr.contains("backtrace"), "{case}: {finished:?}");
}

/// Tables of another shape under our names, and a directory that no agent has made.
#[test]
fn pins_of_another_layout() {
    lab::run("bad-layout", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let agent = Agent::start(lab, &format!("services:\n{}", good(&backends)));
        let pins = agent.status().pin_dir;
        agent.kill9();
        let swap = || {
            let (frontends, connections) = (pins.join("FRONTENDS"), pins.join("CONNECTIONS"));
            fs::rename(&frontends, pins.join("swap")).unwrap();
            fs::rename(&connections, &frontends).unwrap();
            fs::rename(pins.join("swap"), &connections).unwrap();
        };
        swap();
        let finished = lab.lb_agent_on_config("run");
        expect_one_line("swapped", &finished, FAILURE, &["FRONTENDS", "detach"]);
        assert!(finished.stderr.contains(&pins.display().to_string()), "{finished:?}");
        assert_eq!(who(VIP).unwrap(), "web", "what is attached goes on");
        swap();
        drop(Agent::adopt(lab));
        let other = pins.with_file_name("strange");
        fs::rename(&pins, &other).unwrap();
        let finished = lab.lb_agent_on_config("run");
        expect_one_line("stranger", &finished, FAILURE, &["pin_dir", "strange", "remove it"]);
        assert_eq!(who(VIP).unwrap(), "web", "what is attached goes on");
        fs::rename(&other, &pins).unwrap();
        let _agent = Agent::adopt(lab);
        assert_eq!(who(VIP).unwrap(), "web");
    });
}

/// Another size in the configuration than that of the pinned tables.
#[test]
fn pins_of_another_size() {
    lab::run("bad-size", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let good = format!("services:\n{}", good(&backends));
        lab.set_settings("tables: {connections: 1024}");
        Agent::start(lab, &good).kill9();
        lab.set_settings("tables: {connections: 2048}");
        lab.write_config(&good);
        let finished = lab.lb_agent_on_config("run");
        expect_one_line("size", &finished, FAILURE, &["1024", "2048", "detach"]);
        assert_eq!(who(VIP).unwrap(), "web", "what is attached goes on");
        lab.set_settings("tables: {connections: 1024}");
        lab.write_config(&good);
        let _agent = Agent::adopt(lab);
    });
}

/// A `cgroup:` that is none of cgroup2.
#[test]
fn wrong_cgroups() {
    lab::run("bad-cgroup", |lab| {
        let own = lab.cgroup().path().display().to_string();
        let plain = lab.scratch().display().to_string();
        let missing = cgroup::mount_point().join("no-such-cgroup").display().to_string();
        let mut wrong = vec![plain, missing];
        wrong.extend(cgroup_v1().map(|path| path.display().to_string()));
        for path in wrong {
            let text = lab.config("services: []\n").0;
            let text = text.replace(&format!("cgroup: {own}"), &format!("cgroup: {path}"));
            lab.write_by_rename(&lab.config_file(), &text);
            let finished = lab.lb_agent_on_config("run");
            expect_one_line(&path, &finished, USAGE, &[&path, "cgroup2"]);
            assert!(
                !lab.pin_dir().exists() || fs::read_dir(lab.pin_dir()).unwrap().next().is_none()
            );
        }
    });
}

/// A version 1 hierarchy, where the machine has one.
fn cgroup_v1() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup").then(|| PathBuf::from(path))
    })
}

/// Without privileges: one line that names what is missing.
#[test]
fn no_privilege() {
    const NOBODY: u32 = 65534;
    lab::run("bad-privilege", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        lab.write_config(&format!("services:\n{}", good(&backends)));
        // Everything else is within reach: the binary, the file, and the directories to write to.
        let program = lab.scratch().join("lb-agent");
        process::copy_program(&binary("lb-agent"), &program);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let nobody = (nix::unistd::Uid::from_raw(NOBODY), nix::unistd::Gid::from_raw(NOBODY));
        nix::unistd::chown(lab.scratch(), Some(nobody.0), Some(nobody.1)).unwrap();
        let config = lab.config_file();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
        let mut command = Command::new(&program);
        command.args(["run", "-c"]).arg(&config).uid(NOBODY).gid(NOBODY);
        let finished = process::run(&mut command, lab.scratch());
        assert_eq!(finished.code, FAILURE, "{finished:?}");
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.contains("CAP_") && last.contains("root"), "{finished:?}");
        expect_one_line("privilege", &finished, FAILURE, &["CAP_", "root"]);
        let mut check = Command::new(&program);
        check.args(["check", "-c"]).arg(&config).uid(NOBODY).gid(NOBODY);
        let finished = process::run(&mut check, lab.scratch());
        assert_eq!(finished.code, Some(0), "checking a file needs no privilege: {finished:?}");
    });
}

/// A start that fails leaves a running agent, and what it has pinned, alone.
#[test]
fn a_failed_start_disturbs_nobody() {
    lab::run("bad-disturb", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let agent = Agent::start(lab, &format!("services:\n{}", good(&backends)));
        let before = (agent.status().hooks, agent.maps().iter().map(|m| m.id).collect::<Vec<_>>());
        let bad = lab.scratch().join("bad.yaml");
        for text in ["services: [", "colour: red\n", ""] {
            fs::write(&bad, lab.config("").0 + text).unwrap();
            let finished = lab.lb_agent(&["run", "-c", &bad.to_string_lossy()]);
            assert!(finished.code.is_some_and(|code| code != 0), "{text}: {finished:?}");
        }
        let after = (agent.status().hooks, agent.maps().iter().map(|m| m.id).collect::<Vec<_>>());
        assert_eq!(before, after);
        assert_eq!(who(VIP).unwrap(), "web");
    });
}
