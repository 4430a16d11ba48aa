//! Desired services against what the kernel holds, as an ordered list of actions. Pure: the planner
//! is a state machine that believes what it was told to adopt and what its own actions do; if one
//! fails, it is thrown away and the next adopts what is really there. There is no rollback code,
//! because the difference is the rollback.
//!
//! Order of a plan: write blocks -> publish -> insert new frontends -> delete old frontends. What
//! the plan replaced may be used again only after a grace period, which the caller waits for between
//! [`Planner::start_grace`] and [`Planner::end_grace`]. While deletions wait, no frontend is
//! inserted: a reader may still hold a deleted element that the insertion would reuse.

pub mod alloc;
pub mod block;
mod held;

use crate::desired::Desired;
use crate::model::{Frontend, Rejection, Service, ServiceName};
use alloc::{Ids, Rows};
use block::{Block, Variant};
use held::{HeldBlock, HeldFrontend, HeldService, Orphan, Retired};
use lb_common::MAX_BLOCK_ROWS;
use lb_common::rows::{BlockWord, FrontendKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

pub use held::{AdoptError, Observed};

/// One step that the dataplane takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Zero the counters of a backend id that had another owner.
    ResetBackend {
        /// The id.
        id: u32,
    },
    /// Zero the counters of a service id that had another owner.
    ResetService {
        /// The id.
        id: u32,
    },
    /// Write a block to rows that nothing can reach.
    WriteBlock {
        /// Row of the header.
        base: u32,
        /// What to write.
        block: Arc<Block>,
    },
    /// Make a block live for a frontend.
    Publish {
        /// The frontend's index.
        index: u32,
        /// The block's place and size.
        word: BlockWord,
    },
    /// Let the kernel find a frontend; its block is published already.
    InsertFrontend {
        /// What is dialled.
        key: FrontendKey,
        /// Its index.
        index: u32,
    },
    /// Let the kernel forget a frontend.
    DeleteFrontend {
        /// What was dialled.
        key: FrontendKey,
    },
}

/// Entries of the tables that the planner fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frontends, and indexes of them.
    pub frontends: u32,
    /// Service ids.
    pub services: u32,
    /// Rows for headers and backends.
    pub rows: u32,
    /// Backend ids.
    pub backends: u32,
}

/// What to do, and what could not be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// The steps, in order.
    pub actions: Vec<Action>,
    /// Services that did not fit, each with the remedy. They keep what they had.
    pub rejections: Vec<Rejection>,
    /// Something waits for the end of a grace period: plan again then.
    pub deferred: bool,
    /// Something of what the planner holds was not as desired.
    pub touched: bool,
}

/// What the kernel holds, and what is free in its tables.
#[derive(Debug)]
pub struct Planner {
    limits: Limits,
    services: BTreeMap<ServiceName, HeldService>,
    frontends: BTreeMap<Frontend, HeldFrontend>,
    blocks: BTreeMap<u32, HeldBlock>,
    rows: Rows,
    indexes: Ids,
    service_ids: Ids,
    backend_ids: Ids,
    /// Service ids found in the tables whose service is not known yet, with their backends' ids.
    orphans: BTreeMap<u32, Orphan>,
    /// Service ids that have a service.
    named_services: BTreeSet<u32>,
    /// Replaced since the last grace period began.
    retired: Retired,
    /// Waiting for the grace period that is under way.
    waiting: Retired,
    /// Backend ids that no block names but sockets may: (service id, address) -> id.
    resting_ids: BTreeMap<(u32, SocketAddr), u32>,
    /// The same for ids whose backend is not known any more.
    nameless_ids: BTreeSet<u32>,
}

/// Why a service could not be planned.
enum Obstacle {
    /// It may work after the grace period.
    Wait,
    /// It will not work; the text says why and what to do.
    Full(String),
}

impl Planner {
    /// Believes `observed`. The caller must have waited for a grace period since the tables were
    /// last changed by anybody.
    pub fn adopt(limits: Limits, observed: Observed) -> Result<Self, AdoptError> {
        held::adopt(limits, observed)
    }

    /// The id of a service in the kernel tables.
    pub fn service_id(&self, name: &ServiceName) -> Option<u32> {
        self.services.get(name).map(|held| held.id)
    }

    /// The ids of a service's backends in the kernel tables.
    pub fn backend_ids(&self, name: &ServiceName) -> Option<&BTreeMap<SocketAddr, u32>> {
        self.services.get(name).map(|held| &held.backends)
    }

    /// Whether the kernel has this frontend.
    pub fn is_installed(&self, frontend: &Frontend) -> bool {
        self.frontends.contains_key(frontend)
    }

