//! The endpoints of a Service's port, out of all EndpointSlices of the Service.
//!
//! Pure.

use super::objects::{Endpoint, Family, Slice};
use crate::model::Protocol;
use std::net::SocketAddr;

/// The endpoints of one port in one family.
#[derive(Clone, Debug, Default)]
pub struct Merged<'s> {
    /// By address, each once.
    pub endpoints: Vec<(SocketAddr, &'s Endpoint)>,
    /// What other slices say of one of these addresses, and is not heeded.
    pub duplicates: Vec<(SocketAddr, &'s Endpoint)>,
}

/// Puts together what `slices` say, in their order, of the port with this name and protocol. Of two
/// endpoints with the same address the first counts, unless it is about to end and the other is
/// not: a slice may be late to learn what became of an address.
pub fn merge<'s>(
    slices: impl Iterator<Item = &'s Slice>,
    family: Family,
    name: &str,
    protocol: Protocol,
) -> Merged<'s> {
    let mut all = Vec::new();
    for slice in slices.filter(|slice| slice.family == family) {
        let first =
            slice.ports.partition_point(|port| (&*port.name, port.protocol) < (name, protocol));
        let own = slice.ports[first..].iter();
        for port in own.take_while(|port| (&*port.name, port.protocol) == (name, protocol)) {
            let address =
                |endpoint: &'s Endpoint| (SocketAddr::new(endpoint.address, port.port), endpoint);
            all.extend(slice.endpoints.iter().map(address));
        }
    }
    // Stable: those with the same address stay in their order.
    all.sort_by_key(|(address, _)| *address);
    let mut merged = Merged { endpoints: Vec::with_capacity(all.len()), ..Merged::default() };
    for (address, endpoint) in all {
        match merged.endpoints.last_mut() {
            Some((last, kept)) if *last == address => {
                let mut other = endpoint;
                if kept.terminating && !endpoint.terminating {
                    other = std::mem::replace(kept, endpoint);
                }
                merged.duplicates.push((address, other));
            }
            _ => merged.endpoints.push((address, endpoint)),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
