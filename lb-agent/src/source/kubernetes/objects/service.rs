//! Services.

use super::text::{self, shown};
use super::{Family, Reading, has_label, key};
use crate::model::{Protocol, ServiceName};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::LoadBalancerIngress;
use k8s_openapi::api::core::v1::{Service as Object, ServicePort as ObjectPort, ServiceSpec};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// A Service with this label is somebody else's.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// How long a client stays with its endpoint, in seconds, if it is not said.
const AFFINITY: u32 = 10_800;
const LONGEST_AFFINITY: i32 = 86_400;

/// What matters of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its ports.
    pub ports: Box<[ServicePort]>,
    /// Its cluster addresses, at most one of a family. A family without one is not served at all.
    pub cluster_ips: Box<[IpAddr]>,
    /// Further addresses.
    pub external_ips: Box<[IpAddr]>,
    /// Addresses of load balancers that are to be taken for their own.
    pub ingress_ips: Box<[IpAddr]>,
    /// The families in which the load balancers' addresses are for some clients only,
    pub restricted: Box<[Family]>,
    /// and who those are.
    pub source_ranges: Box<[IpNet]>,
    /// Which endpoints connections to its cluster addresses may use.
    pub internal: Traffic,
    /// The same for its other addresses.
    pub external: Traffic,
    /// How long a client stays with its endpoint, in seconds; `None`: it does not.
    pub affinity: Option<u32>,
    /// The port on which this node tells whether it has endpoints.
    pub health_check: Option<u16>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// What the agent calls it: `namespace/name:port`, `namespace/name` if the port has no name.
    pub service: ServiceName,
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The port on the addresses of nodes.
    pub node_port: Option<u16>,
}

/// Which endpoints connections may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Traffic {
    /// All of them.
    #[default]
    Cluster,
    /// Those on the node that a connection arrives at.
    Local,
}

/// Reads a Service. Nothing, if it is not to be served: headless, an ExternalName, or for another
/// proxy.
pub fn service(object: &Object) -> Reading<Service> {
    let mut problems = Vec::new();
    let value = read(object, &mut problems);
    Reading { value, problems }
}

fn read(object: &Object, problems: &mut Vec<String>) -> Option<Service> {
    let spec = object.spec.as_ref()?;
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if ["", "None"].contains(&cluster_ip)
        || kind == "ExternalName"
        || has_label(&object.metadata, PROXY_NAME)
    {
        return None;
    }
    for (what, name) in [("namespace", &object.metadata.namespace), ("name", &object.metadata.name)]
    {
        let name = name.as_deref().unwrap_or_default();
        if !text::is_name(name) {
            let name = shown(name);
            problems.push(format!(
                "its {what} {name} is not one; use 1 to 63 letters, digits and - . _"
            ));
            return None;
        }
    }
    if !["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind) {
        problems.push(unknown("type", kind, "ClusterIP, NodePort, LoadBalancer or ExternalName"));
    }
    let cluster_ips = cluster_ips(spec, problems);
    let ports = ports(&key(&object.metadata), spec, problems);
    if cluster_ips.is_empty() {
        problems.push("has no cluster address that is any good, so it is not served".to_owned());
        return None;
    }
    let has =
        |address: &IpAddr| cluster_ips.iter().any(|own| Family::of(own) == Family::of(address));
    let mut external_ips = Vec::new();
    for text in spec.external_ips.iter().flatten() {
        match text::address(text) {
            Ok(address) if has(&address) => external_ips.push(address),
            Ok(address) => {
                let family = Family::of(&address).word();
                problems.push(format!(
                    "externalIPs: {address} is left out: the Service has no {family} cluster \
                     address; add the family, or remove the address"
                ));
            }
            Err(reason) => problems.push(format!("externalIPs: {reason}")),
        }
    }
    let ingress = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = ingress.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let mut ingress_ips = ingress_ips(ingress, problems);
    // A balancer may have addresses of both families, whatever the Service has.
    ingress_ips.retain(has);
    let internal = traffic("internalTrafficPolicy", &spec.internal_traffic_policy, problems);
    let external = traffic("externalTrafficPolicy", &spec.external_traffic_policy, problems);
    let mut health_check = None;
    if kind == "LoadBalancer" && external == Traffic::Local {
        let port = spec.health_check_node_port.filter(|port| *port != 0).map(text::port);
        match port.transpose() {
            Ok(port) => health_check = port,
            Err(reason) => problems.push(format!("healthCheckNodePort: {reason}")),
        }
    }
    let (restricted, source_ranges) = restricted(spec, problems);
    Some(Service {
        ports,
        external_ips: external_ips.into(),
        ingress_ips: ingress_ips.into(),
        restricted: restricted.into(),
        source_ranges: source_ranges.into(),
        internal,
        external,
        affinity: affinity(spec, problems),
        health_check,
        cluster_ips,
    })
}

