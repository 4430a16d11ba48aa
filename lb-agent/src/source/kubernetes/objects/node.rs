//! The own Node, and the ranges of service addresses.

use super::{Reading, text};
use crate::source::kubernetes::cluster::NodeFacts;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;

const ZONE: &str = "topology.kubernetes.io/zone";
/// The autoscaler puts this taint on a node that it is about to remove.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// Reads the Node of this name; any other is nothing.
pub fn node(object: &Node, name: &str) -> Reading<NodeFacts> {
    let mut problems = Vec::new();
    let meta = &object.metadata;
    if meta.name.as_deref() != Some(name) {
        return Reading::default();
    }
    let mut addresses = Vec::new();
    let status = object.status.as_ref().and_then(|status| status.addresses.as_deref());
    for address in status.unwrap_or_default() {
        if address.type_ != "InternalIP" {
            continue;
        }
        match text::address(&address.address) {
            Ok(address) => addresses.push(address),
            Err(reason) => problems.push(format!("status.addresses: {reason}")),
        }
    }
    let spec = object.spec.as_ref();
    let zone = meta.labels.as_ref().and_then(|labels| labels.get(ZONE));
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let leaving = meta.deletion_timestamp.is_some() || taints.iter().any(|t| t.key == LEAVING);
    let ranges = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let mut pod_ranges = Vec::new();
    for text in ranges {
        match text::range(text) {
            Ok(range) => pod_ranges.push(range),
            Err(reason) => problems.push(format!("spec.podCIDRs: {reason}")),
        }
    }
    let value = NodeFacts {
        addresses,
        pod_ranges,
        zone: zone.filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into()),
        leaving,
    };
    Reading { value: Some(value), problems }
}

/// Reads the ranges of a ServiceCIDR.
pub fn service_cidrs(object: &ServiceCIDR) -> Reading<Vec<IpNet>> {
    let mut problems = Vec::new();
    let all = object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    let mut good = Vec::new();
    for text in all {
        match text::range(text) {
            Ok(range) => good.push(range),
            Err(reason) => problems.push(format!("spec.cidrs: {reason}")),
        }
    }
    Reading { value: Some(good), problems }
}
