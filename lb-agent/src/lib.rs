//! The agent and its tools. Data flows one way:
//!
//! ```text
//! source/* --> desired --> plan --> dataplane        reconcile drives them, one loop
//! reconcile --> status --> api, ctl                  what it did, for people and programs
//! ```
//!
//! Pure modules (`model`, `status`, `config`, `desired`, `plan`, `source::spec`) name no runtime, no
//! clock, no randomness, no logging and no kernel library; `tests/layering.rs` holds them to it.

pub mod api;
pub mod ctl;
pub mod model;
pub mod status;
pub mod claims;
pub mod config;
pub mod desired;
pub mod source;
pub mod store;
mod yaml;
pub mod dataplane;
pub mod plan;
pub mod app;
pub mod cli;
pub mod reconcile;
pub mod report;
pub mod telemetry;
