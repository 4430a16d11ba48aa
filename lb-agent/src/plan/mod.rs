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
mod left;
#[cfg(test)]
mod proof;
mod service;

use crate::desired::{Desired, Entry};
use crate::model::{Frontend, Rejection, ServiceName};
use crate::pairs::side_by_side;
use alloc::{Ids, Rows};
use block::Block;
use held::{HeldBlock, HeldFrontend, HeldService, Retired};
use lb_common::rows::{BlockWord, FrontendKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

pub use held::{AdoptError, Observed, Orphan};
pub use left::Left;

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
    /// Desired services of which something waits for the end of a grace period: plan again then.
    pub deferred: BTreeSet<ServiceName>,
    /// Desired services that the planner held otherwise, or does still.
    pub touched: BTreeSet<ServiceName>,
    /// Backends that are out of service with this plan, and must not keep what is connected to them.
    pub left: Vec<Left>,
}

/// What the kernel holds, and what is free in its tables.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Planner {
    limits: Limits,
    services: BTreeMap<ServiceName, HeldService>,
    frontends: BTreeMap<Frontend, HeldFrontend>,
    blocks: BTreeMap<u32, HeldBlock>,
    rows: Rows,
    indexes: Ids,
    service_ids: Ids,
    backend_ids: Ids,
    /// Service ids whose service is not known yet, with their backends' ids.
    orphans: BTreeMap<u32, Orphan>,
    /// The frontends of those that no block names.
    recalled: BTreeMap<Frontend, u32>,
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
    /// What decided about services that are not desired, when it was last planned for changes.
    outlook: Option<Outlook>,
    /// The services that were not held as desired after that.
    unfinished: BTreeSet<ServiceName>,
}

/// Which services that are not desired are gone: see [`Desired`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outlook {
    complete: bool,
    synced: BTreeSet<Arc<str>>,
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
    ///
    /// # Errors
    ///
    /// If the tables are not such as an agent leaves: a frontend of an unknown protocol or without a block, two of
    /// one index, or blocks that overlap or lie outside of `limits`.
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

    /// Whose backend an id is. Looks through all of them.
    pub fn owner_of(&self, id: u32) -> Option<(ServiceName, SocketAddr)> {
        self.services.iter().find_map(|(name, held)| {
            let (backend, _) = held.backends.iter().find(|(_, known)| **known == id)?;
            Some((name.clone(), *backend))
        })
    }

    /// Whether the kernel has this frontend.
    pub fn is_installed(&self, frontend: &Frontend) -> bool {
        self.frontends.contains_key(frontend)
    }

    /// Whether the kernel has any frontend.
    pub fn serves(&self) -> bool {
        !self.frontends.is_empty()
    }

    /// What to do so that the kernel holds `desired`.
    pub fn plan(&mut self, desired: &Desired) -> Plan {
        self.outlook = None;
        self.unfinished.clear();
        self.plan_these(desired, None)
    }

    /// The same at the price of what changed: `changed` are the services of `desired` that are not as
    /// they were at the call before this one, if that was for changes, too.
    pub fn plan_changes(&mut self, desired: &Desired, changed: &BTreeSet<ServiceName>) -> Plan {
        let Desired { services, complete, synced, .. } = desired;
        let outlook = Outlook { complete: *complete, synced: synced.clone() };
        let known = self.outlook.replace(outlook) == self.outlook;
        let mut these = std::mem::take(&mut self.unfinished);
        these.extend(changed.iter().cloned());
        let plan = self.plan_these(desired, known.then_some(&these));
        let is_held = |name: &&ServiceName| {
            let held = self.services.get(*name).zip(services.get(*name));
            held.is_some_and(|(held, entry)| held.is_planned(&entry.effective))
        };
        self.unfinished = plan.touched.iter().filter(|name| !is_held(name)).cloned().collect();
        plan
    }

    /// Plans for these services, or for all.
    fn plan_these(&mut self, desired: &Desired, these: Option<&BTreeSet<ServiceName>>) -> Plan {
        let mut plan = Plan::default();
        let mut steps = Steps::default();
        // Frontends that their service gave up; somebody else may take them in this very round.
        let mut released: Vec<(Frontend, ServiceName)> = Vec::new();

        let Differing { changed, gone } = match these {
            Some(names) => self.compare_these(desired, names),
            None => self.compare_all(desired),
        };
        for (name, entry) in changed {
            match self.plan_service(name, entry, &mut steps, &mut released) {
                Ok(true) => {}
                Ok(false) | Err(Obstacle::Wait) => drop(plan.deferred.insert(name.clone())),
                Err(Obstacle::Full(reason)) => plan.rejections.push(Rejection {
                    origin: entry.source.to_string(),
                    service: Some(name.to_string()),
                    reason,
                }),
            }
            plan.touched.insert(name.clone());
        }
        for name in gone {
            self.remove_service(&name, &mut steps, &mut released);
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
        plan.left = std::mem::take(&mut steps.left);
        plan.actions = steps.in_order();
        plan
    }

    fn compare_all<'d>(&mut self, desired: &'d Desired) -> Differing<'d> {
        let mut differing = Differing::default();
        for (held, entry) in side_by_side(&mut self.services, &desired.services) {
            differing.compare(desired, held, entry);
        }
        differing
    }

    fn compare_these<'d>(
        &mut self,
        desired: &'d Desired,
        names: &BTreeSet<ServiceName>,
    ) -> Differing<'d> {
        let mut differing = Differing::default();
        for name in names {
            let held = self.services.get_mut(name).map(|held| (name, held));
            differing.compare(desired, held, desired.services.get_key_value(name));
        }
        differing
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
}

/// What is not held as desired.
#[derive(Default)]
struct Differing<'d> {
    /// To be planned.
    changed: Vec<(&'d ServiceName, &'d Entry)>,
    /// Held and not desired.
    gone: Vec<ServiceName>,
}

impl<'d> Differing<'d> {
    /// Looks at a service as it is held and as it is desired.
    fn compare(
        &mut self,
        desired: &Desired,
        held: Option<(&ServiceName, &mut HeldService)>,
        entry: Option<(&'d ServiceName, &'d Entry)>,
    ) {
        match (held, entry) {
            (Some((_, held)), Some((name, entry))) => {
                if held.source != entry.source {
                    held.source = Arc::clone(&entry.source);
                }
                if !held.is_planned(&entry.effective) {
                    self.changed.push((name, entry));
                }
            }
            (None, Some(new)) => self.changed.push(new),
            (Some((name, held)), None) => {
                let told = desired.complete || desired.synced.contains(&held.source);
                if told && !desired.waiting.contains_key(name) {
                    self.gone.push(name.clone());
                }
            }
            (None, None) => {}
        }
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
    left: Vec<Left>,
}

impl Steps {
    fn in_order(self) -> Vec<Action> {
        let Self { mut resets, writes, publishes, inserts, deletes, left: _ } = self;
        resets.extend(writes.into_iter().chain(publishes).chain(inserts).chain(deletes));
        resets
    }
}

fn key_of(frontend: &Frontend) -> FrontendKey {
    FrontendKey::new(frontend.address.ip(), frontend.address.port(), frontend.protocol.number())
}
