//! A Service and what belongs to it.

use super::HealthCheck;
use crate::model::ServiceName;
use crate::source::kubernetes::objects::{Family, Service, Slice};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// A Service with its EndpointSlices, whichever came first.
#[derive(Debug, Default)]
pub(super) struct Unit {
    pub(super) service: Option<Service>,
    /// By `namespace/name` of the slice, so that their order is always the same.
    pub(super) slices: BTreeMap<Arc<str>, Slice>,
    /// What it is in the snapshot.
    pub(super) served: Vec<ServiceName>,
}

// === impl Unit ===

impl Unit {
    pub(super) fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty() && self.served.is_empty()
    }

    pub(super) fn has_hints(&self) -> bool {
        let mut endpoints = self.slices.values().flat_map(|slice| &slice.endpoints);
        endpoints.any(|endpoint| endpoint.hints.is_some())
    }

    pub(super) fn is_restricted(&self) -> bool {
        self.service.as_ref().is_some_and(|service| !service.restricted.is_empty())
    }

    pub(super) fn has_node_ports(&self) -> bool {
        let mut ports = self.service.iter().flat_map(|service| &service.ports);
        ports.any(|port| port.node_port.is_some())
    }

    /// A pod of both families is one endpoint, so the families are not added up.
    pub(super) fn health_check(&self, node: &str) -> Option<HealthCheck> {
        let port = self.service.as_ref()?.health_check?;
        let count = |family| {
            let slices = self.slices.values();
            let endpoints = slices
                .filter(|slice| slice.family == family && slice.has_port)
                .flat_map(|slice| &slice.endpoints);
            let ready = endpoints.filter(|endpoint| endpoint.ready && endpoint.is_on(node));
            ready.map(|endpoint| endpoint.address).collect::<HashSet<_>>().len()
        };
        let local_endpoints = Family::ALL.into_iter().map(count).max().unwrap_or_default();
        Some(HealthCheck { port, local_endpoints })
    }
}
