//! What is to be served, and how it changes: services with backends of both families, frontends that
//! stay and frontends that change hands. A set of outcomes is a word: a bit for each backend (of the
//! frontend's family), one for "no frontend", one for "no backend".

use crate::netns;
use crate::spec::{self, services};
use lb_agent::model::{
    AdminState, Affinity, Backend, Client, Frontend, Policy, Protocol, Scope, Service, ServiceName,
    Snapshot,
};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use std::array;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Services that there may be.
const SERVICES: usize = 4;
/// Backends that each may have, of each family.
const POOL: usize = 6;
/// Frontends that each service always has: one of each family.
const OWN: usize = 2 * SERVICES;
/// Frontends that change hands; every other one is IPv6.
const ROAMING: usize = 6;
/// All frontends' addresses, each with TCP and UDP.
pub(super) const LINES: usize = OWN + ROAMING;

/// The address is no frontend.
pub(super) const ABSENT: u64 = 1 << 63;
/// The service has no backend.
pub(super) const REFUSED: u64 = 1 << 62;

const PORT: u16 = 80;

/// A state, and what it is as a source says it.
pub(super) struct World {
    parts: [Part; SERVICES],
    /// Whose the roaming frontends are.
    owners: [Option<usize>; ROAMING],
    snapshot: Arc<Snapshot>,
}

/// A service.
#[derive(Clone)]
struct Part {
    exists: bool,
    /// By family and number.
    backends: [[Option<Backend>; POOL]; 2],
    policy: Policy,
    affinity: Option<Affinity>,
}

// === impl World ===

impl World {
    pub(super) fn new() -> Self {
        let part = Part {
            exists: true,
            backends: array::from_fn(|_| array::from_fn(|_| Some(Backend::default()))),
            policy: Policy::Random,
            affinity: None,
        };
        let parts = array::from_fn(|_| part.clone());
        let mut world = Self { parts, owners: [None; ROAMING], snapshot: Arc::default() };
        world.renew(&(0..SERVICES).collect::<Vec<_>>());
        world
    }

    /// As a source says it.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// As a file says it.
    pub(super) fn file(&self) -> String {
        let spec = |(name, entry): (&ServiceName, &Arc<Service>)| {
            let mut spec = spec::service(name.as_str());
            for frontend in entry.frontends.keys() {
                spec = match frontend.protocol {
                    Protocol::Tcp => spec.frontend(frontend.address),
                    Protocol::Udp => spec.udp(frontend.address),
                    Protocol::Sctp => unreachable!("no socket dials it"),
                };
            }
            for (address, Backend { weight, state, .. }) in &entry.backends {
                let state = match state {
                    AdminState::Ready => "ready",
                    AdminState::Drain | AdminState::Disabled => "drain",
                };
                spec = spec.backend_with(address, format!("weight: {weight}, state: {state}"));
            }
            if entry.policy == Policy::LeastConnections {
                spec = spec.with("policy: least_connections");
            }
            match entry.affinity {
                None => spec,
                Some(Affinity { client, timeout_seconds }) => {
                    let client = format!("{client:?}").to_lowercase();
                    spec.with(format!(
                        "affinity: {{client: {client}, timeout: {timeout_seconds}s}}"
                    ))
                }
            }
        };
        services(&self.snapshot.services.iter().map(spec).collect::<Vec<_>>())
    }

    /// What is right for each frontend.
    pub(super) fn outcomes(&self) -> [u64; LINES] {
        array::from_fn(|line| {
            let Some(part) = self.owner(line).filter(|owner| self.parts[*owner].exists) else {
                return ABSENT;
            };
            let backends = (0..).zip(&self.parts[part].backends[family(line)]);
            let ready = backends.filter(|(_, backend)| is_ready(backend));
            let right = ready.fold(0, |all, (number, _)| all | 1 << (part * POOL + number));
            if right == 0 { REFUSED } else { right }
        })
    }

    /// The frontends that there are to be.
    pub(super) fn served(&self) -> Vec<usize> {
        let outcomes = self.outcomes();
        (0..LINES).filter(|line| outcomes[*line] != ABSENT).collect()
    }

