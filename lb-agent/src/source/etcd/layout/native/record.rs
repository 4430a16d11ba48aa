//! Keeps the books of service addresses while keys come and go: who asks, who has which, and which
//! services an address concerns.

use super::unit::{Declared, LastGood};
use crate::etcd::KeyValue;
use crate::model::ServiceName;
use crate::source::etcd::layout::addresses::{Addresses, Allocation, Vip, Wanted};
use crate::source::etcd::layout::notes::Note;
use crate::source::etcd::layout::text;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The addresses, and the way from an address to the services it was given to.
#[derive(Default)]
pub(super) struct Books {
    addresses: Addresses,
    holders: BTreeMap<IpAddr, BTreeSet<ServiceName>>,
    /// The services that name an address themselves.
    namers: BTreeMap<IpAddr, BTreeSet<ServiceName>>,
    /// Services that have a key; the revision of those whose good value asks for no address.
    declared: BTreeMap<ServiceName, Option<i64>>,
}

/// The value of an allocation.
#[derive(Deserialize)]
struct Value {
    #[serde(default)]
    v4: Option<IpAddr>,
    #[serde(default)]
    v6: Option<IpAddr>,
}

// === impl Books ===

impl Books {
    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// A service has a value.
    pub(super) fn declare(
        &mut self,
        name: &ServiceName,
        before: Option<&Declared>,
        now: &Declared,
    ) {
        let asked = match &now.last_good {
            Some(LastGood::Value(value)) => value.asked,
            _ => Default::default(),
        };
        let content = !now.refused && asked == Default::default();
        let content = content.then_some(now.modified);
        if self.declared.insert(name.clone(), content) != Some(content) {
            self.set_declared(name, true, content);
        }
        let wanted = (asked != Default::default()).then_some(Wanted {
            any: asked.any,
            v4: asked.v4,
            v6: asked.v6,
            modified: now.modified,
        });
        if self.addresses.wanted.get(name) != wanted.as_ref() {
            self.addresses.changes += 1;
            match wanted {
                Some(wanted) => drop(self.addresses.wanted.insert(name.clone(), wanted)),
                None => drop(self.addresses.wanted.remove(name)),
            }
        }
        self.give(name, before, Some(now));
    }

    /// A service has no key any more.
    pub(super) fn undeclare(&mut self, name: &ServiceName, before: &Declared) {
        if self.declared.remove(name).is_some() {
            self.set_declared(name, false, None);
        }
        if self.addresses.wanted.remove(name).is_some() {
            self.addresses.changes += 1;
        }
        self.give(name, Some(before), None);
    }

    fn set_declared(&mut self, name: &ServiceName, declared: bool, content: Option<i64>) {
        if let Some(allocation) = self.addresses.allocations.get_mut(name) {
            allocation.declared = declared;
            allocation.content = content;
            self.addresses.changes += 1;
        }
    }

    /// Counts the addresses that a service names.
    fn give(&mut self, name: &ServiceName, before: Option<&Declared>, now: Option<&Declared>) {
        let [before, now] = [before, now].map(|declared| {
            let service = declared.and_then(|d| d.last_good.as_ref()).map(LastGood::service);
            let frontends = service.into_iter().flat_map(|service| service.frontends.keys());
            frontends.map(|frontend| frontend.address.ip()).collect::<BTreeSet<_>>()
        });
        let given = &mut self.addresses.given;
        for address in before.difference(&now) {
            forget(&mut self.namers, *address, name);
            if let Some(count) = given.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    given.remove(address);
                    self.addresses.changes += 1;
                }
            }
        }
        for address in now.difference(&before) {
            self.namers.entry(*address).or_default().insert(name.clone());
            let count = given.entry(*address).or_default();
            *count += 1;
            self.addresses.changes += u64::from(*count == 1);
        }
    }

    /// Who has an address now. The services this concerns.
    pub(super) fn set_vip(&mut self, address: IpAddr, vip: Option<Vip>) -> Vec<ServiceName> {
        let vips = &mut self.addresses.vips;
        let before = vips.get(&address);
        if before == vip.as_ref() {
            return Vec::new();
        }
        self.addresses.changes += 1;
        let same = before.map(|vip| &vip.service) == vip.as_ref().map(|vip| &vip.service);
        match vip {
            Some(vip) => drop(vips.insert(address, vip)),
            None => drop(vips.remove(&address)),
        }
        let concerned = [&self.holders, &self.namers].map(|map| map.get(&address));
        concerned.into_iter().flatten().filter(|_| !same).flatten().cloned().collect()
    }

    /// Who has an address that this service may not use.
    pub(super) fn other_owner(&self, address: IpAddr, name: &ServiceName) -> Option<&str> {
        let owner = self.addresses.vips.get(&address)?.service.as_str();
        (owner != name.as_str()).then_some(owner)
    }

    /// What a service was given. Whether that is the same as before.
    pub(super) fn set_allocation(
        &mut self,
        name: &ServiceName,
        allocation: Option<Allocation>,
    ) -> bool {
        let content = self.declared.get(name).copied();
        let declared = content.is_some();
        let content = content.flatten();
        let now = allocation.map(|allocation| Allocation { declared, content, ..allocation });
        let before = match now {
            Some(now) => self.addresses.allocations.insert(name.clone(), now),
            None => self.addresses.allocations.remove(name),
        };
        if before == now {
            return true;
        }
        self.addresses.changes += 1;
        let [old, new] = [before, now]
            .map(|allocation| allocation.map_or([None, None], |found| [found.v4, found.v6]));
        if old == new {
            return true;
        }
        for address in old.into_iter().flatten() {
            forget(&mut self.holders, address, name);
        }
        for address in new.into_iter().flatten() {
            self.holders.entry(address).or_default().insert(name.clone());
        }
        false
    }
}

fn forget(map: &mut BTreeMap<IpAddr, BTreeSet<ServiceName>>, address: IpAddr, name: &ServiceName) {
    if let Some(names) = map.get_mut(&address) {
        names.remove(name);
        if names.is_empty() {
            map.remove(&address);
        }
    }
}

/// Reads `{"v4":"10.96.128.7","v6":null}`.
pub(super) fn allocation_of(found: &KeyValue, notes: &mut Vec<Note>) -> Allocation {
    let read = text::object::<Value>(&found.value).and_then(|Value { v4, v6 }| {
        let [v4, v6] = [v4, v6].map(|address| address.map(|address| address.to_canonical()));
        match (v4, v6) {
            (None | Some(IpAddr::V4(_)), None | Some(IpAddr::V6(_))) => Ok((v4, v6)),
            _ => Err("`v4` or `v6` is of the other family; correct it or delete the key".into()),
        }
    });
    let readable = read.is_ok();
    let (v4, v6) = read.unwrap_or_else(|reason| {
        notes.push(Note::refusal(reason));
        (None, None)
    });
    Allocation { v4, v6, modified: found.modified, readable, declared: false, content: None }
}
