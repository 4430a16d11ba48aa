//! What this node would do with a connection, and why: from a cluster's objects alone.
//!
//! Pure. The services, their lists and their verdicts are those that the agent would put into the
//! tables, made by the same code ([`crate::source::kubernetes`], [`crate::desired`]); here they are
//! only looked up, and what was decided is put into words.

mod answer;
mod endpoints;
pub mod manifests;
mod verdict;
mod view;

pub use self::answer::{Answer, Caller, Dialled, Kind, ListName, Place, Verdict};
pub use self::endpoints::{LeftOut, Reason, Used};
pub use self::view::View;

#[cfg(test)]
mod tests;
