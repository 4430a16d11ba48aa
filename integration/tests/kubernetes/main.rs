//! The agent in a Kubernetes cluster that the tests play.

mod affinity;
mod api_itself;
mod basics;
mod changes;
mod cleanup;
mod hints;
mod kube_proxy;
mod manifests;
mod node_ports;
mod own_server;
mod policies;
mod restarts;
mod slices;
mod sockets;
mod table;
mod terminating;
mod watching;
