//! One desired state out of what all sources say: precedence, conflicts, probable mistakes.
//!
//! Pure and deterministic: the first source in the configured order wins, within a source the
//! first service by name. What is refused is reported with both names; whether the frontends fit
//! into the kernel is left to [`crate::plan`].

use crate::model::{Frontend, Protocol, Rejection, Service, ServiceName, Snapshot};
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What one source says, in order of precedence.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The source's name.
    pub source: &'a Arc<str>,
    /// Its snapshot, if it has one.
    pub snapshot: Option<&'a Snapshot>,
    /// Whether it has delivered since the agent started.
    pub synced: bool,
}

/// A service and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The service.
    pub service: Arc<Service>,
    /// The source it came from.
    pub source: Arc<str>,
}

/// What should be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The services, by name; every frontend is in one of them only.
    pub services: BTreeMap<ServiceName, Entry>,
    /// Whether every source has delivered: before that, what is missing may only be late.
    pub complete: bool,
    /// The sources that have delivered: what one of them said before and does not say now is gone.
    pub synced: BTreeSet<Arc<str>>,
    /// What was refused, and what is probably a mistake.
    pub rejections: Vec<Rejection>,
}

/// Which service has a frontend.
type Owners<'a> = HashMap<Frontend, (&'a ServiceName, &'a Arc<str>)>;

/// Merges what the sources say, in order of precedence.
pub fn merge(inputs: &[Input<'_>]) -> Desired {
    let mut desired = Desired {
        complete: inputs.iter().all(|input| input.synced),
        synced: inputs.iter().filter(|i| i.synced).map(|i| Arc::clone(i.source)).collect(),
        ..Desired::default()
    };
    let snapshots =
        || inputs.iter().filter_map(|i| i.snapshot.map(|snapshot| (i.source, snapshot)));
    let frontends = snapshots().flat_map(|(_, s)| s.services.values()).map(|s| s.frontends.len());
    let mut owners = Owners::with_capacity(frontends.sum());
    for (source, snapshot) in snapshots() {
        for (name, service) in &snapshot.services {
            if let Some(first) = desired.services.get(name) {
                let first = &first.source;
                desired.rejections.push(rejection(
                    source,
                    name,
                    format!(
                        "service `{name}` of {source} is also defined by {first}, which comes \
                         first; rename or remove one"
                    ),
                ));
                continue;
            }
            let service = claim(source, name, service, &mut owners, &mut desired.rejections);
            let entry = |service| Entry { service, source: Arc::clone(source) };
            desired.services.extend(service.map(|service| (name.clone(), entry(service))));
        }
    }
    for (name, entry) in &desired.services {
        chained(name, entry, &owners, &mut desired.rejections);
    }
    desired
}

/// The service with the frontends that nobody before it has; `None` if that leaves none.
fn claim<'a>(
    source: &'a Arc<str>,
    name: &'a ServiceName,
    service: &Arc<Service>,
    owners: &mut Owners<'a>,
    rejections: &mut Vec<Rejection>,
) -> Option<Arc<Service>> {
    let mut lost = Vec::new();
    for frontend in service.frontends.keys() {
        match owners.entry(*frontend) {
            Slot::Vacant(free) => {
                free.insert((name, source));
            }
            Slot::Occupied(owner) => lost.push((*frontend, *owner.get())),
        }
    }
    let none_left = !lost.is_empty() && lost.len() == service.frontends.len();
    let outcome = if none_left { "; it has no other and is not served" } else { "" };
    rejections.extend(lost.iter().map(|(frontend, (first, first_source))| {
        let reason = format!(
            "frontend {frontend} of service `{name}` ({source}) belongs to service `{first}` \
             ({first_source}), which comes first; remove one{outcome}"
        );
        rejection(source, name, reason)
    }));
    if none_left {
        return None;
    }
    if lost.is_empty() {
        return Some(Arc::clone(service));
    }
    let mut rest = Service::clone(service);
    rest.frontends.retain(|frontend, _| lost.iter().all(|(other, _)| other != frontend));
    Some(Arc::new(rest))
}

/// Warns of backends that are themselves frontends.
fn chained(
    name: &ServiceName,
    entry: &Entry,
    owners: &Owners<'_>,
    rejections: &mut Vec<Rejection>,
) {
    let service = &entry.service;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        if service.frontends.keys().all(|frontend| frontend.protocol != protocol) {
            continue;
        }
        for address in service.backends.keys() {
            let as_frontend = Frontend { address: *address, protocol };
            if let Some((other, _)) = owners.get(&as_frontend) {
                let reason = format!(
                    "backend {address} of service `{name}` is itself a frontend (of `{other}`): \
                     connections are translated once and reach it directly; probably a mistake, \
                     name the backends behind it"
                );
                rejections.push(rejection(&entry.source, name, reason));
            }
        }
    }
}

fn rejection(source: &Arc<str>, name: &ServiceName, reason: String) -> Rejection {
    Rejection { origin: source.to_string(), service: Some(name.to_string()), reason }
}

#[cfg(test)]
mod tests;
