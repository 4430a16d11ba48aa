//! What an agent left on disk: snapshots, state, what operators said.

use super::check_lines;
use crate::admin;
use crate::desired::{self, Input};
use crate::health::board::Board;
use crate::model::Snapshot;
use crate::plan::{Limits, Observed, Planner};
use crate::reconcile::recall::Recall;
use crate::report::{Identity, Reporter};
use crate::status::State;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

const LIMITS: Limits = Limits { frontends: 64, services: 64, rows: 512, backends: 256 };

/// The bytes as each of the files.
pub fn documents(data: &[u8]) {
    if let Ok(snapshots) = serde_json::from_slice::<BTreeMap<String, Arc<Snapshot>>>(data) {
        same_again(&snapshots);
        let input = |(source, snapshot): (String, _)| Input {
            source: source.into(),
            snapshot: Some(snapshot),
            synced: true,
        };
        let desired = desired::merge(snapshots.into_iter().map(input).collect());
        assert!(desired.rejections.iter().all(|rejection| !rejection.reason.is_empty()));
        let Ok(mut planner) = Planner::adopt(LIMITS, Observed::default()) else {
            panic!("empty tables were refused");
        };
        let plan = planner.plan(&desired);
        check_lines(plan.rejections.iter().map(|rejection| &rejection.reason));
    }
    if let Ok(state) = serde_json::from_slice::<State>(data) {
        same_again(&state);
        recall(&state);
        let identity = Identity {
            cgroup: "/sys/fs/cgroup".into(),
            pin_dir: "/sys/fs/bpf/lb/1".into(),
            warnings: Vec::new(),
        };
        drop(Reporter::new(identity, Some(state)));
    }
    if let Ok(overrides) = admin::read(data) {
        Board::new(None).set_overrides(Arc::new(overrides));
    }
}

/// Ids that were saved, whatever they are, are each one backend's at most.
fn recall(state: &State) {
    let mut observed = Observed { inherited: true, ..Observed::default() };
    Recall::of(Some(state)).complete(&mut observed);
    let Ok(mut planner) = Planner::adopt(LIMITS, observed) else {
        panic!("what was saved hinders nobody from starting");
    };
    let left = planner.plan(&desired::merge(Vec::new())).left;
    let ids: BTreeSet<u32> = left.iter().map(|left| left.id).collect();
    assert_eq!(ids.len(), left.len());
    assert!(ids.iter().all(|id| *id < LIMITS.backends));
}

/// What was read is what is written.
fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(document: &T) {
    let text = serde_json::to_vec(document);
    let text = text.unwrap_or_else(|error| panic!("{document:?} can't be written: {error}"));
    match serde_json::from_slice::<T>(&text) {
        Ok(again) => assert_eq!(again, *document),
        Err(error) => panic!("{} can't be read: {error}", String::from_utf8_lossy(&text)),
    }
}
