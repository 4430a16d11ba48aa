//! The agent and real etcd servers, which the tests start, kill and deprive of everything.

mod bad_input;
mod calls;
mod clock;
mod credentials;
mod faults;
mod following;
mod forgetful;
mod keeping;
mod lab_itself;
mod mirror;
mod names;
mod native;
mod out_of_reach;
mod overrides;
mod register;
mod scene;
mod services;
