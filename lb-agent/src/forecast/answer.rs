//! What is asked and what is answered. Pure data.

use super::endpoints::{LeftOut, Used};
use crate::model::{Frontend, Scope};
use crate::source::kubernetes::cluster::NodePorts;
use crate::source::kubernetes::topology::Rule;
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;

/// Which node is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub node: String,
    /// Its zone, if it is not the one that its Node object has.
    pub zone: Option<String>,
    /// Its addresses, if they are not those that its Node object has; the first of a family is the
    /// primary one.
    pub addresses: Vec<IpAddr>,
    /// Where it serves NodePorts.
    pub node_ports: NodePorts,
    /// Whose sockets it serves.
    pub scope: Scope,
}

/// Who connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Caller {
    /// A pod on this node, in a network namespace of its own.
    #[default]
    Pod,
    /// A process in this node's own network namespace.
    Node,
    /// Somebody else, whose packets arrive at this node.
    Outside,
}

/// What would become of a connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// What is dialled.
    pub to: Frontend,
    /// Who dials.
    pub from: Caller,
    /// The node.
    pub node: String,
    /// Its zone, if it is known.
    pub zone: Option<Arc<str>>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why, in a line or two.
    pub why: String,
    /// Whether packets are looked at, and not the call itself.
    pub by_packet: bool,
    /// The Service that was dialled, if any.
    pub service: Option<Dialled>,
    /// Endpoints that it may end up at.
    pub endpoints: Vec<Used>,
    /// Those that it can't, and the rule that says so.
    pub left_out: Vec<LeftOut>,
    /// What was refused of the objects that matter here, and what else should be known.
    pub notes: Vec<String>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It goes to one of the endpoints.
    Connects,
    /// `ECONNREFUSED`.
    Refused,
    /// `EHOSTUNREACH`.
    Unreachable,
    /// Its packets get no answer.
    Dropped,
    /// It goes where it was sent.
    LeftAlone,
}

/// The Service that was dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dialled {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// The name of the port; may be empty.
    pub port: Arc<str>,
    /// What the address is to it.
    pub kind: Kind,
    /// The policy in force: `internalTrafficPolicy: Local`.
    pub policy: String,
    /// Which endpoints that leads to.
    pub list: ListName,
    /// What decided who is among them.
    #[serde(serialize_with = "rule_word")]
    pub rule: Rule,
    /// How long a client stays with its endpoint, in seconds; `None`: it does not.
    pub affinity_seconds: Option<u32>,
}

/// What an address is to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Its address in the cluster.
    #[serde(rename = "clusterIP")]
    ClusterIp,
    /// One of its external addresses.
    #[serde(rename = "externalIP")]
    ExternalIp,
    /// An address of its load balancer.
    LoadBalancer,
    /// An address of this node, with the port that the Service has there.
    NodePort,
}

/// Which endpoints a connection may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListName {
    /// Those of the whole cluster.
    Cluster,
    /// Those on this node.
    Local,
}

fn rule_word<S: serde::Serializer>(rule: &Rule, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match rule {
        Rule::Ready => "ready",
        Rule::SameNode => "same_node",
        Rule::SameZone => "same_zone",
        Rule::Terminating => "terminating",
    })
}
