//! Our own layout: `services/<name>`, `backends/<service>/<id>`, and the addresses that agents give
//! to services, `vips/<address>` and `allocations/<service>`.
//!
//! A backend without its service waits. A service whose value is refused goes on with its last good
//! one, but yields frontends that a good service has taken meanwhile. Of two good services with one
//! frontend [`crate::desired`] decides.

mod key;
mod record;
mod unit;

use self::key::Key;
use self::record::{Books, allocation_of};
use self::unit::{Declared, Unit};
use super::addresses::{Addresses, Vip};
use super::notes::Note;
use super::shared::Shared;
use super::tree::Record;
use super::{Layout, text};
use crate::etcd::KeyValue;
use crate::model::{Backend, Frontend, Override, Service, ServiceName, Snapshot};
use crate::source::spec::value::{self, Reading};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Most names of zones kept for sharing.
const ZONES: usize = 1024;

/// Services with their backends.
#[derive(Default)]
pub(super) struct Native {
    units: BTreeMap<ServiceName, Unit>,
    dirty: BTreeSet<ServiceName>,
    /// Refused services, which go on with their last good value.
    kept: BTreeSet<ServiceName>,
    /// How many good services have a frontend.
    claimed: HashMap<Frontend, usize>,
    books: Books,
    zones: BTreeSet<Arc<str>>,
    remembered: BTreeMap<ServiceName, Arc<Service>>,
}

// === impl Native ===

impl Native {
    fn set_service(
        &mut self,
        shared: &mut Shared,
        path: &str,
        name: ServiceName,
        found: Option<&KeyValue>,
    ) {
        let Some(found) = found else {
            shared.note_key(path, 0, None, &[]);
            let unit = self.units.get_mut(&name);
            if let Some(before) = unit.and_then(|unit| unit.declared.take()) {
                self.books.undeclare(&name, &before);
                self.dirty.insert(name);
            }
            return;
        };
        let unit = self.units.entry(name.clone()).or_default();
        let Reading { value, problems, warnings } =
            value::service(&name, &found.value, shared.claims());
        let refused = value.is_none();
        let before = unit.declared.take();
        let remembered = self.remembered.remove(&name);
        let last_good = match value {
            Some(value) => Some(unit::LastGood::Value(Box::new(value))),
            None => before
                .as_ref()
                .and_then(|before| before.last_good.clone())
                .or(remembered.map(unit::LastGood::Cached)),
        };
        let kept = if refused && last_good.is_some() {
            " (the last good version of this service keeps serving)"
        } else {
            ""
        };
        let refusal = |reason: String| Note::refusal(format!("{reason}{kept}"));
        let notes: Vec<_> = problems
            .into_iter()
            .map(refusal)
            .chain(warnings.into_iter().map(Note::warning))
            .collect();
        shared.note_key(path, found.modified, Some(name.as_str()), &notes);
        let now = Declared { modified: found.modified, refused, last_good };
        let same = before
            .as_ref()
            .is_some_and(|b| b.refused == now.refused && b.last_good == now.last_good);
        self.books.declare(&name, before.as_ref(), &now);
        unit.declared = Some(now);
        // Notes name the revision.
        if !same || shared.has_notes(name.as_str()) {
            self.dirty.insert(name);
        }
    }

    fn set_backend(
        &mut self,
        shared: &mut Shared,
        path: &str,
        (name, id): (ServiceName, &str),
        found: Option<&KeyValue>,
    ) {
        let mut notes = Vec::new();
        let record = found.and_then(|found| {
            let item = self.read_backend(&found.value, &mut notes)?;
            Some(Record { modified: found.modified, lease: found.lease, item })
        });
        let modified = found.map_or(0, |found| found.modified);
        shared.note_key(path, modified, Some(name.as_str()), &notes);
        let Some(record) = record else {
            let removed = self.units.get_mut(&name).and_then(|unit| unit.backends.remove(id));
            if removed.is_some() {
                self.dirty.insert(name);
            }
            return;
        };
        let unit = self.units.entry(name.clone()).or_default();
        let same = match unit.backends.get_mut(id) {
            None => {
                unit.backends.insert(id.into(), record);
                false
            }
            Some(before) => {
                let same = before.item == record.item && before.lease == record.lease;
                *before = record;
                same
            }
        };
        if unit.declared.is_some() && (!same || shared.has_notes(name.as_str())) {
            self.dirty.insert(name);
        }
    }

    fn read_backend(
        &mut self,
        text: &[u8],
        notes: &mut Vec<Note>,
    ) -> Option<(SocketAddr, Backend)> {
        let Reading { value, problems, warnings } = value::backend(text);
        notes.extend(problems.into_iter().map(Note::refusal));
        notes.extend(warnings.into_iter().map(Note::warning));
        let (address, mut backend) = value?;
        if let Err(reason) = text::usable(address.ip()) {
            notes.push(Note::refusal(reason));
            return None;
        }
        if let Some(zone) = &mut backend.zone {
            // Zones are few and backends many.
            if let Some(known) = self.zones.get(&**zone) {
                *zone = Arc::clone(known);
            } else if self.zones.len() < ZONES {
                self.zones.insert(Arc::clone(zone));
            }
        }
        Some((address, backend))
    }

