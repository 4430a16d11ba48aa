//! One desired state out of what all sources say: precedence, conflicts, backends that one source
//! names and another keeps, probable mistakes.
//!
//! Pure and deterministic: the first source in the configured order wins, within a source the
//! first service by name. What is refused is reported with both names; whether the frontends fit
//! into the kernel is left to [`crate::plan`].
//!
//! Most changes are small and what is served is large, so a [`Merger`] remembers what it made of
//! the last inputs, finds what differs by comparing pointers, and makes only that anew.

mod claims;
mod pools;

use crate::model::{Frontend, Override, Protocol, Rejection, Service, ServiceName, Snapshot};
use crate::pairs::side_by_side;
use claims::Claims;
use pools::Users;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// What one source says, in order of precedence.
#[derive(Clone, Debug)]
pub struct Input {
    /// The source's name.
    pub source: Arc<str>,
    /// Its snapshot, if it has one.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Whether it has delivered since the agent started.
    pub synced: bool,
}

/// A service and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The service, with the backends that others keep for it.
    pub service: Arc<Service>,
    /// The same with what the health of its backends makes of it: what callers are to find.
    pub effective: Arc<Service>,
    /// What operators say of its backends.
    pub said: BTreeMap<SocketAddr, Override>,
    /// The source it came from.
    pub source: Arc<str>,
}

/// What should be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The services, by name; every frontend is in one of them only.
    pub services: BTreeMap<ServiceName, Entry>,
    /// Services that can't be told yet, because a source that keeps their backends has not
    /// delivered, and how that is shown: the kernel keeps what it has of them.
    pub waiting: BTreeMap<ServiceName, Rejection>,
    /// Whether every source has delivered: before that, what is missing may only be late.
    pub complete: bool,
    /// The sources that have delivered: what one of them said before and does not say now is gone.
    pub synced: BTreeSet<Arc<str>>,
    /// What was refused, and what is probably a mistake.
    pub rejections: Vec<Rejection>,
}

/// Merges what the sources say, again and again.
#[derive(Debug, Default)]
pub struct Merger {
    /// What `desired` was made of.
    inputs: Vec<Input>,
    claims: Claims,
    users: Users,
    /// What is wrong with the backends of each service.
    complaints: BTreeMap<ServiceName, Vec<Rejection>>,
    desired: Desired,
    /// The services that are not as they were when this was last taken.
    changed: BTreeSet<ServiceName>,
}

/// Merges once what the sources say, in order of precedence.
pub fn merge(inputs: Vec<Input>) -> Desired {
    let mut merger = Merger::default();
    merger.merge(inputs);
    merger.desired
}

// === impl Entry ===

impl Entry {
    /// A service of whose backends' health nothing is known.
    pub fn new(service: Arc<Service>, source: Arc<str>) -> Self {
        Self { effective: Arc::clone(&service), service, said: BTreeMap::new(), source }
    }

    /// Whether this is the very same as `other`, which costs less to tell than whether it is equal.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.service, &other.service)
            && Arc::ptr_eq(&self.effective, &other.effective)
            && self.said == other.said
            && self.source == other.source
    }
}

// === impl Merger ===

impl Merger {
    /// The last result.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The services that became others since this was last taken: come, gone, served otherwise, or
    /// waiting now, or not any more.
    pub const fn changed(&self) -> &BTreeSet<ServiceName> {
        &self.changed
    }

