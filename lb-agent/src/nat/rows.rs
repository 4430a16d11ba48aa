//! Which elements a service is in the table of a family. Pure.

use super::Family;
use super::draws::{draw_chain, list_of};
use super::sets::Set;
use super::slots::slots;
use crate::model::{
    AdminState, Affinity, Backend, Exposure, Frontend, Masquerade, NoBackend, Passage, Protocol,
    Reach, Service, ServiceName,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};

/// A key of a set or map. Numbers are in the host's order, what packets have in the network's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Where.
    pub set: Set,
    /// Its bytes.
    pub bytes: Box<[u8]>,
    /// The other end of a range.
    pub end: Option<Box<[u8]>>,
}

/// Where a key leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// It is only there.
    Nothing,
    /// To these bytes.
    Bytes(Box<[u8]>),
    /// To this chain.
    Chain(String),
}

/// How a connection finds its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Draw {
    /// Each time anew.
    Any {
        /// For those outside.
        outside: bool,
        /// Out of so many.
        slots: u32,
    },
    /// Clients stay with their backends.
    Stay {
        /// Which list they choose from.
        reach: Reach,
        /// For so long after the last connection.
        seconds: u32,
        /// Out of so many.
        slots: u32,
    },
}

/// What a service comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The elements.
    pub elements: Vec<(Key, Value)>,
    /// How its connections draw.
    pub draws: BTreeSet<Draw>,
}

/// A list of backends.
struct List {
    addresses: Vec<SocketAddr>,
    /// For each slot, the place of its backend.
    slots: Vec<usize>,
    /// What becomes of connections if there is none.
    none: NoBackend,
}

/// What a service is known by where clients stay with their backends: the same after each start of the
/// same agent.
pub fn service_id(name: &ServiceName) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// The elements of a service in a family's table.
pub fn rows(name: &ServiceName, service: &Service, family: Family) -> Rows {
    let mut builder = Builder {
        id: service_id(name),
        service,
        family,
        lists: BTreeMap::new(),
        singles: BTreeSet::new(),
        rows: Rows::default(),
    };
    for (frontend, exposure) in &service.frontends {
        let ip = frontend.address.ip();
        // No packet comes for a loopback address, and none is sent to another host from there.
        if ip.is_ipv4() == family.is_v4() && !ip.is_loopback() {
            builder.frontend(frontend, exposure);
        }
    }
    builder.rows
}

struct Builder<'s> {
    id: u64,
    service: &'s Service,
    family: Family,
    /// The lists that are in use.
    lists: BTreeMap<Reach, List>,
    /// What is there, of what may be asked for twice.
    singles: BTreeSet<Key>,
    rows: Rows,
}

impl<'s> Builder<'s> {
    fn frontend(&mut self, frontend: &Frontend, exposure: &Exposure) {
        let Some(passage) = exposure.passage() else { return };
        let Passage { outside, masquerade, restricted, whole_address } = passage;
        let key = tuple(&frontend.address, frontend.protocol);
        self.put(Set::Served, &key, Value::Nothing);
        if self.service.affinity.is_some() {
            self.put(Set::Groups, &key, found(&halves(self.id).concat()));
        }
        let reaches = BTreeSet::from([exposure.reach, outside]);
        let led_to: Vec<_> = reaches.iter().flat_map(|reach| self.backends(*reach)).collect();
        for (address, _) in led_to {
            self.put_once(Set::Targets, tuple(address, frontend.protocol));
        }
        self.way(&key, exposure.reach, false);
        if outside != exposure.reach {
            self.way(&key, outside, true);
        }
        match masquerade {
            Masquerade::Never => {}
            Masquerade::UnlessPod => self.put(Set::UnlessPod, &key, Value::Nothing),
            Masquerade::IfLocal => self.put(Set::IfLocal, &key, Value::Nothing),
            Masquerade::Always => self.put(Set::Always, &key, Value::Nothing),
        }
        if whole_address {
            self.put_once(Set::Addresses, octets(frontend.address.ip()));
        }
        if restricted {
            self.put(Set::Restricted, &key, Value::Nothing);
            let own = |range: &&IpNet| range.addr().is_ipv4() == self.family.is_v4();
            let own: Vec<IpNet> = self.service.source_ranges.iter().filter(own).copied().collect();
            for range in IpNet::aggregate(&own) {
                let bytes = [&key[..], &octets(range.network())].concat();
                let end = [&key[..], &octets(range.broadcast())].concat();
                let key = Key { set: Set::Allowed, bytes: bytes.into(), end: Some(end.into()) };
                self.rows.elements.push((key, Value::Nothing));
            }
        }
    }

