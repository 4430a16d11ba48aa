//! Sends the transactions that [`super::vips`] plans, while the store is there, and says what became
//! of them.

use super::vips::{Addresses, Pool, Step};
use crate::config::EtcdSource;
use crate::etcd::{Client, EtcdError};
use crate::model::Rejection;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch::{self, Receiver, Sender};

/// Most transactions before the plan is made again.
const BATCH: usize = 64;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What is known of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Situation {
    /// Who asks for addresses and who has which.
    pub(super) addresses: Option<Arc<Addresses>>,
    /// Keys that `addresses` has and the store does not.
    pub(super) missing: Arc<BTreeSet<Arc<str>>>,
    /// Whether the store has been listed and is being followed.
    pub(super) live: bool,
}

/// Hands out addresses as the situation asks for; returns what it can't do. The task ends with the
/// sender of situations.
pub(super) fn spawn(
    config: Arc<EtcdSource>,
    pool: Pool,
    situations: Receiver<Situation>,
) -> Receiver<Arc<Vec<Rejection>>> {
    let (problems, receiver) = watch::channel(Arc::default());
    let client = Client::new(Arc::clone(&config.settings));
    let allocator = Allocator { config, pool, client, retry: FIRST_RETRY };
    tokio::spawn(allocator.run(situations, problems));
    receiver
}

struct Allocator {
    config: Arc<EtcdSource>,
    pool: Pool,
    client: Client,
    retry: Duration,
}

// === impl Allocator ===

impl Allocator {
    async fn run(
        mut self,
        mut situations: Receiver<Situation>,
        problems: Sender<Arc<Vec<Rejection>>>,
    ) {
        let mut again: Option<Instant> = None;
        loop {
            tokio::select! {
                changed = situations.changed() => if changed.is_err() {
                    return;
                },
                () = super::until(again) => {}
            }
            let situation = situations.borrow_and_update().clone();
            let Some(addresses) = situation.addresses.filter(|_| situation.live) else {
                again = None;
                continue;
            };
            let plan = self.pool.plan(&addresses, &situation.missing, Instant::now());
            again = plan.again;
            let mut found = plan.rejections;
            if !plan.steps.is_empty() {
                let pause = self.work(&plan.steps, &mut found).await;
                again = again.into_iter().chain([Instant::now() + pause]).min();
            }
            problems.send_if_modified(|before| {
                let changed = **before != found;
                if changed {
                    *before = Arc::new(found);
                }
                changed
            });
        }
    }

    /// Sends some of the transactions; returns when to look again if nothing is heard before.
    async fn work(&mut self, steps: &[Step], problems: &mut Vec<Rejection>) -> Duration {
        let source = &self.config.name;
        // Hosts that see the same begin at different ends, so that each has less to lose.
        let begin = rand::random_range(0..steps.len());
        let (behind, ahead) = steps.split_at(begin);
        for step in ahead.iter().chain(behind).take(BATCH) {
            let Step { service, gets, gives, .. } = step;
            match self.client.transact(&step.when, &step.then).await {
                Ok(true) => {
                    self.retry = FIRST_RETRY;
                    tracing::info!(%source, %service, ?gets, ?gives, "addresses handed out");
                }
                Ok(false) => {
                    tracing::debug!(%source, %service, ?gets, ?gives, "somebody else was faster");
                }
                Err(error) => {
                    tracing::warn!(%source, %service, %error, retry_in = ?self.retry,
                        "addresses can't be handed out");
                    problems.extend(steps.iter().map(|step| failed(step, &error)));
                    let pause = self.retry;
                    self.retry = (self.retry * 2).min(LAST_RETRY);
                    return pause;
                }
            }
        }
        // The store tells what has been written, to us as to the others; this is for the case that
        // it has nothing to tell.
        Duration::from_secs(1)
    }
}

/// What is said of a service while its transaction fails.
fn failed(step: &Step, error: &EtcdError) -> Rejection {
    let Step { service, origin, gets, .. } = step;
    let what = if gets.is_empty() {
        "its address can't be given back"
    } else {
        "the service gets no address: it can't be written"
    };
    let hint = match error {
        EtcdError::Refused(_) => {
            "; hosts that hand out addresses write below vips/ and \
                                  allocations/ of the prefix"
        }
        _ => "",
    };
    Rejection {
        origin: origin.clone(),
        service: Some(service.to_string()),
        reason: format!("{what}: {error}{hint}"),
    }
}
