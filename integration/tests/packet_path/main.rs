//! Packets that no socket of this host's has sent: from other hosts, from guests, of protocols that
//! are not translated when a socket connects.

mod affinity;
mod both_nodes;
mod changes;
mod doors;
mod exposed;
mod going;
mod masquerade;
mod ours_alone;
mod verdicts;