    fn set_vip(
        &mut self,
        shared: &mut Shared,
        path: &str,
        address: IpAddr,
        found: Option<&KeyValue>,
    ) {
        let vip = found.map(|found| Vip {
            service: String::from_utf8_lossy(&found.value).trim().to_owned(),
            modified: found.modified,
        });
        shared.note_key(path, 0, None, &[]);
        let holders = self.books.set_vip(address, vip);
        self.dirty.extend(holders);
    }

    fn set_allocation(
        &mut self,
        shared: &mut Shared,
        path: &str,
        name: ServiceName,
        found: Option<&KeyValue>,
    ) {
        let mut notes = Vec::new();
        let allocation = found.map(|found| allocation_of(found, &mut notes));
        let modified = found.map_or(0, |found| found.modified);
        shared.note_key(path, modified, Some(name.as_str()), &notes);
        let same = self.books.set_allocation(&name, allocation);
        if !same || shared.has_notes(name.as_str()) {
            self.dirty.insert(name);
        }
    }

    /// Builds a service; whether what good services claim changed.
    fn build(&mut self, shared: &mut Shared, name: &ServiceName) -> bool {
        let counted = |kept: bool, service: Option<&Service>| -> Vec<Frontend> {
            let service = service.filter(|_| !kept);
            service.map(|service| service.frontends.keys().copied().collect()).unwrap_or_default()
        };
        let last = shared.snapshot().services.get(name).map(Arc::as_ref);
        let before = counted(self.kept.remove(name), last);
        for frontend in &before {
            if let Some(count) = self.claimed.get_mut(frontend) {
                *count -= 1;
                if *count == 0 {
                    self.claimed.remove(frontend);
                }
            }
        }
        let refused = self.is_refused(name);
        let (service, notes) = match self.units.get(name) {
            Some(unit) => {
                let taken = |frontend: &Frontend| refused && self.claimed.contains_key(frontend);
                unit.build(name, shared, &self.books, taken)
            }
            None => Default::default(),
        };
        if self.units.get(name).is_some_and(Unit::is_empty) {
            self.units.remove(name);
        }
        if refused {
            self.kept.insert(name.clone());
        }
        let now = counted(refused, service.as_ref());
        for frontend in &now {
            *self.claimed.entry(*frontend).or_default() += 1;
        }
        shared.put_service(name, service);
        shared.note_owned(name.as_str(), &notes);
        before != now
    }

    fn is_refused(&self, name: &ServiceName) -> bool {
        let declared = self.units.get(name).and_then(|unit| unit.declared.as_ref());
        declared.is_some_and(|declared| declared.refused)
    }
}

/// What operators say of a backend is passed on as it is: the service may be another source's.
fn set_override(
    shared: &mut Shared,
    path: &str,
    (name, backend): (ServiceName, SocketAddr),
    found: Option<&KeyValue>,
) {
    let mut notes = Vec::new();
    let said = found.and_then(|found| match text::object::<Override>(&found.value) {
        Ok(said) if said.weight != Some(0) => Some(said),
        Ok(_) => {
            notes.push(Note::refusal("weight 0 is not a share; say `\"state\":\"drain\"`"));
            None
        }
        Err(reason) => {
            let example = r#"`{"state":"drain"}` or `{"weight":3}`"#;
            notes.push(Note::refusal(format!("{reason}, as {example}, or delete the key")));
            None
        }
    });
    let modified = found.map_or(0, |found| found.modified);
    shared.note_key(path, modified, Some(name.as_str()), &notes);
    shared.put_override(name, backend, said);
}

impl Layout for Native {
    fn set(&mut self, shared: &mut Shared, path: &str, value: Option<&KeyValue>) {
        match Key::parse(path) {
            Ok(Key::Service(name)) => self.set_service(shared, path, name, value),
            Ok(Key::Backend(name, id)) => self.set_backend(shared, path, (name, id), value),
            Ok(Key::Vip(address)) => self.set_vip(shared, path, address, value),
            Ok(Key::Allocation(name)) => self.set_allocation(shared, path, name, value),
            Ok(Key::Override(name, backend)) => set_override(shared, path, (name, backend), value),
            Err(reason) => {
                let notes: Vec<_> = value.map(|_| Note::refusal(reason)).into_iter().collect();
                shared.note_key(path, value.map_or(0, |value| value.modified), None, &notes);
            }
        }
    }

    fn idle(&self) -> bool {
        self.dirty.is_empty()
    }

    fn refresh(&mut self, shared: &mut Shared) {
        let mut claims_changed = false;
        let (kept, good): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.dirty).into_iter().partition(|name| self.is_refused(name));
        for name in good {
            claims_changed |= self.build(shared, &name);
        }
        // Those that yield come after those they yield to.
        for name in kept {
            claims_changed |= self.build(shared, &name);
        }
        if claims_changed {
            for name in self.kept.clone() {
                self.build(shared, &name);
            }
        }
    }

    fn remember(&mut self, cached: Snapshot) {
        self.remembered = cached.services;
    }

    fn listed(&mut self) {
        self.remembered = BTreeMap::new();
    }

    fn addresses(&self) -> Option<&Addresses> {
        Some(self.books.addresses())
    }
}

#[cfg(test)]
mod tests;