    /// What to do so that the kernel holds `desired`.
    pub fn plan(&mut self, desired: &Desired) -> Plan {
        let mut plan = Plan::default();
        let mut steps = Steps::default();
        // Frontends that their service gave up; somebody else may take them in this very round.
        let mut released: Vec<(Frontend, ServiceName)> = Vec::new();

        let gone: Vec<ServiceName> = if desired.complete {
            let known = self.services.keys();
            known.filter(|name| !desired.services.contains_key(name)).cloned().collect()
        } else {
            Vec::new()
        };
        for (name, entry) in &desired.services {
            if self.services.get(name).is_some_and(|held| held.is_planned(&entry.service)) {
                continue;
            }
            plan.touched = true;
            match self.plan_service(name, &entry.service, &mut steps, &mut released) {
                Ok(complete) => plan.deferred |= !complete,
                Err(Obstacle::Wait) => plan.deferred = true,
                Err(Obstacle::Full(reason)) => plan.rejections.push(Rejection {
                    origin: entry.source.to_string(),
                    service: Some(name.to_string()),
                    reason,
                }),
            }
        }
        for name in gone {
            self.remove_service(&name, &mut released);
        }
        if desired.complete {
            self.remove_unclaimed(&mut steps);
        }
        for (frontend, owner) in released {
            if self.frontends.get(&frontend).is_some_and(|held| held.owner.as_ref() == Some(&owner))
            {
                self.delete_frontend(&frontend, &mut steps);
            }
        }
        plan.actions = steps.in_order();
        plan.touched |= !plan.actions.is_empty();
        plan
    }

    /// Whether a grace period would free anything.
    pub fn needs_grace(&self) -> bool {
        !self.retired.is_empty()
    }

    /// A grace period begins: it will cover everything retired so far. To be called before the
    /// wait, and after the actions were applied.
    pub fn start_grace(&mut self) {
        self.waiting.append(std::mem::take(&mut self.retired));
    }

    /// The grace period has passed: what waited for it may be used again.
    pub fn end_grace(&mut self) {
        let Retired { blocks, indexes, service_ids, backend_ids } =
            std::mem::take(&mut self.waiting);
        for (base, length) in blocks {
            self.rows.free(base, length);
        }
        for index in indexes {
            self.indexes.free(index);
        }
        for id in service_ids {
            self.service_ids.free(id);
            // Nobody can ask for these by name again.
            for (_, backend) in self.resting_ids.extract_if(held::backends_of(id), |_, _| true) {
                self.nameless_ids.insert(backend);
            }
        }
        for (key, id) in backend_ids {
            if self.named_services.contains(&key.0) {
                self.resting_ids.insert(key, id);
            } else {
                self.nameless_ids.insert(id);
            }
        }
    }

    /// Backend ids that are free as soon as no socket and no affinity entry names them.
    pub fn resting_backends(&self) -> Vec<u32> {
        self.resting_ids.values().chain(&self.nameless_ids).copied().collect()
    }

    /// Frees those of [`Planner::resting_backends`] that nothing names any more.
    pub fn free_backends(&mut self, idle: &BTreeSet<u32>) {
        let mut freed = BTreeSet::new();
        self.resting_ids.retain(|_, id| !idle.contains(id) || !freed.insert(*id));
        self.nameless_ids.retain(|id| !idle.contains(id) || !freed.insert(*id));
        for id in freed {
            self.backend_ids.free(id);
        }
    }

    /// True if all of the service is now as desired, false if some of it must wait.
    fn plan_service(
        &mut self,
        name: &ServiceName,
        service: &Arc<Service>,
        steps: &mut Steps,
        released: &mut Vec<(Frontend, ServiceName)>,
    ) -> Result<bool, Obstacle> {
        self.hold_service(name, service, steps)?;
        let missing = self.hold_backends(name, service, steps)?;
        let Some(held) = self.services.get(name) else { return Err(Obstacle::Wait) };

        let mut variants: BTreeMap<Variant, Vec<Frontend>> = BTreeMap::new();
        for (frontend, asked) in &service.frontends {
            variants.entry(Variant::of(frontend, *asked)).or_default().push(*frontend);
        }
        let wanted: Vec<(Block, Vec<Frontend>)> = variants
            .into_iter()
            .map(|(variant, frontends)| {
                (Block::encode(service, held.id, &held.backends, variant), frontends)
            })
            .collect();
        let (held_id, mut complete) = (held.id, true);
        for (block, frontends) in wanted {
            complete &= self.plan_block(name, block, &frontends, steps)?;
        }

        let dropped: Vec<SocketAddr> = match self.services.get_mut(name) {
            Some(held) => {
                let old = std::mem::take(&mut held.frontends);
                held.frontends = service.frontends.keys().copied().collect();
                for frontend in old.difference(&held.frontends) {
                    released.push((*frontend, name.clone()));
                }
                let names = held.backends.keys();
                names.filter(|address| !service.uses(address)).copied().collect()
            }
            None => Vec::new(),
        };
        // Blocks of dropped variants may still name these until their frontends are deleted, which
        // happens in this same plan.
        for address in dropped {
            if let Some(id) =
                self.services.get_mut(name).and_then(|held| held.backends.remove(&address))
            {
                self.retired.backend_ids.insert((held_id, address), id);
            }
        }
        if let Some(obstacle) = missing {
            return Err(obstacle);
        }
        if complete && let Some(held) = self.services.get_mut(name) {
            held.planned = Some(service.clone());
        }
        Ok(complete)
    }

