//! What becomes of a connection, and why.

use super::answer::{Caller, Dialled, Kind, ListName, Verdict};
use super::endpoints::Lists;
use super::view::Match;
use crate::model::{AdminState, Frontend, NoBackend, Protocol, Reach, Scope, Service as Served};
use crate::source::kubernetes::objects::{Family, Service, Traffic};
use std::net::IpAddr;
use std::sync::Arc;

const NOWHERE: &str = "no endpoint anywhere can be used";
const NOT_HERE: &str = "there are endpoints, but none on this node, and others must not be used";

/// What was dialled, and the list that it leads to.
pub(super) fn dialled(found: &Match<'_>, from: Caller, lists: &Lists<'_>) -> (Dialled, ListName) {
    let service = found.parts.service;
    let (field, policy) = match found.kind {
        Kind::ClusterIp => ("internalTrafficPolicy", service.internal),
        _ => ("externalTrafficPolicy", service.external),
    };
    // Whoever is on this node is not outside, by whichever address.
    let local =
        policy == Traffic::Local && (found.kind == Kind::ClusterIp || from == Caller::Outside);
    let list = if local { ListName::Local } else { ListName::Cluster };
    let word = if policy == Traffic::Local { "Local" } else { "Cluster" };
    let dialled = Dialled {
        name: Arc::clone(found.key),
        port: Arc::clone(&found.port.name),
        kind: found.kind,
        policy: format!("{field}: {word}"),
        list,
        rule: lists.rule(list),
        affinity_seconds: service.affinity,
    };
    (dialled, list)
}

/// What becomes of a call on this node: what the tables would say.
pub(super) fn at_connect(
    found: &Match<'_>,
    served: Option<&Served>,
    from: Caller,
    to: Frontend,
) -> (Verdict, String, bool) {
    let Some(served) = served else {
        let why = if to.protocol == Protocol::Sctp {
            "SCTP does not show in a connect: the call is left alone, and the packets are translated"
        } else {
            "only some clients may use this address (loadBalancerSourceRanges), which is told by their \
             packets' source: the call is left alone, and the packets are dropped or translated"
        };
        return (Verdict::LeftAlone, why.to_owned(), true);
    };
    let exposure = served.frontends.get(&to).copied().unwrap_or_default();
    if exposure.scope == Scope::Host && from == Caller::Pod {
        let why = "a pod's loopback addresses are its own, not the node's";
        return (Verdict::LeftAlone, why.to_owned(), false);
    }
    let led_to = served.backends_for(&to);
    let count = led_to.filter(|(_, backend)| backend.state == AdminState::Ready).count();
    if count > 0 {
        let short = found.kind != Kind::ClusterIp && found.parts.service.external == Traffic::Local;
        let why = if short {
            "who is on this node is not outside, so externalTrafficPolicy: Local does not limit it"
        } else {
            ""
        };
        return (Verdict::Connects, why.to_owned(), false);
    }
    let verdict = match exposure.reach {
        Reach::Cluster => served.no_backend,
        Reach::Node => served.no_node_backend,
    };
    match verdict {
        NoBackend::Unreachable => (Verdict::Unreachable, NOT_HERE.to_owned(), false),
        NoBackend::Refuse => (Verdict::Refused, NOWHERE.to_owned(), false),
        NoBackend::Pass => (Verdict::LeftAlone, NOWHERE.to_owned(), false),
    }
}

/// What becomes of packets that arrive from elsewhere: nobody on this node calls connect(2).
pub(super) fn from_outside(
    found: &Match<'_>,
    lists: &Lists<'_>,
    list: ListName,
    to: Frontend,
) -> (Verdict, String, bool) {
    if to.address.ip().is_loopback() {
        let why = "nobody outside reaches a loopback address";
        return (Verdict::LeftAlone, why.to_owned(), false);
    }
    let service = found.parts.service;
    let (verdict, mut why) = if !lists.has_any() {
        (Verdict::Refused, NOWHERE.to_owned())
    } else if lists.is_empty(list) {
        (Verdict::Dropped, NOT_HERE.to_owned())
    } else if found.kind != Kind::ClusterIp && list == ListName::Local {
        (Verdict::Connects, "the endpoint sees the client's own address".to_owned())
    } else {
        (Verdict::Connects, "the endpoint sees this node's address as the client's".to_owned())
    };
    let family = Family::of(&to.address.ip());
    if found.kind == Kind::LoadBalancer && service.restricted.contains(&family) {
        why.push_str("; clients that are not in loadBalancerSourceRanges get no answer");
    }
    (verdict, why, true)
}

/// Why no Service answers, and whether packets are looked at all the same.
pub(super) fn not_a_service(
    to: Frontend,
    from: Caller,
    services: &[(&Arc<str>, &Service)],
    is_in_service_range: impl Fn(IpAddr) -> bool,
) -> (String, bool) {
    let address = to.address.ip();
    let of = |addresses: fn(&Service) -> &[IpAddr]| {
        let owner = services.iter().filter(|(_, service)| addresses(service).contains(&address));
        owner.map(|(key, _)| key).min()
    };
    if let Some(key) = of(|service| &service.cluster_ips) {
        let why = format!(
            "{address} is the ClusterIP of {key}, which has no port {}/{}: the call is left alone, and \
             packets are refused",
            to.address.port(),
            to.protocol
        );
        return (why, true);
    }
    if is_in_service_range(address) {
        let why = format!(
            "{address} is in a ServiceCIDR and no Service has it: the call is left alone, and packets \
             are dropped"
        );
        return (why, true);
    }
    let other = of(|service| &service.external_ips).or_else(|| of(|service| &service.ingress_ips));
    if let Some(key) = other {
        let (port, protocol) = (to.address.port(), to.protocol);
        let why = format!("{address} is an address of {key}, which has no port {port}/{protocol}");
        return (why, false);
    }
    let whose = match from {
        Caller::Outside => "packets go",
        Caller::Pod | Caller::Node => "the connection goes",
    };
    (format!("it is no address and port of a Service: {whose} where it was sent"), false)
}
