//! What is known of service addresses: which services ask for one, what is allocated, and what is
//! taken. Kept up to date key by key, so that asking costs nothing; deciding is left to whoever
//! allocates.

use crate::model::ServiceName;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything under `vips/` and `allocations/`, and what services say about addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Services that ask for addresses.
    pub wanted: BTreeMap<ServiceName, Wanted>,
    /// `allocations/<service>`: what services were given, whether or not they still ask.
    pub allocations: BTreeMap<ServiceName, Allocation>,
    /// `vips/<address>`: who has it.
    pub vips: BTreeMap<IpAddr, Vip>,
    /// Addresses that services name themselves: not to be given to others.
    pub given: BTreeMap<IpAddr, Given>,
    /// Counts changes of all of the above.
    pub changes: u64,
}

/// What a service asks for. A service that is refused goes on asking for what it asked before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `auto`: one address, of whichever family.
    pub any: bool,
    /// `auto4`.
    pub v4: bool,
    /// `auto6`.
    pub v6: bool,
    /// The revision of its key as it is now, whether or not that value is good.
    pub modified: i64,
}

/// What a service was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// An IPv4 address.
    pub v4: Option<IpAddr>,
    /// An IPv6 address.
    pub v6: Option<IpAddr>,
    /// The revision of the key.
    pub modified: i64,
    /// Whether the value could be read; if not, both addresses are `None`.
    pub readable: bool,
    /// Whether the service has a key, good or not; if not, its addresses can be released.
    pub declared: bool,
    /// The revision of the service's value, if that is good and asks for no address.
    pub content: Option<i64>,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The name of the service, as written.
    pub service: String,
    /// The revision of the key.
    pub modified: i64,
}

/// How many services name an address themselves.
pub type Given = usize;
