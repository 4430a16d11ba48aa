//! What the scripts of the documentation find: the addresses that they name, with servers that answer;
//! our programs on the PATH, kept to the test's own cgroup, pins and files; and in `/etc` whatever they
//! write there, seen by nobody else.

use crate::page::{ROOT, page};
use integration::lab::Lab;
use integration::netns;
use integration::process::{self, Finished, binary, kill};
use integration::wait::eventually;
use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Where the store of the documentation is.
pub(crate) const ETCD: &str = "http://10.0.0.1:2379";
/// Its backends; the last listens on IPv6.
const BACKENDS: [&str; 3] = ["10.0.0.5:8080", "10.0.0.6:8080", "[fd00::5]:8080"];
/// An agent of `services.yaml` in the background, for scripts of pages that take a running one.
pub(crate) const SERVING: &str =
    "lb-agent run -c services.yaml &\ntimeout 60 lbctl status -w -o name | grep -qx serving\n";

pub(crate) struct Scene<'l> {
    lab: &'l Lab,
    variables: Vec<(String, String)>,
    store: Option<Child>,
    backends: Vec<Web>,
}

/// A web server that answers with its own address.
struct Web {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

// === impl Scene ===

impl<'l> Scene<'l> {
    pub(crate) fn new(lab: &'l Lab) -> Self {
        for address in ["10.0.0.1", "10.0.0.5", "10.0.0.6", "fd00::5"] {
            netns::add_address(address);
        }
        let scene = Self {
            lab,
            variables: Vec::new(),
            store: None,
            backends: BACKENDS
                .map(|address| Web::start(address.parse().expect("an address")))
                .into(),
        };
        fs::create_dir_all(scene.programs()).expect("the scratch directory is writable");
        fs::create_dir_all(scene.home()).expect("the scratch directory is writable");
        scene.write_programs();
        scene
    }

    /// With an environment variable.
    pub(crate) fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// With addresses, but nobody who listens there.
    pub(crate) fn without_backends(mut self) -> Self {
        self.backends.clear();
        self
    }

