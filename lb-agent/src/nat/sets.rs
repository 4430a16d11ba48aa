//! The sets and maps of a table: their names, and how long their keys and data are. Pure.

use super::Family;

/// A set or map of a table. Fields of keys and data are padded to 4 bytes each, as registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// address, protocol, port -> pool (8), slots, affinity's seconds, masquerade rule.
    Frontends,
    /// The same for those who are neither a pod nor this host, where that differs.
    Outside,
    /// pool (8), slot -> address, port.
    Backends,
    /// pool (8), address, port: who is in the pool of a service with affinity.
    Members,
    /// address, address: the same one, twice.
    Hairpin,
    /// address: other ports of it are refused.
    Addresses,
    /// address, protocol, port: only some clients may use it,
    Restricted,
    /// and those with a source in this range.
    Allowed,
    /// slots, affinity's seconds -> the chain that draws.
    Sizes,
    /// The same for what is in `outside`.
    SizesOutside,
    /// slots -> what becomes of a connection that is not served.
    Verdicts,
    /// masquerade rule -> its chain.
    Masquerades,
    /// service (8), client -> address, port; written by the packets themselves.
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
    pub const ALL: [Self; 13] = [
        Self::Frontends,
        Self::Outside,
        Self::Backends,
        Self::Members,
        Self::Hairpin,
        Self::Addresses,
        Self::Restricted,
        Self::Allowed,
        Self::Sizes,
        Self::SizesOutside,
        Self::Verdicts,
        Self::Masquerades,
        Self::Affinity,
    ];

    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frontends => "frontends",
            Self::Outside => "outside",
            Self::Backends => "backends",
            Self::Members => "members",
            Self::Hairpin => "hairpin",
            Self::Addresses => "addresses",
            Self::Restricted => "restricted",
            Self::Allowed => "allowed",
            Self::Sizes => "sizes",
            Self::SizesOutside => "sizes-outside",
            Self::Verdicts => "verdicts",
            Self::Masquerades => "masquerades",
            Self::Affinity => "affinity",
        }
    }

    /// The lengths of the fields of its keys, unpadded.
    pub fn fields(self, family: Family) -> Vec<u32> {
        let address = family.address_len();
        match self {
            Self::Frontends | Self::Outside | Self::Restricted => vec![address, 1, 2],
            Self::Backends => vec![4, 4, 4],
            Self::Members => vec![4, 4, address, 2],
            Self::Hairpin => vec![address, address],
            Self::Addresses => vec![address],
            Self::Allowed => vec![address, 1, 2, address],
            Self::Sizes | Self::SizesOutside => vec![4, 4],
            Self::Verdicts | Self::Masquerades => vec![4],
            Self::Affinity => vec![4, 4, address],
        }
    }

    /// The length of its keys in bytes.
    pub fn key_len(self, family: Family) -> u32 {
        self.fields(family).iter().map(|length| length.next_multiple_of(4)).sum()
    }

    /// What it leads to.
    pub fn data(self, family: Family) -> Data {
        match self {
            Self::Frontends | Self::Outside => Data::Bytes(20),
            Self::Backends | Self::Affinity => Data::Bytes(family.address_len() + 4),
            Self::Sizes | Self::SizesOutside | Self::Verdicts | Self::Masquerades => Data::Verdict,
            Self::Members
            | Self::Hairpin
            | Self::Addresses
            | Self::Restricted
            | Self::Allowed => Data::None,
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
