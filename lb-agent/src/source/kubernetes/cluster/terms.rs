//! What goes into the state machine, and what comes out besides the snapshot.

use crate::model::Scope;
use crate::source::kubernetes::locality::Lacking;
use crate::source::kubernetes::objects::Family;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// What this node is told by its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The source's name, for rejections: `kubernetes`.
    pub source: Arc<str>,
    /// The name of this node.
    pub node: String,
    /// Where NodePorts are served.
    pub node_ports: NodePorts,
    /// Whose sockets the cluster's addresses are for.
    pub scope: Scope,
    /// How pods are told from others.
    pub pods: Pods,
    /// Whether this node's address takes the place of every client's of a cluster address.
    pub masquerade_all: bool,
}

/// How packets of pods are told from those of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pods {
    /// Not at all.
    #[default]
    Unknown,
    /// Their addresses are in these ranges.
    Ranges(Vec<IpNet>),
    /// The addresses of this node's pods are in the ranges that its Node object has.
    OfNode,
    /// They come in by these network interfaces.
    By(PodInterface),
}

/// The network interfaces by which packets of this node's pods come in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodInterface {
    /// The one of this name: the bridge that pods are on.
    Named(String),
    /// Those whose names begin so, one for each pod.
    Beginning(String),
}

/// On which of this node's addresses NodePorts are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePorts {
    /// Which addresses, apart from loopback.
    pub addresses: NodePortAddresses,
    /// Whether 127.0.0.1 and ::1 are among them, for sockets of the node itself.
    pub localhost: bool,
}

/// Addresses of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All of them.
    All,
    /// The node's primary address of each family.
    Primary,
    /// The same, with this address in place of the one that the Node object has of its family.
    PrimaryIs(IpAddr),
    /// Those in these ranges; of a family without a range, all of them.
    Ranges(Vec<IpNet>),
}

/// What a watch says, for one kind of object.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// A list begins, at the start or after a gap.
    Begin,
    /// An object of the list.
    Listed(T),
    /// The list is complete: what it lacks is gone.
    Complete,
    /// An object is new or has changed.
    Put(T),
    /// An object is gone.
    Delete(T),
    /// The object of this `namespace/name` is gone, or can't be read any more.
    Forget(Arc<str>),
}

/// What else the cluster says that concerns this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The own Node object; `None` while it is unknown or does not exist.
    pub node: Option<NodeFacts>,
    /// Its addresses and the ranges of its pods as each was first known. Kept here, where no change is
    /// missed: who follows these facts may be late, and would take what has changed by then for the first.
    pub node_at_first: NodeFacts,
    /// Services with a healthCheckNodePort, by namespace and name.
    pub health_checks: BTreeMap<(Arc<str>, Arc<str>), HealthCheck>,
    /// The ranges that service addresses are taken from.
    pub service_cidrs: BTreeSet<IpNet>,
    /// Whether those are all: they have been listed, or the server withholds them.
    pub service_cidrs_heard: bool,
    /// Ports of Services whose policy finds no endpoint on this node.
    pub lacking: Lacking,
    /// The ranges that pods' addresses are in, as far as they are told by them.
    pub pods: BTreeSet<IpNet>,
    /// The interfaces by which packets of pods come in, if that is how they are told.
    pub pod_interface: Option<PodInterface>,
}

/// What matters of the own Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its internal addresses, in the order given.
    pub addresses: Vec<IpAddr>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// The ranges that its pods' addresses are taken from.
    pub pod_ranges: Vec<IpNet>,
    /// Whether it is being deleted, or about to be by the autoscaler: it takes no new traffic from
    /// outside.
    pub leaving: bool,
}

impl NodeFacts {
    /// Takes addresses and ranges that were not known.
    pub(super) fn fill(&mut self, node: &Self) {
        if self.addresses.is_empty() {
            self.addresses.clone_from(&node.addresses);
        }
        if self.pod_ranges.is_empty() {
            self.pod_ranges.clone_from(&node.pod_ranges);
        }
    }
}

/// What a healthCheckNodePort answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port.
    pub port: u16,
    /// Distinct ready endpoints on this node, of the family that has more of them.
    pub local_endpoints: usize,
}

/// What was taken in since it was last asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Changes of Services.
    pub services: u64,
    /// Changes of EndpointSlices.
    pub slices: u64,
    /// When what the slices of a family tell happened, as far as they say so and it can be believed.
    pub triggers: Vec<(Family, SystemTime)>,
}
