//! The agent and real etcd servers, which the tests start, kill and deprive of everything.

mod bad_input;
mod faults;
mod lab_itself;
mod scene;
