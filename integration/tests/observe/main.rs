//! What there is to see of the load balancer at work.

mod connections;
mod explain;
mod trace;
