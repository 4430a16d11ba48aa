//! Who has which name and which frontend: the first who asks, in order of precedence.
//!
//! Who gets what depends only on who asks for the same. So a change is worked out among the services
//! that are tied to it by a name or a frontend, directly or through others, and nobody else is
//! looked at.

use super::{Input, rejection};
use crate::model::{Frontend, Rejection, Service, ServiceName};
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// A service as one source says it: the source's place in the order of precedence, and the name.
pub(super) type Id = (usize, ServiceName);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Who has a name.
    names: BTreeMap<ServiceName, Claim>,
    /// Who has a frontend.
    owners: HashMap<Frontend, Id>,
    /// Who would have it, too.
    losers: BTreeMap<Frontend, BTreeSet<Id>>,
    refused: BTreeMap<Id, Vec<Rejection>>,
}

/// What a service has got.
#[derive(Debug)]
pub(super) struct Claim {
    /// Place of the source that says so.
    pub(super) source: usize,
    /// Frontends it asks for that others have.
    pub(super) lost: Vec<Frontend>,
}

impl Claims {
    /// Who has this name, if anybody.
    pub(super) fn get(&self, name: &ServiceName) -> Option<&Claim> {
        self.names.get(name)
    }

    /// The service that has this frontend.
    pub(super) fn owner(&self, frontend: &Frontend) -> Option<&ServiceName> {
        self.owners.get(frontend).map(|(_, name)| name)
    }

    /// Everything that was refused, in order of precedence.
    pub(super) fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.refused.values().flatten()
    }

    /// Works out again what `changed` ask for. Adds the names of all who may have got something
    /// else than before, and returns the addresses of frontends that went to another service.
    pub(super) fn update(
        &mut self,
        before: &[Input],
        now: &[Input],
        changed: Vec<Id>,
        names: &mut BTreeSet<ServiceName>,
    ) -> BTreeSet<SocketAddr> {
        let tied = self.tied(before, now, changed);
        let mut had = HashMap::new();
        for id in &tied {
            self.withdraw(id, said(before, id), &mut had);
        }
        let mut has = Vec::new();
        for id in &tied {
            if let Some(service) = said(now, id) {
                self.claim(id, service, now);
                has.extend(service.frontends.keys().copied());
            }
        }
        names.extend(tied.into_iter().map(|(_, name)| name));
        for frontend in has {
            had.entry(frontend).or_default();
        }
        let moved = |(frontend, had): (Frontend, Option<ServiceName>)| {
            (self.owner(&frontend) != had.as_ref()).then_some(frontend.address)
        };
        had.into_iter().filter_map(moved).collect()
    }

    /// `changed`, and everybody who asks for the same as one of them, or as one of those.
    fn tied(&self, before: &[Input], now: &[Input], mut changed: Vec<Id>) -> BTreeSet<Id> {
        let mut tied = BTreeSet::new();
        while let Some(id) = changed.pop() {
            if tied.contains(&id) {
                continue;
            }
            let (_, name) = &id;
            let same_name = |(index, input): (usize, &Input)| {
                input.service(name).map(|_| (index, name.clone()))
            };
            changed.extend(now.iter().enumerate().filter_map(same_name));
            // Who was refused a name has asked for no frontend, but is tied by the name.
            for service in [said(before, &id), said(now, &id)].into_iter().flatten() {
                for frontend in service.frontends.keys() {
                    changed.extend(self.owners.get(frontend).cloned());
                    changed.extend(self.losers.get(frontend).into_iter().flatten().cloned());
                }
            }
            tied.insert(id);
        }
        tied
    }

    /// Takes back all that a service has got, and notes which frontends it had.
    fn withdraw(
        &mut self,
        id: &Id,
        service: Option<&Arc<Service>>,
        had: &mut HashMap<Frontend, Option<ServiceName>>,
    ) {
        let (source, name) = id;
        self.refused.remove(id);
        if self.names.get(name).is_some_and(|claim| claim.source == *source) {
            self.names.remove(name);
        }
        for frontend in service.into_iter().flat_map(|service| service.frontends.keys()) {
            if self.owners.get(frontend) == Some(id) {
                self.owners.remove(frontend);
                had.insert(*frontend, Some(name.clone()));
            }
            if let Some(losers) = self.losers.get_mut(frontend) {
                losers.remove(id);
                if losers.is_empty() {
                    self.losers.remove(frontend);
                }
            }
        }
    }

    /// Gives a service what nobody before it has. One that gets none of its frontends is not served.
    fn claim(&mut self, id: &Id, service: &Service, inputs: &[Input]) {
        let (index, name) = id;
        let Some(source) = inputs.get(*index).map(|input| &input.source) else { return };
        let source_of = |index: usize| inputs.get(index).map_or("", |input| &*input.source);
        if let Some(first) = self.names.get(name) {
            let first = source_of(first.source);
            let reason = format!(
                "service `{name}` of {source} is also defined by {first}, which comes first; \
                 rename or remove one"
            );
            self.refused.insert(id.clone(), vec![rejection(source, name, reason)]);
            return;
        }
        let mut lost = Vec::new();
        for frontend in service.frontends.keys() {
            match self.owners.entry(*frontend) {
                Slot::Vacant(free) => drop(free.insert(id.clone())),
                Slot::Occupied(owner) => lost.push((*frontend, owner.get().clone())),
            }
        }
        let none_left = !lost.is_empty() && lost.len() == service.frontends.len();
        let outcome = if none_left { "; it has no other and is not served" } else { "" };
        let refused = lost.iter().map(|(frontend, (first_index, first))| {
            let first_source = source_of(*first_index);
            let reason = format!(
                "frontend {frontend} of service `{name}` ({source}) belongs to service `{first}` \
                 ({first_source}), which comes first; remove one{outcome}"
            );
            rejection(source, name, reason)
        });
        if !lost.is_empty() {
            self.refused.insert(id.clone(), refused.collect());
        }
        for (frontend, _) in &lost {
            self.losers.entry(*frontend).or_default().insert(id.clone());
        }
        if !none_left {
            let lost = lost.into_iter().map(|(frontend, _)| frontend).collect();
            self.names.insert(name.clone(), Claim { source: *index, lost });
        }
    }
}

fn said<'i>(inputs: &'i [Input], (source, name): &Id) -> Option<&'i Arc<Service>> {
    inputs.get(*source)?.service(name)
}
