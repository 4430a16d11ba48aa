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
    /// address, protocol, port -> padding, service (8), where clients stay with theirs.
    Groups,
    /// service (8), client -> padding, backend (8): who stays where; written by the packets themselves.
    Affinity,
    /// service (8), list, slot -> padding, backend (8): which they choose from.
    Stays,
    /// backend (8) -> address, port, of those that clients may stay with,
    Members,
    /// those of this node.
    MembersHere,
}

/// What a map leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing: it is a set.
    None,
    /// These fields.
    Fields(&'static [Field]),
    /// A chain.
    Verdict,
}

/// Most clients with affinity, in all services of a family.
pub const CLIENTS: u32 = 262_144;

impl Set {
    /// All of them.
    pub const ALL: [Self; 22] = [
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
        Self::Groups,
        Self::Affinity,
        Self::Stays,
        Self::Members,
        Self::MembersHere,
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
            Self::Groups => "groups",
            Self::Affinity => "affinity",
            Self::Stays => "stays",
            Self::Members => "members",
            Self::MembersHere => "members-here",
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
            Self::Affinity => &[Number, Number, Address],
            Self::Stays => &[Number, Number, Number, Number],
            Self::Members | Self::MembersHere => &[Number, Number],
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
            | Self::Restricted
            | Self::Groups => &[Address, Protocol, Port],
        }
    }

    /// The length of its keys in bytes.
    pub fn key_len(self, family: Family) -> u32 {
        length(self.fields(), family)
    }

    /// What it leads to.
    pub const fn data(self) -> Data {
        match self {
            Self::Frontends | Self::Outside => Data::Verdict,
            Self::Backends | Self::BackendsOutside | Self::Members | Self::MembersHere => {
                Data::Fields(&[Field::Address, Field::Port])
            }
            Self::Groups | Self::Affinity | Self::Stays => {
                // The first is padding.
                Data::Fields(&[Field::Number, Field::Number, Field::Number])
            }
            _ => Data::None,
        }
    }

    /// Whether its keys begin with a frontend.
    pub fn is_of_frontends(self) -> bool {
        let frontend = [Field::Address, Field::Protocol, Field::Port];
        self != Self::Targets && self.fields().starts_with(&frontend)
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

/// The length of these fields in bytes.
pub fn length(fields: &[Field], family: Family) -> u32 {
    fields.iter().map(|field| field.length(family).next_multiple_of(4)).sum()
}

/// A field of a key or of data.
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
