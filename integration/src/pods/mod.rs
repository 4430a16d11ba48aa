//! A small cluster for a test: nodes, and pods on them that have a network namespace, a veth pair
//! and a cgroup of their own.
//!
//! The first node is the lab's network namespace; its pods' cgroups are below the lab's, so an agent
//! that is attached there translates what they dial. Another node is reached by routing, and so are
//! its pods; no agent serves it.

mod node;
mod place;

pub use self::node::{Node, Pod};
pub use self::place::{Asked, Place, Way};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Something's two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

// === impl Pair ===

impl Pair {
    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Both with a port.
    pub fn at(self, port: u16) -> [SocketAddr; 2] {
        self.both().map(|address| SocketAddr::new(address, port))
    }

    /// The one of this address's family.
    pub fn like(self, other: SocketAddr) -> IpAddr {
        if other.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }
}