    /// With the store.
    pub(crate) fn with_etcd(mut self) -> Self {
        let scratch = self.lab.scratch();
        let log =
            File::create(scratch.join("etcd.log")).expect("the scratch directory is writable");
        let child = Command::new("etcd")
            .args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380", "--data-dir"])
            .arg(scratch.join("etcd"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.store = Some(
            child.unwrap_or_else(|error| panic!("can't run etcd ({error}): make setup-tests")),
        );
        eventually("etcd to answer", Duration::from_secs(30), || {
            let mut etcdctl = Command::new("etcdctl");
            etcdctl.args(["--endpoints", ETCD, "get", "/"]).env("ETCDCTL_API", "3");
            process::run(&mut etcdctl, scratch).code == Some(0)
        });
        self.variable("ETCDCTL_ENDPOINTS", ETCD).variable("ETCDCTL_API", "3")
    }

    /// Runs the script of a page, which must succeed; what it printed.
    #[track_caller]
    pub(crate) fn play(&self, name: &str, run: &str) -> String {
        let Finished { code, stdout, stderr } = self.run(&page(name).script(run));
        assert_eq!(code, Some(0), "{name}, run={run}:\n{stdout}\n{stderr}\n{}", self.log());
        stdout
    }

    /// Runs a script, with all that it starts, to its end. It has an `/etc` and a `/usr/local` of its own.
    pub(crate) fn run(&self, script: &str) -> Finished {
        let scratch = self.lab.scratch();
        let mut overlays = String::new();
        for place in ["etc", "var/lib"] {
            let (upper, work) = (scratch.join(place), scratch.join(format!("{place}.work")));
            for directory in [&upper, &work] {
                fs::create_dir_all(directory).expect("the scratch directory is writable");
            }
            overlays += &format!(
                "mount -t overlay -o lowerdir=/{place},upperdir={},workdir={} overlay /{place}\n",
                upper.display(),
                work.display()
            );
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("unshare");
        command
            // With the script end the processes that it began.
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"])
            .arg(format!("set -eu\n{overlays}cd {}\n{script}", self.home().display()))
            .env("PATH", format!("{}:{path}", self.programs().display()))
            .env("LB_SOCKET", self.lab.socket())
            .env("LB_PIN_DIR", self.lab.pin_dir())
            .env("LB_STATE_DIR", self.lab.state_dir())
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        process::run(&mut command, scratch)
    }

    fn programs(&self) -> PathBuf {
        self.lab.scratch().join("bin")
    }

    /// Where scripts run.
    pub(crate) fn home(&self) -> PathBuf {
        self.lab.scratch().join("home")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.lab.log_file()).unwrap_or_default()
    }

    /// What stands in for programs: ours are the real ones with the test's own places. Nothing waits for the
    /// agent but what the page says.
    fn write_programs(&self) {
        let (agent, lbctl) = (binary("lb-agent"), binary("lbctl"));
        let places = format!(
            "--cgroup {} --pin-dir {} --state-dir {} --socket {}",
            self.lab.cgroup().path().display(),
            self.lab.pin_dir().display(),
            self.lab.state_dir().display(),
            self.lab.socket().display()
        );
        let (agent, lbctl) = (agent.display(), lbctl.display());
        let (log, pins) = (self.lab.log_file(), self.lab.pin_dir().display());
        let log = log.display();
        let quickstart = binary("quickstart");
        for (name, script) in [
            (
                "lb-agent",
                format!(
                    "case $1 in\n\
                     run) exec {agent} \"$@\" {places} 2>>{log};;\n\
                     detach) exec {agent} detach --pin-dir {pins};;\n\
                     esac\nexec {agent} \"$@\""
                ),
            ),
            ("lbctl", format!("exec {lbctl} \"$@\"")),
            // Nobody looks: an answer that is none must end the script, and so must one that never comes.
            ("curl", "exec /usr/bin/curl -sS --fail --max-time 10 \"$@\"".to_owned()),
            ("sudo", "exec \"$@\"".to_owned()),
            ("my-server", "exec tail -f /dev/null".to_owned()),
            ("myserver", "exec tail -f /dev/null".to_owned()),
            (
                "make",
                format!(
                    "case $1 in\n\
                     run) cd {ROOT}; exec flock /run/lock/lb-quickstart {} < /dev/null;;\n\
                     esac\nexec /usr/bin/make -n -C {ROOT} \"$@\" > /dev/null",
                    quickstart.display()
                ),
            ),
            (
                "systemctl",
                format!(
                    "pid={}/unit\nstop() {{\n\
                     [ -e $pid ] || return 0\nkill $(cat $pid)\n\
                     while kill -0 $(cat $pid) 2>/dev/null; do sleep 0.02; done\nrm $pid\n}}\n\
                     case $1 in\n\
                     stop) stop;;\n\
                     enable|start|restart) stop\n\
                     $(sed -n 's|^ExecStart=/usr/sbin/||p' {ROOT}/examples/systemd/lb-agent.service) \
                     > /dev/null 2>&1 &\necho $! > $pid;;\n\
                     *) exit 64;;\nesac",
                    self.lab.scratch().display()
                ),
            ),
            ("journalctl", format!("cat {log}")),
            (
                "apt",
                format!(
                    "case $1 in\n\
                     install) mkdir -p /etc/lb-agent\n[ -e /etc/lb-agent/lb-agent.yaml ] || \
                     cp {ROOT}/packages/lb-agent.yaml /etc/lb-agent/;;\n\
                     purge) rm -r /etc/lb-agent;;\n\
                     *) exit 64;;\nesac"
                ),
            ),
        ] {
            let file = self.programs().join(name);
            fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a file can be written");
            fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("a file is ours");
        }
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        if let Some(store) = &mut self.store {
            kill(store);
        }
    }
}

// === impl Web ===

impl Web {
    fn start(address: SocketAddr) -> Self {
        let listener =
            TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Who goes away without an answer has got what it came for: a check, say.
                let _ = connection.and_then(|connection| answer(connection, address));
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the server; its thread must end before the test's cgroup can be removed.
        let woken = TcpStream::connect(self.address).is_ok();
        if woken && let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn answer(mut connection: TcpStream, address: SocketAddr) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = [0; 4096];
    if connection.read(&mut request)? == 0 {
        return Ok(());
    }
    let body = format!("answered by {address}\n");
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
