//! What the agent shows of itself, on a real agent: over HTTP, as metrics, in its log.

mod examples;
mod http;
mod logs;
mod metrics;