    /// Takes them.
    pub fn take_changed(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.changed)
    }

    /// Notes what the health of a service's backends makes of it.
    pub fn set_effective(
        &mut self,
        name: &ServiceName,
        effective: Arc<Service>,
        said: BTreeMap<SocketAddr, Override>,
    ) {
        let Some(entry) = self.desired.services.get_mut(name) else { return };
        if !Arc::ptr_eq(&entry.effective, &effective) || entry.said != said {
            entry.effective = effective;
            entry.said = said;
            self.changed.insert(name.clone());
        }
    }

    /// Merges what the sources say now, in order of precedence. What is as before is the very same
    /// as before.
    pub fn merge(&mut self, inputs: Vec<Input>) -> &Desired {
        if !self.inputs.iter().map(|i| &i.source).eq(inputs.iter().map(|i| &i.source)) {
            *self = Self::default();
            self.inputs = inputs.iter().map(Input::silent).collect();
        }
        let before = std::mem::replace(&mut self.inputs, inputs);
        let mut names = BTreeSet::new();
        let mut asking = Vec::new();
        for (index, (before, now)) in before.iter().zip(&self.inputs).enumerate() {
            for name in differing(before, now, |snapshot| &snapshot.services) {
                if !same_frontends(before.service(&name), now.service(&name)) {
                    asking.push((index, name.clone()));
                }
                names.insert(name);
            }
            if before.synced != now.synced {
                names.extend(self.users.of_source(&now.source));
            }
            for pool in differing(before, now, |snapshot| &snapshot.pools) {
                names.extend(self.users.of_pool(&now.source, &pool));
            }
        }
        let moved = self.claims.update(&before, &self.inputs, asking, &mut names);
        self.add_chained(&moved, &mut names);
        for name in &names {
            self.renew(name);
        }
        let synced = || self.inputs.iter().filter(|input| input.synced);
        self.desired.complete = synced().count() == self.inputs.len();
        self.desired.synced = synced().map(|input| Arc::clone(&input.source)).collect();
        if !names.is_empty() {
            let complaints = self.complaints.values().flatten();
            self.desired.rejections = self.claims.rejections().chain(complaints).cloned().collect();
        }
        &self.desired
    }

    /// Adds the services that have one of these addresses as a backend: whether that is a frontend
    /// too has changed.
    fn add_chained(&self, moved: &BTreeSet<SocketAddr>, names: &mut BTreeSet<ServiceName>) {
        if moved.is_empty() {
            return;
        }
        for (name, entry) in &self.desired.services {
            let backends = &entry.service.backends;
            let named = if moved.len() < backends.len() {
                moved.iter().any(|address| backends.contains_key(address))
            } else {
                backends.keys().any(|address| moved.contains(address))
            };
            if named {
                names.insert(name.clone());
            }
        }
    }

    /// Makes everything that is known of one service anew.
    fn renew(&mut self, name: &ServiceName) {
        let mut complaints = Vec::new();
        let said = self.claims.get(name).and_then(|claim| {
            let input = self.inputs.get(claim.source)?;
            Some((claim, input, input.service(name)?))
        });
        self.users.set(name, said.map_or(&[], |(_, _, service)| &service.backends_from));
        let entry = said.map(|(claim, input, service)| {
            let source = Arc::clone(&input.source);
            if claim.lost.is_empty() && service.backends_from.is_empty() {
                return Ok(Entry::new(Arc::clone(service), source));
            }
            let backends = pools::backends(name, service, input, &self.inputs, &mut complaints)?;
            let mut service = Service { backends, ..Service::clone(service) };
            service.frontends.retain(|frontend, _| !claim.lost.contains(frontend));
            Ok(Entry::new(Arc::new(service), source))
        });
        let waited = self.desired.waiting.remove(name).is_some();
        let other = match entry {
            Some(Ok(entry)) => {
                self.chained(name, &entry, &mut complaints);
                // What compares equal stays the very same, so that nobody else looks at it again.
                let known = self.desired.services.get(name);
                let same =
                    |known: &Entry| known.service == entry.service && known.source == entry.source;
                let other = !known.is_some_and(same);
                if other {
                    self.desired.services.insert(name.clone(), entry);
                }
                other
            }
            Some(Err(late)) => {
                self.desired.waiting.insert(name.clone(), late);
                self.desired.services.remove(name).is_some() || !waited
            }
            None => self.desired.services.remove(name).is_some() || waited,
        };
        if other {
            self.changed.insert(name.clone());
        }
        if complaints.is_empty() {
            self.complaints.remove(name);
        } else {
            self.complaints.insert(name.clone(), complaints);
        }
    }

    /// Warns of backends that are themselves frontends.
    fn chained(&self, name: &ServiceName, entry: &Entry, complaints: &mut Vec<Rejection>) {
        let service = &entry.service;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            if service.frontends.keys().all(|frontend| frontend.protocol != protocol) {
                continue;
            }
            for address in service.backends.keys() {
                if let Some(other) = self.claims.owner(&Frontend { address: *address, protocol }) {
                    let reason = format!(
                        "backend {address} of service `{name}` is itself a frontend (of `{other}`): \
                         connections are translated once and reach it directly; probably a \
                         mistake, name the backends behind it"
                    );
                    complaints.push(rejection(&entry.source, name, reason));
                }
            }
        }
    }
}

// === impl Input ===

impl Input {
    /// The same source, before it has said anything.
    fn silent(&self) -> Self {
        Self { source: Arc::clone(&self.source), snapshot: None, synced: false }
    }

    fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.snapshot.as_ref()?.services.get(name)
    }
}

/// The keys of what is not the very same in both.
fn differing<K: Ord + Clone, V>(
    before: &Input,
    now: &Input,
    part: impl Fn(&Snapshot) -> &BTreeMap<K, Arc<V>>,
) -> Vec<K> {
    let (before, now) = (before.snapshot.as_ref(), now.snapshot.as_ref());
    if before.map(Arc::as_ptr) == now.map(Arc::as_ptr) {
        return Vec::new();
    }
    let before = before.into_iter().flat_map(|snapshot| part(snapshot));
    let now = now.into_iter().flat_map(|snapshot| part(snapshot));
    let pairs = side_by_side(before, now).filter_map(|pair| match pair {
        (Some((_, before)), Some((_, now))) if Arc::ptr_eq(before, now) => None,
        (before, now) => before.or(now).map(|(key, _)| key.clone()),
    });
    pairs.collect()
}

fn same_frontends(before: Option<&Arc<Service>>, now: Option<&Arc<Service>>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => before.frontends.keys().eq(now.frontends.keys()),
        (before, now) => before.is_none() && now.is_none(),
    }
}

fn rejection(source: &Arc<str>, name: &ServiceName, reason: String) -> Rejection {
    Rejection { origin: source.to_string(), service: Some(name.to_string()), reason }
}

#[cfg(test)]
mod tests;
