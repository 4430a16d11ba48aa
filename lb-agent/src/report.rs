//! What people and programs are told of the loop's work: builds and publishes `status`.

use crate::dataplane::Attached;
use crate::desired::{Desired, Entry};
use crate::metrics::own::{self, ErrorKind};
use crate::model::{AdminState, Exposure, Reach, Rejection, Service, ServiceName};
use crate::plan::Planner;
use crate::source::SourceState;
use crate::status::{
    AgentStatus, BackendStatus, FrontendStatus, PacketPathStatus, Published, SelfTestStatus,
    ServiceCounts, ServiceStatus, SourceStatus, State, WorkStatus,
};
use crate::versions::{Places, Versions};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cgroup the programs are attached to.
    pub cgroup: PathBuf,
    /// Where tables and links are pinned, with the layout version.
    pub pin_dir: PathBuf,
    /// What the kernel can't do.
    pub warnings: Vec<String>,
}

/// How it is with what the next agent is to know.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Saved<'a> {
    /// What the sources delivered first is not on disk yet.
    pub(crate) behind: bool,
    /// Why something is not on disk.
    pub(crate) problem: Option<&'a str>,
    /// The agent before published more than it had saved: what it saved does not serve yet.
    pub(crate) doubted: bool,
}

/// What is said while what was saved is in doubt.
pub(crate) const DOUBTED: &str = "the tables hold more than was saved: they serve as they are until all sources \
     have delivered, for ten seconds at most";

/// New rejections logged one by one in a round; the status has them all.
const LOGGED: usize = 20;

/// Remembers since when each backend is in its state, and what has been logged.
pub(crate) struct Reporter {
    identity: Identity,
    started: SystemTime,
    state: Versions<State>,
    /// What the agent before this one saved, until every source has delivered: before that, what is
    /// not desired yet may only be late.
    earlier: State,
    /// What was rejected when it was last logged.
    rejections: Vec<Rejection>,
    sender: watch::Sender<Arc<Published>>,
}

impl Places for State {
    type Place = ServiceName;

    fn catch_up(&mut self, now: &Self, name: &ServiceName) {
        put(self, name, find(now, name).map(Arc::clone));
    }
}

impl Reporter {
    /// `earlier` is the state that the agent before this one saved.
    pub(crate) fn new(identity: Identity, earlier: Option<State>) -> Self {
        let started = SystemTime::now();
        let mut earlier = earlier.unwrap_or_default();
        sort(&mut earlier);
        let mut reporter = Self {
            identity,
            started,
            state: Versions::default(),
            earlier,
            rejections: Vec::new(),
            sender: watch::Sender::new(Arc::new(Published {
                agent: empty_status(started),
                state: Arc::default(),
            })),
        };
        let agent =
            reporter.agent(None, Saved::default(), Vec::new(), &WorkStatus::default(), Vec::new());
        reporter.sender.send_replace(Arc::new(Published { agent, state: Arc::default() }));
        reporter
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.sender.subscribe()
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(self.state.now())
    }

    /// Looks again at the services that are not as they were, or that the planner has touched since.
    /// The others keep their status, the very same.
    pub(crate) fn update(
        &mut self,
        desired: &Desired,
        planner: &Planner,
        touched: &BTreeSet<ServiceName>,
    ) {
        let now = SystemTime::now();
        for name in touched {
            let status = desired.services.get(name).map(|entry| {
                let known = [find(self.state.now(), name), find(&self.earlier, name)];
                let status = service_status(name, entry, planner, |address, state| {
                    let backend = known.iter().flatten().find_map(|s| find_backend(s, address));
                    let since = backend.filter(|b| b.state == state).and_then(|b| b.since);
                    since.unwrap_or(now)
                });
                Arc::new(status)
            });
            put(self.state.at(name.clone()), name, status);
        }
        if desired.complete {
            self.earlier = State::default();
        }
    }

