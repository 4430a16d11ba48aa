//! What the planner believes the kernel holds, and how it comes to believe it after a restart.

use super::alloc::{Ids, Rows};
use super::block::Block;
use super::{Limits, Planner, key_of};
use crate::model::{Frontend, Protocol, Service, ServiceName};
use lb_common::rows::FrontendKey;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What was found in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Frontends, their indexes, and the rows at which their live blocks begin; none if nothing was
    /// ever published for the index.
    pub frontends: Vec<(FrontendKey, u32, Option<u32>)>,
    /// The blocks those name.
    pub blocks: BTreeMap<u32, Block>,
    /// Backend ids that open sockets name.
    pub active: BTreeSet<u32>,
    /// Whether the tables are new, so that no counter has ever counted.
    pub fresh: bool,
    /// Whether only ids and what is counted under them were found, with tables of another layout: whose
    /// they are is then told by `recalled`.
    pub inherited: bool,
    /// What is known from elsewhere of service ids that no block names.
    pub recalled: BTreeMap<u32, Orphan>,
}

impl Observed {
    /// Adds a frontend with its live block. Two frontends that have blocks of different lengths at the same
    /// row can't both be right: the second counts as having none.
    pub fn add(&mut self, key: FrontendKey, index: u32, found: Option<(u32, Block)>) {
        let base = found.and_then(|(base, block)| {
            let known = self.blocks.entry(base).or_insert_with(|| block.clone());
            (*known == block).then_some(base)
        });
        self.frontends.push((key, index, base));
    }
}

/// Why tables found in place can't be adopted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pinned tables contradict themselves ({0}); run `lb-agent detach` and start the agent again"
)]
pub struct AdoptError(String);

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct HeldService {
    pub(super) id: u32,
    /// Who said so last.
    pub(super) source: Arc<str>,
    pub(super) backends: BTreeMap<SocketAddr, u32>,
    pub(super) frontends: BTreeSet<Frontend>,
    /// What the kernel has been told in full, last.
    pub(super) planned: Option<Arc<Service>>,
    /// Whether it holds that: a later plan may have changed some of it, and have left the rest for
    /// another round.
    pub(super) whole: bool,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct HeldFrontend {
    pub(super) index: u32,
    pub(super) base: u32,
    /// None until a service claims a frontend that was found in the tables.
    pub(super) owner: Option<ServiceName>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct HeldBlock {
    pub(super) block: Arc<Block>,
    pub(super) users: u32,
}

/// What no new reader can reach, but a running one may.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Retired {
    pub(super) blocks: Vec<(u32, u32)>,
    pub(super) indexes: Vec<u32>,
    pub(super) service_ids: Vec<u32>,
    /// (service id, address) -> id.
    pub(super) backend_ids: BTreeMap<(u32, SocketAddr), u32>,
}

/// A service id whose service is not known yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphan {
    /// Its backends and their ids.
    pub backends: BTreeMap<SocketAddr, u32>,
    /// What is dialled.
    pub frontends: BTreeSet<Frontend>,
}

/// The keys of all backends of a service.
pub(super) fn backends_of(service_id: u32) -> RangeInclusive<(u32, SocketAddr)> {
    let lowest = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let highest = SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)), u16::MAX);
    (service_id, lowest)..=(service_id, highest)
}

impl HeldService {
    pub(super) fn is_planned(&self, service: &Arc<Service>) -> bool {
        let planned = self.planned.as_ref().filter(|_| self.whole);
        planned.is_some_and(|planned| Arc::ptr_eq(planned, service) || planned == service)
    }
}

impl Retired {
    pub(super) fn is_empty(&self) -> bool {
        let Self { blocks, indexes, service_ids, backend_ids } = self;
        blocks.is_empty() && indexes.is_empty() && service_ids.is_empty() && backend_ids.is_empty()
    }

    pub(super) fn append(&mut self, other: Self) {
        let Self { blocks, indexes, service_ids, backend_ids } = other;
        self.blocks.extend(blocks);
        self.indexes.extend(indexes);
        self.service_ids.extend(service_ids);
        self.backend_ids.extend(backend_ids);
    }
}

