//! Services and EndpointSlices of a Kubernetes cluster, as this node's kube-proxy would serve them.
//!
//! [`watch`] hears of objects, [`cluster`] keeps what matters of them and says what that comes to
//! (pure, as is everything it uses): [`objects`] reads an object, [`topology`] decides which
//! endpoints are for this node, [`translate`] makes services of both.

pub mod cluster;
pub mod endpoints;
pub mod intern;
mod listing;
pub mod node_ports;
mod notes;
pub mod objects;
pub mod progress;
pub mod topology;
pub mod translate;
