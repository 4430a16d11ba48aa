//! One service as far as it is stored: its value, its backends, and what becomes of them.

use super::record::Books;
use crate::model::{Backend, Exposure, Frontend, Protocol, Service, ServiceName, Way};
use crate::source::etcd::layout::build::Build;
use crate::source::etcd::layout::notes::{Note, Origin};
use crate::source::etcd::layout::shared::Shared;
use crate::source::etcd::layout::tree::Record;
use crate::source::spec::service::can_be_exposed;
use crate::source::spec::value::Declaration;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A service or backends that wait for one.
#[derive(Default)]
pub(super) struct Unit {
    /// Its key, if it has one.
    pub(super) declared: Option<Declared>,
    /// The good backends, by id.
    pub(super) backends: BTreeMap<Box<str>, Record<(SocketAddr, Backend)>>,
}

/// The key of a service.
#[derive(Debug)]
pub(super) struct Declared {
    /// The revision of its value.
    pub(super) modified: i64,
    /// Whether that is refused.
    pub(super) refused: bool,
    /// The last value that was not.
    pub(super) last_good: Option<LastGood>,
}

/// What a service is built from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum LastGood {
    /// A value.
    Value(Box<Declaration>),
    /// What came out of one before the agent started.
    Cached(Arc<Service>),
}

/// Notes with the keys they are about.
pub(super) type Notes = Vec<([String; 2], i64, Note)>;

// === impl LastGood ===

impl LastGood {
    /// The service with what its value says of backends and frontends.
    pub(super) fn service(&self) -> &Service {
        match self {
            Self::Value(value) => &value.service,
            Self::Cached(service) => service,
        }
    }

    /// Whether others are served, too.
    fn is_exposed(&self) -> bool {
        let exposed = |exposure: &Exposure| exposure.passage().is_some();
        match self {
            Self::Value(value) => exposed(&Exposure { way: value.way, ..Exposure::default() }),
            Self::Cached(service) => service.frontends.values().any(exposed),
        }
    }
}

// === impl Unit ===

impl Unit {
    /// Whether nothing is stored of it.
    pub(super) fn is_empty(&self) -> bool {
        self.declared.is_none() && self.backends.is_empty()
    }

    /// The service as it is served; frontends that are `taken` are left to others.
    pub(super) fn build(
        &self,
        name: &ServiceName,
        shared: &Shared,
        books: &Books,
        taken: impl Fn(&Frontend) -> bool,
    ) -> (Option<Service>, Notes) {
        let Some(Declared { modified, last_good: Some(last_good), .. }) = &self.declared else {
            return (None, Notes::new());
        };
        let dir = format!("backends/{name}");
        let own = format!("services/{name}");
        let mut build = Build::new(shared.source());
        let said = last_good.service();
        let exposed = last_good.is_exposed();
        let keyed = self.backends.iter().map(|(id, record)| (dir.as_str(), &**id, record));
        let mut fit = Vec::new();
        for found in keyed {
            match can_be_exposed(&found.2.item.0) {
                Err(reason) if exposed => build.note(found, Note::refusal(reason)),
                _ => fit.push(found),
            }
        }
        match last_good {
            LastGood::Value(_) => {
                for (address, backend) in &said.backends {
                    build.add_own(*address, backend.clone(), &own);
                }
                for found in fit {
                    let (address, backend) = &found.2.item;
                    build.add(found, *address, backend.clone());
                }
            }
            LastGood::Cached(_) => {
                for found in fit {
                    let (address, backend) = &found.2.item;
                    build.add(found, *address, backend.clone());
                }
                // What hung on a lease stands under a key, or is gone.
                let lasting = |(_, backend): &(_, &Backend)| backend.lease.is_none();
                for (address, backend) in said.backends.iter().filter(lasting) {
                    build.add_own(*address, backend.clone(), &own);
                }
            }
        }
        let origin = Origin { path: ["services", name.as_str()], modified: *modified };
        let mut frontends = said.frontends.clone();
        // An address that was given to a service is that service's.
        frontends.retain(|frontend, _| {
            let address = frontend.address.ip();
            let owner = books.other_owner(address, name);
            if let Some(owner) = owner {
                let reason = format!(
                    "frontend {frontend} is left out: {address} belongs to `{owner}`, as \
                     vips/{address} says; choose another address, or delete that key if the \
                     address is not in use"
                );
                build.note_at(origin, Note::refusal(reason));
            }
            owner.is_none()
        });
        if let LastGood::Value(value) = last_good {
            allocated(name, value, shared, books, &mut build, &mut frontends);
        }
        frontends.retain(|frontend, _| {
            let taken = taken(frontend);
            if taken {
                let reason = format!(
                    "frontend {frontend} of the last good version of this service belongs to \
                     another service by now; correct the value"
                );
                build.note_at(origin, Note::warning(reason));
            }
            !taken
        });
        families(origin, said, frontends.keys(), &mut build);
        let (backends, notes) = build.finish();
        let notes = notes
            .into_iter()
            .map(|(Origin { path, modified }, note)| (path.map(str::to_owned), modified, note))
            .collect();
        if frontends.is_empty() {
            return (None, notes);
        }
        let Service { backends_from, policy, affinity, no_backend, health, .. } = said;
        let service = Service {
            frontends,
            backends,
            backends_from: backends_from.clone(),
            policy: *policy,
            affinity: *affinity,
            no_backend: *no_backend,
            no_node_backend: Default::default(),
            health: health.clone(),
            source_ranges: Vec::new(),
        };
        (Some(service), notes)
    }
}

