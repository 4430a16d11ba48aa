//! The real API on a socket of its own, showing a state that the test publishes, with kernel tables
//! that are made up; and the real `lbctl`, run against it.

use lb_agent::admin::Admin;
use lb_agent::api;
use lb_agent::inspect::Inspector;
use lb_agent::leases::Leases;
use lb_agent::model::{
    AdminState, Affinity, Client, Lists, NoBackend, Policy, Protocol, Reach, Rejection, Scope,
};
use lb_agent::monitor::SharedBoard;
use lb_agent::pulse::Pulse;
use lb_agent::status::{
    AgentStatus, BackendStatus, Counters, FrontendStatus, HookStatus, NamesStatus,
    PacketPathStatus, Published, ServiceCounts, ServiceStatus, SourceStatus, State, TableStatus,
    WorkStatus,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// An age whose text (`2d3h`) stays the same for half an hour.
const AGE: Duration = Duration::from_secs((2 * 24 + 3) * 3600 + 1800);

/// How long anything may take before it counts as hanging.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What the kernel would have counted.
#[derive(Default)]
pub(crate) struct FakeKernel {
    /// Whether reading fails.
    pub(crate) broken: AtomicBool,
    /// Is told of every reading.
    pub(crate) watcher: Mutex<Option<mpsc::Sender<()>>>,
}

impl Counters for FakeKernel {
    fn fill(&self, services: &mut [ServiceStatus]) -> anyhow::Result<()> {
        anyhow::ensure!(!self.broken.load(Ordering::SeqCst), "the table is gone");
        if let Some(watcher) = &*self.watcher.lock().unwrap() {
            let _ = watcher.send(());
        }
        for service in services {
            let Some(id) = service.id else { continue };
            let id = u64::from(id);
            service.counters = ServiceCounts { connects: 1000 * id, no_backend: id, untracked: 0 };
            for backend in &mut service.backends {
                let Some(id) = backend.id else { continue };
                backend.active = u64::from(id);
                backend.connects = 100 * u64::from(id);
            }
        }
        Ok(())
    }

    fn tables(&self) -> anyhow::Result<Vec<TableStatus>> {
        anyhow::ensure!(!self.broken.load(Ordering::SeqCst), "the table is gone");
        Ok(vec![
            TableStatus {
                name: "FRONTENDS".to_owned(),
                kind: "hash".to_owned(),
                id: 11,
                key_size: 20,
                value_size: 4,
                max_entries: 65536,
                used: Some(16384),
                memory: Some(5 << 20),
            },
            TableStatus {
                name: "SOCKETS".to_owned(),
                kind: "sk_storage".to_owned(),
                id: 12,
                key_size: 4,
                value_size: 360,
                max_entries: 0,
                used: None,
                memory: None,
            },
        ])
    }
}

/// The moment that all fixtures date from, to the second.
pub(crate) fn then() -> SystemTime {
    let past = SystemTime::now() - AGE;
    let seconds = past.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn frontend(text: &str, scope: Scope, usable: usize) -> FrontendStatus {
    let reach = Reach::default();
    let (frontend, comes) = (text.parse().unwrap(), Default::default());
    FrontendStatus { frontend, scope, reach, comes, installed: true, usable }
}

pub(crate) fn backend(
    address: &str,
    id: u32,
    state: AdminState,
    weight: u16,
    then: SystemTime,
) -> BackendStatus {
    BackendStatus {
        address: address.parse().unwrap(),
        id: Some(id),
        state,
        weight,
        lists: Lists::default(),
        since: Some(then),
        active: 0,
        connects: 0,
        outcomes: None,
        zone: None,
        lease: None,
        lease_left: None,
        health: None,
        said: None,
    }
}

/// Two services, their parts in no order, as the reconcile loop would publish them.
pub(crate) fn services(then: SystemTime) -> Vec<ServiceStatus> {
    let web = ServiceStatus {
        name: "web".to_owned(),
        id: Some(2),
        source: "file:/etc/lb/lb.yaml".to_owned(),
        frontends: vec![
            frontend("[fd00::96]:80", Scope::Everywhere, 1),
            frontend("10.96.0.10:443", Scope::Everywhere, 2),
            frontend("10.96.0.10:80", Scope::Everywhere, 2),
        ],
        policy: Policy::Random,
        affinity: Some(Affinity { client: Client::Netns, timeout_seconds: 10_800 }),
        no_backend: NoBackend::Refuse,
        no_node_backend: None,
        fails_open: false,
        backends: vec![
            backend("[fd00::1]:8080", 6, AdminState::Ready, 1, then),
            backend("10.0.0.7:8080", 5, AdminState::Drain, 9, then),
            backend("10.0.0.6:8080", 4, AdminState::Ready, 3, then),
            backend("10.0.0.5:8080", 3, AdminState::Ready, 1, then),
        ],
        counters: ServiceCounts::default(),
    };
    let dns = ServiceStatus {
        name: "default/dns:udp".to_owned(),
        id: None,
        source: "file:more.yaml".to_owned(),
        frontends: vec![frontend("127.0.0.53:53/udp", Scope::Host, 0)],
        policy: Policy::LeastConnections,
        affinity: None,
        no_backend: NoBackend::Pass,
        no_node_backend: None,
        fails_open: false,
        backends: vec![BackendStatus {
            id: None,
            since: None,
            ..backend("10.0.0.53:53", 0, AdminState::Disabled, 1, then)
        }],
        counters: ServiceCounts::default(),
    };
    assert_eq!(dns.frontends[0].frontend.protocol, Protocol::Udp);
    vec![web, dns]
}

/// A ready agent.
pub(crate) fn agent_status(then: SystemTime) -> AgentStatus {
    AgentStatus {
        version: "0.1.0".to_owned(),
        pid: 4242,
        started: then,
        layout: 1,
        cgroup: "/sys/fs/cgroup".into(),
        pin_dir: "/sys/fs/bpf/lb/1".into(),
        ready: true,
        pending: Vec::new(),
        self_test: Default::default(),
        hooks: vec![HookStatus { hook: "connect4".to_owned(), program_id: 101, link_id: 9 }],
        sources: vec![SourceStatus {
            name: "file:/etc/lb/lb.yaml".to_owned(),
            cached: false,
            synced: true,
            revision: 3,
            applied: 3,
            delivered: Some(then),
            services: 1,
            refused: 0,
            held: Vec::new(),
            error: None,
            error_since: None,
            heard: Default::default(),
        }],
        work: WorkStatus {
            rounds: 3,
            publishes: 7,
            grace_periods: 2,
            failures: 0,
            destroyed_udp: 4,
            destroyed_tcp: 1,
            last_round_micros: 850,
            longest_round_micros: 12_540,
            last_error: None,
        },
        names: Vec::new(),
        packet_path: PacketPathStatus::default(),
        warnings: Vec::new(),
        rejections: Vec::new(),
    }
}

/// A rejection about `service`.
pub(crate) fn rejection(service: &str) -> Rejection {
    Rejection {
        origin: "lb.yaml:12:5".to_owned(),
        service: Some(service.to_owned()),
        reason: "weight 0 is not a weight; use 1 to 65535".to_owned(),
    }
}

/// The API on a socket in a directory of its own; stops when dropped.
pub(crate) struct Agent {
    /// The tables it reads.
    pub(crate) kernel: Arc<FakeKernel>,
    /// What all ages count from.
    pub(crate) then: SystemTime,
    leases: Leases,
    runtime: Runtime,
    publish: watch::Sender<Arc<Published>>,
    /// How the keepers of names fare.
    pub(crate) names: watch::Sender<Vec<NamesStatus>>,
    /// How the packet path fares.
    pub(crate) packets: watch::Sender<PacketPathStatus>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    dir: tempfile::TempDir,
}

impl Agent {
    /// An agent that shows [`services`] and [`agent_status`].
    pub(crate) fn start() -> Self {
        let then = then();
        let state = state(services(then));
        let published = Published { agent: agent_status(then), state };
        let mut agent = Self {
            kernel: Arc::default(),
            then,
            leases: Leases::default(),
            runtime: Runtime::new().unwrap(),
            publish: watch::channel(Arc::new(published)).0,
            names: watch::channel(Vec::new()).0,
            packets: watch::Sender::default(),
            running: None,
            dir: tempfile::tempdir().unwrap(),
        };
        agent.resume();
        agent
    }

    /// Answers requests, again.
    pub(crate) fn resume(&mut self) {
        let _inside = self.runtime.enter();
        let bound = api::bind(&self.socket(), None).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let kernel = Arc::clone(&self.kernel) as _;
        let admin = Admin::new(
            self.dir.path().join("overrides.json"),
            watch::channel(Arc::default()).0,
            BTreeMap::new(),
            SharedBoard::default(),
        );
        let parts = api::Parts {
            published: self.publish.subscribe(),
            counters: kernel,
            leases: self.leases.clone(),
            admin: Arc::new(admin),
            names: self.names.subscribe(),
            packets: self.packets.subscribe(),
            wanted: watch::Sender::default().subscribe(),
            pulse: Pulse::default(),
            inspector: Arc::new(Inspector::new(self.dir.path(), self.publish.subscribe())),
        };
        let serving = api::serve(bound, parts, shutdown);
        self.running = Some((stop, self.runtime.spawn(serving)));
    }

    /// Ends the API and waits until it has.
    pub(crate) fn stop(&mut self) {
        let (stop, server) = self.running.take().expect("it runs");
        drop(stop);
        let ended = async { tokio::time::timeout(DEADLINE, server).await };
        self.runtime.block_on(ended).expect("it ends").unwrap();
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// The directory that is its alone.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Changes what it shows.
    pub(crate) fn change(&self, change: impl FnOnce(&mut AgentStatus, &mut Vec<ServiceStatus>)) {
        self.publish.send_modify(|published| {
            let mut agent = published.agent.clone();
            let services = &published.state.services;
            let mut services: Vec<_> = services.iter().map(|s| ServiceStatus::clone(s)).collect();
            change(&mut agent, &mut services);
            *published = Arc::new(Published { agent, state: state(services) });
        });
    }

    /// `lbctl` with these arguments, ready to run against this agent.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        lbctl(&self.socket(), self.dir.path(), arguments)
    }

    /// What `lbctl` says to these arguments.
    pub(crate) fn lbctl(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }
}

/// By name, as an agent publishes them.
fn state(mut services: Vec<ServiceStatus>) -> Arc<State> {
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Arc::new(State { services: services.into_iter().map(Arc::new).collect() })
}

/// `lbctl` with everything it could find on this machine pointed elsewhere.
pub(crate) fn lbctl(socket: &Path, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lbctl"));
    command
        .args(arguments)
        .env("LB_SOCKET", socket)
        .env("LB_PIN_DIR", dir.join("pins"))
        .env("LB_STATE_DIR", dir.join("state"))
        .stdin(Stdio::null());
    command
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
