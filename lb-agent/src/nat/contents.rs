//! What a family's table should hold, all services together, and what a change adds and removes. Pure.

use super::Family;
use super::rows::{Draw, Key, Rows, Value, rows, service_id};
use crate::desired::Desired;
use crate::model::{Service, ServiceName};
use crate::pairs::side_by_side;
use crate::versions::{self, Places, Versions};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// So many times the draws that are in use are kept, and some more.
const SPARE: (usize, usize) = (4, 256);

/// The services that the tables are filled from: what callers are to find.
pub type Services = BTreeMap<ServiceName, Arc<Service>>;

/// What the packet path is to serve.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The services that have to do with packets.
    pub services: Services,
    /// Whether every source has delivered: before that, what is missing may only be late.
    pub complete: bool,
}

/// What elements were before a change, where that is noted.
type Before = Option<HashMap<Key, Option<Value>>>;

/// Elements to be removed, and then elements to be added: a key that leads elsewhere is in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// To be removed.
    pub removed: Vec<(Key, Value)>,
    /// To be added.
    pub added: Vec<(Key, Value)>,
}

/// What a family's table should hold.
#[derive(Debug)]
pub struct Contents {
    family: Family,
    services: Services,
    /// Each with the number of those who want it.
    elements: HashMap<Key, (Value, u32)>,
    /// Those in use, and some that were: services come back to them, and packets may be on their way
    /// through a chain.
    draws: BTreeSet<Draw>,
    /// Those in use, each with the number of services that use it.
    used: BTreeMap<Draw, usize>,
    /// Who has which id.
    ids: HashMap<u64, ServiceName>,
    /// Services whose id is another's.
    refused: BTreeMap<ServiceName, ServiceName>,
}

impl Places for Wanted {
    /// A service; `None`: only whether this is complete.
    type Place = Option<ServiceName>;

    fn catch_up(&mut self, now: &Self, place: &Option<ServiceName>) {
        self.complete = now.complete;
        if let Some(name) = place {
            versions::put(&mut self.services, name, now.services.get(name).map(Arc::clone));
        }
    }
}

impl Versions<Wanted> {
    /// Takes over what is desired, of which only these services have changed. Whether that changes
    /// anything here.
    pub(crate) fn follow(&mut self, desired: &Desired, changed: &BTreeSet<ServiceName>) -> bool {
        let before = Arc::clone(self.now());
        for name in changed {
            let entry = desired.services.get(name).filter(|entry| {
                entry.effective.frontends.values().any(|exposure| exposure.passage().is_some())
            });
            let service = entry.map(|entry| &entry.effective);
            let known = self.now().services.get(name);
            if known.map(Arc::as_ptr) != service.map(Arc::as_ptr) {
                let wanted = self.at(Some(name.clone()));
                versions::put(&mut wanted.services, name, service.map(Arc::clone));
            }
        }
        if self.now().complete != desired.complete {
            self.at(None).complete = desired.complete;
        }
        !Arc::ptr_eq(&before, self.now())
    }
}

