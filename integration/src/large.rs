//! A store as large as the bounds are given for, an agent that follows it, and what is measured.

use crate::agent::Agent;
use crate::bench::statistics::rank;
use crate::client::dial;
use crate::etcd::Etcd;
use crate::lab::Lab;
use crate::process::Memory;
use crate::server::Backends;
use crate::wait::{let_pass, wait_for};
use etcd_client::{Client, Txn, TxnOp};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// Services in the store.
pub const SERVICES: u32 = 10_000;
/// Backends of each.
pub const EACH: u32 = 10;

/// How long anything may take before it counts as never.
const DEADLINE: Duration = Duration::from_secs(20);
/// Keys that are written at a time: each call has to end within a few seconds on the slowest machine.
const PART: u32 = 5_000;
/// The service that is changed, beside the many.
const PROBE: &str = "probe";

/// A store with many services. It and its servers end with it.
pub struct Large<'a> {
    lab: &'a Lab,
    services: u32,
    etcd: Etcd,
    servers: Backends,
    runtime: Runtime,
    client: Client,
}

/// How long it took until a new connect saw a change.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// From the moment the store was asked.
    pub since_asked: Duration,
    /// From the moment the store had answered.
    pub since_answered: Duration,
}

/// What a process costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Share of a core, 1 being all of one.
    pub core: f64,
    /// Time on a CPU in the busiest second: whether it works all the time, or did something once.
    pub busiest: Duration,
    /// Its memory.
    pub memory: Memory,
}

impl<'a> Large<'a> {
    /// Starts a store and fills it. To be called within [`crate::lab::run`].
    #[track_caller]
    pub fn fill(lab: &'a Lab) -> Self {
        Self::fill_with(lab, SERVICES)
    }

    /// [`fill`](Self::fill) with this number of services beside the one that is changed.
    #[track_caller]
    pub fn fill_with(lab: &'a Lab, services: u32) -> Self {
        let etcd = Etcd::start(lab.scratch());
        let service = |number: u32| {
            let frontends = serde_json::json!({ "frontends": [vip(number)] });
            (format!("/lb/services/s{number}"), frontends.to_string())
        };
        let parts =
            |all: u32| (0..all).step_by(PART as usize).map(move |at| at..all.min(at + PART));
        parts(services).for_each(|part| etcd.put_many(part.map(service)));
        parts(services * EACH)
            .for_each(|part| etcd.put_many(part.map(|number| backend(number, 0xAC10_0000))));
        let servers = Backends::tcp("127.0.0.1", ["0", "1"]);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let client = runtime.block_on(Client::connect([etcd.endpoint()], None));
        let client = client.expect("the store answers");
        let mut large = Self { lab, services, etcd, servers, runtime, client };
        large.write([service_of(PROBE, vip(services)), large.probe_at(0)]);
        large
    }

    /// Starts an agent on the store, and returns how long it took to be ready: to start at all, to
    /// read the store, to publish the tables and to attach the programs.
    #[track_caller]
    pub fn start_agent(&self) -> (Agent<'a>, Duration) {
        self.start_agent_with("")
    }

    /// [`start_agent`](Self::start_agent) with further top-level settings.
    #[track_caller]
    pub fn start_agent_with(&self, top: &str) -> (Agent<'a>, Duration) {
        self.lab.set_settings(&format!(
            "{top}\nsources:\n  - etcd: {{endpoints: [\"{}\"]}}\n    vip_ranges: [10.96.0.0/12]\n",
            self.etcd.endpoint()
        ));
        Agent::start_large(self.lab, "")
    }

    /// The address of the service that is changed, the last one.
    pub fn probe(&self) -> SocketAddr {
        vip(self.services)
    }

    /// Where the probe's only backend is before the first change.
    pub fn server(&self) -> SocketAddr {
        self.servers.at(0)
    }

    /// Where the store is.
    pub fn endpoint(&self) -> String {
        self.etcd.endpoint()
    }

    /// Moves the probe's only backend to the other server, and waits until connects go there.
    #[track_caller]
    pub fn change(&mut self, turn: usize) -> Seen {
        let change = [self.probe_at(turn % 2)];
        let (asked, answered) = self.write(change);
        seen(asked, answered, self.probe(), turn % 2)
    }

    /// Adds a service with one backend, and waits until connects go there.
    #[track_caller]
    pub fn add(&mut self, turn: usize) -> Seen {
        let name = format!("added{turn}");
        let vip = vip(self.services + 1 + u32::try_from(turn).expect("few turns"));
        let backend = (format!("/lb/backends/{name}/0"), self.address(turn % 2));
        let (asked, answered) = self.write([service_of(&name, vip), backend]);
        seen(asked, answered, vip, turn % 2)
    }

