//! The sets and maps of a table: their names, and how long their keys and data are. Pure.

use super::Family;

/// A set or map of a table. Fields of keys and data are padded to 4 bytes each, as registers are.
/// "Outside" is for those who are neither a pod nor this host, where they find something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// address, protocol, port -> the chain that finds a backend.
    Frontends,
    /// The same for those outside.
    Outside,
    /// address, protocol, port, slot -> address, port.
    Backends,
    /// The same for those outside.
    BackendsOutside,
    /// address, protocol, port of everything that is known.
    Served,
    /// Connections to these are refused,
    Refused,
    /// those from outside,
    RefusedOutside,
    /// or dropped,
    Dropped,
    /// those from outside.
    DroppedOutside,
    /// Clients of these are masqueraded,
    Always,
    /// unless they are pods,
    UnlessPod,
    /// or if they are this host.
    IfLocal,
    /// address, address: the same one, twice.
    Hairpin,
    /// address, protocol, port of every backend.
    Targets,
    /// address: other ports of it are refused.
    Addresses,
    /// address, protocol, port: only some clients may use it,
    Restricted,
    /// and those with a source in this range.
    Allowed,
    /// service (8), client, address, port: who stays where; written by the packets themselves.
    Affinity,
}

/// What a map leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing: it is a set.
    None,
    /// So many bytes.
    Bytes(u32),
    /// A chain.
    Verdict,
}

/// Most clients with affinity, in all services of a family.
pub const CLIENTS: u32 = 262_144;

impl Set {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Frontends,
        Self::Outside,
        Self::Backends,
        Self::BackendsOutside,
        Self::Served,
        Self::Refused,
        Self::RefusedOutside,
        Self::Dropped,
        Self::DroppedOutside,
        Self::Always,
        Self::UnlessPod,
        Self::IfLocal,
        Self::Hairpin,
        Self::Targets,
        Self::Addresses,
        Self::Restricted,
        Self::Allowed,
        Self::Affinity,
    ];

    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frontends => "frontends",
            Self::Outside => "frontends-outside",
            Self::Backends => "backends",
            Self::BackendsOutside => "backends-outside",
            Self::Served => "served",
            Self::Refused => "refused",
            Self::RefusedOutside => "refused-outside",
            Self::Dropped => "dropped",
            Self::DroppedOutside => "dropped-outside",
            Self::Always => "masqueraded",
            Self::UnlessPod => "masqueraded-unless-pod",
            Self::IfLocal => "masqueraded-if-local",
            Self::Hairpin => "hairpin",
            Self::Targets => "targets",
            Self::Addresses => "addresses",
            Self::Restricted => "restricted",
            Self::Allowed => "allowed",
            Self::Affinity => "affinity",
        }
    }

    /// The fields of its keys.
    pub fn fields(self) -> &'static [Field] {
        use Field::{Address, Number, Port, Protocol};
        match self {
            Self::Backends | Self::BackendsOutside => &[Address, Protocol, Port, Number],
            Self::Hairpin => &[Address, Address],
            Self::Addresses => &[Address],
            Self::Allowed => &[Address, Protocol, Port, Address],
            Self::Affinity => &[Number, Number, Address, Address, Port],
            Self::Frontends
            | Self::Outside
            | Self::Served
            | Self::Refused
            | Self::RefusedOutside
            | Self::Dropped
            | Self::DroppedOutside
            | Self::Always
            | Self::UnlessPod
            | Self::IfLocal
            | Self::Targets
            | Self::Restricted => &[Address, Protocol, Port],
        }
    }

    /// The length of its keys in bytes.
    pub fn key_len(self, family: Family) -> u32 {
        self.fields().iter().map(|field| field.length(family).next_multiple_of(4)).sum()
    }

    /// What it leads to.
    pub const fn data(self, family: Family) -> Data {
        match self {
            Self::Frontends | Self::Outside => Data::Verdict,
            Self::Backends | Self::BackendsOutside => Data::Bytes(family.address_len() + 4),
            _ => Data::None,
        }
    }

    /// Whether a key stands for a range.
    pub const fn has_ranges(self) -> bool {
        matches!(self, Self::Allowed)
    }

    /// Whether packets write it.
    pub const fn is_dynamic(self) -> bool {
        matches!(self, Self::Affinity)
    }
}

/// A field of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// An address of the family.
    Address,
    /// A protocol's number.
    Protocol,
    /// A port.
    Port,
    /// A number in the host's order.
    Number,
}

impl Field {
    /// Its length in bytes, unpadded.
    pub const fn length(self, family: Family) -> u32 {
        match self {
            Self::Address => family.address_len(),
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Number => 4,
        }
    }
}
