//! The agent under test: the real `lb-agent run`, as a child process.

use crate::http;
use crate::lab::Lab;
use crate::process::{binary, exit_of, kill};
use crate::tables::Tables;
use crate::wait::{eventually, wait_for, within};
use lb_agent::status::{AgentStatus, BackendStatus, ServiceStatus, TableStatus};
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long starting, reloading and stopping may take, generously: both CPUs may be busy with load.
const DEADLINE: Duration = Duration::from_secs(20);
/// The same with very much to load.
const LARGE: Duration = Duration::from_secs(180);

/// A running agent; killed on drop, its programs stay until the lab's pins are removed.
#[derive(Debug)]
pub struct Agent<'a> {
    lab: &'a Lab,
    child: Child,
}

impl<'a> Agent<'a> {
    /// Starts an agent with these services and waits until it is ready.
    #[track_caller]
    pub fn start(lab: &'a Lab, services: &str) -> Self {
        lab.write_config(services);
        Self::adopt(lab)
    }

    /// Starts an agent on the configuration that is in place and waits until it is ready.
    #[track_caller]
    pub fn adopt(lab: &'a Lab) -> Self {
        let mut agent = Self::spawn(lab, &[]);
        agent.wait_ready();
        agent
    }

    /// Starts an agent that has very much to load, and returns how long it took to be ready: to start at
    /// all, to read its sources, to publish the tables and to attach the programs.
    #[track_caller]
    pub fn start_large(lab: &'a Lab, services: &str) -> (Self, Duration) {
        lab.write_config(services);
        let begin = Instant::now();
        let mut agent = Self::spawn(lab, &[]);
        agent.wait_ready_within(LARGE);
        (agent, begin.elapsed())
    }

    /// Starts an agent on the configuration that is in place, without waiting for anything.
    pub fn spawn(lab: &'a Lab, arguments: &[&str]) -> Self {
        Self::spawn_from(lab, &binary("lb-agent"), arguments)
    }

    /// As [`Agent::spawn`], from another executable.
    pub fn spawn_from(lab: &'a Lab, program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        Self::spawn_by(lab, command.args(["run", "-c"]).arg(lab.config_file()).args(arguments))
    }

    /// Starts what becomes an agent, without waiting for anything.
    pub fn spawn_by(lab: &'a Lab, command: &mut Command) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(lab.log_file());
        let log = log.expect("the scratch directory is writable");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("the agent can be started");
        Self { lab, child }
    }

