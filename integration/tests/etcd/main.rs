//! The agent and real etcd servers, which the tests start, kill and deprive of everything.

mod bad_input;
mod faults;
mod forgetful;
mod lab_itself;
mod out_of_reach;
mod scene;
