//! The pinned tables, read without an agent.

use super::describe::{Opened, describe};
use super::tables::{TableError, Tables, chain};
use crate::model::{
    AdminState, Affinity, Client, Frontend, Lists, NoBackend, Policy, Protocol, Reach, Scope,
};
use crate::status::{
    BackendStatus, Counters, FrontendStatus, OutcomeCounts, ServiceCounts, ServiceStatus,
    TableStatus,
};
use anyhow::Context;
use lb_common::rows::{BackendOutcomes, BlockHeader, ServiceCounters};
use lb_common::{LAYOUT_VERSION, affinity, control, no_backend, policy, scope};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The tables below one pin directory.
pub struct Pinned {
    pub(super) pins: PathBuf,
    pub(super) tables: Tables,
    opened: Opened,
}

impl Pinned {
    /// Opens the tables of this layout version below `pin_dir`, for reading.
    ///
    /// # Errors
    ///
    /// If no agent of this layout has made tables below `pin_dir`, or one of them can't be opened and mapped.
    pub fn open(pin_dir: &Path) -> anyhow::Result<Self> {
        let pins = pin_dir.join(LAYOUT_VERSION.to_string());
        if !pins.is_dir() {
            anyhow::bail!("{} does not exist: no agent has filled tables there", pins.display());
        }
        let failed = |error: TableError| anyhow::anyhow!(chain(&error));
        let tables = Tables::open(&pins, false).map_err(failed)?;
        let opened = Opened::open(&pins).map_err(failed)?;
        Ok(Self { pins, tables, opened })
    }

    /// The services as the tables tell them: without names and sources.
    ///
    /// # Errors
    ///
    /// If `FRONTENDS` or `SERVICE_STATS` can't be read, or a block is replaced again and again meanwhile: ask
    /// again.
    pub fn services(&self) -> anyhow::Result<Vec<ServiceStatus>> {
        let mut services: BTreeMap<u32, ServiceStatus> = BTreeMap::new();
        // Frontends share blocks, and blocks of one service share backends.
        let mut backends: BTreeMap<(u32, u32), BackendStatus> = BTreeMap::new();
        let mut frontends = self.tables.frontends()?;
        // What a service's blocks differ in is told by its first frontend, not by chance.
        frontends.sort_unstable_by_key(|(key, _)| (key.socket_addr(), key.protocol));
        for (key, index) in frontends {
            let Some((_, header, rows)) = self.tables.settled_block(index)? else { continue };
            let Some(protocol) = Protocol::from_number(key.protocol) else { continue };
            let address = key.socket_addr();
            let usable = rows.len() - header.resting as usize;
            let service =
                services.entry(header.service_id).or_insert_with(|| unnamed_service(&header));
            service.frontends.push(FrontendStatus {
                frontend: Frontend::new(address.ip(), address.port(), protocol),
                scope: scope_of(&header),
                // Not in the tables.
                reach: Reach::default(),
                comes: Default::default(),
                installed: true,
                usable,
            });
            for (slot, row) in rows.iter().enumerate() {
                backends.entry((header.service_id, row.id)).or_insert_with(|| BackendStatus {
                    address: SocketAddr::new(row.address.into(), u16::from_be(row.port)),
                    id: Some(row.id),
                    state: if slot < usable { AdminState::Ready } else { AdminState::Drain },
                    weight: row.weight,
                    lists: Lists::default(),
                    since: None,
                    active: 0,
                    connects: 0,
                    outcomes: None,
                    zone: None,
                    lease: None,
                    lease_left: None,
                    health: None,
                    said: None,
                });
            }
        }
        for ((service, _), backend) in backends {
            if let Some(service) = services.get_mut(&service) {
                service.backends.push(backend);
            }
        }
        let mut services: Vec<ServiceStatus> = services.into_values().collect();
        for service in &mut services {
            service.frontends.sort_by_key(|frontend| frontend.frontend);
            service.backends.sort_by_key(|backend| backend.address);
        }
        self.fill(&mut services)?;
        Ok(services)
    }
}

impl Counters for Pinned {
    fn fill(&self, services: &mut [ServiceStatus]) -> anyhow::Result<()> {
        for service in services.iter_mut() {
            if let Some(id) = service.id {
                let ServiceCounters { connects, no_backend, untracked } =
                    self.tables.service_counters(id)?;
                service.counters = ServiceCounts { connects, no_backend, untracked };
            }
        }
        self.fill_backends(services, true)
    }

    fn fill_backends(&self, services: &mut [ServiceStatus], outcomes: bool) -> anyhow::Result<()> {
        let follows = outcomes && self.pins.join("link_sock_ops").exists();
        let outcomes = self.tables.outcomes.as_ref().filter(|_| follows);
        for backend in services.iter_mut().flat_map(|service| &mut service.backends) {
            if let Some(id) = backend.id {
                let counters = self.tables.backend_stats.get(id).unwrap_or_default();
                backend.active = counters.active();
                backend.connects = counters.connects;
                let row = outcomes.and_then(|outcomes| outcomes.get(id));
                backend.outcomes = row.map(|row| Box::new(outcome_counts(row)));
            }
        }
        Ok(())
    }

    fn tables(&self) -> anyhow::Result<Vec<TableStatus>> {
        describe(&self.opened, &self.tables).context("reading the pinned tables")
    }

    fn lost_events(&self) -> anyhow::Result<Option<u64>> {
        Ok(self.tables.control.get(control::LOST_EVENTS))
    }
}

fn outcome_counts(row: BackendOutcomes) -> OutcomeCounts {
    let BackendOutcomes { established, refused, unanswered, abandoned, consecutive, .. } = row;
    let srtt = Duration::from_micros(u64::from(row.srtt_eighths / 8));
    let srtt = (row.srtt_eighths != 0).then_some(srtt);
    OutcomeCounts { established, refused, unanswered, abandoned, consecutive, srtt }
}

fn unnamed_service(header: &BlockHeader) -> ServiceStatus {
    ServiceStatus {
        name: format!("service-{}", header.service_id),
        id: Some(header.service_id),
        source: "-".to_owned(),
        frontends: Vec::new(),
        policy: policy_of(header),
        affinity: affinity_of(header),
        no_backend: no_backend_of(header),
        no_node_backend: None,
        fails_open: false,
        backends: Vec::new(),
        counters: ServiceCounts::default(),
    }
}

pub(super) fn policy_of(header: &BlockHeader) -> Policy {
    match header.policy {
        policy::LEAST_CONNECTIONS => Policy::LeastConnections,
        _ => Policy::Random,
    }
}

pub(super) fn affinity_of(header: &BlockHeader) -> Option<Affinity> {
    let client = match header.affinity {
        affinity::NONE => return None,
        affinity::UID => Client::Uid,
        affinity::CGROUP => Client::Cgroup,
        affinity::PROCESS => Client::Process,
        _ => Client::Netns,
    };
    Some(Affinity { client, timeout_seconds: header.affinity_timeout })
}

pub(super) fn no_backend_of(header: &BlockHeader) -> NoBackend {
    match header.no_backend {
        no_backend::UNREACHABLE => NoBackend::Unreachable,
        no_backend::PASS => NoBackend::Pass,
        _ => NoBackend::Refuse,
    }
}

pub(super) fn scope_of(header: &BlockHeader) -> Scope {
    if header.scope == scope::HOST { Scope::Host } else { Scope::Everywhere }
}