    /// Where a frontend leads.
    fn way(&mut self, key: &[u8], reach: Reach, outside: bool) {
        let List { addresses, slots, none } = match self.lists.remove(&reach) {
            Some(list) => list,
            None => self.list(reach),
        };
        let pick = |inside, out| if outside { out } else { inside };
        let count = u32::try_from(slots.len()).ok().filter(|slots| *slots > 0);
        match (count, none) {
            (Some(slots), _) => {
                let draw = match self.service.affinity {
                    None => Draw::Any { outside, slots },
                    Some(Affinity { timeout_seconds: seconds, .. }) => {
                        Draw::Stay { reach, seconds, slots }
                    }
                };
                self.rows.draws.insert(draw);
                let chain = Value::Chain(draw_chain(draw));
                self.put(pick(Set::Frontends, Set::Outside), key, chain);
            }
            (None, NoBackend::Refuse) => {
                self.put(pick(Set::Refused, Set::RefusedOutside), key, Value::Nothing);
            }
            (None, NoBackend::Unreachable) => {
                self.put(pick(Set::Dropped, Set::DroppedOutside), key, Value::Nothing);
            }
            (None, NoBackend::Pass) => {}
        }
        if self.service.affinity.is_none() {
            for (slot, at) in (0u32..).zip(&slots) {
                let key = [key, &slot.to_ne_bytes()].concat();
                let target = Value::Bytes(target(&addresses[*at]).into());
                self.put(pick(Set::Backends, Set::BackendsOutside), &key, target);
            }
        }
        self.lists.insert(reach, List { addresses, slots, none });
    }

    fn list(&mut self, reach: Reach) -> List {
        let ready = |(address, backend): (&SocketAddr, &Backend)| {
            (backend.state == AdminState::Ready).then_some((*address, backend.weight))
        };
        let service = self.service;
        let backends = self.backends(reach);
        let (addresses, weights): (Vec<_>, Vec<_>) = backends.filter_map(ready).unzip();
        for address in &addresses {
            let octets = octets(address.ip());
            self.put_once(Set::Hairpin, [&octets[..], &octets].concat());
        }
        let none = match reach {
            Reach::Cluster => service.no_backend,
            Reach::Node => service.no_node_backend,
        };
        let slots = slots(&weights);
        if service.affinity.is_some() {
            self.stays(reach, &addresses, &slots);
        }
        List { slots, addresses, none }
    }

    /// What clients find that stay with their backends.
    fn stays(&mut self, reach: Reach, addresses: &[SocketAddr], slots: &[usize]) {
        let (list, members) = list_of(reach);
        for address in addresses {
            let member = member(self.id, address);
            self.put(members, &member, Value::Bytes(target(address).into()));
        }
        for (slot, at) in (0u32..).zip(slots) {
            let [high, low] = halves(self.id);
            let key = [high, low, list.to_ne_bytes(), slot.to_ne_bytes()].concat();
            let member = member(self.id, &addresses[*at]);
            self.put(Set::Stays, &key, found(&member));
        }
    }

    fn backends(
        &self,
        reach: Reach,
    ) -> impl Iterator<Item = (&'s SocketAddr, &'s Backend)> + use<'s> {
        self.service.backends_of(self.family.is_v4(), reach)
    }

    fn put(&mut self, set: Set, bytes: &[u8], value: Value) {
        self.rows.elements.push((Key { set, bytes: bytes.into(), end: None }, value));
    }

    /// An address may be there for several ports, and a backend in both lists or for several frontends.
    fn put_once(&mut self, set: Set, bytes: Vec<u8>) {
        let key = Key { set, bytes: bytes.into(), end: None };
        if self.singles.insert(key.clone()) {
            self.rows.elements.push((key, Value::Nothing));
        }
    }
}

/// Two registers.
fn halves(number: u64) -> [[u8; 4]; 2] {
    [(number >> 32) as u32, number as u32].map(u32::to_ne_bytes)
}

/// What is found, with its padding.
fn found(number: &[u8]) -> Value {
    Value::Bytes([&[0; 4], number].concat().into())
}

/// What a backend is remembered by.
fn member(service: u64, address: &SocketAddr) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    (service, address).hash(&mut hasher);
    halves(hasher.finish()).concat()
}

/// Address, protocol, port.
fn tuple(address: &SocketAddr, protocol: Protocol) -> Vec<u8> {
    let mut key = octets(address.ip());
    key.extend([protocol.number(), 0, 0, 0]);
    key.extend(padded(address.port()));
    key
}

/// Address and port, as [`Set::Backends`] leads to.
fn target(address: &SocketAddr) -> Vec<u8> {
    let mut target = octets(address.ip());
    target.extend(padded(address.port()));
    target
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
