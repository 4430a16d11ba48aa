//! The agent in a Kubernetes cluster that the tests play.

mod api_itself;
mod cleanup;
mod kube_proxy;
mod manifests;
mod watching;