    /// Changes a few things; returns how many.
    pub(super) fn change(&mut self, random: &mut StdRng) -> u64 {
        let number = random.random_range(1..6);
        let mut touched = Vec::new();
        for _ in 0..number {
            let part = random.random_range(0..SERVICES);
            touched.push(part);
            // One that is gone comes back soon: most of the time there should be something to reach.
            if !self.parts[part].exists {
                self.parts[part].exists = true;
                continue;
            }
            match random.random_range(0..20) {
                0 => self.parts[part].exists = random.random_bool(0.5),
                1 => {
                    let policies = [Policy::Random, Policy::LeastConnections];
                    self.parts[part].policy = *policies.choose(random).expect("there are two");
                }
                2 => self.parts[part].affinity = affinity(random),
                3..6 => {
                    let roaming = random.random_range(0..ROAMING);
                    touched.extend(self.owners[roaming]);
                    self.owners[roaming] = random.random_bool(0.8).then_some(part);
                }
                _ => self.parts[part].change_backend(random),
            }
        }
        self.renew(&touched);
        number
    }

    /// Makes the services anew that have changed; the others are the very same as before.
    fn renew(&mut self, touched: &[usize]) {
        let mut snapshot = (*self.snapshot).clone();
        for part in touched {
            let name = format!("service{part}").parse().expect("a name");
            if self.parts[*part].exists {
                snapshot.services.insert(name, Arc::new(self.service(*part)));
            } else {
                snapshot.services.remove(&name);
            }
        }
        self.snapshot = Arc::new(snapshot);
    }

    fn service(&self, part: usize) -> Service {
        let Part { exists: _, backends, policy, affinity } = &self.parts[part];
        let lines = (0..LINES).filter(|line| self.owner(*line) == Some(part));
        let both = [Protocol::Tcp, Protocol::Udp];
        let frontends = lines.flat_map(|line| both.map(|protocol| frontend(line, protocol)));
        let listed = backends.iter().enumerate().flat_map(|(family, backends)| {
            let backends = backends.iter().enumerate();
            backends.filter_map(move |(number, backend)| {
                Some((address(part, number, family), backend.clone()?))
            })
        });
        Service {
            frontends: frontends.map(|frontend| (frontend, Scope::Everywhere.into())).collect(),
            backends: listed.collect(),
            backends_from: Vec::new(),
            policy: *policy,
            affinity: *affinity,
            no_backend: Default::default(),
            no_node_backend: Default::default(),
            source_ranges: Vec::new(),
            health: Default::default(),
        }
    }

    fn owner(&self, line: usize) -> Option<usize> {
        if line < OWN { Some(line / 2) } else { self.owners[line - OWN] }
    }
}

// === impl Part ===

impl Part {
    /// Adds or removes a backend, drains one or ends that, or weighs it anew. Mostly one of the family
    /// stays ready.
    fn change_backend(&mut self, random: &mut StdRng) {
        let backends = &mut self.backends[random.random_range(0..2)];
        let number = random.random_range(0..POOL);
        let ready = backends.iter().filter(|backend| is_ready(backend)).count();
        let last = ready == 1 && is_ready(&backends[number]) && random.random_bool(0.95);
        let slot = &mut backends[number];
        match slot {
            Some(backend) if last || random.random_bool(0.2) => {
                backend.weight = random.random_range(1..100);
            }
            Some(backend) if random.random_bool(0.3) => {
                backend.state = match backend.state {
                    AdminState::Ready => AdminState::Drain,
                    AdminState::Drain | AdminState::Disabled => AdminState::Ready,
                };
            }
            Some(_) => *slot = None,
            None => *slot = Some(Backend::default()),
        }
    }
}

fn is_ready(backend: &Option<Backend>) -> bool {
    backend.as_ref().is_some_and(|backend| backend.state == AdminState::Ready)
}

fn affinity(random: &mut StdRng) -> Option<Affinity> {
    let clients = [Client::Netns, Client::Uid, Client::Cgroup, Client::Process];
    let client = *clients.choose(random).expect("there are four");
    let timeout_seconds = random.random_range(1..4);
    random.random_bool(0.5).then_some(Affinity { client, timeout_seconds })
}

