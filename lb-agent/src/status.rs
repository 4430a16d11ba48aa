//! What the agent publishes about itself: the JSON of `/v1/...`, of `lbctl -o json`, and of the
//! state file that `lbctl` reads when no agent runs. Pure data.

mod services;

pub use services::{
    BackendStatus, CheckStatus, Comes, FrontendStatus, HealthStatus, OutcomeCounts, ServiceCounts,
    ServiceStatus,
};

use crate::heard::Heard;
use crate::model::Rejection;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The agent as a whole: `/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The agent's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    #[serde(with = "humantime_serde")]
    pub started: SystemTime,
    /// The table layout it writes.
    pub layout: u32,
    /// The cgroup the programs are attached to.
    pub cgroup: PathBuf,
    /// Where tables and links are pinned (with the layout version).
    pub pin_dir: PathBuf,
    /// `serving` once the programs are attached and every source has delivered.
    pub ready: bool,
    /// What readiness waits for; empty when ready.
    pub pending: Vec<String>,
    /// The hooks that are attached.
    pub hooks: Vec<HookStatus>,
    /// Whether that is still so.
    #[serde(default)]
    pub self_test: SelfTestStatus,
    /// The sources, in order of precedence.
    pub sources: Vec<SourceStatus>,
    /// Where the services' names can be looked up.
    #[serde(default)]
    pub names: Vec<NamesStatus>,
    /// How connections that come as packets fare.
    #[serde(default)]
    pub packet_path: PacketPathStatus,
    /// Publications, grace periods and the like.
    pub work: WorkStatus,
    /// What the kernel can't do, and what that means.
    pub warnings: Vec<String>,
    /// Items refused by sources, by merging, or for want of space.
    pub rejections: Vec<Rejection>,
}

/// An attached program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStatus {
    /// `connect4`, ...
    pub hook: String,
    /// Kernel id of the program.
    pub program_id: u32,
    /// Kernel id of the link.
    pub link_id: u32,
}

/// What the last self-test found: whether the programs are attached and pinned as they should be, and
/// who else is at their hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTestStatus {
    /// When it was; absent before the first.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub at: Option<SystemTime>,
    /// What is not as it should be, and what to do about it.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What was found and put right since the agent started.
    #[serde(default)]
    pub repairs: u64,
    /// The last of it, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_repair: Option<Repair>,
    /// Programs of others at the same hooks.
    #[serde(default)]
    pub others: Vec<OtherProgram>,
    /// Tables of other layouts that still serve connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierTables>,
}

/// Tables that an agent of another version left, until the connections that began with them are over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierTables {
    /// Version of their layout.
    pub layout: u32,
    /// Sockets that are still open, where that can be told; they stay for good where it can't.
    pub open: Option<u64>,
}

/// Something that a self-test has put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// What it was.
    pub what: String,
    /// When.
    #[serde(with = "humantime_serde")]
    pub at: SystemTime,
}

/// A program of another owner at a hook of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherProgram {
    /// `connect4`, ...
    pub hook: String,
    /// Kernel id of the program.
    pub program_id: u32,
    /// Its name, if it has one that can be seen.
    pub name: Option<String>,
    /// When it runs.
    pub place: Place,
}

/// When another program runs, as seen from ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// It sees the frontend's address, and ours what it makes of that.
    Before,
    /// It sees the backend's address.
    After,
}

/// A source of services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `file:/etc/lb/services.yaml`.
    pub name: String,
    /// Whether it has delivered since the agent started; until then its cached snapshot serves.
    pub synced: bool,
    /// Whether what it said before the agent started serves because it can't be read now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// How often it has delivered a snapshot.
    pub revision: u64,
    /// The last of these that the tables hold whole: nothing of it waits or has failed. What does not
    /// fit or was refused is not waited for.
    #[serde(default)]
    pub applied: u64,
    /// When it last delivered.
    #[serde(with = "humantime_serde")]
    pub delivered: Option<SystemTime>,
    /// Services in the snapshot that serves.
    pub services: usize,
    /// Items refused since the agent started, each as often as it was.
    #[serde(default)]
    pub refused: u64,
    /// Removals that are not believed yet, soonest first.
    #[serde(default)]
    pub held: Vec<Held>,
    /// What is wrong with it now, if anything; the last good snapshot keeps serving.
    pub error: Option<String>,
    /// Since when something has been wrong with it.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub error_since: Option<SystemTime>,
    /// When it was last heard to be up to date; absent before the first time.
    #[serde(default)]
    pub heard: Heard,
}

/// Something that is missing from its source after an outage, and keeps serving for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What: a key.
    pub item: String,
    /// When its removal is believed. Not while the store is away.
    #[serde(default, with = "humantime_serde")]
    pub until: Option<SystemTime>,
}

/// A place where names of services can be looked up, or the names themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesStatus {
    /// What it is.
    pub kind: NamesKind,
    /// Which one: the zone, the file, the address, the cluster.
    pub place: String,
    /// Services' names that can be looked up there.
    pub records: usize,
    /// Why it is not as it should be; it is tried again.
    pub error: Option<String>,
    /// What can't be looked up there, or not well, and why.
    pub problems: Vec<String>,
}

/// What names are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamesKind {
    /// The domain all of them are in.
    Zone,
    /// A hosts file.
    Hosts,
    /// The agent's DNS responder.
    Dns,
    /// Records in etcd, for CoreDNS.
    Coredns,
}

/// The packet path: connections from other hosts, and from guests without sockets here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketPathStatus {
    /// Whether it serves.
    pub state: PacketPathState,
    /// Since when.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub since: Option<SystemTime>,
    /// Elements in both tables.
    #[serde(default)]
    pub elements: usize,
    /// Changes of the tables since the agent started.
    #[serde(default)]
    pub changes: u64,
    /// How long the last one took.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub last_change: Option<Duration>,
    /// How often the tables had been changed by somebody else, and were put right.
    #[serde(default)]
    pub repairs: u64,
    /// Changes that failed and were tried again.
    #[serde(default)]
    pub failures: u64,
    /// Flows that were ended because they led nowhere.
    #[serde(default)]
    pub ended_flows: u64,
    /// What of it is another build's, which serves as it is until every source has been heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Why it does not serve, or not as it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether the packet path serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PacketPathState {
    /// It is not wanted, or nothing is there for it to serve.
    #[default]
    Off,
    /// It waits for what it is to serve.
    Waiting,
    /// It serves.
    On,
    /// It is wanted, and can't be.
    Unavailable,
    /// The last change failed; what was there before serves on.
    Failing,
}

/// Counters of the agent's own work since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkStatus {
    /// Reconcile rounds that changed something.
    pub rounds: u64,
    /// Stores that made a block live.
    pub publishes: u64,
    /// Grace periods waited for.
    pub grace_periods: u64,
    /// Rounds that failed and were repeated.
    pub failures: u64,
    /// Connected UDP sockets that were ended because their backend was removed.
    #[serde(default)]
    pub destroyed_udp: u64,
    /// TCP connections that were ended because their backend was removed.
    #[serde(default)]
    pub destroyed_tcp: u64,
    /// How long the last round took, in microseconds: merging, planning and applying.
    pub last_round_micros: u64,
    /// How long the longest round took, in microseconds.
    pub longest_round_micros: u64,
    /// The last failure, if the last round failed.
    pub last_error: Option<String>,
}

/// All services and backends, as saved in the state file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The services, by name.
    pub services: Vec<Arc<ServiceStatus>>,
}

/// A kernel table: `/v1/maps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// `FRONTENDS`, ...
    pub name: String,
    /// Map type as the kernel names it: `hash`, `array`, ...
    pub kind: String,
    /// Kernel id of the map.
    pub id: u32,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes (per CPU where the type is).
    pub value_size: u32,
    /// Most entries it can hold.
    pub max_entries: u32,
    /// Entries in use, where that can be told.
    pub used: Option<u64>,
    /// Memory the kernel charges for it, in bytes, where that can be told.
    pub memory: Option<u64>,
}