    /// What the agent costs in so many seconds while nothing changes, as it has not since it was ready.
    #[track_caller]
    pub fn idle_cost(&self, agent: &Agent<'_>, seconds: u32) -> Cost {
        idle_cost(self.lab, agent, self.services, seconds)
    }

    fn probe_at(&self, server: usize) -> (String, String) {
        (format!("/lb/backends/{PROBE}/0"), self.address(server))
    }

    fn address(&self, server: usize) -> String {
        serde_json::json!({ "address": self.servers.at(server) }).to_string()
    }

    /// Writes keys in one transaction; when it was sent, and when it was answered.
    #[track_caller]
    fn write<const N: usize>(&mut self, keys: [(String, String); N]) -> (Instant, Instant) {
        let puts: Vec<TxnOp> = keys.map(|(key, value)| TxnOp::put(key, value, None)).into();
        let asked = Instant::now();
        let written = self.runtime.block_on(self.client.txn(Txn::new().and_then(puts)));
        written.expect("the store takes a few keys");
        (asked, Instant::now())
    }
}

/// What an agent with so many services costs while nothing changes, for so many seconds. Nothing may have
/// changed since it was ready: a change is saved up to a minute later.
#[track_caller]
pub(crate) fn idle_cost(lab: &Lab, agent: &Agent<'_>, services: u32, seconds: u32) -> Cost {
    // What the load has left to do is done first; saving it is the last of that, and this file is saved
    // last.
    let saved = lab.state_dir().join("state.json");
    let mut before = spent(agent.pid());
    let deadline = 2 * DEADLINE * services.div_ceil(SERVICES);
    let mut next_second = || {
        let_pass(Duration::from_secs(1));
        let now = spent(agent.pid());
        now - std::mem::replace(&mut before, now)
    };
    wait_for("the agent to come to rest", deadline, || {
        let used = next_second();
        let all = fs::metadata(&saved).is_ok_and(|file| file.len() > u64::from(services * EACH));
        (all && used <= Duration::from_millis(20)).then_some(())
    });
    let begin = Instant::now();
    let each: Vec<Duration> = (0..seconds).map(|_| next_second()).collect();
    Cost {
        core: each.iter().sum::<Duration>().as_secs_f64() / begin.elapsed().as_secs_f64(),
        busiest: each.into_iter().max().unwrap_or_default(),
        memory: Memory::of(agent.pid()),
    }
}

/// Connects until this server answers.
#[track_caller]
pub(crate) fn seen(asked: Instant, answered: Instant, vip: SocketAddr, server: usize) -> Seen {
    let server = server.to_string();
    loop {
        if dial(vip).is_ok_and(|call| call.tag == server) {
            return Seen { since_asked: asked.elapsed(), since_answered: answered.elapsed() };
        }
        assert!(answered.elapsed() < DEADLINE, "connects to {vip} do not reach server {server}");
    }
}

fn service_of(name: &str, vip: SocketAddr) -> (String, String) {
    let value = serde_json::json!({ "frontends": [vip] });
    (format!("/lb/services/{name}"), value.to_string())
}

/// The address of a backend that nobody serves, the `number`-th of all.
pub(crate) fn nowhere(number: u32) -> SocketAddr {
    (Ipv4Addr::from(0xAC10_0000 + number), 8080).into()
}

/// The key of a backend, the `number`-th of all, whose address counts from this one.
pub(crate) fn backend(number: u32, first: u32) -> (String, String) {
    let key = format!("/lb/backends/s{}/{}", number / EACH, number % EACH);
    let address: SocketAddr = (Ipv4Addr::from(first + number), 8080).into();
    (key, serde_json::json!({ "address": address }).to_string())
}

/// The address of service `number`.
pub(crate) fn vip(number: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0A60_0000 + number), 80).into()
}

/// Time on a CPU of a process, that of threads that have ended included, in steps of 10 ms.
#[track_caller]
pub fn spent(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The second field is the name, which may have spaces; utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>());
    Duration::from_millis(10 * ticks.map(|ticks| ticks.expect("a number")).sum::<u64>())
}

/// The value that this share of the values does not exceed. There must be one.
#[track_caller]
pub fn percentile(mut values: Vec<Duration>, share: f64) -> Duration {
    values.sort();
    values[rank(values.len(), share)]
}
