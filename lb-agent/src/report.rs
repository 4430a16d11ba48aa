//! What people and programs are told of the loop's work: builds and publishes `status`.

use crate::dataplane::Attached;
use crate::desired::{Desired, Entry};
use crate::model::{AdminState, Rejection, Service, ServiceName};
use crate::plan::Planner;
use crate::status::{
    AgentStatus, BackendStatus, FrontendStatus, Published, ServiceCounts, ServiceStatus,
    SourceStatus, State, WorkStatus,
};
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

/// New rejections logged one by one in a round; the status has them all.
const LOGGED: usize = 20;

/// Remembers since when each backend is in its state, and what has been logged.
pub(crate) struct Reporter {
    identity: Identity,
    started: SystemTime,
    state: Arc<State>,
    /// What the agent before this one saved, until every source has delivered: before that, what is
    /// not desired yet may only be late.
    earlier: State,
    logged: BTreeSet<Rejection>,
    sender: watch::Sender<Arc<Published>>,
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
            state: Arc::default(),
            earlier,
            logged: BTreeSet::new(),
            sender: watch::Sender::new(Arc::new(Published {
                agent: empty_status(started),
                state: Arc::default(),
            })),
        };
        let agent = reporter.agent(None, Vec::new(), &WorkStatus::default(), Vec::new());
        reporter.sender.send_replace(Arc::new(Published { agent, state: Arc::default() }));
        reporter
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.sender.subscribe()
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.clone()
    }

    /// Looks at the services again, which may have changed since.
    pub(crate) fn update(&mut self, desired: &Desired, planner: &Planner) {
        let now = SystemTime::now();
        let known = [&*self.state, &self.earlier];
        let services = desired.services.iter();
        let services = services
            .map(|(name, entry)| {
                let known = known.map(|state| find(state, name));
                service_status(name, entry, planner, |address, state| {
                    let backend = known.iter().flatten().find_map(|s| find_backend(s, address));
                    let since = backend.filter(|b| b.state == state).and_then(|b| b.since);
                    since.unwrap_or(now)
                })
            })
            .collect();
        self.state = Arc::new(State { services });
        if desired.complete {
            self.earlier = State::default();
        }
    }

    /// Tells of the agent as it is now, and of the services as they were last looked at.
    pub(crate) fn publish(
        &mut self,
        attached: Option<&Attached>,
        sources: Vec<SourceStatus>,
        work: &WorkStatus,
        rejections: Vec<Rejection>,
    ) {
        self.log(&rejections);
        let agent = self.agent(attached, sources, work, rejections);
        self.sender.send_replace(Arc::new(Published { agent, state: self.state.clone() }));
    }

    /// Each rejection is logged when it appears, not at each round.
    fn log(&mut self, rejections: &[Rejection]) {
        let now: BTreeSet<Rejection> = rejections.iter().cloned().collect();
        let mut new = now.difference(&self.logged);
        for Rejection { origin, service, reason } in new.by_ref().take(LOGGED) {
            tracing::warn!(%origin, service, "{reason}");
        }
        let more = new.count();
        if more > 0 {
            tracing::warn!(more, "more problems; see `lbctl status`");
        }
        self.logged = now;
    }

    fn agent(
        &mut self,
        attached: Option<&Attached>,
        sources: Vec<SourceStatus>,
        work: &WorkStatus,
        rejections: Vec<Rejection>,
    ) -> AgentStatus {
        let mut pending: Vec<String> = sources
            .iter()
            .filter(|source| !source.synced)
            .map(|source| match &source.error {
                Some(error) => format!("{}: {error}", source.name),
                None => format!("{} has not delivered yet", source.name),
            })
            .collect();
        if attached.is_none() {
            pending.push("the programs are not attached yet".to_owned());
        }
        let Identity { cgroup, pin_dir, warnings } = self.identity.clone();
        AgentStatus {
            cgroup,
            pin_dir,
            ready: pending.is_empty(),
            pending,
            hooks: attached.cloned().unwrap_or_default(),
            sources,
            work: work.clone(),
            warnings,
            rejections,
            ..empty_status(self.started)
        }
    }
}

fn empty_status(started: SystemTime) -> AgentStatus {
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
        sources: Vec::new(),
        work: WorkStatus::default(),
        warnings: Vec::new(),
        rejections: Vec::new(),
    }
}

/// In the order in which they are looked up and published.
fn sort(State { services }: &mut State) {
    services.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for service in services {
        service.backends.sort_unstable_by_key(|backend| backend.address);
    }
}

fn find<'s>(state: &'s State, name: &ServiceName) -> Option<&'s ServiceStatus> {
    let found = state.services.binary_search_by(|service| service.name.as_str().cmp(name.as_str()));
    state.services.get(found.ok()?)
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
    let Service { frontends, backends, backends_from: _, policy, affinity, no_backend, health: _ } =
        &*entry.service;
    let frontends = frontends
        .iter()
        .map(|(frontend, asked)| FrontendStatus {
            frontend: *frontend,
            scope: frontend.scope(*asked),
            installed: planner.is_installed(frontend),
            usable: entry
                .service
                .backends_for(frontend)
                .filter(|(_, backend)| backend.state == AdminState::Ready)
                .count(),
        })
        .collect();
    let ids = planner.backend_ids(name);
    let backends = backends
        .iter()
        .map(|(address, backend)| BackendStatus {
            address: *address,
            id: ids.and_then(|ids| ids.get(address)).copied(),
            state: backend.state,
            weight: backend.weight,
            since: Some(since(address, backend.state)),
            active: 0,
            connects: 0,
            zone: backend.zone.clone(),
            lease: backend.lease.clone(),
            lease_left: None,
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
        backends,
        counters: ServiceCounts::default(),
    }
}

#[cfg(test)]
mod tests;
