//! A cluster as one of its nodes sees it: who is dialled with an address and a port.

use super::answer::{Answer, Caller, Kind, Place, Verdict};
use super::endpoints::look;
use super::manifests::Objects;
use super::verdict::{at_connect, dialled, from_outside, not_a_service};
use crate::desired::{self, Desired, Input};
use crate::model::{Frontend, Rejection, Scope, Service as Served};
use crate::source::kubernetes::cluster::{
    Change, Cluster, NodePortAddresses, NodePorts, Parts, Pods, Settings,
};
use crate::source::kubernetes::objects::{Family, ServicePort, key};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// The name of the source, as rejections have it.
const SOURCE: &str = "manifests";
const ZONE: &str = "topology.kubernetes.io/zone";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A cluster as one of its nodes sees it.
pub struct View {
    cluster: Cluster,
    desired: Desired,
    place: Place,
    /// By `namespace/name`, the Service that each EndpointSlice is of.
    homes: BTreeMap<Arc<str>, String>,
    /// Notes that concern everything.
    notes: Vec<String>,
}

/// A port of a Service that an address and a port lead to.
pub(super) struct Match<'v> {
    pub(super) key: &'v Arc<str>,
    pub(super) parts: Parts<'v>,
    pub(super) port: &'v ServicePort,
    pub(super) kind: Kind,
}

// === impl View ===

impl View {
    /// What the node makes of these objects.
    pub fn new(objects: Objects, place: Place) -> Self {
        let settings = Settings {
            source: SOURCE.into(),
            node: place.node.clone(),
            node_ports: NodePorts { addresses: NodePortAddresses::All, localhost: true },
            scope: Scope::Everywhere,
            pods: Pods::Unknown,
            masquerade_all: false,
        };
        let Objects { services, slices, mut nodes, service_cidrs } = objects;
        let mut notes = Vec::new();
        nodes.retain(|node| node.metadata.name.as_deref() == Some(&place.node));
        if nodes.is_empty() {
            nodes.push(named(&place.node));
            if place.zone.is_none() {
                notes.push(format!(
                    "there is no Node {} in the manifests, so its zone is not known: hints for zones \
                     are not heeded; add it, or give --zone",
                    place.node
                ));
            }
        }
        if let (Some(node), Some(zone)) = (nodes.last_mut(), &place.zone) {
            let labels = node.metadata.labels.get_or_insert_default();
            labels.insert(ZONE.to_owned(), zone.clone());
        }
        for service in &services {
            let spec = service.spec.as_ref();
            let kind = spec.and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP");
            let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
            if address.is_empty() && kind != "ExternalName" {
                notes.push(format!(
                    "Service {} has no clusterIP yet, so it is not served; take its manifest from the \
                     cluster, with `kubectl get service -o yaml`",
                    key(&service.metadata)
                ));
            }
        }
        let homes = slices.iter().map(home).collect();
        // Time is only measured with, and nothing is measured here.
        let epoch = SystemTime::UNIX_EPOCH;
        let mut cluster = Cluster::new(settings, epoch);
        list(services, |change| cluster.service(change));
        list(slices, |change| cluster.slice(change, epoch));
        list(nodes, |change| cluster.node(change));
        list(service_cidrs, |change| cluster.service_cidr(change));
        let addresses = match place.addresses.is_empty() {
            false => place.addresses.clone(),
            true => {
                let facts = cluster.facts();
                facts.node.iter().flat_map(|node| &node.addresses).copied().collect()
            }
        };
        cluster.set_addresses(Arc::new(addresses));
        let snapshot = cluster.snapshot();
        let desired = desired::merge(vec![Input { source: SOURCE.into(), snapshot, synced: true }]);
        Self { cluster, desired, place, homes, notes }
    }

    /// What the tables would be filled from.
    #[cfg(test)]
    pub(super) fn desired(&self) -> &Desired {
        &self.desired
    }

