//! The store that the tests run against: real etcd servers as child processes of the test, on
//! loopback of the calling thread's network namespace, in a directory of their own.
//!
//! [`Etcd`] is one server and what can be done to its process; [`store`] reads and writes what it
//! holds; [`Cluster`] is three of them; [`pki`] makes certificates good and bad; [`far`] puts a
//! server behind a wire that can be cut, [`Proxy`] behind etcd's own proxy.

mod cluster;
pub mod far;
pub mod pki;
mod ports;
mod proxy;
mod store;

pub use self::cluster::Cluster;
pub use self::proxy::Proxy;

use self::far::Far;
use self::pki::Pair;
use self::ports::Ports;
use crate::process::{self, Finished, kill};
use crate::sys;
use crate::wait::within;
use nix::sys::signal::{Signal, kill as signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::{self, OpenOptions};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a server may take to answer after its start: two CPUs serve all the tests.
const READY: Duration = Duration::from_secs(30);
/// Where servers listen.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How a server is to be run.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    flags: Vec<String>,
    tls: Option<Tls>,
    far: Option<Arc<Far>>,
}

/// What a server that wants TLS shows, and whom it lets in.
#[derive(Clone, Debug)]
struct Tls {
    server: Pair,
    clients: Option<PathBuf>,
}

/// One server; killed on drop, and with the thread that started it.
#[derive(Debug)]
pub struct Etcd {
    setup: Setup,
    name: String,
    directory: PathBuf,
    ports: Ports,
    /// `--initial-cluster`.
    members: String,
    child: Option<Child>,
    /// Who the tests' own client is, once the store asks.
    login: Arc<Mutex<Option<(String, String)>>>,
}

// === impl Setup ===

impl Setup {
    /// A further argument: `--max-request-bytes=4000000`.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Serves with this certificate; with `clients`, only who shows a certificate of that CA.
    pub fn tls(mut self, server: &Pair, clients: Option<&Path>) -> Self {
        self.tls = Some(Tls { server: server.clone(), clients: clients.map(Path::to_owned) });
        self
    }

    /// Runs the server at the other end of a wire.
    pub fn far(mut self, far: &Arc<Far>) -> Self {
        self.far = Some(Arc::clone(far));
        self
    }

    /// Starts it, with its files in a new directory below `directory`, and waits until it answers.
    #[track_caller]
    pub fn start(self, directory: &Path) -> Etcd {
        // Another process may take a port between the look and the server's bind.
        for _ in 0..5 {
            let ports = Ports::free();
            let name = format!("etcd-{}", ports.client);
            let members = format!("{name}={}", ports.peer_url());
            let mut etcd = Etcd::new(self.clone(), directory, name, ports, members);
            etcd.spawn();
            if etcd.answers_or_ends() {
                return etcd;
            }
            assert!(etcd.log().contains("address already in use"), "{}", etcd.log());
        }
        panic!("other processes took the ports of etcd, time and again");
    }
}

// === impl Etcd ===

impl Etcd {
    /// Starts one member without TLS or passwords.
    #[track_caller]
    pub fn start(directory: &Path) -> Self {
        Setup::default().start(directory)
    }

    /// Starts one member with TLS; see [`Setup::tls`].
    #[track_caller]
    pub fn with_tls(directory: &Path, server: &Pair, clients: Option<&Path>) -> Self {
        Setup::default().tls(server, clients).start(directory)
    }

    fn new(setup: Setup, directory: &Path, name: String, ports: Ports, members: String) -> Self {
        let directory = directory.join(&name);
        fs::create_dir(&directory).expect("the scratch directory is writable");
        Self { setup, name, directory, ports, members, child: None, login: Arc::default() }
    }

    /// Its URL, for the agent under test.
    pub fn endpoint(&self) -> String {
        let host = self.setup.far.as_ref().map_or(HERE, |far| far.address());
        self.endpoint_as(&host.to_string())
    }

    /// Its URL with a name in place of the address.
    pub fn endpoint_as(&self, host: &str) -> String {
        let scheme = if self.setup.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{host}:{}", self.ports.client)
    }

    /// How many connections the agent under test has to it: nobody else uses that port.
    pub fn connections(&self) -> usize {
        let to = format!(":{:04X}", self.ports.client);
        let table = fs::read_to_string("/proc/thread-self/net/tcp").expect("/proc is mounted");
        // Columns: number, local, remote, state; state 1 is ESTABLISHED.
        let ours = |line: &&str| {
            let mut columns = line.split_whitespace().skip(2);
            let remote = columns.next().is_some_and(|remote| remote.ends_with(&to));
            remote && columns.next() == Some("01")
        };
        table.lines().filter(ours).count()
    }

