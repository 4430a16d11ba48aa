//! What the agent shows of itself, on a real agent: over HTTP, as metrics, in its log, to people.

mod examples;
mod http;
mod logs;
mod metrics;
mod page;
mod top;
