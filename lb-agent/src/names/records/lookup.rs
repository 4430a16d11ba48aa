//! What a name that somebody asks for stands for. Beside the services' own names there are, for a
//! service `web`:
//!
//! | name | stands for |
//! |---|---|
//! | `_tcp.web.<zone>` | its TCP ports (SRV); `_udp` likewise |
//! | `_http._tcp.web.<zone>` | those of them that are named `http` |
//! | `_web._tcp.<zone>` | its TCP ports, as RFC 2782 writes it |
//! | `10-96-0-10.web.<zone>` | one of its addresses: the target of SRV records that hold there only |

use super::{Entry, Port, Records};
use crate::model::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What a name stands for. Without addresses and services it is there for what is below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its addresses, in order.
    pub addresses: Vec<IpAddr>,
    /// Its ports, each with the name of where it is served.
    pub services: Vec<Srv>,
}

/// A port and the name of where it is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Srv {
    /// The port.
    pub port: u16,
    /// The full name, without a dot at the end.
    pub target: String,
}

// === impl Records ===

impl Records {
    /// What `name` (lower case, no dot at the end) stands for; `None` if there is no such name.
    pub fn find(&self, name: &str) -> Option<Found> {
        if let Some((own, entry)) = self.names.get_key_value(name) {
            let addresses = entry.addresses().into_iter().collect();
            return Some(Found { addresses, services: services(own, entry, |_| true) });
        }
        let derived = self.of_protocol(name).or_else(|| self.of_address(name));
        derived.or_else(|| self.above.contains_key(name).then(Found::default))
    }

    /// The services' names that an address has.
    pub fn names_of(&self, address: &IpAddr) -> impl Iterator<Item = &str> {
        self.reverse.get(address).into_iter().flatten().map(|name| &**name)
    }

    /// The names that begin with an underscore.
    fn of_protocol(&self, name: &str) -> Option<Found> {
        let (first, rest) = name.split_once('.')?;
        let first = first.strip_prefix('_')?;
        let only = |own: &str, keep: &dyn Fn(&Port) -> bool| {
            let (own, entry) = self.names.get_key_value(own)?;
            let services = services(own, entry, keep);
            (!services.is_empty()).then(|| Found { addresses: Vec::new(), services })
        };
        if let Some(protocol) = protocol(first) {
            let below = || self.above.get(rest)?.contains(&protocol).then(Found::default);
            return only(rest, &|port| port.protocol == protocol).or_else(below);
        }
        let (second, base) = rest.split_once('.')?;
        let protocol = protocol(second.strip_prefix('_')?)?;
        let named = |port: &Port| port.protocol == protocol && port.name.as_deref() == Some(first);
        let as_written = || only(&format!("{first}.{base}"), &|port| port.protocol == protocol);
        only(base, &named).or_else(as_written)
    }

    /// The names that begin with an address.
    fn of_address(&self, name: &str) -> Option<Found> {
        let (first, own) = name.split_once('.')?;
        let mut addresses = self.names.get(own)?.ports.iter().map(|port| port.address);
        let address = addresses.find(|address| dashed(*address) == first)?;
        Some(Found { addresses: vec![address], services: Vec::new() })
    }
}

/// The ports of `own` that pass, each once. A port that all its addresses serve is served at the name
/// itself, another one at the names of those that do.
fn services(own: &Arc<str>, entry: &Entry, keep: impl Fn(&Port) -> bool) -> Vec<Srv> {
    let all = entry.addresses();
    let mut places: BTreeMap<(Protocol, u16), BTreeSet<IpAddr>> = BTreeMap::new();
    for port in entry.ports.iter().filter(|port| keep(port)) {
        places.entry((port.protocol, port.number)).or_default().insert(port.address);
    }
    let mut found = BTreeSet::new();
    for ((_, port), addresses) in places {
        if addresses == all {
            found.insert(Srv { port, target: own.to_string() });
        } else {
            let target = |address| format!("{}.{own}", dashed(address));
            found.extend(addresses.into_iter().map(|a| Srv { port, target: target(a) }));
        }
    }
    found.into_iter().collect()
}

/// An address as a label: `10-96-0-10`, `fd00-0-0-0-0-0-0-10`.
pub(in crate::names) fn dashed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.octets().map(|octet| octet.to_string()).join("-"),
        IpAddr::V6(v6) => v6.segments().map(|segment| format!("{segment:x}")).join("-"),
    }
}

fn protocol(label: &str) -> Option<Protocol> {
    match label {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}
