//! The endpoints of a port: which are in the lists, and which rule keeps the others out.

use super::ListName;
use crate::source::kubernetes::cluster::Parts;
use crate::source::kubernetes::endpoints::{Merged, merge};
use crate::source::kubernetes::objects::{Endpoint, Family, ServicePort, Slice};
use crate::source::kubernetes::topology::{Categories, List, Place, Rule, Uses, categorize};
use serde::{Serialize, Serializer};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// An endpoint that connections may end up at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Used {
    /// Its address and port.
    pub address: SocketAddr,
    /// The node it is on, if its slice says so.
    pub node: Option<Arc<str>>,
    /// The zone it is in, if its slice says so.
    pub zone: Option<Arc<str>>,
}

/// An endpoint that they can't, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The endpoint; port 0 if its slice has none for the port that was dialled.
    #[serde(flatten)]
    pub endpoint: Used,
    /// The rule.
    pub reason: Reason,
}

/// Why an endpoint is in no list that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It does not take connections.
    NotReady,
    /// It is about to end, and others are ready.
    Terminating,
    /// It is about to end and takes no more connections.
    Ended,
    /// It is on another node, and the policy wants those on this one.
    NotHere,
    /// It prefers other nodes.
    OtherNode(String),
    /// It prefers other zones.
    OtherZone(String),
    /// It is of the other family.
    OtherFamily,
    /// Its slice has no such port.
    NoPort,
    /// Another slice has the address, too, and that counts.
    Duplicate,
}

/// The endpoints of a port, in their lists.
pub(super) struct Lists<'a> {
    place: Place<'a>,
    merged: Merged<'a>,
    categories: Categories,
    /// What the Service has besides.
    strangers: Vec<LeftOut>,
}

/// What the agent makes of a port in one family.
pub(super) fn look<'a>(parts: &Parts<'a>, port: &ServicePort, family: Family) -> Lists<'a> {
    let place = parts.here.place;
    let slices = || parts.slices.iter().copied();
    let merged = merge(slices(), family, &port.name, port.protocol);
    let endpoints = merged.endpoints.iter().map(|(_, endpoint)| *endpoint);
    let categories = categorize(Uses::of(parts.service, port), place, endpoints);
    let strangers = slices().flat_map(|slice| strangers(slice, port, family)).collect();
    Lists { place, merged, categories, strangers }
}

/// The endpoints of a slice that is not for this family or this port.
fn strangers(slice: &Slice, port: &ServicePort, family: Family) -> Vec<LeftOut> {
    let own = slice
        .ports
        .iter()
        .find(|own| own.name == port.name && own.protocol == port.protocol)
        .map(|own| own.port);
    let reason = match own {
        None => Reason::NoPort,
        Some(_) if slice.family != family => Reason::OtherFamily,
        Some(_) => return Vec::new(),
    };
    let left = |endpoint: &Endpoint| LeftOut {
        endpoint: shown(SocketAddr::new(endpoint.address, own.unwrap_or(0)), endpoint),
        reason: reason.clone(),
    };
    slice.endpoints.iter().map(left).collect()
}

fn shown(address: SocketAddr, endpoint: &Endpoint) -> Used {
    Used { address, node: endpoint.node.clone(), zone: endpoint.zone.clone() }
}

// === impl Lists ===

impl Lists<'_> {
    fn list(&self, name: ListName) -> Option<&List> {
        match name {
            ListName::Cluster => self.categories.cluster.as_ref(),
            ListName::Local => self.categories.local.as_ref(),
        }
    }

    /// Whether there is an endpoint anywhere that could be used.
    pub(super) fn has_any(&self) -> bool {
        self.categories.has_any
    }

    /// Whether nobody is in a list.
    pub(super) fn is_empty(&self, name: ListName) -> bool {
        self.list(name).is_none_or(List::is_empty)
    }

    /// What decided who is in a list.
    pub(super) fn rule(&self, name: ListName) -> Rule {
        self.list(name).map_or(Rule::Ready, |list| list.rule)
    }

    /// Those in a list.
    pub(super) fn used(&self, name: ListName) -> Vec<Used> {
        let Some(list) = self.list(name) else { return Vec::new() };
        let all = self.merged.endpoints.iter().enumerate();
        all.filter(|(at, _)| list.contains(*at))
            .map(|(_, (address, endpoint))| shown(*address, endpoint))
            .collect()
    }

    /// Those that are not, by address.
    pub(super) fn left_out(&self, name: ListName) -> Vec<LeftOut> {
        let list = self.list(name);
        let all = self.merged.endpoints.iter().enumerate();
        let outside = all.filter(|(at, _)| !list.is_some_and(|list| list.contains(*at)));
        let rule = self.rule(name);
        let reason = |endpoint: &Endpoint| why_not(rule, name, self.place, endpoint);
        let outside = outside.map(|(_, (address, endpoint))| LeftOut {
            endpoint: shown(*address, endpoint),
            reason: reason(endpoint),
        });
        let twice = self.merged.duplicates.iter().map(|(address, endpoint)| LeftOut {
            endpoint: shown(*address, endpoint),
            reason: Reason::Duplicate,
        });
        let mut left: Vec<LeftOut> =
            outside.chain(twice).chain(self.strangers.iter().cloned()).collect();
        left.sort_by_key(|left| left.endpoint.address);
        left.dedup();
        left
    }
}

/// What keeps an endpoint out of a list that this rule made.
fn why_not(rule: Rule, list: ListName, place: Place<'_>, endpoint: &Endpoint) -> Reason {
    if list == ListName::Local && !endpoint.is_on(place.node) {
        return Reason::NotHere;
    }
    match (endpoint.ready, endpoint.terminating) {
        (true, _) if rule == Rule::SameNode => Reason::OtherNode(hinted(endpoint, |h| &h.nodes)),
        (true, _) => Reason::OtherZone(hinted(endpoint, |h| &h.zones)),
        (false, true) if endpoint.serving => Reason::Terminating,
        (false, true) => Reason::Ended,
        (false, false) => Reason::NotReady,
    }
}

fn hinted(
    endpoint: &Endpoint,
    whom: impl Fn(&crate::source::kubernetes::objects::Hints) -> &[Arc<str>],
) -> String {
    endpoint.hints.as_deref().map(|hints| whom(hints).join(", ")).unwrap_or_default()
}

// === impl Reason ===

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("not ready"),
            Self::Terminating => f.write_str("terminating, and others are ready"),
            Self::Ended => f.write_str("terminating, and no longer serving"),
            Self::NotHere => f.write_str("not on this node, and the policy is Local"),
            Self::OtherNode(nodes) => write!(f, "its hints are for other nodes: {nodes}"),
            Self::OtherZone(zones) => write!(f, "its hints are for other zones: {zones}"),
            Self::OtherFamily => f.write_str("of the other address family"),
            Self::NoPort => f.write_str("its slice has no port of this name and protocol"),
            Self::Duplicate => f.write_str("another slice has the same address, which counts"),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
