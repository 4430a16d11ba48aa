//! What one test has for itself: a thread with its own network namespace and cgroup, a pin
//! directory and a scratch directory, all gone afterwards.

use crate::cgroup::Cgroup;
use crate::netns;
use crate::process::{self, Finished, binary};
use crate::wait::patience;
use lb_agent::config::TableSizes;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use tempfile::TempDir;

const BPFFS: &str = "/sys/fs/bpf";

/// Everything a test owns apart from its agents and servers.
#[derive(Debug)]
pub struct Lab {
    // Fields are dropped in this order: first what keeps programs attached.
    pins: Pins,
    cgroup: Cgroup,
    scratch: TempDir,
    settings: Mutex<String>,
}

/// A directory in bpffs, removed with its pins: that detaches the programs.
#[derive(Debug)]
struct Pins(PathBuf);

/// Runs `test` in a lab. Servers, agents and threads it starts must end with it.
#[track_caller]
pub fn run(name: &str, test: impl FnOnce(&Lab) + Send) {
    let lab = Lab::create(name);
    let outcome = thread::scope(|scope| {
        let body = || {
            lab.cgroup.enter();
            netns::enter_new();
            test(&lab);
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, body);
        thread.expect("a thread can be started").join()
    });
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

// === impl Lab ===

impl Lab {
    fn create(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("lb-test-{}-{number}-{name}", std::process::id());
        mount_bpffs();
        let scratch = TempDir::with_prefix("lb-").expect("the temporary directory is writable");
        Self {
            pins: Pins(Path::new(BPFFS).join("lb-test").join(&unique)),
            cgroup: Cgroup::create(&unique),
            scratch,
            settings: Mutex::default(),
        }
    }

    /// Another lab, with everything of its own but the calling thread: for another host's agent.
    pub fn another(name: &str) -> Self {
        Self::create(name)
    }

    /// The cgroup whose sockets are translated.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The pin directory that the agent is given (it appends the layout version).
    pub fn pin_dir(&self) -> &Path {
        &self.pins.0
    }

    /// A directory for the test's files.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The agent's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.scratch().join("config.yaml")
    }

    /// The agent's state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.scratch().join("state")
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.scratch().join("agent.sock")
    }

    /// What the agents have logged.
    pub fn log_file(&self) -> PathBuf {
        self.scratch().join("agent.log")
    }

    /// Further top-level lines for the configuration files written from now on.
    pub fn set_settings(&self, settings: &str) {
        let mut own = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        *own = settings.to_owned();
    }

    /// The configuration with these services, as text; their section begins on the line after the
    /// returned number of lines.
    pub fn config(&self, services: &str) -> (String, usize) {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let head = format!(
            "cgroup: {}\npin_dir: {}\nstate_dir: {}\nsocket: {}\n\
             vip_ranges: [0.0.0.0/0, \"::/0\"]\n{}{settings}{}",
            self.cgroup.path().display(),
            self.pin_dir().display(),
            self.state_dir().display(),
            self.socket().display(),
            if settings.contains("tables:") { String::new() } else { table_setting() },
            if settings.is_empty() || settings.ends_with('\n') { "" } else { "\n" },
        );
        let lines = head.lines().count();
        (head + services, lines)
    }

    /// Puts the configuration with these services in place, by rename.
    pub fn write_config(&self, services: &str) {
        self.write_by_rename(&self.config_file(), &self.config(services).0);
    }

    /// Replaces a file by rename, so that no reader sees half of it.
    pub fn write_by_rename(&self, file: &Path, text: &str) {
        let draft = self.scratch().join("draft");
        fs::write(&draft, text).expect("the scratch directory is writable");
        fs::rename(&draft, file).expect("the scratch directory is writable");
    }

    /// Runs `lb-agent` with these arguments to its end.
    pub fn lb_agent(&self, arguments: &[&str]) -> Finished {
        process::run(Command::new(binary("lb-agent")).args(arguments), self.scratch())
    }

    /// Runs `lb-agent VERB -c <configuration file>` to its end.
    pub fn lb_agent_on_config(&self, verb: &str) -> Finished {
        let config = self.config_file();
        self.lb_agent(&[verb, "-c", &config.to_string_lossy()])
    }

    /// Runs `lbctl` against this lab's agent, or its tables if there is none.
    pub fn lbctl(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(binary("lbctl"));
        command
            .args(arguments)
            .env("LB_SOCKET", self.socket())
            .env("LB_PIN_DIR", self.pin_dir())
            .env("LB_STATE_DIR", self.state_dir());
        process::run(&mut command, self.scratch())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
            && !thread::panicking()
        {
            panic!("can't remove {}: {error}", self.0.display());
        }
    }
}

/// How large a test's tables are, if it does not say: where the machine is an emulated one, most of a
/// short test would go into making those of the usual sizes.
pub fn table_sizes() -> TableSizes {
    if patience() == 1 {
        return TableSizes::default();
    }
    TableSizes {
        frontends: 4096,
        services: 4096,
        rows: 16_384,
        backends: 16_384,
        connections: 1024,
        overflow: 16_384,
        affinity: 16_384,
    }
}

/// [`table_sizes`] as a line of configuration, unless they are the usual ones.
fn table_setting() -> String {
    let sizes = table_sizes();
    if sizes == TableSizes::default() {
        return String::new();
    }
    let TableSizes { frontends, services, rows, backends, connections, overflow, affinity } = sizes;
    format!(
        "tables: {{frontends: {frontends}, services: {services}, rows: {rows}, backends: {backends}, \
         connections: {connections}, overflow: {overflow}, affinity: {affinity}}}\n"
    )
}

/// Mounts bpffs where it is absent, once: agents started at the same moment would each mount one
/// over the other's.
fn mount_bpffs() {
    static MOUNTED: OnceLock<()> = OnceLock::new();
    MOUNTED.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
        if !mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq([BPFFS, "bpf"])) {
            let no_flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), no_flags, None::<&str>)
                .unwrap_or_else(|error| {
                    panic!("can't mount bpffs on {BPFFS}: {error}; run the tests as root")
                });
        }
        fs::create_dir_all(Path::new(BPFFS).join("lb-test")).expect("bpffs is writable");
    });
}
