//! What the agent shows of itself, on a real agent: over HTTP, as metrics, in its log, to people; and
//! what there is to see of the load balancer at work.

mod connections;
mod examples;
mod explain;
mod http;
mod logs;
mod metrics;
mod page;
mod prometheus;
mod shares;
mod socket;
mod ten_thousand;
mod top;
mod trace;
