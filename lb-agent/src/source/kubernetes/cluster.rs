//! What is known of the cluster, and what this node makes of it. A state machine: objects in,
//! a snapshot out; a change costs what it changes.
//!
//! Pure.

mod terms;
mod unit;

pub use self::terms::{
    Change, Facts, HealthCheck, NodeFacts, NodePortAddresses, NodePorts, PodInterface, Pods,
    Settings, Work,
};

use self::unit::Unit;
use super::intern::Words;
use super::listing::Listing;
use super::locality::{Lacking, lacking};
use super::node_ports;
use super::notes::Notes;
use super::objects::{self, Reading, Service, Slice, key};
use super::topology::Place;
use super::translate::{Here, translate};
use crate::model::{Rejection, Snapshot};
use crate::versions::Versions;
use ipnet::IpNet;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{Node, Service as ServiceObject};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// The kinds of objects, as rejections name them.
pub(super) const SERVICE: &str = "Service";
pub(super) const SLICE: &str = "EndpointSlice";
pub(super) const NODE: &str = "Node";
pub(super) const SERVICE_CIDR: &str = "ServiceCIDR";

/// What is known.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    started: SystemTime,
    words: Words,
    services: Listing<Reading<Service>>,
    slices: Listing<(Reading<Slice>, Option<SystemTime>)>,
    nodes: Listing<Reading<NodeFacts>>,
    cidrs: Listing<Reading<Vec<IpNet>>>,
    /// Services and what belongs to them, by `namespace/name`.
    units: HashMap<Arc<str>, Unit>,
    /// Which unit each EndpointSlice is in, by `namespace/name` of the slice.
    homes: HashMap<Arc<str>, Arc<str>>,
    ranges: BTreeMap<Arc<str>, Vec<IpNet>>,
    /// The units that are to be translated again.
    dirty: BTreeSet<Arc<str>>,
    notes: Notes,
    own_addresses: Arc<BTreeSet<IpAddr>>,
    node_ports: BTreeSet<IpAddr>,
    node_is_optional: bool,
    facts: Facts,
    told: Option<Arc<Facts>>,
    versions: Versions<Snapshot>,
    changed: bool,
    work: Work,
}

/// A Service and all that decides what becomes of connections to it.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The Service.
    pub service: &'a Service,
    /// Its EndpointSlices, in the order in which they count.
    pub slices: Vec<&'a Slice>,
    /// What this node adds.
    pub here: Here<'a>,
}

// === impl Cluster ===

impl Cluster {
    /// Nothing is known yet. What happened before `started` is not measured.
    pub fn new(settings: Settings, started: SystemTime) -> Self {
        let own_addresses = Arc::default();
        let node_ports = node_ports::addresses(&settings.node_ports, &own_addresses, &[]);
        let pods = match &settings.pods {
            Pods::Ranges(ranges) => ranges.iter().copied().collect(),
            Pods::Unknown | Pods::OfNode | Pods::By(_) => BTreeSet::new(),
        };
        let pod_interface = match &settings.pods {
            Pods::By(interface) => Some(interface.clone()),
            Pods::Unknown | Pods::OfNode | Pods::Ranges(_) => None,
        };
        Self {
            settings,
            started,
            words: Words::default(),
            services: Listing::default(),
            slices: Listing::default(),
            nodes: Listing::default(),
            cidrs: Listing::default(),
            units: HashMap::new(),
            homes: HashMap::new(),
            ranges: BTreeMap::new(),
            dirty: BTreeSet::new(),
            notes: Notes::default(),
            own_addresses,
            node_ports,
            node_is_optional: false,
            facts: Facts { pods, pod_interface, ..Facts::default() },
            told: None,
            versions: Versions::default(),
            changed: true,
            work: Work::default(),
        }
    }

    /// Takes in what the watch of Services says.
    pub fn service(&mut self, change: Change<ServiceObject>) {
        self.clear(SERVICE, &change);
        let read = |object: &_| Some(objects::service(object)).filter(|read| !read.is_empty());
        for (key, reading) in self.services.take(change, |object| key(&object.metadata), read) {
            let Reading { value, problems } = reading.unwrap_or_default();
            self.notes.put(SERVICE, &key, problems);
            let unit = self.units.entry(Arc::clone(&key)).or_default();
            if unit.service != value {
                unit.service = value;
                self.work.services += 1;
                self.dirty.insert(key);
            } else if unit.is_empty() {
                self.units.remove(&key);
            }
        }
    }

    /// Takes in what the watch of EndpointSlices says; it came at `now`.
    pub fn slice(&mut self, change: Change<EndpointSlice>, now: SystemTime) {
        self.clear(SLICE, &change);
        let words = &mut self.words;
        let read = |object: &_| {
            let read = objects::slice(object, words);
            (!read.is_empty()).then(|| (read, objects::trigger(object)))
        };
        for (key, read) in self.slices.take(change, |object| key(&object.metadata), read) {
            let (Reading { value, problems }, trigger) = read.unwrap_or_default();
            self.notes.put(SLICE, &key, problems);
            // What comes from a clock that is ahead of ours, or that we did not see, tells nothing.
            let trigger = trigger.filter(|at| (self.started..=now).contains(at));
            let trigger = value.as_ref().map(|slice| slice.family).zip(trigger);
            if self.put_slice(key, value) {
                self.work.slices += 1;
                self.work.triggers.extend(trigger);
            }
        }
    }