/// Adds the frontends of the addresses that the service was given.
fn allocated<'t>(
    name: &'t ServiceName,
    value: &Declaration,
    shared: &Shared,
    books: &Books,
    build: &mut Build<'t>,
    frontends: &mut BTreeMap<Frontend, Exposure>,
) {
    let Some(allocation) = books.addresses().allocations.get(name) else { return };
    let origin = Origin { path: ["allocations", name.as_str()], modified: allocation.modified };
    let asked = value.asked;
    let v4 = allocation.v4.filter(|_| asked.any || asked.v4);
    let v6 = allocation.v6.filter(|_| asked.any || asked.v6);
    for address in [v4, v6].into_iter().flatten() {
        if let Some(owner) = books.other_owner(address, name) {
            let reason = format!(
                "{address} belongs to `{owner}`, as vips/{address} says; delete this key and \
                 another address is found"
            );
            build.note_at(origin, Note::refusal(reason));
            continue;
        }
        for (port, protocol) in &value.ports {
            if let Err(reason) = claim(address, *port, *protocol, value.way, shared, frontends) {
                build.note_at(origin, Note::refusal(reason));
            }
        }
    }
}

fn claim(
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    way: Way,
    shared: &Shared,
    frontends: &mut BTreeMap<Frontend, Exposure>,
) -> Result<(), String> {
    let frontend = Frontend::new(address, port, protocol);
    shared.claims().check(&frontend)?;
    frontends.insert(frontend, frontend.exposure(Exposure { way, ..Exposure::default() }));
    Ok(())
}

/// Warns of frontends that no backend has the family of.
fn families<'t, 'f>(
    origin: Origin<'t>,
    said: &Service,
    frontends: impl Iterator<Item = &'f Frontend>,
    build: &mut Build<'t>,
) {
    if !said.backends_from.is_empty() {
        return;
    }
    let has = [false, true].map(|v4| build.has_family(v4) != Some(false));
    for frontend in frontends {
        let v4 = frontend.address.is_ipv4();
        if !has[usize::from(v4)] {
            let family = if v4 { "IPv4" } else { "IPv6" };
            let reason = format!(
                "frontend {frontend} has no {family} backend, so its callers find none; add one \
                 or remove the frontend"
            );
            build.note_at(origin, Note::warning(reason));
        }
    }
}
