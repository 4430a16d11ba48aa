//! Backends that a service has left, or was told to leave at once: what is connected to them is to be
//! ended.

use super::Planner;
use crate::desired::Desired;
use crate::model::{AdminState, Frontend, OnRemoval, Service, ServiceName};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

/// A backend that was removed, or disabled in a service that then ends its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The service, if its name is known.
    pub service: Option<ServiceName>,
    /// The backend.
    pub address: SocketAddr,
    /// Its id.
    pub id: u32,
    /// Whether TCP connections to it are to be ended, besides connected UDP sockets.
    pub tcp: bool,
    /// What was dialled to reach it.
    pub(super) frontends: Arc<BTreeSet<Frontend>>,
}

/// Whether the backend is disabled, and what is connected to it is then to be ended.
pub(super) fn is_expelled(service: &Service, address: &SocketAddr) -> bool {
    let disabled =
        || service.backends.get(address).is_some_and(|b| b.state == AdminState::Disabled);
    service.health.on_removal == OnRemoval::Reset && disabled()
}

/// Those that were not expelled `before` and are now.
pub(super) fn expelled<'a>(
    before: &'a Service,
    now: &'a Service,
) -> impl Iterator<Item = &'a SocketAddr> {
    let resets = now.health.on_removal == OnRemoval::Reset;
    let backends =
        resets.then_some(&now.backends).into_iter().flatten().map(|(address, _)| address);
    backends.filter(|address| is_expelled(now, address) && !is_expelled(before, address))
}

impl Planner {
    /// Whether the backend is still out of service, in all services that have a frontend by which it
    /// was reached: a service may have got another name, and a backend may have come back.
    pub fn is_left(&self, desired: &Desired, left: &Left) -> bool {
        let owner = |frontend| self.frontends.get(frontend).and_then(|held| held.owner.as_ref());
        let mut owners = left.frontends.iter().filter_map(owner).chain(&left.service);
        let serves = |service: &Service| {
            service.backends.contains_key(&left.address) && !is_expelled(service, &left.address)
        };
        !owners.any(|name| desired.services.get(name).is_some_and(|entry| serves(&entry.effective)))
    }
}