    /// Whether anything changed.
    fn put_slice(&mut self, key: Arc<str>, slice: Option<Slice>) -> bool {
        let home = self.homes.get(&key).cloned();
        let unit = home.as_ref().and_then(|home| self.units.get(home));
        if unit.and_then(|unit| unit.slices.get(&key)) == slice.as_ref() {
            return false;
        }
        if let Some(home) = home {
            if let Some(unit) = self.units.get_mut(&home) {
                unit.slices.remove(&key);
            }
            self.dirty.insert(home);
        }
        match slice {
            Some(slice) => {
                let home = Arc::clone(&slice.service);
                self.homes.insert(Arc::clone(&key), Arc::clone(&home));
                self.units.entry(Arc::clone(&home)).or_default().slices.insert(key, slice);
                self.dirty.insert(home);
            }
            None => drop(self.homes.remove(&key)),
        }
        true
    }

    /// Takes in what the watch of the own Node says.
    pub fn node(&mut self, change: Change<Node>) {
        self.clear(NODE, &change);
        let name = &self.settings.node;
        let read = |object: &_| Some(objects::node(object, name)).filter(|read| !read.is_empty());
        for (key, reading) in self.nodes.take(change, |object| key(&object.metadata), read) {
            let Reading { value, problems } = reading.unwrap_or_default();
            self.notes.put(NODE, &key, problems);
            if self.facts.node == value {
                continue;
            }
            if let Some(node) = &value {
                self.facts.node_at_first.fill(node);
            }
            let before = std::mem::replace(&mut self.facts.node, value);
            self.told = None;
            let zone = before.as_ref().and_then(|node| node.zone.as_ref());
            if zone != self.facts.node.as_ref().and_then(|node| node.zone.as_ref()) {
                let hinted = self.units.iter().filter(|(_, unit)| unit.has_hints());
                self.dirty.extend(hinted.map(|(key, _)| Arc::clone(key)));
            }
            self.renew_node_ports();
            if self.settings.pods == Pods::OfNode {
                let ranges = self.facts.node.iter().flat_map(|node| &node.pod_ranges);
                self.facts.pods = ranges.copied().collect();
            }
        }
    }

    /// Takes in what the watch of ServiceCIDRs says.
    pub fn service_cidr(&mut self, change: Change<ServiceCIDR>) {
        self.clear(SERVICE_CIDR, &change);
        let read = |object: &_| Some(objects::service_cidrs(object));
        for (key, reading) in self.cidrs.take(change, |object| key(&object.metadata), read) {
            let Reading { value, problems } = reading.unwrap_or_default();
            self.notes.put(SERVICE_CIDR, &key, problems);
            match value {
                Some(ranges) => drop(self.ranges.insert(key, ranges)),
                None => drop(self.ranges.remove(&key)),
            }
            let all: BTreeSet<_> = self.ranges.values().flatten().copied().collect();
            if self.facts.service_cidrs != all {
                self.facts.service_cidrs = all;
                self.told = None;
            }
        }
        if self.cidrs.is_complete() {
            self.no_more_service_cidrs();
        }
    }

    /// There are no ServiceCIDRs but those taken in: they have been listed, or the server withholds them.
    pub fn no_more_service_cidrs(&mut self) {
        if !std::mem::replace(&mut self.facts.service_cidrs_heard, true) {
            self.told = None;
        }
    }

    /// What was told of objects that could not be read, and are gone or can be read now, is over.
    fn clear<T: Metadata<Ty = ObjectMeta>>(&mut self, kind: &'static str, change: &Change<T>) {
        match change {
            Change::Complete => self.notes.listed(kind),
            Change::Put(object) | Change::Delete(object) => {
                self.notes.readable(kind, || key(object.metadata()));
            }
            Change::Forget(key) => self.notes.readable(kind, || Arc::clone(key)),
            Change::Begin => self.notes.list_begins(kind),
            Change::Listed(_) => {}
        }
    }

    /// An object of this kind can't be read at all: it is left out, and told of by its
    /// `namespace/name` if that much is known. In a list, they come before [`Change::Complete`], and else
    /// after [`Change::Forget`].
    pub fn unreadable(&mut self, kind: &'static str, key: Option<&str>, reason: String) {
        self.notes.unreadable(kind, key, reason);
    }

    /// The addresses of this node's interfaces, in its own network namespace.
    pub fn set_addresses(&mut self, addresses: Arc<BTreeSet<IpAddr>>) {
        self.own_addresses = addresses;
        // A node that is in a range may come from the balancer's address.
        let restricted = self.units.iter().filter(|(_, unit)| unit.is_restricted());
        self.dirty.extend(restricted.map(|(key, _)| Arc::clone(key)));
        self.renew_node_ports();
    }