    /// Tells of the agent as it is now, and of the services as they were last looked at.
    pub(crate) fn publish(
        &mut self,
        attached: Option<(&Attached, &SelfTestStatus)>,
        saved: Saved<'_>,
        mut sources: Vec<SourceStatus>,
        work: &WorkStatus,
        rejections: Vec<Rejection>,
    ) {
        let before = &self.sender.borrow().agent.sources.clone();
        date_errors(&mut sources, before);
        note_cached(&mut sources, before);
        self.log(&rejections);
        let agent = self.agent(attached, saved, sources, work, rejections);
        self.sender.send_replace(Arc::new(Published { agent, state: self.state() }));
    }

    /// Each rejection is logged when it appears, not at each round.
    fn log(&mut self, rejections: &[Rejection]) {
        if self.rejections == rejections {
            return;
        }
        let before: BTreeSet<&Rejection> = self.rejections.iter().collect();
        let now: BTreeSet<&Rejection> = rejections.iter().collect();
        let mut new = now.difference(&before);
        for Rejection { origin, service, reason } in new.by_ref().take(LOGGED) {
            tracing::warn!(%origin, service, "{reason}");
        }
        let more = new.count();
        if more > 0 {
            tracing::warn!(more, "more problems; see `lbctl status`");
        }
        self.rejections = rejections.to_vec();
    }

    fn agent(
        &mut self,
        attached: Option<(&Attached, &SelfTestStatus)>,
        saved: Saved<'_>,
        sources: Vec<SourceStatus>,
        work: &WorkStatus,
        rejections: Vec<Rejection>,
    ) -> AgentStatus {
        let mut pending: Vec<String> = sources
            .iter()
            .filter(|source| !source.synced && !source.cached)
            .map(|source| match &source.error {
                Some(error) => format!("{}: {error}", source.name),
                None => format!("{} has not delivered yet", source.name),
            })
            .collect();
        if attached.is_none() {
            pending.push("the programs are not attached yet".to_owned());
        }
        let (hooks, self_test) = match attached {
            Some((hooks, self_test)) => (hooks.clone(), self_test.clone()),
            None => Default::default(),
        };
        pending.extend_from_slice(&self_test.problems);
        if saved.doubted {
            pending.push(DOUBTED.to_owned());
        }
        if saved.behind {
            pending.push("what was delivered is not saved yet".to_owned());
        }
        let Identity { cgroup, pin_dir, mut warnings } = self.identity.clone();
        warnings.extend(saved.problem.map(str::to_owned));
        AgentStatus {
            cgroup,
            pin_dir,
            ready: pending.is_empty(),
            pending,
            hooks,
            self_test,
            sources,
            work: work.clone(),
            warnings,
            rejections,
            ..empty_status(self.started)
        }
    }
}

/// `applied`: the last revision that the tables hold whole.
pub(crate) fn source_status(state: &SourceState, applied: u64) -> SourceStatus {
    let SourceState {
        name,
        snapshot,
        synced,
        revision,
        delivered,
        underway: _,
        rejections: _,
        refused,
        held,
        error,
        heard,
    } = state;
    SourceStatus {
        name: name.to_string(),
        synced: *synced,
        // The reporter knows.
        cached: false,
        revision: *revision,
        applied,
        delivered: *delivered,
        services: snapshot.as_ref().map_or(0, |snapshot| snapshot.services.len()),
        refused: *refused,
        held: held.to_vec(),
        error: error.clone(),
        // The reporter knows.
        error_since: None,
        heard: heard.clone(),
    }
}

pub(crate) fn empty_status(started: SystemTime) -> AgentStatus {
    AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started,
        layout: lb_common::LAYOUT_VERSION,
        cgroup: PathBuf::new(),
        pin_dir: PathBuf::new(),
        ready: false,
        pending: Vec::new(),
        hooks: Vec::new(),
        self_test: SelfTestStatus::default(),
        sources: Vec::new(),
        // Who keeps the names and the packet path says so to the API.
        names: Vec::new(),
        packet_path: PacketPathStatus::default(),
        work: WorkStatus::default(),
        warnings: Vec::new(),
        rejections: Vec::new(),
    }
}