    /// Makes sure that the service has an id.
    fn hold_service(
        &mut self,
        name: &ServiceName,
        service: &Service,
        steps: &mut Steps,
    ) -> Result<(), Obstacle> {
        if self.services.contains_key(name) {
            return Ok(());
        }
        // After a restart, a service is the one that has its frontends.
        let adopted = service.frontends.keys().find_map(|frontend| {
            let held = self.frontends.get(frontend).filter(|held| held.owner.is_none())?;
            let id = self.blocks.get(&held.base)?.block.header.service_id;
            self.orphans.remove(&id).map(|orphan| (id, orphan))
        });
        let (id, Orphan { backends, mut frontends }) = match adopted {
            Some(adopted) => adopted,
            None => {
                let Some(fresh) = self.service_ids.take() else {
                    return Err(self.full("services", self.limits.services));
                };
                if fresh.used {
                    steps.resets.push(Action::ResetService { id: fresh.id });
                }
                (fresh.id, Orphan::default())
            }
        };
        // Another service may have taken one of them meanwhile.
        frontends.retain(|frontend| match self.frontends.get_mut(frontend) {
            Some(held) if held.owner.is_none() => {
                held.owner = Some(name.clone());
                true
            }
            _ => false,
        });
        self.named_services.insert(id);
        let held = HeldService { id, backends, frontends, planned: None };
        self.services.insert(name.clone(), held);
        Ok(())
    }

    /// Gives every backend an id, as far as there are ids. Those that get none are left out, and the
    /// obstacle is returned to be reported: the rest of the change must not wait, since it may be
    /// what frees ids.
    fn hold_backends(
        &mut self,
        name: &ServiceName,
        service: &Service,
        steps: &mut Steps,
    ) -> Result<Option<Obstacle>, Obstacle> {
        let Some(held) = self.services.get_mut(name) else { return Err(Obstacle::Wait) };
        let missing: Vec<SocketAddr> = service
            .backends
            .keys()
            .filter(|address| service.uses(address) && !held.backends.contains_key(address))
            .copied()
            .collect();
        let retired = &mut self.retired.backend_ids;
        let waiting = &mut self.waiting.backend_ids;
        let mut fresh = Vec::new();
        for address in missing {
            let key = (held.id, address);
            // A backend that comes back has its old id while sockets may still name it.
            let known = self
                .resting_ids
                .remove(&key)
                .or_else(|| retired.remove(&key))
                .or_else(|| waiting.remove(&key));
            match known {
                Some(id) => drop(held.backends.insert(address, id)),
                None => fresh.push(address),
            }
        }
        for address in fresh {
            let Some(id) = self.backend_ids.take() else {
                return Ok(Some(if self.retired.is_empty() && self.waiting.is_empty() {
                    self.full("backends", self.limits.backends)
                } else {
                    Obstacle::Wait
                }));
            };
            if id.used {
                steps.resets.push(Action::ResetBackend { id: id.id });
            }
            held.backends.insert(address, id.id);
        }
        Ok(None)
    }

    /// Makes `block` live for `frontends`; false if some of them must wait.
    fn plan_block(
        &mut self,
        name: &ServiceName,
        block: Block,
        frontends: &[Frontend],
        steps: &mut Steps,
    ) -> Result<bool, Obstacle> {
        let live = |held: &HeldFrontend| {
            self.blocks.get(&held.base).is_some_and(|held| *held.block == block)
        };
        let mut same = frontends.iter().filter_map(|f| self.frontends.get(f)).filter(|h| live(h));
        let (base, written) = match same.next() {
            Some(held) => (held.base, true),
            None => (self.write_block(block, steps)?, false),
        };
        let word = match self.blocks.get(&base) {
            Some(held) => held.block.word(base),
            None => return Err(Obstacle::Wait),
        };
        let may_insert = self.waiting.indexes.is_empty() && self.retired.indexes.is_empty();
        let mut complete = true;
        for frontend in frontends {
            if let Some(held) = self.frontends.get_mut(frontend) {
                held.owner = Some(name.clone());
                let old = held.base;
                if old != base {
                    held.base = base;
                    steps.publishes.push(Action::Publish { index: held.index, word });
                    self.use_block(base);
                    self.leave_block(old);
                }
                continue;
            }
            if !may_insert {
                complete = false;
                continue;
            }
            let Some(index) = self.indexes.take() else {
                if !written {
                    self.drop_if_unused(base, steps);
                }
                return Err(self.full("frontends", self.limits.frontends));
            };
            let held = HeldFrontend { index: index.id, base, owner: Some(name.clone()) };
            self.frontends.insert(*frontend, held);
            self.use_block(base);
            steps.publishes.push(Action::Publish { index: index.id, word });
            steps.inserts.push(Action::InsertFrontend { key: key_of(frontend), index: index.id });
        }
        if !written {
            self.drop_if_unused(base, steps);
        }
        Ok(complete)
    }

