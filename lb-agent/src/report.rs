//! What people and programs are told of the loop's work: builds and publishes `status`.

use crate::dataplane::Attached;
use crate::desired::{Desired, Entry};
use crate::model::{AdminState, Rejection, Service, ServiceName};
use crate::plan::Planner;
use crate::status::{
    AgentStatus, BackendStatus, FrontendStatus, Published, ServiceCounts, ServiceStatus,
    SourceStatus, State, WorkStatus,
};
use std::collections::{BTreeMap, BTreeSet};
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

/// Remembers since when each backend is in its state, and what has been logged.
pub(crate) struct Reporter {
    identity: Identity,
    started: SystemTime,
    state: Arc<State>,
    since: BTreeMap<(String, SocketAddr), (AdminState, SystemTime)>,
    logged: BTreeSet<Rejection>,
    sender: watch::Sender<Arc<Published>>,
}

impl Reporter {
    /// `earlier` is the state that the agent before this one saved.
    pub(crate) fn new(identity: Identity, earlier: Option<State>) -> Self {
        let started = SystemTime::now();
        let since = earlier
            .iter()
            .flat_map(|state| &state.services)
            .flat_map(|service| service.backends.iter().map(|backend| (&service.name, backend)))
            .filter_map(|(name, backend)| {
                Some(((name.clone(), backend.address), (backend.state, backend.since?)))
            })
            .collect();
        let mut reporter = Self {
            identity,
            started,
            state: Arc::default(),
            since,
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

    pub(crate) fn publish(
        &mut self,
        desired: &Desired,
        planner: &Planner,
        attached: Option<&Attached>,
        sources: Vec<SourceStatus>,
        work: &WorkStatus,
        rejections: Vec<Rejection>,
    ) {
        self.log(&rejections);
        let now = SystemTime::now();
        let mut since = std::mem::take(&mut self.since);
        let mut kept = BTreeMap::new();
        let services = desired
            .services
            .iter()
            .map(|(name, entry)| {
                let mut age = |address: SocketAddr, state: AdminState| {
                    let key = (name.to_string(), address);
                    let time = match since.remove(&key) {
                        Some((before, time)) if before == state => time,
                        _ => now,
                    };
                    kept.insert(key, (state, time));
                    time
                };
                service_status(name, entry, planner, &mut age)
            })
            .collect();
        // Before every source has delivered, what is not desired yet may only be late.
        if !desired.complete {
            kept.append(&mut since);
        }
        self.since = kept;
        self.state = Arc::new(State { services });
        let agent = self.agent(attached, sources, work, rejections);
        self.sender.send_replace(Arc::new(Published { agent, state: self.state.clone() }));
    }

    /// Each rejection is logged when it appears, not at each round.
    fn log(&mut self, rejections: &[Rejection]) {
        let now: BTreeSet<Rejection> = rejections.iter().cloned().collect();
        for Rejection { origin, service, reason } in now.difference(&self.logged) {
            tracing::warn!(%origin, service, "{reason}");
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

fn service_status(
    name: &ServiceName,
    entry: &Entry,
    planner: &Planner,
    since: &mut impl FnMut(SocketAddr, AdminState) -> SystemTime,
) -> ServiceStatus {
    let Service { frontends, backends, policy, affinity, no_backend } = &*entry.service;
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
    let backends = backends
        .iter()
        .map(|(address, backend)| BackendStatus {
            address: *address,
            id: planner.backend_id(name, address),
            state: backend.state,
            weight: backend.weight,
            since: Some(since(*address, backend.state)),
            active: 0,
            connects: 0,
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
