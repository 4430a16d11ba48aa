//! A host with a real systemd as its first process: in namespaces and a cgroup of its own, all gone with it.

use crate::cgroup::own_cgroup;
use crate::process::copy_program;
use crate::sys;
use crate::wait::{eventually, wait_for};
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const START: &str = include_str!("start.sh");
/// To come up, to start or stop a unit.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running systemd.
#[derive(Debug)]
pub struct Systemd {
    // Dropped in this order: its processes, then its cgroup.
    unshare: Child,
    pid: u32,
    _cgroup: Domain,
    scratch: TempDir,
}

/// A cgroup and whatever systemd makes below it.
#[derive(Debug)]
struct Domain(PathBuf);

// === impl Systemd ===

impl Systemd {
    /// Starts one whose root is this host's, with these files besides (path below the root, source).
    /// `units` are wanted at its start.
    #[track_caller]
    pub fn start(name: &str, files: &[(&str, &Path)], units: &[(&str, String)]) -> Self {
        let scratch = TempDir::with_prefix("lb-systemd-").expect("a directory can be made");
        let [root, over] = ["root", "over"].map(|name| scratch.path().join(name));
        fs::create_dir(&root).expect("the scratch directory is writable");
        for (path, source) in files {
            let path = over.join(path);
            fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("writable");
            copy_program(source, &path);
        }
        let directory = over.join("run/systemd/system");
        fs::create_dir_all(&directory).expect("the scratch directory is writable");
        let wanted: String = units.iter().map(|(name, _)| format!("Wants={name}\n")).collect();
        fs::write(directory.join("lb.target"), format!("[Unit]\n{wanted}")).expect("writable");
        for (name, text) in units {
            fs::write(directory.join(name), text).expect("writable");
        }
        let cgroup = Domain::create(&format!("lb-test-{}-{name}", std::process::id()));
        let script = scratch.path().join("start.sh");
        fs::write(&script, START).expect("the scratch directory is writable");
        let log = File::create(scratch.path().join("log")).expect("writable");
        // In its cgroup first: that becomes the root of what it sees.
        let enter = r#"echo $$ > "$1/cgroup.procs"; shift; exec "$@""#;
        let mut command = Command::new("sh");
        command
            .args(["-c", enter, "sh"])
            .arg(&cgroup.0)
            .args(["unshare", "--cgroup", "--pid", "--mount", "--net", "--ipc", "--uts"])
            .args(["--fork", "--kill-child", "sh"])
            .args([&script, &root, &over])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log);
        sys::die_with_parent(&mut command);
        let unshare = command.spawn().expect("unshare can be started");
        let mut systemd = Self { unshare, pid: 0, _cgroup: cgroup, scratch };
        let own = systemd.unshare.id();
        systemd.pid = wait_for("systemd", DEADLINE, || {
            if let Ok(Some(status)) = systemd.unshare.try_wait() {
                panic!("it ended with {status}: {}", systemd.log());
            }
            let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).ok()?;
            let child: u32 = children.split(' ').next()?.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            (name == "systemd\n").then_some(child)
        });
        eventually("systemd to answer", DEADLINE, || {
            systemd.run(&["systemctl", "show", "--property=Version"]).0
        });
        systemd
    }

    /// Runs a command there; whether it succeeded, and what it said.
    pub fn run(&self, command: &[&str]) -> (bool, String) {
        let output = Command::new("nsenter")
            .args(["--target", &self.pid.to_string()])
            .args(["--mount", "--pid", "--net", "--ipc", "--uts"])
            .args(command)
            .output()
            .expect("nsenter can be run");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// `systemctl`, which must succeed.
    #[track_caller]
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        let (done, said) = self.run(&[&["systemctl"], arguments].concat());
        assert!(done, "systemctl {}: {said}\n{}", arguments.join(" "), self.journal());
        said
    }

    /// A property of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, property: &str) -> String {
        let property = format!("--property={property}");
        self.systemctl(&["show", "--value", &property, unit]).trim().to_owned()
    }

    /// What units and systemd have logged.
    pub fn journal(&self) -> String {
        let (_, journal) = self.run(&["journalctl", "--no-pager", "--quiet", "--lines=200"]);
        journal
            .lines()
            .filter(|line| !line.contains(" kernel: "))
            .fold(self.log(), |text, line| text + line + "\n")
    }

    /// Where a file of its root can be reached.
    pub fn file(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root/{path}", self.pid).into()
    }

    /// A process of its own that this host sees under another number: `/proc` there.
    pub fn process(&self, pid: &str) -> PathBuf {
        self.file(&format!("proc/{pid}"))
    }

    /// Runs `with` on a thread in its network.
    pub fn in_its_network<T: Send>(&self, with: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.pid)).expect("systemd runs");
        thread::scope(|scope| {
            let inside = || {
                setns(network, CloneFlags::CLONE_NEWNET).expect("root may change namespaces");
                with()
            };
            scope.spawn(inside).join().expect("what was run there did not panic")
        })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The kernel ends the first process with it, and all others with that.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

// === impl Domain ===

impl Domain {
    fn create(name: &str) -> Self {
        let path = own_cgroup().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| {
            panic!("can't create cgroup {}: {error}; run the tests as root", path.display())
        });
        Self(path)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let gone = crate::wait::within(DEADLINE, || remove(&self.0).ok());
        if gone.is_none() && !thread::panicking() {
            panic!("{} can't be removed: processes are in it", self.0.display());
        }
    }
}

/// Removes a cgroup with those below it.
fn remove(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