    /// Waits until this very process (not one before it) says that it is ready.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        self.wait_ready_within(DEADLINE);
    }

    #[track_caller]
    fn wait_ready_within(&mut self, deadline: Duration) {
        let ready = within(deadline, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the agent ended with {status}; it logged\n{}", self.log());
            }
            let (code, _) = http::get(&self.lab.socket(), "/readyz").ok()?;
            (code == 200 && self.try_status().is_some()).then_some(())
        });
        assert!(
            ready.is_some(),
            "the agent is not ready after {deadline:?}: {:?}; it logged\n{}",
            http::get(&self.lab.socket(), "/readyz"),
            self.log()
        );
    }

    /// Replaces the services and waits until the kernel has them: every frontend that is not
    /// rejected is installed and whatever is not listed is gone.
    #[track_caller]
    pub fn reload(&self, services: &str) {
        let before = self.revision();
        self.lab.write_config(services);
        self.settled_after(before);
    }

    /// Waits until a delivery after `revision` has been applied whole.
    #[track_caller]
    pub fn settled_after(&self, revision: u64) {
        let settled = within(DEADLINE, || {
            let status = self.status();
            let source = status.sources.first()?;
            let applied = source.revision > revision && status.work.last_error.is_none();
            let installed = || {
                let services = self.services();
                services.iter().flat_map(|service| &service.frontends).all(|f| f.installed)
            };
            (applied && installed()).then_some(())
        });
        assert!(
            settled.is_some(),
            "revision {} is not applied after {DEADLINE:?}: {:#?}; the agent logged\n{}",
            revision + 1,
            self.status(),
            self.log()
        );
    }

    /// Puts a file in place that the agent must refuse as a whole, and returns what it says of it.
    #[track_caller]
    pub fn refused(&self, services: &str) -> String {
        let error = || self.status().sources.first().and_then(|source| source.error.clone());
        let (revision, before) = (self.revision(), error());
        self.lab.write_config(services);
        let after = within(DEADLINE, || error().filter(|error| Some(error) != before.as_ref()));
        assert_eq!(self.revision(), revision, "a broken file was delivered");
        after.unwrap_or_else(|| panic!("the agent does not complain; it logged\n{}", self.log()))
    }

    /// All that is wrong with the sources and what they say, a line each.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let status = self.status();
        let errors = status.sources.into_iter().filter_map(|source| source.error);
        errors.chain(status.rejections.into_iter().map(|rejection| rejection.reason)).collect()
    }

    /// How often the first source has delivered.
    pub fn revision(&self) -> u64 {
        self.status().sources.first().map_or(0, |source| source.revision)
    }

    /// `/v1/status`.
    #[track_caller]
    pub fn status(&self) -> AgentStatus {
        self.get("/v1/status")
    }

    /// `/v1/status`, unless it is not this very process that answers yet.
    pub fn try_status(&self) -> Option<AgentStatus> {
        let (_, body) = http::get(&self.lab.socket(), "/v1/status").ok()?;
        let status: AgentStatus = serde_json::from_str(&body).ok()?;
        (status.pid == self.pid()).then_some(status)
    }

    /// `/v1/services`.
    #[track_caller]
    pub fn services(&self) -> Vec<ServiceStatus> {
        self.get("/v1/services")
    }

    /// `/v1/maps`.
    #[track_caller]
    pub fn maps(&self) -> Vec<TableStatus> {
        self.get("/v1/maps")
    }

    /// A service by name. It may be shown a moment after it serves.
    #[track_caller]
    pub fn service(&self, name: &str) -> ServiceStatus {
        let find = || self.services().into_iter().find(|service| service.name == name);
        wait_for(&format!("the service {name} to be shown"), DEADLINE, find)
    }

    /// A backend of a service. It may be shown a moment after it serves.
    #[track_caller]
    pub fn backend(&self, service: &str, address: SocketAddr) -> BackendStatus {
        let find = || self.service(service).backends.into_iter().find(|b| b.address == address);
        wait_for(&format!("{address} to be shown as a backend of {service}"), DEADLINE, find)
    }

    /// Open sockets of all backends of all services.
    pub fn active(&self) -> u64 {
        self.services().iter().flat_map(|service| &service.backends).map(|b| b.active).sum()
    }

    /// Waits until the agent counts this many open sockets.
    #[track_caller]
    pub fn expect_active(&self, sockets: u64) {
        let reached = within(Duration::from_secs(5), || (self.active() == sockets).then_some(()));
        assert!(reached.is_some(), "ACTIVE is {}, not {sockets}", self.active());
    }

    /// Waits until no socket is remembered anywhere.
    #[track_caller]
    pub fn expect_no_connections(&self) {
        self.expect_active(0);
        let tables = self.tables();
        eventually("all connection rows to be gone", Duration::from_secs(5), || {
            tables.connections().is_empty() && tables.overflow().is_empty()
        });
    }

    /// The kernel tables.
    pub fn tables(&self) -> Tables {
        Tables::at(self.status().pin_dir)
    }

    /// The agent's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything logged by this lab's agents.
    pub fn log(&self) -> String {
        fs::read_to_string(self.lab.log_file()).unwrap_or_default()
    }

    /// SIGTERM, and the exit status.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.pid().cast_signed());
        signal(pid, Signal::SIGTERM).expect("the agent can be signalled");
        let status = exit_of(&mut self.child, DEADLINE);
        status.unwrap_or_else(|| panic!("the agent does not stop; it logged\n{}", self.log()))
    }

    /// The exit status, once the agent has ended by itself.
    #[track_caller]
    pub fn ended(mut self) -> ExitStatus {
        let status = exit_of(&mut self.child, DEADLINE);
        status.unwrap_or_else(|| panic!("the agent does not end; it logged\n{}", self.log()))
    }

    /// SIGKILL.
    pub fn kill9(self) {
        drop(self);
    }

    #[track_caller]
    fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (code, body) = http::get(&self.lab.socket(), path).unwrap_or_else(|error| {
            panic!("GET {path}: {error}; the agent logged\n{}", self.log())
        });
        assert_eq!(code, 200, "GET {path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("GET {path}: {error}: {body}"))
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        kill(&mut self.child);
        if std::thread::panicking() {
            report(&format!("the agent logged\n{}", self.log()));
        }
    }
}

#[expect(clippy::print_stderr, reason = "what a failing test has to say")]
fn report(text: &str) {
    eprintln!("{text}");
}