/// An error is as old as the first of those that followed each other without a pause.
fn date_errors(sources: &mut [SourceStatus], before: &[SourceStatus]) {
    for source in sources.iter_mut().filter(|source| source.error.is_some()) {
        let before = before.iter().find(|before| before.name == source.name);
        let since = before.and_then(|before| before.error_since);
        source.error_since = Some(since.unwrap_or_else(|| {
            own::error(ErrorKind::Source);
            SystemTime::now()
        }));
    }
}

/// A source that fails before it has delivered is not waited for if it is known what it said: whoever asks
/// whether this host serves is not to be told no because a store is away. As long as it does not deliver,
/// that a try is under way is no news.
fn note_cached(sources: &mut [SourceStatus], before: &[SourceStatus]) {
    for source in sources.iter_mut().filter(|source| !source.synced && source.services > 0) {
        let before = before.iter().find(|before| before.name == source.name);
        source.cached = source.error.is_some() || before.is_some_and(|before| before.cached);
    }
}

/// In the order in which they are looked up and published.
fn sort(State { services }: &mut State) {
    services.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for service in services {
        Arc::make_mut(service).backends.sort_unstable_by_key(|backend| backend.address);
    }
}

fn find<'s>(state: &'s State, name: &ServiceName) -> Option<&'s Arc<ServiceStatus>> {
    state.service(name.as_str())
}

/// Replaces the status of a service; `None`: there is none.
fn put(State { services }: &mut State, name: &ServiceName, status: Option<Arc<ServiceStatus>>) {
    let found = services.binary_search_by(|known| known.name.as_str().cmp(name.as_str()));
    match (found, status) {
        (Ok(at), Some(status)) => services[at] = status,
        (Ok(at), None) => drop(services.remove(at)),
        (Err(at), Some(status)) => services.insert(at, status),
        (Err(_), None) => {}
    }
}

fn find_backend<'s>(service: &'s ServiceStatus, address: &SocketAddr) -> Option<&'s BackendStatus> {
    let found = service.backends.binary_search_by_key(address, |backend| backend.address);
    service.backends.get(found.ok()?)
}

fn service_status(
    name: &ServiceName,
    entry: &Entry,
    planner: &Planner,
    since: impl Fn(&SocketAddr, AdminState) -> SystemTime,
) -> ServiceStatus {
    let Service {
        frontends,
        backends,
        backends_from: _,
        policy,
        affinity,
        no_backend,
        no_node_backend,
        health: _,
        source_ranges: _,
    } = &*entry.service;
    let node = |exposure: &Exposure| exposure.reach == Reach::Node;
    let no_node_backend = frontends.values().any(node).then_some(*no_node_backend);
    let frontends = frontends
        .iter()
        .map(|(frontend, asked)| FrontendStatus {
            frontend: *frontend,
            scope: frontend.exposure(*asked).scope,
            reach: asked.reach,
            comes: asked.way.into(),
            installed: !asked.is_for_sockets() || planner.is_installed(frontend),
            usable: entry
                .effective
                .backends_for(frontend)
                .filter(|(_, backend)| backend.state == AdminState::Ready)
                .count(),
        })
        .collect();
    let ids = planner.backend_ids(name);
    let said = |address: &SocketAddr| entry.said.get(address).copied().unwrap_or_default();
    let backends = backends
        .iter()
        .map(|(address, backend)| BackendStatus {
            address: *address,
            id: ids.and_then(|ids| ids.get(address)).copied(),
            state: said(address).state.unwrap_or(backend.state),
            weight: said(address).weight.unwrap_or(backend.weight),
            lists: backend.lists,
            since: Some(since(address, said(address).state.unwrap_or(backend.state))),
            active: 0,
            connects: 0,
            outcomes: None,
            zone: backend.zone.clone(),
            lease: backend.lease.clone(),
            lease_left: None,
            health: None,
            said: entry.said.get(address).copied(),
        })
        .collect();
    ServiceStatus {
        name: name.to_string(),
        id: planner.service_id(name),
        source: entry.source.to_string(),
        frontends,
        policy: *policy,
        affinity: *affinity,
        no_backend: *no_backend,
        no_node_backend,
        fails_open: false,
        backends,
        counters: ServiceCounts::default(),
    }
}

#[cfg(test)]
mod tests;
