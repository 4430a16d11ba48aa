//! From Services and EndpointSlices to what callers on this node find.
//!
//! Pure. Each port of a Service is a service of its own. Whoever connects is on this node, a pod or
//! the node itself; so `externalTrafficPolicy: Local`, which is about traffic that arrives from
//! outside, limits nobody here, and only the cluster addresses may lead to the Local list.

use super::endpoints::merge;
use super::objects::{Endpoint, Family, Service, ServicePort, Slice, Traffic};
use super::topology::{Categories, Place, Uses, categorize};
use crate::model::{
    self, AdminState, Affinity, Backend, Client, EjectionPolicy, Exposure, Frontend, HealthPolicy,
    Lists, NoBackend, Policy, Protocol, Reach, Scope, ServiceName,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

/// What this node adds.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// Where it is.
    pub place: Place<'a>,
    /// Where NodePorts are served.
    pub node_ports: &'a BTreeSet<IpAddr>,
    /// Whose sockets the addresses are for.
    pub scope: Scope,
}

/// The services that a Service is, one for each of its ports.
pub fn translate<'s>(
    service: &Service,
    slices: impl Iterator<Item = &'s Slice> + Clone,
    here: Here<'_>,
) -> Vec<(ServiceName, model::Service)> {
    let port =
        |port: &ServicePort| (port.service.clone(), one(service, port, slices.clone(), here));
    service.ports.iter().map(port).collect()
}

fn one<'s>(
    service: &Service,
    port: &ServicePort,
    slices: impl Iterator<Item = &'s Slice> + Clone,
    here: Here<'_>,
) -> model::Service {
    let uses = Uses::of(service, port);
    let mut backends = Vec::new();
    let mut known = Vec::new();
    for family in Family::ALL {
        if service.cluster_ip(family).is_some() {
            let merged = merge(slices.clone(), family, &port.name, port.protocol);
            let endpoints = merged.endpoints.iter().map(|(_, endpoint)| *endpoint);
            let categories = categorize(uses, here.place, endpoints);
            known.extend(categories.has_any.then_some(family));
            add_backends(&merged.endpoints, &categories, port.protocol, &mut backends);
        }
    }
    let no_node_backend = if known.is_empty() { NoBackend::Refuse } else { NoBackend::Unreachable };
    model::Service {
        frontends: frontends(service, port, &known, here),
        backends: backends.into_iter().collect(),
        backends_from: Vec::new(),
        policy: Policy::Random,
        affinity: service.affinity.map(|timeout_seconds| {
            // A pod's connections have its address, so it is what kube-proxy would tell apart.
            Affinity { client: Client::Netns, timeout_seconds }
        }),
        no_backend: NoBackend::Refuse,
        no_node_backend,
        health: health(),
    }
}

/// Readiness is the cluster's to tell. A NetworkPolicy may refuse one pod's connects to an endpoint
/// that is well: if they ejected it, one pod would take it away from all.
fn health() -> HealthPolicy {
    let ejection = EjectionPolicy { failures: 0, ..EjectionPolicy::default() };
    HealthPolicy { ejection, ..HealthPolicy::default() }
}

fn add_backends(
    endpoints: &[(SocketAddr, &Endpoint)],
    categories: &Categories,
    protocol: Protocol,
    backends: &mut Vec<(SocketAddr, Backend)>,
) {
    let is_in = |list: &Option<super::topology::List>, at| {
        list.as_ref().is_some_and(|list| list.contains(at))
    };
    for (at, (address, endpoint)) in endpoints.iter().enumerate() {
        let (lists, state) = match (is_in(&categories.cluster, at), is_in(&categories.local, at)) {
            (true, true) => (Lists::Both, AdminState::Ready),
            (true, false) => (Lists::Cluster, AdminState::Ready),
            (false, true) => (Lists::Node, AdminState::Ready),
            // Whoever talks to it goes on: connected UDP sockets are ended when a backend is gone,
            // and this one still serves.
            (false, false) if protocol == Protocol::Udp && endpoint.serving => {
                (Lists::Both, AdminState::Drain)
            }
            (false, false) => continue,
        };
        let zone = endpoint.zone.clone();
        backends.push((*address, Backend { state, zone, lists, ..Backend::default() }));
    }
}

/// `known`: the families in which there is an endpoint anywhere.
fn frontends(
    service: &Service,
    port: &ServicePort,
    known: &[Family],
    here: Here<'_>,
) -> BTreeMap<Frontend, Exposure> {
    let mut frontends = BTreeMap::new();
    let mut put = |address: &IpAddr, number, reach| {
        let frontend = Frontend::new(*address, number, port.protocol);
        let exposure = frontend.exposure(Exposure { scope: here.scope, reach });
        frontends.entry(frontend).or_insert(exposure);
    };
    for address in &service.cluster_ips {
        // Without an endpoint anywhere the caller is refused, also where the other family has some
        // on other nodes: the Cluster list, which is empty, says just that.
        let local = service.internal == Traffic::Local
            && (known.is_empty() || known.contains(&Family::of(address)));
        put(address, port.port, if local { Reach::Node } else { Reach::Cluster });
    }
    // Who may use these is told by the source address, which a socket that connects need not have
    // yet: packets are looked at instead.
    let restricted: HashSet<_> = service
        .ingress_ips
        .iter()
        .filter(|address| service.restricted.contains(&Family::of(address)))
        .collect();
    let others = service.external_ips.iter().chain(&service.ingress_ips);
    for address in others.filter(|address| !restricted.contains(address)) {
        put(address, port.port, Reach::Cluster);
    }
    if let Some(node_port) = port.node_port {
        for address in here.node_ports {
            if service.cluster_ip(Family::of(address)).is_some() {
                put(address, node_port, Reach::Cluster);
            }
        }
    }
    frontends
}

#[cfg(test)]
mod tests;