impl Contents {
    /// What an empty table holds.
    pub fn new(family: Family) -> Self {
        Self {
            family,
            services: Services::new(),
            elements: HashMap::new(),
            draws: BTreeSet::new(),
            used: BTreeMap::new(),
            ids: HashMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Whose table it is.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The ways in which connections find their slots.
    pub const fn draws(&self) -> &BTreeSet<Draw> {
        &self.draws
    }

    /// How many elements there should be.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether there should be none.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Services that can't be told from another: they, and that one.
    pub const fn refused(&self) -> &BTreeMap<ServiceName, ServiceName> {
        &self.refused
    }

    /// Takes what is to be served now, and tells what that changes. What is the very same as before
    /// is not looked at.
    pub fn update(&mut self, services: &Services) -> Change {
        let mut before = Some(HashMap::new());
        self.follow(services, &mut before);
        self.change(before.unwrap_or_default())
    }

    /// The same for a table that is to be read: what changes is told by what is found there, and there
    /// may be too much of it to be kept twice.
    pub fn take(&mut self, services: &Services) {
        self.follow(services, &mut None);
    }

    /// Notes what elements were before, if that is to be noted.
    fn follow(&mut self, services: &Services, before: &mut Before) {
        let pairs = side_by_side(&self.services, services).filter_map(|pair| match pair {
            (Some((_, before)), Some((_, now))) if Arc::ptr_eq(before, now) => None,
            (before, now) => before.or(now).map(|(name, _)| name.clone()),
        });
        let changed: Vec<_> = pairs.collect();
        for name in &changed {
            let Some(service) = self.services.remove(name) else { continue };
            let refused = self.refused.remove(name).is_some();
            if !refused {
                self.ids.remove(&service_id(name));
                let Rows { elements, draws } = rows(name, &service, self.family);
                for (key, _) in elements {
                    self.drop_one(key, before);
                }
                for draw in draws {
                    self.drop_draw(draw);
                }
            }
        }
        for name in changed {
            let Some(service) = services.get(&name) else { continue };
            self.services.insert(name.clone(), Arc::clone(service));
            if let Some(other) = self.ids.get(&service_id(&name)) {
                self.refused.insert(name, other.clone());
                continue;
            }
            self.ids.insert(service_id(&name), name.clone());
            let Rows { elements, draws } = rows(&name, service, self.family);
            for (key, value) in elements {
                self.add_one(key, value, before);
            }
            for draw in draws {
                *self.used.entry(draw).or_default() += 1;
                self.draws.insert(draw);
            }
        }
    }

    /// Whether so many draws are kept that nobody uses that they should be forgotten.
    pub fn has_idle_draws(&self) -> bool {
        let (times, more) = SPARE;
        self.draws.len() > self.used.len() * times + more
    }

    /// Forgets draws that nobody uses. Their chains may go in the transaction that removes the last
    /// elements that lead to them, or later.
    pub fn forget_idle_draws(&mut self) {
        self.draws.retain(|draw| self.used.contains_key(draw));
    }

    /// Takes over ways that a table has: packets may be on them, and services that are late need them.
    pub fn adopt(&mut self, draws: impl IntoIterator<Item = Draw>) {
        self.draws.extend(draws);
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<(Key, Value)> {
        self.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Each element.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.elements.iter().map(|(key, (value, _))| (key, value))
    }

    /// What has to change in a table that holds this.
    pub fn difference(&self, held: &HashMap<Key, Value>) -> Change {
        let mut change = Change::default();
        for (key, value) in held {
            if self.elements.get(key).is_none_or(|(wanted, _)| wanted != value) {
                change.removed.push((key.clone(), value.clone()));
            }
        }
        for (key, (value, _)) in &self.elements {
            if held.get(key) != Some(value) {
                change.added.push((key.clone(), value.clone()));
            }
        }
        change
    }

    fn drop_one(&mut self, key: Key, before: &mut Before) {
        let Some((value, count)) = self.elements.get_mut(&key) else { return };
        if let Some(before) = before {
            before.entry(key.clone()).or_insert_with(|| Some(value.clone()));
        }
        *count -= 1;
        if *count == 0 {
            self.elements.remove(&key);
        }
    }

    fn drop_draw(&mut self, draw: Draw) {
        let Some(count) = self.used.get_mut(&draw) else { return };
        *count -= 1;
        if *count == 0 {
            self.used.remove(&draw);
        }
    }

    fn add_one(&mut self, key: Key, value: Value, before: &mut Before) {
        let known = self.elements.get_mut(&key);
        if let Some(before) = before {
            let value = || known.as_ref().map(|(value, _)| value.clone());
            before.entry(key.clone()).or_insert_with(value);
        }
        match known {
            Some((_, count)) => *count += 1,
            None => drop(self.elements.insert(key, (value, 1))),
        }
    }

    fn change(&self, before: HashMap<Key, Option<Value>>) -> Change {
        let mut change = Change::default();
        for (key, before) in before {
            let now = self.elements.get(&key).map(|(value, _)| value);
            if before.as_ref() == now {
                continue;
            }
            if let Some(now) = now {
                change.added.push((key.clone(), now.clone()));
            }
            if let Some(before) = before {
                change.removed.push((key, before));
            }
        }
        change
    }
}

impl Change {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

#[cfg(test)]
mod tests;