impl std::fmt::Display for OtherProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { hook, program_id, name, place } = self;
        let place = match place {
            Place::Before => "before",
            Place::After => "after",
        };
        match name {
            Some(name) => write!(f, "{name} (program {program_id}) {place} ours at {hook}"),
            None => write!(f, "program {program_id} {place} ours at {hook}"),
        }
    }
}

impl State {
    /// The service with this name.
    pub fn service(&self, name: &str) -> Option<&Arc<ServiceStatus>> {
        let found = self.services.binary_search_by(|service| service.name.as_str().cmp(name));
        self.services.get(found.ok()?)
    }
}

impl NamesStatus {
    /// A place that nothing has been done about yet.
    pub fn new(kind: NamesKind, place: String) -> Self {
        Self { kind, place, records: 0, error: None, problems: Vec::new() }
    }
}

/// What the reconcile loop publishes after each round.
#[derive(Clone, Debug)]
pub struct Published {
    /// The agent as a whole.
    pub agent: AgentStatus,
    /// Services and backends, their counters zero.
    pub state: Arc<State>,
}

/// Reads what only the kernel knows. Implemented by the pinned tables, opened read-only, so that the API and
/// `lbctl` without an agent fill in the same numbers.
pub trait Counters: Send + Sync {
    /// Fills `active`, `connects`, `outcomes` and `counters` of every service that has an id.
    ///
    /// # Errors
    ///
    /// If a service's counters can't be read. Some may be filled then.
    fn fill(&self, services: &mut [ServiceStatus]) -> anyhow::Result<()>;

    /// The same without `counters`, which cost a system call each, and `outcomes` only if they are wanted.
    ///
    /// # Errors
    ///
    /// As [`Self::fill`], which is called unless an implementation does less.
    fn fill_backends(&self, services: &mut [ServiceStatus], _outcomes: bool) -> anyhow::Result<()> {
        self.fill(services)
    }

    /// The kernel tables, in the order of the contract.
    ///
    /// # Errors
    ///
    /// If a table can't be opened, or the kernel does not describe it.
    fn tables(&self) -> anyhow::Result<Vec<TableStatus>>;

    /// Events that were lost while somebody traced, where that can be told.
    ///
    /// # Errors
    ///
    /// If there is a count and it can't be read.
    fn lost_events(&self) -> anyhow::Result<Option<u64>> {
        Ok(None)
    }
}
