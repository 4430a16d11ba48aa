//! The board for people: fills what is known of backends' health into the status, when asked.

use super::{SharedBoard, lock};
use crate::health::board::{CheckVerdict, Verdict};
use crate::model::ServiceName;
use crate::status::{CheckStatus, Counters, HealthStatus, ServiceStatus, TableStatus};
use std::sync::Arc;
use std::time::Instant;

/// Counters of the kernel, and the health of the backends.
pub struct WithHealth {
    /// What reads the kernel.
    pub inner: Arc<dyn Counters>,
    /// What is known of the backends.
    pub board: SharedBoard,
}

impl Counters for WithHealth {
    fn fill(&self, services: &mut [ServiceStatus]) -> anyhow::Result<()> {
        self.inner.fill(services)?;
        self.judge(services);
        Ok(())
    }

    fn fill_backends(&self, services: &mut [ServiceStatus], outcomes: bool) -> anyhow::Result<()> {
        self.inner.fill_backends(services, outcomes)?;
        self.judge(services);
        Ok(())
    }

    fn tables(&self) -> anyhow::Result<Vec<TableStatus>> {
        self.inner.tables()
    }

    fn lost_events(&self) -> anyhow::Result<Option<u64>> {
        self.inner.lost_events()
    }
}

// === impl WithHealth ===

impl WithHealth {
    fn judge(&self, services: &mut [ServiceStatus]) {
        let now = Instant::now();
        for service in services {
            // One service at a time: the loop must not wait for a long answer.
            let Ok(name) = service.name.parse::<ServiceName>() else { continue };
            let (verdicts, fails_open) = {
                let board = lock(&self.board);
                (board.verdicts(&name, now), board.fails_open(&name))
            };
            service.fails_open = fails_open;
            let Some(verdicts) = verdicts else { continue };
            for backend in &mut service.backends {
                let verdict = verdicts.get(&backend.address);
                backend.health = verdict.map(|verdict| Box::new(health_status(verdict, now)));
            }
        }
    }
}

fn health_status(verdict: &Verdict, now: Instant) -> HealthStatus {
    HealthStatus {
        why: verdict.share.why,
        share: verdict.share.weight,
        check: verdict.check.as_ref().map(check_status),
        ejected_for: verdict.ejected.map(|until| until.saturating_duration_since(now)),
    }
}

fn check_status(verdict: &CheckVerdict) -> CheckStatus {
    let CheckVerdict { check, up, standing: (left, of), last } = verdict;
    CheckStatus {
        check: check.to_string(),
        up: *up,
        standing: format!("{left}/{of}"),
        result: last.as_ref().map(|report| report.result),
        text: last.as_ref().map(|report| report.text.to_string()),
        took: last.as_ref().map(|report| report.took),
        at: last.as_ref().map(|report| report.at),
    }
}
