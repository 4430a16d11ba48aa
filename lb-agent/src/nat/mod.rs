//! The packet path: connections that come as packets, from other hosts and from guests without
//! sockets here, are translated by the kernel's nftables.
//!
//! One table for each family, `ip lb` and `ip6 lb`, ours alone. What they should hold follows from the
//! same services as the tables of the programs: [`rows`] says which elements a service is, [`contents`]
//! adds them up and tells what a change adds and removes, [`chains`] has the rules, which do not grow
//! with what is served (all pure). [`kernel`] reads and writes the tables, [`conntrack`] ends flows
//! that lead nowhere any more, [`follow`] drives both beside the agent's loop.

pub mod chains;
mod conntrack;
pub mod contents;
mod draws;
mod expressions;
pub mod flows;
pub mod follow;
pub mod found;
pub mod kernel;
mod late;
mod messages;
pub mod passes;
pub mod preflight;
pub mod rows;
pub mod said;
pub mod sets;
pub mod slots;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The name of both tables.
pub const TABLE: &str = "lb";

/// An address family, which has a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4: `ip lb`.
    V4,
    /// IPv6: `ip6 lb`.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Whether it is IPv4.
    pub const fn is_v4(self) -> bool {
        matches!(self, Self::V4)
    }

    /// Bytes of an address.
    pub const fn address_len(self) -> u32 {
        if self.is_v4() { 4 } else { 16 }
    }

    /// An address of it that is nobody's.
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// nftables' word for it.
    pub const fn word(self) -> &'static str {
        if self.is_v4() { "ip" } else { "ip6" }
    }
}
