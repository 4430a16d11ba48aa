//! The agent and its tools. Data flows one way:
//!
//! ```text
//! source/* --> desired --> plan --> dataplane        reconcile drives them, one loop
//! reconcile --> status --> api, ctl                  what it did, for people and programs
//!                      --> names                     and for those who look services up
//! ```
//!
//! Pure modules (`model`, `status`, `summary`, `config`, `desired`, `pairs`, `plan`, `source::spec`) name no runtime, no
//! clock, no randomness, no logging and no kernel library; `tests/layering.rs` holds them to it.

pub mod addresses;
pub mod admin;
pub mod api;
pub mod app;
pub mod claims;
pub mod cli;
pub mod config;
pub mod ctl;
pub mod dataplane;
pub mod desired;
pub mod etcd;
pub mod explain;
pub mod forecast;
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod heard;
pub mod inspect;
#[cfg(test)]
mod json_schema;
mod keys;
pub mod kubeproxy;
pub mod leases;
pub mod metrics;
pub mod model;
pub mod monitor;
pub mod names;
pub mod nat;
mod pairs;
pub mod plan;
pub mod pulse;
pub mod reconcile;
pub mod report;
mod serving;
mod shown;
pub mod sockets;
pub mod source;
pub mod status;
pub mod store;
pub mod summary;
pub mod telemetry;
mod tls;
pub mod trace;
pub mod version;
mod versions;
mod yaml;