    /// What becomes of a connection.
    pub fn explain(&mut self, to: Frontend, from: Caller) -> Answer {
        let facts = self.cluster.facts();
        let rejections = self.cluster.rejections();
        let mut matches: Vec<Match<'_>> =
            self.cluster.services().flat_map(|s| leads(s, to)).collect();
        matches.sort_by(|a, b| (a.key, &a.port.name).cmp(&(b.key, &b.port.name)));
        // Of several Services that claim it the tables have one.
        let mut owners = self.desired.services.iter();
        let owner = owners.find(|(_, entry)| entry.service.frontends.contains_key(&to));
        let owned =
            owner.and_then(|(name, _)| matches.iter().position(|m| m.port.service == *name));
        let others = matches.iter().map(|m| m.port.service.clone()).collect::<Vec<_>>();
        let mut answer = Answer {
            to,
            from,
            node: self.place.node.clone(),
            zone: facts.node.as_ref().and_then(|node| node.zone.clone()),
            verdict: Verdict::LeftAlone,
            why: String::new(),
            by_packet: from == Caller::Outside,
            service: None,
            endpoints: Vec::new(),
            left_out: Vec::new(),
            notes: self.notes.clone(),
        };
        let first = owned.or(if matches.is_empty() { None } else { Some(0) });
        let Some(found) = first.map(|at| matches.swap_remove(at)) else {
            let services = self.cluster.services();
            let services: Vec<_> = services.map(|(key, parts)| (key, parts.service)).collect();
            let ranges = &facts.service_cidrs;
            (answer.why, answer.by_packet) = not_a_service(to, from, &services, |address| {
                ranges.iter().any(|r| r.contains(&address))
            });
            return answer;
        };
        for rejection in rejections.iter() {
            if self.concerns(rejection, found.key) {
                answer.notes.push(format!("{}: {}", rejection.origin, rejection.reason));
            }
        }
        for other in others.iter().filter(|other| **other != found.port.service) {
            answer.notes.push(format!("{other} claims {to} too, and does not get it"));
        }
        let lists = look(&found.parts, found.port, Family::of(&to.address.ip()));
        let (dialled, list) = dialled(&found, from, &lists);
        answer.endpoints = lists.used(list);
        answer.left_out = lists.left_out(list);
        let served = owner.map(|(_, entry)| &*entry.effective);
        let at_connect_too = |service: &&Served| {
            service.frontends.get(&to).is_some_and(|exposure| exposure.is_for_sockets())
        };
        let served = served.filter(at_connect_too);
        (answer.verdict, answer.why, answer.by_packet) = match from {
            Caller::Outside => from_outside(&found, &lists, list, to),
            Caller::Pod | Caller::Node => at_connect(&found, served, from, to),
        };
        if answer.verdict == Verdict::LeftAlone && !answer.by_packet {
            answer.endpoints.clear();
            answer.left_out.clear();
        } else {
            answer.service = Some(dialled);
        }
        answer
    }

    /// Whether something was refused of a Service, of a slice of it, or of the Node.
    fn concerns(&self, rejection: &Rejection, key: &str) -> bool {
        match rejection.origin.split_once(' ') {
            Some(("EndpointSlice", slice)) => self.homes.get(slice).is_some_and(|home| home == key),
            Some(("Service", service)) => service == key,
            _ => true,
        }
    }
}

fn home(slice: &EndpointSlice) -> (Arc<str>, String) {
    let meta = &slice.metadata;
    let service = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    (key(meta), format!("{namespace}/{}", service.map_or("", String::as_str)))
}

fn named(name: &str) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(name.to_owned());
    node
}

fn list<T>(objects: Vec<T>, mut take: impl FnMut(Change<T>)) {
    take(Change::Begin);
    objects.into_iter().for_each(|object| take(Change::Listed(object)));
    take(Change::Complete);
}

/// The ports of a Service that are dialled with this.
fn leads<'v>((key, parts): (&'v Arc<str>, Parts<'v>), to: Frontend) -> Vec<Match<'v>> {
    let service = parts.service;
    let (address, number) = (to.address.ip(), to.address.port());
    let kind = |port: &ServicePort| {
        let among = |addresses: &[IpAddr]| port.port == number && addresses.contains(&address);
        let on_node = port.node_port == Some(number)
            && parts.here.node_ports.contains(&address)
            && service.cluster_ip(Family::of(&address)).is_some();
        among(&service.cluster_ips)
            .then_some(Kind::ClusterIp)
            .or(among(&service.external_ips).then_some(Kind::ExternalIp))
            .or(among(&service.ingress_ips).then_some(Kind::LoadBalancer))
            .or(on_node.then_some(Kind::NodePort))
    };
    let ports = service.ports.iter().filter(|port| port.protocol == to.protocol);
    ports
        .filter_map(|port| Some(Match { key, parts: parts.clone(), port, kind: kind(port)? }))
        .collect()
}
