//! What makes the agent a kube-proxy: its command line, its configuration, its ports, its metrics.
//! The services come from [`crate::source::kubernetes`].
//!
//! [`table`] lists all settings, [`flags`] and [`config`] read them, [`decision`] says what comes of
//! them, [`health`] and [`pages`] what the ports answer, [`node`] when to begin anew (pure).

pub mod applied;
pub mod cleanup;
pub mod config;
pub mod decision;
pub mod flags;
pub mod health;
pub mod listen;
pub mod metrics;
pub mod node;
pub mod node_port_health;
pub mod pages;
mod process;
pub mod servers;
pub mod table;
mod values;

#[cfg(test)]
mod tests;
