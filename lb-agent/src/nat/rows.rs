//! Which elements and chains a service is in the table of a family. Pure.

use super::Family;
use super::chains::{Chains, draw_chain, sticky_chain};
use super::sets::Set;
use super::slots::slots;
use crate::model::{
    AdminState, Backend, Exposure, Frontend, Masquerade, NoBackend, Passage, Protocol, Reach,
    Service, ServiceName,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Draw {
    /// For those outside.
    pub outside: bool,
    /// Out of so many.
    pub slots: u32,
}

/// What a service comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The elements.
    pub elements: Vec<(Key, Value)>,
    /// How its connections draw.
    pub draws: BTreeSet<Draw>,
    /// Chains of its own.
    pub chains: Chains,
}

/// A list of backends.
struct List {
    addresses: Vec<SocketAddr>,
    /// For each slot, the place of its backend.
    slots: Vec<usize>,
    /// What becomes of connections if there is none.
    none: NoBackend,
    /// The chain of its own that finds a backend, if clients stay with theirs.
    sticky: Option<String>,
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
        let List { addresses, slots, none, sticky } = match self.lists.remove(&reach) {
            Some(list) => list,
            None => self.list(reach),
        };
        let pick = |inside, out| if outside { out } else { inside };
        let chain = match &sticky {
            Some(chain) => Some(chain.clone()),
            None => u32::try_from(slots.len()).ok().filter(|slots| *slots > 0).map(|slots| {
                let draw = Draw { outside, slots };
                self.rows.draws.insert(draw);
                draw_chain(draw)
            }),
        };
        match (chain, none) {
            (Some(chain), _) => {
                self.put(pick(Set::Frontends, Set::Outside), key, Value::Chain(chain));
            }
            (None, NoBackend::Refuse) => {
                self.put(pick(Set::Refused, Set::RefusedOutside), key, Value::Nothing);
            }
            (None, NoBackend::Unreachable) => {
                self.put(pick(Set::Dropped, Set::DroppedOutside), key, Value::Nothing);
            }
            (None, NoBackend::Pass) => {}
        }
        if sticky.is_none() {
            for (slot, at) in (0u32..).zip(&slots) {
                let key = [key, &slot.to_ne_bytes()].concat();
                let target = Value::Bytes(target(&addresses[*at]).into());
                self.put(pick(Set::Backends, Set::BackendsOutside), &key, target);
            }
        }
        self.lists.insert(reach, List { addresses, slots, none, sticky });
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
        let sticky = service.affinity.filter(|_| !addresses.is_empty()).map(|affinity| {
            let list = match reach {
                Reach::Cluster => "cluster",
                Reach::Node => "node",
            };
            let name = format!("stay-{:016x}-{list}", self.id);
            let weighted: Vec<_> = addresses.iter().copied().zip(weights.iter().copied()).collect();
            let chain = sticky_chain(self.family, self.id, affinity.timeout_seconds, &weighted);
            self.rows.chains.insert(name.clone(), chain);
            name
        });
        List { slots: slots(&weights), addresses, none, sticky }
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