/// The first good address of each family.
fn cluster_ips(spec: &ServiceSpec, problems: &mut Vec<String>) -> Box<[IpAddr]> {
    let first = spec.cluster_ip.as_slice();
    let all = spec.cluster_ips.as_deref().filter(|all| !all.is_empty()).unwrap_or(first);
    let families = spec.ip_families.as_deref().unwrap_or_default();
    // Where no families are said the first address counts.
    let all = if families.is_empty() { first } else { all };
    let mut good: Vec<IpAddr> = Vec::new();
    for (at, text) in all.iter().enumerate() {
        let address = match families.get(at).map(|word| (word, Family::from_word(word))) {
            None if families.is_empty() => text::address(text),
            None => {
                Err(format!("{} has no place in ipFamilies; name its family there", shown(text)))
            }
            Some((_, Some(family))) => text::address_of(family, text),
            Some((word, None)) => Err(unknown("ipFamilies", word, "IPv4 or IPv6")),
        };
        match address {
            Ok(address) if good.iter().any(|one| one.is_ipv4() == address.is_ipv4()) => {
                let family = Family::of(&address).word();
                problems.push(format!(
                    "clusterIPs: {address} is left out: a Service has one {family} address, and \
                     another comes first; remove one of the two"
                ));
            }
            Ok(address) => good.push(address),
            Err(reason) => problems.push(format!("clusterIPs: {reason}")),
        }
    }
    for word in families.iter().skip(all.len()) {
        problems.push(format!(
            "ipFamilies: {} has no address in clusterIPs; add it there, or remove the family",
            shown(word)
        ));
    }
    good.into()
}

fn ports(key: &str, spec: &ServiceSpec, problems: &mut Vec<String>) -> Box<[ServicePort]> {
    let objects = spec.ports.as_deref().unwrap_or_default();
    if objects.is_empty() {
        problems.push("has no ports, so it serves nothing; add one".to_owned());
    }
    let mut names = BTreeSet::new();
    let mut ports = Vec::with_capacity(objects.len());
    for object in objects {
        let name = object.name.as_deref().unwrap_or_default();
        match port(key, object, &mut names, problems) {
            Ok(port) => ports.push(port),
            Err(reason) => problems.push(format!("port {}: {reason}", shown(name))),
        }
    }
    ports.into()
}

fn port<'o>(
    key: &str,
    object: &'o ObjectPort,
    names: &mut BTreeSet<&'o str>,
    problems: &mut Vec<String>,
) -> Result<ServicePort, String> {
    let name = object.name.as_deref().unwrap_or_default();
    let port = text::port(object.port)?;
    let protocol = protocol(object.protocol.as_deref())?;
    if !name.is_empty() && !text::is_name(name) {
        return Err("that is not a name; use 1 to 63 letters, digits and - . _".to_owned());
    }
    let separator = if name.is_empty() { "" } else { ":" };
    let service: Result<ServiceName, _> = format!("{key}{separator}{name}").parse();
    let service = service.map_err(|error| error.to_string())?;
    if !names.insert(name) {
        return Err("the name is used twice, and the first one counts; use another".to_owned());
    }
    let node_port = object.node_port.filter(|port| *port != 0).map(text::port).transpose();
    let node_port = node_port.unwrap_or_else(|reason| {
        problems.push(format!("port {}: nodePort: {reason}", shown(name)));
        None
    });
    Ok(ServicePort { service, name: name.into(), protocol, port, node_port })
}