    fn renew_node_ports(&mut self) {
        let primary = self.facts.node.as_ref().map_or(&[][..], |node| &node.addresses);
        let settings = &self.settings.node_ports;
        let addresses = node_ports::addresses(settings, &self.own_addresses, primary);
        if self.node_ports != addresses {
            self.node_ports = addresses;
            let concerned = self.units.iter().filter(|(_, unit)| unit.has_node_ports());
            self.dirty.extend(concerned.map(|(key, _)| Arc::clone(key)));
        }
    }

    /// The own Node can't be read (no permission): its absence holds up nothing.
    pub fn without_node(&mut self) {
        self.node_is_optional = true;
    }

    /// Whether Services, EndpointSlices and the own Node have been listed: nothing is served before.
    pub fn is_synced(&self) -> bool {
        let node = self.nodes.is_complete() || self.node_is_optional;
        node && self.services.is_complete() && self.slices.is_complete()
    }

    /// The services as they are now, if they have changed since this was last asked. The first call
    /// after everything has been listed always gives a snapshot.
    pub fn snapshot(&mut self) -> Option<Arc<Snapshot>> {
        self.refresh();
        let changed = self.is_synced() && std::mem::take(&mut self.changed);
        changed.then(|| Arc::clone(self.versions.now()))
    }

    /// What was refused of the objects there are now.
    pub fn rejections(&mut self) -> Arc<Vec<Rejection>> {
        self.notes.all()
    }

    /// Items refused since the start, each as often as it was.
    pub fn refused(&self) -> u64 {
        self.notes.refused()
    }

    /// What else concerns this node.
    pub fn facts(&mut self) -> Arc<Facts> {
        self.refresh();
        let facts = &self.facts;
        Arc::clone(self.told.get_or_insert_with(|| Arc::new(facts.clone())))
    }

    /// What was taken in since this was last asked.
    pub fn take_work(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    /// The Services there are, by `namespace/name`.
    pub fn services(&self) -> impl Iterator<Item = (&Arc<str>, Parts<'_>)> {
        self.units.iter().filter_map(|(key, unit)| {
            let service = unit.service.as_ref()?;
            let slices = unit.slices.values().collect();
            Some((key, Parts { service, slices, here: self.here() }))
        })
    }

    fn here(&self) -> Here<'_> {
        let zone = self.facts.node.as_ref().and_then(|node| node.zone.as_deref());
        let place = Place { node: &self.settings.node, zone };
        Here {
            place,
            node_ports: &self.node_ports,
            scope: self.settings.scope,
            own_addresses: &self.own_addresses,
            pods_known: self.settings.pods != Pods::Unknown,
            masquerade_all: self.settings.masquerade_all,
        }
    }

    /// Translates again what changed. Not before everything is known: a Service whose endpoints
    /// have not been heard of yet would refuse its callers.
    fn refresh(&mut self) {
        if !self.is_synced() {
            return;
        }
        for key in std::mem::take(&mut self.dirty) {
            let Some(unit) = self.units.get(&key) else { continue };
            let services = match &unit.service {
                Some(service) => translate(service, unit.slices.values(), self.here()),
                None => Vec::new(),
            };
            let check = unit.health_check(&self.settings.node);
            let names: Vec<_> = services.iter().map(|(name, _)| name.clone()).collect();
            let kept: HashSet<_> = names.iter().collect();
            for name in unit.served.iter().filter(|name| !kept.contains(name)) {
                self.versions.put_service(name, None);
                self.changed = true;
            }
            for (name, service) in services {
                let known = self.versions.now().services.get(&name);
                if known.is_none_or(|known| **known != service) {
                    self.versions.put_service(&name, Some(Arc::new(service)));
                    self.changed = true;
                }
            }
            self.put_health_check(&key, check);
            let place = self.here().place;
            let without = match self.units.get(&key).map(|unit| (&unit.service, &unit.slices)) {
                Some((Some(service), slices)) => lacking(service, slices.values(), place),
                _ => Lacking::default(),
            };
            if let Some(unit) = self.units.get_mut(&key) {
                unit.served = names;
                let before = std::mem::replace(&mut unit.lacking, without);
                if before != without {
                    self.facts.lacking.replace(before, without);
                    self.told = None;
                }
                if unit.is_empty() {
                    self.units.remove(&key);
                }
            }
        }
    }

    fn put_health_check(&mut self, key: &str, check: Option<HealthCheck>) {
        if check.is_none() && self.facts.health_checks.is_empty() {
            return;
        }
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let key = (namespace.into(), name.into());
        if self.facts.health_checks.get(&key) == check.as_ref() {
            return;
        }
        self.told = None;
        match check {
            Some(check) => drop(self.facts.health_checks.insert(key, check)),
            None => drop(self.facts.health_checks.remove(&key)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