    fn write_block(&mut self, block: Block, steps: &mut Steps) -> Result<u32, Obstacle> {
        let length = block.length();
        if length > MAX_BLOCK_ROWS {
            return Err(Obstacle::Full(format!(
                "has {} backends of one family, more than the {} that a block can hold; split the service",
                length - 1,
                MAX_BLOCK_ROWS - 1
            )));
        }
        let Some(base) = self.rows.take(length) else {
            return Err(if self.retired.blocks.is_empty() && self.waiting.blocks.is_empty() {
                self.full("rows", self.limits.rows)
            } else {
                Obstacle::Wait
            });
        };
        let block = Arc::new(block);
        steps.writes.push(Action::WriteBlock { base, block: block.clone() });
        self.blocks.insert(base, HeldBlock { block, users: 0 });
        Ok(base)
    }

    fn use_block(&mut self, base: u32) {
        if let Some(held) = self.blocks.get_mut(&base) {
            held.users += 1;
        }
    }

    fn leave_block(&mut self, base: u32) {
        let Some(held) = self.blocks.get_mut(&base) else { return };
        held.users = held.users.saturating_sub(1);
        if held.users == 0 {
            let length = held.block.length();
            self.blocks.remove(&base);
            self.retired.blocks.push((base, length));
        }
    }

    /// Takes back a block that was planned and then not needed: it has never been reachable.
    fn drop_if_unused(&mut self, base: u32, steps: &mut Steps) {
        if let Some(held) = self.blocks.get(&base).filter(|held| held.users == 0) {
            let length = held.block.length();
            self.blocks.remove(&base);
            self.rows.free(base, length);
            steps.writes.retain(
                |action| !matches!(action, Action::WriteBlock { base: other, .. } if *other == base),
            );
        }
    }

    fn remove_service(&mut self, name: &ServiceName, released: &mut Vec<(Frontend, ServiceName)>) {
        let Some(HeldService { id, backends, frontends, planned: _ }) = self.services.remove(name)
        else {
            return;
        };
        released.extend(frontends.into_iter().map(|frontend| (frontend, name.clone())));
        self.named_services.remove(&id);
        self.retire_service(id, backends);
    }

    fn retire_service(&mut self, id: u32, backends: BTreeMap<SocketAddr, u32>) {
        self.retired.service_ids.push(id);
        let ids = backends.into_iter().map(|(address, backend)| ((id, address), backend));
        self.retired.backend_ids.extend(ids);
    }

    /// Frontends and ids that were found in the tables and that no service wants.
    fn remove_unclaimed(&mut self, steps: &mut Steps) {
        for (id, Orphan { backends, frontends }) in std::mem::take(&mut self.orphans) {
            for frontend in frontends {
                if self.frontends.get(&frontend).is_some_and(|held| held.owner.is_none()) {
                    self.delete_frontend(&frontend, steps);
                }
            }
            self.retire_service(id, backends);
        }
    }

    fn delete_frontend(&mut self, frontend: &Frontend, steps: &mut Steps) {
        if let Some(held) = self.frontends.remove(frontend) {
            steps.deletes.push(Action::DeleteFrontend { key: key_of(frontend) });
            self.retired.indexes.push(held.index);
            self.leave_block(held.base);
        }
    }

    fn full(&self, table: &str, limit: u32) -> Obstacle {
        Obstacle::Full(format!(
            "does not fit: all {limit} entries of tables.{table} are in use; raise tables.{table} \
             in the configuration, run `lb-agent detach` and start the agent again"
        ))
    }
}

/// The steps of a plan, sorted by kind as they come.
#[derive(Default)]
struct Steps {
    resets: Vec<Action>,
    writes: Vec<Action>,
    publishes: Vec<Action>,
    inserts: Vec<Action>,
    deletes: Vec<Action>,
}

impl Steps {
    fn in_order(self) -> Vec<Action> {
        let Self { mut resets, writes, publishes, inserts, deletes } = self;
        resets.extend(writes.into_iter().chain(publishes).chain(inserts).chain(deletes));
        resets
    }
}

fn key_of(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(frontend.address.ip(), frontend.address.port(), frontend.protocol.number())
}
