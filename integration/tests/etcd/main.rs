//! The agent and real etcd servers, which the tests start, kill and deprive of everything.

mod lab_itself;
