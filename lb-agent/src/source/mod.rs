//! The contract between sources and the rest of the agent.
//!
//! A source watches something (a file, a key space, an API), translates what it sees into a
//! [`Snapshot`] and publishes its whole [`SourceState`] on a [`Feed`]: level-triggered, nothing to
//! replay. It rejects item by item, keeps its last good snapshot through every failure, and knows
//! nothing of other sources: [`crate::desired`] merges them.

use crate::heard::Heard;
use crate::model::{Rejection, Snapshot};
use crate::status::Held;
use std::sync::Arc;
use std::time::SystemTime;

mod changing;
pub mod etcd;
pub mod file;
pub mod kubernetes;
pub mod spec;
mod underway;

pub use underway::Underway;

/// What a source says now.
#[derive(Clone, Debug)]
pub struct SourceState {
    /// `file:/etc/lb/services.yaml`.
    pub name: Arc<str>,
    /// The last good snapshot: delivered, or from the cache until the first delivery.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Whether the source has delivered since the agent started.
    pub synced: bool,
    /// How often it has delivered.
    pub revision: u64,
    /// When it last delivered.
    pub delivered: Option<SystemTime>,
    /// When what is not in the tables yet was heard of.
    pub underway: Underway,
    /// Items of the last delivery that were refused.
    pub rejections: Arc<Vec<Rejection>>,
    /// Items refused since the agent started, each as often as it was.
    pub refused: u64,
    /// Removals that are not believed yet, soonest first.
    pub held: Arc<Vec<Held>>,
    /// Why the source can't deliver now; the last good snapshot keeps serving.
    pub error: Option<String>,
    /// When it was last heard to be up to date. Nothing is published for that.
    pub heard: Heard,
}

/// Where a source publishes its state.
pub type Feed = tokio::sync::watch::Receiver<SourceState>;

impl SourceState {
    /// A source that has not delivered yet and serves from the cache, if that has something.
    pub fn new(name: Arc<str>, cached: Option<Arc<Snapshot>>) -> Self {
        Self {
            name,
            snapshot: cached,
            synced: false,
            revision: 0,
            delivered: None,
            underway: Underway::default(),
            rejections: Arc::default(),
            refused: 0,
            held: Arc::default(),
            error: None,
            heard: Heard::default(),
        }
    }

    /// Whether this asks for the same services as `before`, an earlier state of the same source.
    pub(crate) fn says_the_same(&self, before: &Self) -> bool {
        let same = match (&self.snapshot, &before.snapshot) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (now, before) => now.is_none() && before.is_none(),
        };
        same && self.synced == before.synced
    }
}
