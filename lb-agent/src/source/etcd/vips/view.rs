//! What the keys say of addresses.

use super::choice::Family;
use crate::model::ServiceName;
use crate::source::etcd::layout;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// What the keys say of addresses, as the native layout reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Every service whose key is there, good or refused.
    pub services: BTreeMap<Arc<str>, Asking>,
    /// `vips/<address>`: who has it.
    pub vips: BTreeMap<IpAddr, Arc<str>>,
    /// `allocations/<service>`.
    pub allocations: BTreeMap<Arc<str>, Allocation>,
    /// Addresses that services name themselves.
    pub named: BTreeSet<IpAddr>,
}

/// What a service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Which addresses.
    pub asks: Asks,
    /// When its key was last changed.
    pub modified: i64,
}

/// Which addresses a service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Its value can't be read; what it has, it keeps.
    Unknown,
    /// None: it names its addresses itself.
    Nothing,
    /// One of any family.
    Any,
    /// An IPv4 address.
    V4,
    /// An IPv6 address.
    V6,
    /// One of each.
    Both,
}

/// The addresses that a service has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// IPv4.
    #[serde(default)]
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    #[serde(default)]
    pub v6: Option<Ipv6Addr>,
    /// When the key was last changed.
    #[serde(skip)]
    pub modified: i64,
}

// === impl Addresses ===

impl From<&layout::Addresses> for Addresses {
    fn from(from: &layout::Addresses) -> Self {
        let layout::Addresses { wanted, allocations, vips, given, changes: _ } = from;
        let name = |service: &ServiceName| Arc::<str>::from(service.as_str());
        let asking = wanted.iter().map(|(service, wanted)| {
            let asks = match (wanted.any, wanted.v4, wanted.v6) {
                (_, true, true) => Asks::Both,
                (_, true, false) => Asks::V4,
                (_, false, true) => Asks::V6,
                (true, ..) => Asks::Any,
                _ => Asks::Nothing,
            };
            (name(service), Asking { asks, modified: wanted.modified })
        });
        let mut services: BTreeMap<_, _> = asking.collect();
        for (service, has) in allocations.iter().filter(|(_, has)| has.declared) {
            let asks = has.content.map_or(Asks::Unknown, |_| Asks::Nothing);
            let asking = Asking { asks, modified: has.content.unwrap_or_default() };
            services.entry(name(service)).or_insert(asking);
        }
        let allocation = |(service, has): (&ServiceName, &layout::Allocation)| {
            let mut allocation = Allocation { modified: has.modified, ..Allocation::default() };
            allocation.set(has.v4);
            allocation.set(has.v6);
            (name(service), allocation)
        };
        Self {
            services,
            vips: vips.iter().map(|(at, vip)| (*at, vip.service.as_str().into())).collect(),
            allocations: allocations.iter().map(allocation).collect(),
            named: given.keys().copied().collect(),
        }
    }
}

// === impl Allocation ===

impl Allocation {
    pub(super) fn get(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    pub(super) fn set(&mut self, address: Option<IpAddr>) {
        match address {
            Some(IpAddr::V4(v4)) => self.v4 = Some(v4),
            Some(IpAddr::V6(v6)) => self.v6 = Some(v6),
            None => {}
        }
    }

    /// `{"v4":"10.96.128.7","v6":null}`.
    pub(super) fn to_json(self) -> Vec<u8> {
        let text = |address: Option<String>| {
            address.map_or_else(|| "null".to_owned(), |address| format!("\"{address}\""))
        };
        let (v4, v6) = (self.v4.map(|a| a.to_string()), self.v6.map(|a| a.to_string()));
        format!("{{\"v4\":{},\"v6\":{}}}", text(v4), text(v6)).into_bytes()
    }
}
