//! The names under which services can be looked up: which names there are, and what each stands for.
//!
//! Pure. A service `web` is `web.<zone>`, and `team/web:http` is `web.team.<zone>`; services that
//! differ in the port's name only are one name. Names compare without case, as DNS does; the first
//! service by name has it. What can't be a name is left out and listed. How names reach those who
//! look them up is left to [`super::hosts`], [`super::dns`] and [`super::coredns`].

mod lookup;

pub use self::lookup::{Found, Srv};

pub(super) use self::lookup::dashed;

use crate::model::{Frontend, Protocol};
use crate::status::ServiceStatus;
use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// Longest name, in bytes, without the final dot.
const MAX_NAME: usize = 253;
/// Longest label.
const MAX_LABEL: usize = 63;
/// Problems listed one by one.
const LISTED: usize = 100;

/// The domain that the names are in: `lb.internal`. Lower case, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Zone(Arc<str>);

/// All names and what they stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    zone: Zone,
    /// By full name, in lower case and without a dot at the end.
    names: BTreeMap<Arc<str>, Entry>,
    /// The names above those, up to the zone itself, and the protocols of what is right below.
    above: BTreeMap<String, BTreeSet<Protocol>>,
    reverse: BTreeMap<IpAddr, BTreeSet<Arc<str>>>,
    problems: Vec<String>,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The service, without the name of a port: `team/web`.
    service: String,
    /// Where it is served. Never empty.
    pub ports: BTreeSet<Port>,
}

/// A port of a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The address it is served on.
    pub address: IpAddr,
    /// The port.
    pub number: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its name in lower case, if it has one: `http`.
    pub name: Option<Arc<str>>,
}

// === impl Zone ===

impl Zone {
    /// The zone as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        match domain(&bare) {
            Ok(()) => Ok(Self(bare.into())),
            Err(why) => Err(format!("`{text}` is not a domain: {why}; write lb.internal")),
        }
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self("lb.internal".into())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

// === impl Records ===

impl Records {
    /// The names of those services that the kernel serves.
    pub fn new<'s>(zone: &Zone, services: impl IntoIterator<Item = &'s ServiceStatus>) -> Self {
        let mut records = Self {
            zone: zone.clone(),
            names: BTreeMap::new(),
            above: BTreeMap::from([(zone.to_string(), BTreeSet::new())]),
            reverse: BTreeMap::new(),
            problems: Vec::new(),
        };
        let mut untold = 0;
        for service in services {
            let installed = service.socket_frontends().filter(|frontend| frontend.installed);
            let frontends: Vec<Frontend> = installed.map(|frontend| frontend.frontend).collect();
            if frontends.is_empty() {
                continue;
            }
            if let Err(problem) = records.add(&service.name, &frontends) {
                if records.problems.len() < LISTED {
                    records.problems.push(format!("service `{}`: {problem}", service.name));
                } else {
                    untold += 1;
                }
            }
        }
        if untold > 0 {
            records.problems.push(format!("{untold} more services have no name of their own"));
        }
        records
    }

    fn add(&mut self, service: &str, frontends: &[Frontend]) -> Result<(), String> {
        let (own, port) = split(service);
        let name = full_name(own, &self.zone)?;
        let port: Option<Arc<str>> = port.map(|port| port.to_ascii_lowercase().into());
        let ports = frontends.iter().map(|frontend| Port {
            address: frontend.address.ip(),
            number: frontend.address.port(),
            protocol: frontend.protocol,
            name: port.clone(),
        });
        let name: Arc<str> = name.into();
        match self.names.entry(Arc::clone(&name)) {
            Slot::Vacant(free) => {
                free.insert(Entry { service: own.to_owned(), ports: ports.collect() });
            }
            Slot::Occupied(mut taken) if taken.get().service == own => {
                taken.get_mut().ports.extend(ports);
            }
            Slot::Occupied(taken) => {
                let first = &taken.get().service;
                return Err(format!("the name {name} belongs to service `{first}`; rename one"));
            }
        }
        for frontend in frontends {
            let address = frontend.address.ip();
            // Those have a name on every host.
            if address != Ipv4Addr::LOCALHOST && address != Ipv6Addr::LOCALHOST {
                self.reverse.entry(address).or_default().insert(Arc::clone(&name));
            }
        }
        self.note_above(&name, frontends);
        match port {
            Some(port) if label(&port).is_err() => {
                Err(format!("the port's name `{port}` can't be a label; SRV is without it"))
            }
            _ => Ok(()),
        }
    }

    fn note_above(&mut self, name: &str, frontends: &[Frontend]) {
        let mut above = name;
        let mut protocols: BTreeSet<Protocol> = frontends.iter().map(|f| f.protocol).collect();
        while above.len() > self.zone.0.len()
            && let Some((_, rest)) = above.split_once('.')
        {
            above = rest;
            self.above.entry(above.to_owned()).or_default().append(&mut protocols);
        }
    }

    /// The zone.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The services' names with what they stand for, in order.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.names.iter().map(|(name, entry)| (&**name, entry))
    }

    /// How many services' names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Services without a name of their own, and why.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

// === impl Entry ===

impl Entry {
    /// The addresses, in order.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.ports.iter().map(|port| port.address).collect()
    }
}

/// The service without the name of a port, and that name.
fn split(service: &str) -> (&str, Option<&str>) {
    match service.rsplit_once(':') {
        Some((own, port)) if !port.contains('/') => (own, Some(port)),
        _ => (service, None),
    }
}

/// `web.team.<zone>` for `team/web`.
fn full_name(service: &str, zone: &Zone) -> Result<String, String> {
    let name = match service.split_once('/') {
        None => format!("{service}.{zone}"),
        Some((_, rest)) if rest.contains('/') => {
            return Err("only NAME and NAMESPACE/NAME can be looked up; rename it".to_owned());
        }
        Some((namespace, name)) => format!("{name}.{namespace}.{zone}"),
    };
    let name = name.to_ascii_lowercase();
    match domain(&name) {
        Ok(()) => Ok(name),
        Err(why) => Err(format!("{name} is not a name that can be looked up: {why}; rename it")),
    }
}

/// Whether this can be looked up as the name of a host; in lower case.
fn domain(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME {
        return Err(format!("it has {} bytes, and names have at most {MAX_NAME}", name.len()));
    }
    name.split('.').try_for_each(label)
}

fn label(label: &str) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let good = label.chars().all(inner)
        && edge(label.chars().next())
        && edge(label.chars().next_back())
        && label.len() <= MAX_LABEL;
    if good {
        return Ok(());
    }
    Err(format!(
        "`{label}` is no label (1 to {MAX_LABEL} letters, digits and inner - or _ between dots)"
    ))
}

#[cfg(test)]
pub(super) mod tests;
