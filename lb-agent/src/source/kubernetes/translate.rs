//! From Services and EndpointSlices to what callers on this node find.
//!
//! Pure. Each port of a Service is a service of its own. Whoever connects is on this node, a pod or
//! the node itself; so `externalTrafficPolicy: Local`, which is about traffic that arrives from
//! outside, limits nobody here, and only the cluster addresses may lead to the Local list. Packets from
//! other hosts are the ones that it limits.

use super::endpoints::merge;
use super::objects::{Endpoint, Family, Service, ServicePort, Slice, Traffic};
use super::topology::{Categories, Place, Uses, categorize};
use crate::model::{
    self, AdminState, Affinity, Backend, Client, EjectionPolicy, Exposure, Frontend, HealthPolicy,
    Lists, Masquerade, NoBackend, Passage, Policy, Protocol, Reach, Scope, ServiceName, Way,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
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
    /// All addresses of this node.
    pub own_addresses: &'a BTreeSet<IpAddr>,
    /// Whether pods can be told by their addresses.
    pub pods_known: bool,
    /// Whether this node's address takes the place of every client's of a cluster address.
    pub masquerade_all: bool,
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
        source_ranges: source_ranges(service, here),
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
    let mut put = |address: &IpAddr, number, reach, passage: Passage| {
        let frontend = Frontend::new(*address, number, port.protocol);
        // Who may use what is restricted is told by the source address, which a socket that connects
        // need not have yet.
        let packets_only = passage.restricted || port.protocol == Protocol::Sctp;
        let way = if packets_only { Way::Packets(passage) } else { Way::Both(passage) };
        let exposure = frontend.exposure(Exposure { scope: here.scope, reach, way });
        frontends.entry(frontend).or_insert(exposure);
    };
    // Without an endpoint anywhere the caller is refused, also where the other family has some
    // on other nodes: the Cluster list, which is empty, says just that.
    let list = |traffic, address: &IpAddr, known_anywhere: bool| {
        let some = known.contains(&Family::of(address)) || known_anywhere;
        if traffic == Traffic::Local && some { Reach::Node } else { Reach::Cluster }
    };
    for address in &service.cluster_ips {
        let reach = list(service.internal, address, known.is_empty());
        let masquerade = match (here.masquerade_all, here.pods_known) {
            (true, _) => Masquerade::Always,
            (false, true) => Masquerade::UnlessPod,
            (false, false) => Masquerade::Never,
        };
        let passage =
            Passage { outside: reach, masquerade, restricted: false, whole_address: true };
        put(address, port.port, reach, passage);
    }
    let passage = |address: &IpAddr| Passage {
        outside: list(service.external, address, false),
        masquerade: match service.external {
            Traffic::Cluster => Masquerade::Always,
            Traffic::Local => Masquerade::IfLocal,
        },
        restricted: service.ingress_ips.contains(address)
            && service.restricted.contains(&Family::of(address)),
        whole_address: false,
    };
    for address in service.external_ips.iter().chain(&service.ingress_ips) {
        put(address, port.port, Reach::Cluster, passage(address));
    }
    if let Some(node_port) = port.node_port {
        for address in here.node_ports {
            if service.cluster_ip(Family::of(address)).is_some() {
                let passage = Passage { restricted: false, ..passage(address) };
                put(address, node_port, Reach::Cluster, passage);
            }
        }
    }
    frontends
}

/// The clients that may use what is restricted. A node that is among them may also come from the
/// balancer's own address, which it may have.
fn source_ranges(service: &Service, here: Here<'_>) -> Vec<IpNet> {
    let mut ranges = service.source_ranges.to_vec();
    if service.restricted.is_empty() {
        return Vec::new();
    }
    for address in &service.ingress_ips {
        let same = |own: &&IpAddr| own.is_ipv4() == address.is_ipv4();
        let mut own = here.own_addresses.iter().filter(same);
        if own.any(|own| service.source_ranges.iter().any(|range| range.contains(own))) {
            ranges.push(IpNet::from(*address));
        }
    }
    ranges
}

#[cfg(test)]
mod tests;
