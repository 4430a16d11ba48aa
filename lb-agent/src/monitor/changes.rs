//! A line in the log for each change of what a backend gets, where something is known of its health.

use crate::health::board::{Board, Verdict};
use crate::health::effective::Why;
use crate::model::ServiceName;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

/// Lines for one service at a time; `lbctl` shows the rest.
const LINES: usize = 20;

/// What was last known of each backend.
#[derive(Debug, Default)]
pub(super) struct Changes {
    services: HashMap<ServiceName, BTreeMap<SocketAddr, Why>>,
}

// === impl Changes ===

impl Changes {
    /// Forgets a service.
    pub(super) fn forget(&mut self, name: &ServiceName) {
        self.services.remove(name);
    }

    /// Looks at a service, and logs what has changed since it was last looked at. What is seen for the
    /// first time is no change.
    pub(super) fn look(&mut self, board: &Board, name: &ServiceName, now: Instant) {
        let Some(verdicts) = board.verdicts(name, now) else { return };
        let whys = verdicts.iter().map(|(backend, verdict)| (*backend, verdict.share.why));
        let Some(before) = self.services.insert(name.clone(), whys.collect()) else { return };
        let mut changed = verdicts.iter().filter_map(|(backend, verdict)| {
            let was = *before.get(backend)?;
            let is = verdict.share.why;
            // Whoever ejects says so, and why.
            (was != is && is != Why::Ejected).then_some((backend, was, verdict))
        });
        for (backend, was, verdict) in changed.by_ref().take(LINES) {
            log(name, backend, was, verdict);
        }
        let more = changed.count();
        if more > 0 {
            tracing::warn!(service = %name, more, "more backends changed; see `lbctl backends`");
        }
    }
}

fn log(service: &ServiceName, backend: &SocketAddr, was: Why, verdict: &Verdict) {
    let (is, was) = (verdict.share.why.phrase(), was.phrase());
    let check = verdict.check.as_ref().filter(|check| !check.up);
    let result = check.and_then(|check| check.last.as_ref()).map(|report| &*report.text);
    let check = check.map(|check| tracing::field::display(&check.check));
    if matches!(verdict.share.why, Why::Failing | Why::FailOpen) {
        tracing::warn!(%service, %backend, was, check, result, "backend is {is}");
    } else {
        tracing::info!(%service, %backend, was, check, result, "backend is {is}");
    }
}
