//! Which elements a service is in the table of a family. Pure.

use super::Family;
use super::sets::Set;
use super::slots::slots;
use crate::model::{
    AdminState, Exposure, Frontend, Masquerade, NoBackend, Passage, Reach, Service, ServiceName,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};

/// In place of a number of slots: the connection is refused.
pub const REFUSE: u32 = u32::MAX;
/// In place of a number of slots: the packet is dropped.
pub const DROP: u32 = u32::MAX - 1;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Draw {
    /// For those who are neither a pod nor this host.
    pub outside: bool,
    /// Out of so many.
    pub slots: u32,
    /// Seconds that a client stays with its backend; 0: it does not.
    pub affinity: u32,
}

/// What a service comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The elements.
    pub elements: Vec<(Key, Value)>,
    /// How its connections draw.
    pub draws: BTreeSet<Draw>,
}

/// What a service is known by in the tables: the same after each start of the same agent. The last
/// bit tells its lists apart and is 0 here.
pub fn service_id(name: &ServiceName) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() & !1
}

/// The elements of a service in a family's table.
pub fn rows(name: &ServiceName, service: &Service, family: Family) -> Rows {
    let served = |(frontend, exposure): (&Frontend, &Exposure)| {
        let ip = frontend.address.ip();
        let passage = exposure.passage().filter(|_| ip.is_ipv4() == family.is_v4())?;
        // No packet comes for a loopback address, and none is sent to another host from there.
        (!ip.is_loopback()).then_some((*frontend, exposure.reach, passage))
    };
    let frontends: Vec<_> = service.frontends.iter().filter_map(served).collect();
    let mut builder = Builder {
        id: service_id(name),
        service,
        family,
        affinity: service.affinity.map_or(0, |affinity| affinity.timeout_seconds),
        lists: BTreeMap::new(),
        singles: BTreeSet::new(),
        rows: Rows::default(),
    };
    for (frontend, inside, passage) in frontends {
        builder.frontend(&frontend, inside, passage);
    }
    builder.rows
}

struct Builder<'s> {
    id: u64,
    service: &'s Service,
    family: Family,
    affinity: u32,
    /// The lists that are in use, with what stands in place of their number of slots.
    lists: BTreeMap<Reach, u32>,
    /// What is there, of what may be asked for twice.
    singles: BTreeSet<Key>,
    rows: Rows,
}

impl Builder<'_> {
    fn frontend(&mut self, frontend: &Frontend, inside: Reach, passage: Passage) {
        let key = frontend_key(frontend);
        let rule = masquerade_code(passage.masquerade);
        let lists = [
            (Set::Frontends, Some(inside)),
            (Set::Outside, Some(passage.outside).filter(|reach| *reach != inside)),
        ];
        for (set, reach) in lists {
            let Some(reach) = reach else { continue };
            let slots = self.list(reach);
            let pool = self.pool(reach).to_ne_bytes();
            let numbers = [slots, self.affinity, rule].map(u32::to_ne_bytes).concat();
            self.put(set, key.clone(), Value::Bytes([&pool[..], &numbers].concat().into()));
            if ![0, DROP, REFUSE].contains(&slots) {
                let outside = set == Set::Outside;
                self.rows.draws.insert(Draw { outside, slots, affinity: self.affinity });
            }
        }
        if passage.whole_address {
            self.put(Set::Addresses, octets(frontend.address.ip()), Value::Nothing);
        }
        if passage.restricted {
            self.put(Set::Restricted, key.clone(), Value::Nothing);
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

    /// The number of slots of a list, or what becomes of connections if it has none. Puts it in the
    /// tables when it is first asked for.
    fn list(&mut self, reach: Reach) -> u32 {
        if let Some(slots) = self.lists.get(&reach) {
            return *slots;
        }
        let service = self.service;
        let backends = service.backends_of(self.family.is_v4(), reach);
        let ready = |(address, backend): (&SocketAddr, &crate::model::Backend)| {
            (backend.state == AdminState::Ready).then_some((*address, backend.weight))
        };
        let (addresses, weights): (Vec<_>, Vec<_>) = backends.filter_map(ready).unzip();
        let slots = slots(&weights);
        let pool = self.pool(reach).to_ne_bytes();
        for (slot, at) in (0u32..).zip(&slots) {
            let key = [&pool[..], &slot.to_ne_bytes()].concat();
            self.put(Set::Backends, key, Value::Bytes(target(&addresses[*at]).into()));
        }
        for address in &addresses {
            let octets = octets(address.ip());
            self.put(Set::Hairpin, [&octets[..], &octets].concat(), Value::Nothing);
            if self.affinity != 0 {
                let key = [&pool[..], &target(address)].concat();
                self.put(Set::Members, key, Value::Nothing);
            }
        }
        let none = match reach {
            Reach::Cluster => service.no_backend,
            Reach::Node => service.no_node_backend,
        };
        let slots = match (slots.len(), none) {
            (0, NoBackend::Pass) => 0,
            (0, NoBackend::Unreachable) => DROP,
            (0, NoBackend::Refuse) => REFUSE,
            // More backends than a packet path could ever have.
            (count, _) => u32::try_from(count).unwrap_or(DROP),
        };
        self.lists.insert(reach, slots);
        slots
    }

    fn pool(&self, reach: Reach) -> u64 {
        self.id | u64::from(reach == Reach::Node)
    }

    fn put(&mut self, set: Set, bytes: Vec<u8>, value: Value) {
        let key = Key { set, bytes: bytes.into(), end: None };
        // An address may be there for several ports, and a backend in both lists.
        if matches!(set, Set::Addresses | Set::Hairpin) && !self.singles.insert(key.clone()) {
            return;
        }
        self.rows.elements.push((key, value));
    }
}

/// The number of a masquerade rule in the tables.
pub const fn masquerade_code(masquerade: Masquerade) -> u32 {
    match masquerade {
        Masquerade::Never => 0,
        Masquerade::UnlessPod => 1,
        Masquerade::IfLocal => 2,
        Masquerade::Always => 3,
    }
}

fn frontend_key(frontend: &Frontend) -> Vec<u8> {
    let mut key = octets(frontend.address.ip());
    key.extend([frontend.protocol.number(), 0, 0, 0]);
    key.extend(padded(frontend.address.port()));
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

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