/// 0 for IPv4, 1 for IPv6.
pub(super) fn family(line: usize) -> usize {
    line % 2
}

/// What is dialled to reach a frontend.
pub(super) fn dialled(line: usize) -> SocketAddr {
    let host = u8::try_from(line + 1).expect("there are few");
    SocketAddr::new(ip(family(line), 96, 0, host), PORT)
}

/// The frontend's number.
pub(super) fn line_of(address: &SocketAddr) -> usize {
    (0..LINES).find(|line| dialled(*line) == *address).expect("one of ours")
}

fn frontend(line: usize, protocol: Protocol) -> Frontend {
    let address = dialled(line);
    Frontend::new(address.ip(), address.port(), protocol)
}

fn address(part: usize, number: usize, family: usize) -> SocketAddr {
    let small = |number: usize| u8::try_from(number).expect("there are few");
    SocketAddr::new(ip(family, 1, small(part), small(number + 1)), PORT)
}

fn ip(family: usize, network: u8, part: u8, host: u8) -> IpAddr {
    match family {
        0 => Ipv4Addr::new(10, network, part, host).into(),
        _ => {
            let [network, part, host] = [network, part, host].map(u16::from);
            Ipv6Addr::new(0xfd00, network, 0, 0, 0, 0, part, host).into()
        }
    }
}

/// Every backend's address and its number, which is that of its bit.
pub(super) fn backends() -> impl Iterator<Item = (SocketAddr, usize)> {
    let all = (0..2 * SERVICES * POOL).map(|index| (index / 2, index % 2));
    all.map(|(number, family)| (address(number / POOL, number % POOL, family), number))
}

/// The number of the backend with this address, if it is one.
pub(super) fn backend_of(ip: IpAddr) -> Option<u32> {
    let (network, part, host) = match ip {
        IpAddr::V4(ip) => {
            let [_, network, part, host] = ip.octets();
            (network, part, host)
        }
        IpAddr::V6(ip) => {
            let [_, network, .., part, host] = ip.segments();
            (u8::try_from(network).ok()?, u8::try_from(part).ok()?, u8::try_from(host).ok()?)
        }
    };
    let known = network == 1 && usize::from(part) < SERVICES;
    let number = usize::from(host).checked_sub(1).filter(|number| known && *number < POOL)?;
    u32::try_from(usize::from(part) * POOL + number).ok()
}

/// Another service's backend of the same family.
pub(super) fn stranger_to(ip: IpAddr) -> Option<SocketAddr> {
    let part = usize::try_from(backend_of(ip)?).ok()? / POOL;
    Some(address((part + 1) % SERVICES, 0, usize::from(ip.is_ipv6())))
}

/// The backends of the service that this one belongs to.
pub(super) fn service_of(backend: u32) -> u64 {
    let all = (1 << POOL) - 1;
    let pool = u32::try_from(POOL).expect("there are few");
    all << (backend / pool * pool)
}

/// Gives the calling thread's namespace all backends' addresses.
pub(super) fn own_addresses() {
    let line = |(address, _): (SocketAddr, usize)| match address.ip() {
        IpAddr::V4(ip) => format!("address add {ip}/32 dev lo\n"),
        IpAddr::V6(ip) => format!("address add {ip}/128 dev lo nodad\n"),
    };
    netns::ip_batch(&backends().map(line).collect::<String>());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_known_by_their_addresses() {
        for (address, number) in backends() {
            assert_eq!(backend_of(address.ip()), u32::try_from(number).ok(), "{address}");
            let stranger = stranger_to(address.ip()).and_then(|other| backend_of(other.ip()));
            let stranger = stranger.expect("it is one of ours");
            assert_eq!(service_of(stranger) & 1 << number, 0, "{address}");
        }
        assert_eq!(backend_of(dialled(0).ip()), None);
        assert_eq!((0..LINES).map(dialled).map(|at| line_of(&at)).max(), Some(LINES - 1));
    }
}