    /// Whether its process runs.
    pub fn runs(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its process, to see what it costs.
    #[track_caller]
    pub fn process_id(&self) -> u32 {
        self.child.as_ref().expect("the server has been started").id()
    }

    /// SIGKILL, and waits for its end; the data stay.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill(&mut child);
        }
    }

    /// Starts it again on the same ports and data, and waits until it answers.
    #[track_caller]
    pub fn restart(&mut self) {
        self.begin();
        assert!(self.answers_or_ends(), "etcd does not start: {}", self.log());
    }

    /// Starts it again without waiting.
    pub fn begin(&mut self) {
        self.kill9();
        self.spawn();
    }

    /// SIGSTOP: it holds its connections and says nothing more.
    pub fn stop_signal(&self) {
        self.signal(Signal::SIGSTOP);
        // A thread that runs at the moment may still answer; the parent is told when none does.
        let stopped = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED));
        assert!(matches!(stopped, Ok(WaitStatus::Stopped(..))), "{stopped:?}");
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Kills it, throws its data away and starts it anew: empty, at revision 1, without passwords.
    #[track_caller]
    pub fn wipe(&mut self) {
        self.kill9();
        self.forget();
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.restart();
    }

    /// Writes all it holds to a file.
    #[track_caller]
    pub fn snapshot(&self, file: &Path) {
        self.etcdctl(&["snapshot", "save", &file.to_string_lossy()]);
    }

    /// Kills it and starts it with what [`snapshot`](Self::snapshot) has written.
    #[track_caller]
    pub fn restore(&mut self, file: &Path) {
        self.kill9();
        self.forget();
        let data = self.data();
        self.etcdctl(&[
            "snapshot",
            "restore",
            &file.to_string_lossy(),
            &format!("--data-dir={}", data.display()),
            &format!("--name={}", self.name),
            &format!("--initial-cluster={}", self.members),
            &format!("--initial-advertise-peer-urls={}", self.ports.peer_url()),
        ]);
        self.restart();
    }

    /// Serves with another certificate from the next start on.
    pub fn set_tls(&mut self, server: &Pair, clients: Option<&Path>) {
        self.setup = std::mem::take(&mut self.setup).tls(server, clients);
    }

    /// Runs `etcdctl` against it; an error fails the test. Returns what it printed.
    #[track_caller]
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        let Finished { code, stdout, stderr } = self.try_etcdctl(arguments);
        assert_eq!(code, Some(0), "etcdctl {}: {stdout}{stderr}", arguments.join(" "));
        stdout
    }

    /// Runs `etcdctl` against it to its end.
    pub fn try_etcdctl(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command("etcdctl");
        command.env("ETCDCTL_API", "3");
        // Its endpoints add up, so that who names one means that one alone.
        let elsewhere = arguments.iter().any(|argument| argument.starts_with("--endpoints"));
        if !elsewhere && !arguments.contains(&"restore") {
            command.arg(format!("--endpoints={}", self.door()));
            if let Some((user, password)) = self.login() {
                command.arg(format!("--user={user}:{password}"));
            }
        }
        process::run(command.args(arguments), &self.directory)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn spawn(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_file());
        let log = log.expect("the scratch directory is writable");
        let mut command = self.command("etcd");
        command.args(self.arguments()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be duplicated")).stderr(log);
        sys::die_with_parent(&mut command);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("can't run `etcd` ({error}): run `make setup-tests`");
        });
        self.child = Some(child);
    }

    fn arguments(&self) -> Vec<String> {
        let ports = &self.ports;
        let listen = self.endpoint();
        let mut arguments = vec![
            format!("--name={}", self.name),
            format!("--data-dir={}", self.data().display()),
            format!("--listen-client-urls={listen},{}", self.door()),
            format!("--advertise-client-urls={listen}"),
            format!("--listen-peer-urls={}", ports.peer_url()),
            format!("--initial-advertise-peer-urls={}", ports.peer_url()),
            format!("--initial-cluster={}", self.members),
            "--logger=zap".to_owned(),
            "--log-outputs=stderr".to_owned(),
            "--log-level=warn".to_owned(),
            // Hashing passwords is not what is tested.
            "--bcrypt-cost=4".to_owned(),
        ];
        if let Some(Tls { server, clients }) = &self.setup.tls {
            arguments.push(format!("--cert-file={}", server.cert.display()));
            arguments.push(format!("--key-file={}", server.key.display()));
            if let Some(clients) = clients {
                arguments.push("--client-cert-auth".to_owned());
                arguments.push(format!("--trusted-ca-file={}", clients.display()));
            }
        }
        arguments.extend(self.setup.flags.iter().cloned());
        arguments
    }

    /// A command that runs where the server does.
    fn command(&self, program: &str) -> Command {
        match &self.setup.far {
            Some(far) => far.command(program),
            None => Command::new(program),
        }
    }

    /// Waits until it answers; false if it ends instead.
    #[track_caller]
    fn answers_or_ends(&mut self) -> bool {
        let answers = within(READY, || match self.runs() {
            true => self.answers().then_some(true),
            false => Some(false),
        });
        answers.unwrap_or_else(|| panic!("etcd does not answer after {READY:?}: {}", self.log()))
    }

    /// The URL for the tests' own client.
    fn door(&self) -> String {
        format!("http://{HERE}:{}", self.ports.door)
    }

    fn login(&self) -> Option<(String, String)> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn forget(&self) {
        fs::remove_dir_all(self.data()).expect("the data directory can be removed");
    }

    fn signal(&self, which: Signal) {
        signal(self.pid(), which).expect("a child can be signalled");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process_id().cast_signed())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(30).collect();
            report(&self.name, &last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

#[expect(clippy::print_stderr, reason = "what a failing test has to say")]
fn report(name: &str, log: &str) {
    eprintln!("{name} logged\n{log}");
}