pub(super) fn protocol(word: Option<&str>) -> Result<Protocol, String> {
    match word {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("protocol {} is not known; use TCP, UDP or SCTP", shown(other))),
    }
}

fn ingress_ips(ingress: &[LoadBalancerIngress], problems: &mut Vec<String>) -> Vec<IpAddr> {
    let mut good = Vec::new();
    for entry in ingress {
        match entry.ip_mode.as_deref() {
            None | Some("VIP") => {}
            // Connections have to pass the balancer itself.
            Some("Proxy") => continue,
            Some(other) => {
                problems.push(unknown("status.loadBalancer: ipMode", other, "VIP or Proxy"));
                continue;
            }
        }
        let Some(text) = entry.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
        match text::address(text) {
            Ok(address) => good.push(address),
            Err(reason) => problems.push(format!("status.loadBalancer: {reason}")),
        }
    }
    good
}

/// The families in which not everybody may use the balancers' addresses. A range that can't be read
/// opens nothing: it might be of either family.
fn restricted(spec: &ServiceSpec, problems: &mut Vec<String>) -> (Vec<Family>, Vec<IpNet>) {
    let mut ranges = Vec::new();
    let mut unread = false;
    for text in spec.load_balancer_source_ranges.iter().flatten() {
        match text::range(text) {
            Ok(range) => ranges.push(range),
            Err(reason) => {
                unread = true;
                problems.push(format!("loadBalancerSourceRanges: {reason}"));
            }
        }
    }
    let some_only = |family: &Family| {
        let mut own = ranges.iter().filter(|range| Family::of(&range.addr()) == *family).peekable();
        let everybody = own.clone().any(|range| range.prefix_len() == 0);
        unread || (own.peek().is_some() && !everybody)
    };
    (Family::ALL.into_iter().filter(some_only).collect(), ranges)
}

fn traffic(field: &str, word: &Option<String>, problems: &mut Vec<String>) -> Traffic {
    match word.as_deref() {
        None | Some("Cluster" | "") => Traffic::Cluster,
        Some("Local") => Traffic::Local,
        Some(other) => {
            problems.push(unknown(field, other, "Cluster or Local"));
            Traffic::Cluster
        }
    }
}

fn affinity(spec: &ServiceSpec, problems: &mut Vec<String>) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("None" | "") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            problems.push(unknown("sessionAffinity", other, "None or ClientIP"));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref();
    let config = config.and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = config.and_then(|config| config.timeout_seconds) else {
        return Some(AFFINITY);
    };
    match u32::try_from(seconds) {
        Ok(good) if (1..=LONGEST_AFFINITY).contains(&seconds) => Some(good),
        _ => {
            problems.push(format!(
                "sessionAffinityConfig: timeoutSeconds {seconds} is taken as {AFFINITY}; use 1 to \
                 {LONGEST_AFFINITY}"
            ));
            Some(AFFINITY)
        }
    }
}

fn unknown(field: &str, word: &str, known: &str) -> String {
    format!("{field}: {} is not known and not heeded; use {known}", shown(word))
}

// === impl Service ===

impl Service {
    /// Its cluster address of this family.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|address| Family::of(address) == family)
    }

    /// Whether a port of it can be reached by anything else than its cluster address.
    pub fn is_external(&self, port: &ServicePort) -> bool {
        port.node_port.is_some() || !self.external_ips.is_empty() || !self.ingress_ips.is_empty()
    }
}
