//! Planning one service: its ids, its blocks, its frontends.

use super::block::{Block, Variant};
use super::held::{HeldBlock, HeldFrontend, HeldService, Orphan};
use super::left::{Left, expelled};
use super::{Action, Obstacle, Planner, Steps, key_of};
use crate::desired::Entry;
use crate::model::{Frontend, OnRemoval, Service, ServiceName};
use lb_common::MAX_BLOCK_ROWS;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

impl Planner {
    /// True if all of the service is now as desired, false if some of it must wait.
    pub(super) fn plan_service(
        &mut self,
        name: &ServiceName,
        entry: &Entry,
        steps: &mut Steps,
        released: &mut Vec<(Frontend, ServiceName)>,
    ) -> Result<bool, Obstacle> {
        let service = &entry.effective;
        self.hold_service(name, entry, steps)?;
        // Whatever comes of it, the kernel may hold something else from here on.
        if let Some(held) = self.services.get_mut(name) {
            held.whole = false;
        }
        let missing = self.hold_backends(name, service, steps)?;
        let Some(held) = self.services.get(name) else { return Err(Obstacle::Wait) };

        let mut variants: BTreeMap<Variant, Vec<Frontend>> = BTreeMap::new();
        for (frontend, asked) in service.socket_frontends() {
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

        let mut known = Arc::default();
        let dropped: Vec<SocketAddr> = match self.services.get_mut(name) {
            Some(held) => {
                let old = std::mem::take(&mut held.frontends);
                known = Arc::new(old.clone());
                held.frontends = service.socket_frontends().map(|(f, _)| *f).collect();
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
        let left = |address, id, tcp| Left {
            service: Some(name.clone()),
            address,
            id,
            tcp,
            frontends: Arc::clone(&known),
        };
        for address in dropped {
            if let Some(id) =
                self.services.get_mut(name).and_then(|held| held.backends.remove(&address))
            {
                self.retired.backend_ids.insert((held_id, address), id);
                // It may also be that no frontend of its family is left.
                if !service.backends.contains_key(&address) {
                    let tcp = service.health.on_removal == OnRemoval::Reset;
                    steps.left.push(left(address, id, tcp));
                }
            }
        }
        if let Some(obstacle) = missing {
            return Err(obstacle);
        }
        if complete && let Some(held) = self.services.get_mut(name) {
            held.whole = true;
            // After a restart, what it was before is not known.
            if let Some(before) = held.planned.replace(service.clone()) {
                let ids = |address: &SocketAddr| Some((*address, *held.backends.get(address)?));
                let expelled = expelled(&before, service).filter_map(ids);
                steps.left.extend(expelled.map(|(address, id)| left(address, id, true)));
            }
        }
        Ok(complete)
    }

    /// Makes sure that the service has an id.
    fn hold_service(
        &mut self,
        name: &ServiceName,
        entry: &Entry,
        steps: &mut Steps,
    ) -> Result<(), Obstacle> {
        if self.services.contains_key(name) {
            return Ok(());
        }
        // After a restart, a service is the one that has its frontends.
        let adopted = entry.effective.frontends.keys().find_map(|frontend| {
            let id = match self.frontends.get(frontend) {
                Some(held) if held.owner.is_some() => return None,
                Some(held) => self.blocks.get(&held.base)?.block.header.service_id,
                None => *self.recalled.get(frontend)?,
            };
            self.orphans.remove(&id).map(|orphan| (id, orphan))
        });
        let (id, Orphan { backends, mut frontends }) = match adopted {
            Some(adopted) => adopted,
            None => {
                let Some(fresh) = self.service_ids.take() else {
                    let waiting = self.retired.service_ids.len() + self.waiting.service_ids.len();
                    return Err(match waiting {
                        0 => self.full("services", self.limits.services),
                        _ => Obstacle::Wait,
                    });
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
        let source = Arc::clone(&entry.source);
        let held = HeldService { id, source, backends, frontends, planned: None, whole: false };
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
        if !missing.is_empty() {
            self.check_room(service, &missing)?;
        }
        let Some(held) = self.services.get_mut(name) else { return Err(Obstacle::Wait) };
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
        // Noted before anything can fail, so that whatever was done is undone with the service.
        if let Some(held) = self.services.get_mut(name) {
            held.frontends.extend(frontends);
        }
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

    /// Whether the blocks with these new backends can be written: a service that does not fit must
    /// not take ids from others.
    fn check_room(&self, service: &Service, missing: &[SocketAddr]) -> Result<(), Obstacle> {
        for v4 in [true, false] {
            if !missing.iter().any(|address| address.is_ipv4() == v4) {
                continue;
            }
            let rows = service.backends.keys().filter(|address| address.is_ipv4() == v4).count();
            let length = u32::try_from(rows).map_or(u32::MAX, |rows| rows.saturating_add(1));
            if length > MAX_BLOCK_ROWS {
                return Err(Obstacle::Full(too_large(rows)));
            }
            if !self.rows.has_run(length) {
                return Err(self.no_rows());
            }
        }
        Ok(())
    }

    fn no_rows(&self) -> Obstacle {
        if self.retired.blocks.is_empty() && self.waiting.blocks.is_empty() {
            self.full("rows", self.limits.rows)
        } else {
            Obstacle::Wait
        }
    }

    fn write_block(&mut self, block: Block, steps: &mut Steps) -> Result<u32, Obstacle> {
        let length = block.length();
        if length > MAX_BLOCK_ROWS {
            return Err(Obstacle::Full(too_large(block.rows.len())));
        }
        let Some(base) = self.rows.take(length) else { return Err(self.no_rows()) };
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

    pub(super) fn remove_service(
        &mut self,
        name: &ServiceName,
        steps: &mut Steps,
        released: &mut Vec<(Frontend, ServiceName)>,
    ) {
        let Some(HeldService { id, source: _, backends, frontends, planned, whole: _ }) =
            self.services.remove(name)
        else {
            return;
        };
        let reset = |service: Arc<Service>| service.health.on_removal == OnRemoval::Reset;
        let (tcp, known) = (planned.is_some_and(reset), Arc::new(frontends.clone()));
        steps.leave(Some(name), &backends, &known, tcp);
        released.extend(frontends.into_iter().map(|frontend| (frontend, name.clone())));
        self.named_services.remove(&id);
        self.retire_service(id, backends);
    }

    fn retire_service(&mut self, id: u32, backends: BTreeMap<SocketAddr, u32>) {
        self.retired.service_ids.push(id);
        let ids = backends.into_iter().map(|(address, backend)| ((id, address), backend));
        self.retired.backend_ids.extend(ids);
    }

    /// Frontends and ids that were found and that no service wants.
    pub(super) fn remove_unclaimed(&mut self, steps: &mut Steps) {
        for (id, Orphan { backends, frontends }) in std::mem::take(&mut self.orphans) {
            let known = Arc::new(frontends.clone());
            for frontend in frontends {
                if self.frontends.get(&frontend).is_some_and(|held| held.owner.is_none()) {
                    self.delete_frontend(&frontend, steps);
                }
            }
            // What its service said of TCP is not known any more.
            steps.leave(None, &backends, &known, false);
            self.retire_service(id, backends);
        }
    }

    pub(super) fn delete_frontend(&mut self, frontend: &Frontend, steps: &mut Steps) {
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

impl Steps {
    /// Notes that a service is gone with all its backends.
    fn leave(
        &mut self,
        service: Option<&ServiceName>,
        backends: &BTreeMap<SocketAddr, u32>,
        frontends: &Arc<BTreeSet<Frontend>>,
        tcp: bool,
    ) {
        let left = |(address, id): (&SocketAddr, &u32)| Left {
            service: service.cloned(),
            address: *address,
            id: *id,
            tcp,
            frontends: Arc::clone(frontends),
        };
        self.left.extend(backends.iter().map(left));
    }
}

fn too_large(backends: usize) -> String {
    format!(
        "has {backends} backends of one family, more than the {} that a block can hold; split the \
         service",
        MAX_BLOCK_ROWS - 1
    )
}
