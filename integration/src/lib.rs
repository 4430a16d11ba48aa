//! Fixtures for the tests in the real kernel.
//!
//! A test runs inside [`lab::run`]: on a thread of its own, which has its own network namespace and
//! its own cgroup, so that tests run beside each other in one process and beside a live agent.
//! [`agent::Agent`] is the real binary, [`server::Backends`] are servers that say who they are, and
//! [`client`] dials them, [`traffic`] without end; [`translation`] is another owner's load balancer; [`browser`] and [`screen`] are what people look at;
//! [`etcd`] is the store, [`large`] one with very much in it; [`apiserver`] is a Kubernetes cluster's,
//! [`pods`] are nodes and pods with namespaces of their own, [`kubernetes`] is all of that together,
//! [`packets`] with those who ask from outside; [`clock`] is a clock that somebody sets; [`confine`] is the agent's systemd unit, without
//! systemd, and [`systemd`] a host that has it. A fixture that can't be set up panics with the reason: a test that can't run has failed.

pub mod agent;
pub mod apiserver;
pub mod bench;
pub mod browser;
pub mod cgroup;
pub mod client;
pub mod clock;
pub mod confine;
pub mod dataplane;
pub mod empty_program;
pub mod etcd;
pub mod exposition;
pub mod host;
pub mod http;
pub mod kernels;
pub mod kubernetes;
pub mod lab;
pub mod large;
pub mod netns;
pub mod packets;
pub mod pods;
pub mod process;
pub mod refusal;
pub mod router;
pub mod screen;
pub mod sctp;
pub mod server;
pub mod soak;
pub mod spec;
pub mod stats;
pub mod sys;
pub mod systemd;
pub mod tables;
pub mod traffic;
pub mod translation;
pub mod wait;
