//! What goes wrong around the agent: it is noticed, said, and repaired where that is the agent's to do.
//! `make faults` has the stop last as long as `STOPPED` says.

mod beside;
mod closed_unseen;
mod full;
mod host;
mod layouts;
mod self_test;
mod steps;
mod two_builds;
mod upgrade;
