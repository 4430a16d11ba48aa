//! Packets that no socket of this host's has sent: from other hosts, from guests, of protocols that
//! are not translated when a socket connects.

mod as_kube_proxy;
mod both_nodes;
mod by_source;
mod doors;
mod exposed;
mod going;
mod masquerade;
mod ours_alone;
mod under_way;
mod verdicts;