pub(super) fn adopt(limits: Limits, observed: Observed) -> Result<Planner, AdoptError> {
    let Observed { frontends: found, blocks: found_blocks, active, fresh, inherited: _, recalled } =
        observed;
    let mut orphans: BTreeMap<u32, Orphan> = BTreeMap::new();
    let mut backend_ids = BTreeSet::new();
    let mut named_ids = BTreeSet::new();
    let mut blocks = BTreeMap::new();
    let mut runs = BTreeMap::new();
    for (base, block) in found_blocks {
        let orphan = orphans.entry(block.header.service_id).or_default();
        for row in &block.rows {
            let address = SocketAddr::new(row.address.into(), u16::from_be(row.port));
            orphan.backends.insert(address, row.id);
            backend_ids.insert(row.id);
            named_ids.insert(row.id);
        }
        runs.insert(base, block.length());
        blocks.insert(base, HeldBlock { block: Arc::new(block), users: 0 });
    }

    let mut frontends = BTreeMap::new();
    let mut indexes = BTreeSet::new();
    for (key, index, base) in found {
        let frontend = frontend_of(&key)
            .ok_or_else(|| AdoptError(format!("protocol {} of a frontend", key.protocol)))?;
        if key_of(&frontend) != key {
            // No program would find it, and we would not write it again.
            return Err(AdoptError(format!("the key of {frontend} is not what is looked up")));
        }
        let base = base.ok_or_else(|| {
            AdoptError(format!(
                "{frontend} has no block, or one that differs from another's at the same rows"
            ))
        })?;
        let block = blocks
            .get_mut(&base)
            .ok_or_else(|| AdoptError(format!("{frontend} names a block at row {base}")))?;
        block.users += 1;
        orphans.entry(block.block.header.service_id).or_default().frontends.insert(frontend);
        if !indexes.insert(index) {
            return Err(AdoptError(format!("two frontends have the index {index}")));
        }
        frontends.insert(frontend, HeldFrontend { index, base, owner: None });
    }

    // What blocks say is so; what is only remembered may be out of date, but the programs of another
    // layout may go by it: no id of it is given to anybody else.
    let mut recalled_frontends = BTreeMap::new();
    let mut reserved = active;
    for (id, Orphan { backends, frontends }) in recalled {
        reserved.extend(backends.values().filter(|backend| **backend < limits.backends));
        if id >= limits.services {
            continue;
        }
        let orphan = orphans.entry(id).or_insert_with(|| {
            recalled_frontends.extend(frontends.iter().map(|frontend| (*frontend, id)));
            Orphan { frontends, backends: BTreeMap::new() }
        });
        for (address, backend) in backends {
            if let Entry::Vacant(place) = orphan.backends.entry(address)
                && backend < limits.backends
                && named_ids.insert(backend)
            {
                place.insert(backend);
            }
        }
    }
    backend_ids.extend(&reserved);

    let rows = Rows::new(limits.rows, &runs)
        .ok_or_else(|| AdoptError("blocks overlap or leave the table".to_owned()))?;
    let service_ids: BTreeSet<u32> = orphans.keys().copied().collect();
    let ids = if fresh { Ids::new } else { Ids::adopted };
    Ok(Planner {
        limits,
        services: BTreeMap::new(),
        frontends,
        blocks,
        rows,
        indexes: ids(limits.frontends, &indexes),
        service_ids: ids(limits.services, &service_ids),
        backend_ids: ids(limits.backends, &backend_ids),
        orphans,
        recalled: recalled_frontends,
        named_services: BTreeSet::new(),
        retired: Retired::default(),
        waiting: Retired::default(),
        resting_ids: BTreeMap::new(),
        nameless_ids: reserved.difference(&named_ids).copied().collect(),
        outlook: None,
        unfinished: BTreeSet::new(),
    })
}

/// The frontend that a key stands for; none if its protocol is not ours.
pub(super) fn frontend_of(key: &FrontendKey) -> Option<Frontend> {
    let address = key.socket_addr();
    let protocol = Protocol::from_number(key.protocol)?;
    Some(Frontend::new(address.ip(), address.port(), protocol))
}
