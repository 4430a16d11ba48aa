//! Which endpoints are for this node.
//!
//! Pure. Two lists: the Cluster list is for connections that may end on any node, the Local list
//! for those that must stay on this one. Each falls back by itself to endpoints that are about to
//! end but still serve, if nobody else is left.

use super::objects::{Endpoint, Service, ServicePort, Traffic};

/// Which lists a Service's port needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses {
    /// The Cluster list.
    pub cluster: bool,
    /// The Local list.
    pub local: bool,
}

/// Where we are.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The name of this node.
    pub node: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
}

/// Which endpoints are in which list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Categories {
    /// The Cluster list, if it is used.
    pub cluster: Option<List>,
    /// The Local list, if it is used.
    pub local: Option<List>,
    /// Whether there is an endpoint anywhere that could be used: an empty list then means that
    /// connections get no answer, not that they are refused.
    pub has_any: bool,
}

/// A list of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// What decided.
    pub rule: Rule,
    /// For each endpoint, in the order given, whether it is in the list.
    pub members: Vec<bool>,
}

/// What decides who is in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// All that are ready.
    Ready,
    /// Those that are ready and hint at this node.
    SameNode,
    /// Those that are ready and hint at this zone.
    SameZone,
    /// None is ready: those that are about to end and still serve.
    Terminating,
}

/// Puts the endpoints of a port into lists.
pub fn categorize<'e>(
    uses: Uses,
    place: Place<'_>,
    endpoints: impl Iterator<Item = &'e Endpoint> + Clone,
) -> Categories {
    let mut categories = Categories::default();
    if uses.cluster {
        let rule = preference(place, endpoints.clone());
        let list = list(rule, endpoints.clone(), |endpoint| rule.wants(place, endpoint));
        categories.has_any = !list.is_empty();
        categories.cluster = Some(list);
    }
    if uses.local {
        let here = |endpoint: &Endpoint| endpoint.is_on(place.node);
        categories.local = Some(list(Rule::Ready, endpoints.clone(), here));
        let mut endpoints = endpoints;
        categories.has_any |= endpoints.any(|endpoint| endpoint.ready || endpoint.is_last_resort());
    }
    categories
}

/// Hints count only if every ready endpoint has them and one of them means us: otherwise they are
/// not complete yet, or nobody thought of this place.
fn preference<'e>(place: Place<'_>, endpoints: impl Iterator<Item = &'e Endpoint>) -> Rule {
    let (mut node, mut node_meant) = (true, false);
    let (mut zone, mut zone_meant) = (place.zone.is_some_and(|zone| !zone.is_empty()), false);
    for endpoint in endpoints.filter(|endpoint| endpoint.ready) {
        let Some(hints) = &endpoint.hints else { return Rule::Ready };
        node &= !hints.nodes.is_empty();
        zone &= !hints.zones.is_empty();
        node_meant |= Rule::SameNode.wants(place, endpoint);
        zone_meant |= Rule::SameZone.wants(place, endpoint);
    }
    if node && node_meant {
        Rule::SameNode
    } else if zone && zone_meant {
        Rule::SameZone
    } else {
        Rule::Ready
    }
}

/// Those of the candidates that are ready; else those that are about to end, wherever hints lead.
fn list<'e>(
    rule: Rule,
    endpoints: impl Iterator<Item = &'e Endpoint> + Clone,
    candidate: impl Fn(&Endpoint) -> bool,
) -> List {
    let ready = |endpoint: &Endpoint| endpoint.ready && candidate(endpoint);
    let members: Vec<_> = endpoints.clone().map(ready).collect();
    if members.contains(&true) {
        return List { rule, members };
    }
    let last = |endpoint: &Endpoint| endpoint.is_last_resort() && candidate(endpoint);
    let members: Vec<_> = endpoints.map(last).collect();
    let rule = if members.contains(&true) { Rule::Terminating } else { rule };
    List { rule, members }
}

// === impl Uses ===

impl Uses {
    /// What a port of a Service needs. Connections from this node's pods and from the node itself
    /// may use the Cluster list however they come, so that is needed wherever there is a way from
    /// outside.
    pub fn of(service: &Service, port: &ServicePort) -> Self {
        Self::new(service.internal, service.external, service.is_external(port))
    }

    /// The same, of a port with these policies that can or can't be reached from outside.
    pub fn new(internal: Traffic, external: Traffic, is_external: bool) -> Self {
        Self {
            cluster: internal == Traffic::Cluster || is_external,
            local: internal == Traffic::Local || (external == Traffic::Local && is_external),
        }
    }
}

// === impl Rule ===

impl Rule {
    /// Whether the rule has nothing against an endpoint, ready or not.
    pub fn wants(self, place: Place<'_>, endpoint: &Endpoint) -> bool {
        let hints = endpoint.hints.as_deref();
        match self {
            Self::Ready | Self::Terminating => true,
            Self::SameNode => {
                hints.is_some_and(|hints| hints.nodes.iter().any(|node| **node == *place.node))
            }
            Self::SameZone => hints
                .zip(place.zone)
                .is_some_and(|(hints, own)| hints.zones.iter().any(|zone| **zone == *own)),
        }
    }
}

// === impl List ===

impl List {
    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        !self.members.contains(&true)
    }

    /// Whether the endpoint at this place is in it.
    pub fn contains(&self, at: usize) -> bool {
        self.members.get(at).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
