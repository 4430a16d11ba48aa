//! Which of the changes that were heard of are in the tables: from what the loop publishes to the
//! metrics and to health.

use super::health::Standing;
use super::metrics::{Changes, Metrics};
use crate::source::kubernetes::cluster::Facts;
use crate::source::kubernetes::progress::Progress;
use crate::status::Published;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Where things stand, for all servers.
#[derive(Debug)]
pub struct Applied {
    source: Arc<str>,
    progress: Arc<Progress>,
    facts: watch::Receiver<Arc<Facts>>,
    patience: Duration,
    metrics: Metrics,
    seen: Mutex<Seen>,
}

/// What was seen of the loop.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    updated: Option<SystemTime>,
    rounds: u64,
    /// The last round failed, so the next looks at everything.
    failed: bool,
    /// What was known before the start serves, since the cluster can't be read.
    cached: bool,
    services: u64,
    endpoints: u64,
}

// === impl Applied ===

impl Applied {
    /// Nothing has been applied yet. `source` is the name of the Kubernetes source; an update may
    /// wait for `patience`.
    pub fn new(
        source: Arc<str>,
        progress: Arc<Progress>,
        facts: watch::Receiver<Arc<Facts>>,
        patience: Duration,
    ) -> Self {
        let (metrics, seen) = (Metrics::default(), Mutex::default());
        Self { source, progress, facts, patience, metrics, seen }
    }

    /// Follows the loop until it ends.
    pub async fn follow(self: Arc<Self>, mut published: watch::Receiver<Arc<Published>>) {
        loop {
            let now = Arc::clone(&published.borrow_and_update());
            self.look(&now, SystemTime::now());
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes in what the loop published at `now`.
    pub fn look(&self, published: &Published, now: SystemTime) {
        let agent = &published.agent;
        let mut seen = self.seen();
        let full = seen.rounds == 0 || seen.failed;
        if agent.work.rounds > seen.rounds {
            seen.rounds = agent.work.rounds;
            self.metrics.synced(Duration::from_micros(agent.work.last_round_micros), full);
        }
        seen.failed = agent.work.last_error.is_some();
        let status = agent.sources.iter().find(|source| source.name == *self.source);
        seen.cached = status.is_some_and(|status| status.cached);
        let Some(status) = status.filter(|_| !seen.failed) else { return };
        let applied = self.progress.applied(status.applied);
        let Some(newest) = applied.last() else { return };
        seen.updated = Some(now);
        self.metrics.queued(newest.heard);
        self.metrics.applied(now);
        for queued in &applied {
            seen.services += queued.work.services;
            seen.endpoints += queued.work.slices;
            for (family, trigger) in &queued.work.triggers {
                self.metrics.programmed(*family, *trigger, now);
            }
        }
    }

    /// How things stand at `now`, by either clock.
    pub fn standing(&self, now: SystemTime, instant: Instant) -> Standing {
        let Seen { updated, cached, .. } = *self.seen();
        // A balancer must not leave a node that serves because the API server is away.
        let eligible = self.facts.borrow().node.as_ref().map_or(cached, |node| !node.leaving);
        let pending = self.progress.pending();
        let waits = pending.first().map(|queued| instant.saturating_duration_since(queued.since));
        Standing { now, waits, patience: self.patience, updated, eligible }
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What was heard of.
    pub fn changes(&self) -> Changes {
        let pending = self.progress.pending();
        if let Some(newest) = pending.last() {
            self.metrics.queued(newest.heard);
        }
        let services_pending = pending.iter().map(|queued| queued.work.services).sum();
        let endpoints_pending = pending.iter().map(|queued| queued.work.slices).sum();
        let seen = *self.seen();
        Changes {
            services_pending,
            services: seen.services + services_pending,
            endpoints_pending,
            endpoints: seen.endpoints + endpoints_pending,
            lacking: self.facts.borrow().lacking,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests;
