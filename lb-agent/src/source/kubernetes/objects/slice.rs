//! EndpointSlices.

use super::service::protocol;
use super::text::{self, shown};
use super::{Family, Reading, has_label};
use crate::model::Protocol;
use crate::source::kubernetes::intern::Words;
use k8s_openapi::api::discovery::v1::{Endpoint as ObjectEndpoint, EndpointPort, EndpointSlice};
use k8s_openapi::jiff::Timestamp;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// An EndpointSlice with this label is of a Service that has no address.
const HEADLESS: &str = "service.kubernetes.io/headless";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What matters of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The Service it is of: `namespace/name`.
    pub service: Arc<str>,
    /// The family of its addresses.
    pub family: Family,
    /// TCP and UDP, sorted by name and protocol.
    pub ports: Box<[SlicePort]>,
    /// Whether there is a port, of whatever protocol.
    pub has_port: bool,
    /// The endpoints, each with all the ports.
    pub endpoints: Box<[Endpoint]>,
}

/// A port of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The endpoints' own port.
    pub port: u16,
}

/// Where connections may end up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Whether it takes connections.
    pub ready: bool,
    /// The same, were it not about to end.
    pub serving: bool,
    /// Whether it is about to end.
    pub terminating: bool,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
    /// Who should prefer it.
    pub hints: Option<Arc<Hints>>,
}

/// Who should prefer an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    /// Nodes in these zones.
    pub zones: Box<[Arc<str>]>,
    /// These nodes.
    pub nodes: Box<[Arc<str>]>,
}

/// Reads an EndpointSlice. Nothing, if it is of no Service or of one without an address.
pub fn slice(object: &EndpointSlice, words: &mut Words) -> Reading<Slice> {
    let mut problems = Vec::new();
    let value = read(object, words, &mut problems);
    Reading { value, problems }
}

fn read(object: &EndpointSlice, words: &mut Words, problems: &mut Vec<String>) -> Option<Slice> {
    let meta = &object.metadata;
    let service = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    let service = service.filter(|name| !name.is_empty())?;
    if has_label(meta, HEADLESS) {
        return None;
    }
    let Some(family) = Family::from_word(&object.address_type) else {
        problems.push(match object.address_type.as_str() {
            "FQDN" => "its endpoints are names (addressType FQDN), which are not looked up, so \
                       they are not served; write their addresses"
                .to_owned(),
            other => format!("addressType {} is not known; use IPv4 or IPv6", shown(other)),
        });
        return None;
    };
    let mut ports = Vec::new();
    for port in object.ports.iter().flatten() {
        match read_port(port, words) {
            Ok(None) => {}
            Ok(Some(port)) => ports.push(port),
            Err(reason) => {
                let name = shown(port.name.as_deref().unwrap_or_default());
                problems.push(format!("port {name}: {reason}"));
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    let has_port = !ports.is_empty();
    let mut endpoints = Vec::with_capacity(object.endpoints.len());
    for (at, endpoint) in object.endpoints.iter().enumerate() {
        // Only the first address of an endpoint counts; the others were never told apart from it.
        let address = endpoint.addresses.first();
        let address = address.ok_or_else(|| "has no address; add one".to_owned());
        match address.and_then(|text| text::address_of(family, text)) {
            Ok(address) => endpoints.push(read_endpoint(endpoint, address, words)),
            Err(reason) => problems.push(format!("endpoints[{at}]: {reason}")),
        }
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    Some(Slice {
        service: words.get(&format!("{namespace}/{service}")),
        family,
        ports: ports.into(),
        has_port,
        endpoints: endpoints.into(),
    })
}

/// `Ok(None)`: it stands for no port.
fn read_port(object: &EndpointPort, words: &mut Words) -> Result<Option<SlicePort>, String> {
    // Without a number it would be any port, which no Service's port can lead to.
    let Some(number) = object.port else { return Ok(None) };
    let Some(name) = object.name.as_deref() else {
        return Err(format!(
            "{number} has no name, so no port of a Service leads to it; write \"\""
        ));
    };
    let port = text::port(number)?;
    let protocol = protocol(object.protocol.as_deref())?;
    Ok(Some(SlicePort { name: words.get(name), protocol, port }))
}

fn read_endpoint(object: &ObjectEndpoint, address: IpAddr, words: &mut Words) -> Endpoint {
    let conditions = object.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let hints = object.hints.as_ref().map(|hints| Hints {
        zones: hints.for_zones.iter().flatten().map(|zone| words.get(&zone.name)).collect(),
        nodes: hints.for_nodes.iter().flatten().map(|node| words.get(&node.name)).collect(),
    });
    Endpoint {
        address,
        ready,
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        node: object.node_name.as_deref().map(|node| words.get(node)),
        zone: object.zone.as_deref().map(|zone| words.get(zone)),
        hints: hints.filter(|hints| *hints != Hints::default()).map(|hints| words.hints(hints)),
    }
}

/// When that happened which an EndpointSlice tells, if it says so.
pub fn trigger(object: &EndpointSlice) -> Option<SystemTime> {
    let annotation = object.metadata.annotations.as_ref()?.get(TRIGGER)?;
    let time: Timestamp = annotation.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from(time.as_duration()).ok()?)
}

// === impl Endpoint ===

impl Endpoint {
    /// Whether it is on this node.
    pub fn is_on(&self, node: &str) -> bool {
        self.node.as_deref() == Some(node)
    }

    /// Whether it will do where nobody is ready.
    pub fn is_last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}
