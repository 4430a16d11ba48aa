//! Which address of the pool a service gets.
//!
//! The search begins at a place that the service's name decides, so that hosts that look at the
//! same moment want the same, and a service that returns probably finds its old address.

use ipnet::IpNet;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The addresses that may be chosen.
pub(super) struct Choice<'a> {
    ranges: &'a [IpNet],
    taken: HashSet<IpAddr>,
    /// Freed a short while ago: only when there is no other.
    freed: &'a HashMap<IpAddr, Instant>,
    /// No address of the family is left, so that nobody else needs to look.
    full: [bool; 2],
}

// === impl Family ===

impl Family {
    /// Whether the address is of this family.
    pub(super) fn is_of(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

// === impl Choice ===

impl<'a> Choice<'a> {
    /// Everything in `ranges` but what is taken. The ranges don't overlap.
    pub(super) fn new(
        ranges: &'a [IpNet],
        taken: HashSet<IpAddr>,
        freed: &'a HashMap<IpAddr, Instant>,
    ) -> Self {
        Self { ranges, taken, freed, full: [false; 2] }
    }

    /// Nobody else gets this address.
    pub(super) fn take(&mut self, address: IpAddr) {
        self.taken.insert(address);
    }

    /// Takes a free address for the service; `None` if there is none.
    pub(super) fn choose(&mut self, service: &str, family: Family) -> Option<IpAddr> {
        let full = usize::from(family == Family::V6);
        if self.full[full] {
            return None;
        }
        let rested =
            self.probe(service, family, |a| !self.taken.contains(a) && !self.freed.contains_key(a));
        let any = || self.probe(service, family, |a| !self.taken.contains(a));
        let found = rested.or_else(any);
        match found {
            Some(address) => self.take(address),
            None => self.full[full] = true,
        }
        found
    }

    /// The first address that is free, from where the name says.
    fn probe(
        &self,
        service: &str,
        family: Family,
        free: impl Fn(&IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let ranges = || self.ranges.iter().filter(|range| family.is_of(&range.addr()));
        let size = ranges().map(size).fold(0, u128::saturating_add);
        if size == 0 {
            return None;
        }
        let start = hash(service) % size;
        // Each address that is not free costs one step, so there are no more steps than those.
        let obstacles = (self.taken.len() + self.freed.len()) as u128;
        (0..size.min(obstacles + 1))
            .map(|step| {
                let left = size - start;
                let index = if step < left { start + step } else { step - left };
                nth(ranges(), index)
            })
            .find_map(|address| address.filter(|address| free(address)))
    }
}

fn size(range: &IpNet) -> u128 {
    let free_bits = u32::from(range.max_prefix_len() - range.prefix_len());
    1_u128.checked_shl(free_bits).unwrap_or(u128::MAX)
}

/// The address with this number, counted through all ranges.
fn nth<'n>(ranges: impl Iterator<Item = &'n IpNet>, mut index: u128) -> Option<IpAddr> {
    for range in ranges {
        let size = size(range);
        if index >= size {
            index -= size;
            continue;
        }
        return match range {
            IpNet::V4(range) => {
                let first = u32::from(range.network());
                Some(IpAddr::V4((first + u32::try_from(index).ok()?).into()))
            }
            IpNet::V6(range) => Some(IpAddr::V6((u128::from(range.network()) + index).into())),
        };
    }
    None
}

/// FNV-1a, folded: the same on every host and in every version.
fn hash(text: &str) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = text.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    hash ^ (hash >> 64)
}
