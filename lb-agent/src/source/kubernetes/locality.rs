//! Where a `Local` policy finds nobody: ports of Services that have endpoints, but none on this node.
//!
//! Pure.

use super::endpoints::merge;
use super::objects::{Family, Service, ServicePort, Slice, Traffic};
use super::topology::{List, Place, Uses, categorize};
use std::net::IpAddr;

/// How many ports of Services, for IPv4 and for IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// By `internalTrafficPolicy`.
    pub internal: [u64; 2],
    /// By `externalTrafficPolicy`, as far as the port can be reached from outside.
    pub external: [u64; 2],
}

/// What a Service lacks on this node. A port without endpoints anywhere lacks nothing: who dials it is
/// refused on all nodes.
pub fn lacking<'s>(
    service: &Service,
    slices: impl Iterator<Item = &'s Slice> + Clone,
    place: Place<'_>,
) -> Lacking {
    let mut lacking = Lacking::default();
    let Lacking { internal, external } = &mut lacking;
    for ((family, internal), external) in Family::ALL.into_iter().zip(internal).zip(external) {
        if service.cluster_ip(family).is_none() {
            continue;
        }
        for port in &service.ports {
            let inside = service.internal == Traffic::Local;
            let outside = service.external == Traffic::Local && is_external(service, port, family);
            if (inside || outside) && is_elsewhere(port, slices.clone(), family, place) {
                *internal += u64::from(inside);
                *external += u64::from(outside);
            }
        }
    }
    lacking
}

/// Whether it has an address or a port for clients outside the cluster, in this family.
fn is_external(service: &Service, port: &ServicePort, family: Family) -> bool {
    let has = |addresses: &[IpAddr]| addresses.iter().any(|address| Family::of(address) == family);
    port.node_port.is_some() || has(&service.external_ips) || has(&service.ingress_ips)
}

/// Whether there are endpoints, none of them here.
fn is_elsewhere<'s>(
    port: &ServicePort,
    slices: impl Iterator<Item = &'s Slice> + Clone,
    family: Family,
    place: Place<'_>,
) -> bool {
    let merged = merge(slices, family, &port.name, port.protocol);
    let endpoints = merged.endpoints.iter().map(|(_, endpoint)| *endpoint);
    let categories = categorize(Uses { cluster: false, local: true }, place, endpoints);
    categories.has_any && categories.local.as_ref().is_none_or(List::is_empty)
}

// === impl Lacking ===

impl Lacking {
    /// Takes `now` in place of `before`, which is a part of this.
    pub fn replace(&mut self, before: Self, now: Self) {
        let parts = [
            (&mut self.internal, before.internal, now.internal),
            (&mut self.external, before.external, now.external),
        ];
        for (sum, before, now) in parts {
            for ((sum, before), now) in sum.iter_mut().zip(before).zip(now) {
                *sum = sum.saturating_sub(before) + now;
            }
        }
    }
}
