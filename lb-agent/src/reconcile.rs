//! The one loop: takes what the sources say, plans, applies, waits for grace periods, and publishes
//! what it did. Everything it decides is decided by pure modules; what fails is observed and planned
//! again.

mod collection;
mod handover;
pub(crate) mod recall;
mod removals;
mod revisions;
mod saver;
mod selftest;
mod upkeep;

use crate::dataplane::{Attached, Dataplane, DataplaneError};
use crate::desired::{Input, Merger};
use crate::metrics::own::{self, ErrorKind};
use crate::model::{Rejection, ServiceName, Snapshot};
use crate::monitor::{Monitor, News};
use crate::nat::contents::Wanted;
use crate::plan::{Action, AdoptError, Limits, Planner};
use crate::pulse::Pulse;
use crate::report::{DOUBTED, Identity, Reporter, Saved, source_status};
use crate::source::{Feed, SourceState};
use crate::status::{Published, WorkStatus};
use crate::store;
use crate::versions::Versions;
use collection::Collection;
use handover::Handover;
use recall::Recall;
use removals::Removals;
use revisions::Revisions;
use saver::Saver;
use selftest::SelfTests;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, block_in_place, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

/// How often resting ids are looked at and, at most, the files are saved.
const TICK: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Where the loop saves what the next agent, and `lbctl` without an agent, read.
#[derive(Clone, Debug)]
pub struct Files {
    /// Services and backends: `status::State`.
    pub state: PathBuf,
    /// The last snapshot of every source, by its name.
    pub snapshots: PathBuf,
    /// Is there while sources have said what is not saved: the tables may hold it.
    pub behind: PathBuf,
}

impl Files {
    /// In the directory where the agent keeps what it knows.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            state: directory.join("state.json"),
            snapshots: directory.join("snapshots.json"),
            behind: directory.join("behind"),
        }
    }
}

/// Why the loop ended or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The kernel refused.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The tables can't be adopted.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
}

/// The loop's state.
pub struct Reconciler<D> {
    dataplane: D,
    limits: Limits,
    planner: Planner,
    feeds: Vec<Feed>,
    sources: Vec<SourceState>,
    merger: Merger,
    monitor: Monitor,
    plan_rejections: Vec<Rejection>,
    /// Part of the last plan waits for a grace period.
    deferred: bool,
    reporter: Reporter,
    attached: Option<Attached>,
    self_tests: SelfTests,
    work: WorkStatus,
    /// A grace period under way.
    grace: Option<JoinHandle<Result<(), DataplaneError>>>,
    removals: Removals,
    collection: Collection,
    revisions: Revisions,
    retry_at: Option<Instant>,
    /// The planner's belief may be wrong: a step failed.
    lost: bool,
    backoff: Duration,
    saver: Saver,
    unsaved: bool,
    /// Nothing has been merged yet.
    fresh: bool,
    recall: Recall,
    handover: Handover,
    /// Until then what sources said before the start serves nothing: the tables hold what is newer.
    doubt: Option<Instant>,
    /// What was last reported of these services may not be true any more.
    touched: BTreeSet<ServiceName>,
    pulse: Pulse,
    /// What the packet path is to serve, whether it does or not.
    wanted: Versions<Wanted>,
    packets: watch::Sender<Arc<Wanted>>,
}

impl<D: Dataplane> Reconciler<D> {
    /// Adopts what the tables hold. Whoever wrote them last may just have died, so the first thing
    /// is to wait until nobody can be reading what it left behind.
    ///
    /// # Errors
    ///
    /// If the wait fails, the tables can't be read, or they are not such as an agent leaves. Nothing was changed
    /// then. A saved state that can't be read is no error but a warning in the log.
    pub fn new(
        mut dataplane: D,
        limits: Limits,
        feeds: Vec<Feed>,
        identity: Identity,
        files: Files,
        monitor: Monitor,
    ) -> Result<Self, ReconcileError> {
        dataplane.grace()()?;
        let earlier = store::load(&files.state).unwrap_or_else(|error| {
            tracing::warn!(%error, "going on without the saved state");
            None
        });
        let mut recall = Recall::of(earlier.as_ref());
        let planner = adopt(&mut dataplane, limits, &mut recall)?;
        let doubt = (planner.serves() && files.behind.exists()).then(|| {
            tracing::info!("{DOUBTED}");
            Instant::now() + handover::LONGEST
        });
        Ok(Self {
            dataplane,
            limits,
            planner,
            sources: feeds.iter().map(|feed| feed.borrow().clone()).collect(),
            feeds,
            merger: Merger::default(),
            monitor,
            plan_rejections: Vec::new(),
            deferred: false,
            reporter: Reporter::new(identity, earlier),
            attached: None,
            self_tests: SelfTests::default(),
            work: WorkStatus { grace_periods: 1, ..WorkStatus::default() },
            grace: None,
            removals: Removals::default(),
            collection: Collection::default(),
            revisions: Revisions::default(),
            retry_at: None,
            lost: false,
            backoff: FIRST_RETRY,
            saver: Saver::new(files),
            unsaved: false,
            fresh: true,
            recall,
            handover: Handover::default(),
            doubt,
            touched: BTreeSet::new(),
            pulse: Pulse::default(),
            wanted: Versions::default(),
            packets: watch::Sender::default(),
        })
    }

    /// Tests itself so often, once the programs are attached.
    pub fn test_every(&mut self, every: Duration) {
        self.self_tests.every = every;
    }

    /// What the loop publishes after each round.
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.reporter.subscribe()
    }

    /// What the packet path is to serve.
    pub fn packets(&self) -> watch::Receiver<Arc<Wanted>> {
        self.packets.subscribe()
    }

    /// Tells whether the loop still comes round.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Runs until `shutdown` completes.
    ///
    /// # Errors
    ///
    /// If the programs can't be attached at first. What fails later is told in the status and the log, and tried
    /// again.
    pub async fn run(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), ReconcileError> {
        let changed = Arc::new(Notify::new());
        for feed in &self.feeds {
            let (mut feed, changed) = (feed.clone(), changed.clone());
            tokio::spawn(async move {
                // Ends with its source, which ends when the loop drops the feeds.
                while feed.changed().await.is_ok() {
                    changed.notify_one();
                }
            });
        }
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shutdown = std::pin::pin!(shutdown);
        self.absorb();
        loop {
            self.pulse.beat();
            let (retry, doubt) = (self.retry_at, self.doubt);
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                // Before changes, which may come without end and need what a grace period frees.
                result = ended(&mut self.grace) => self.grace_ended(result),
                () = changed.notified() => self.absorb(),
                news = self.saver.ended() => self.saved(news),
                result = self.removals.ended() => self.destroyed(result),
                result = self.collection.ended() => self.swept(result),
                news = self.monitor.news() => self.hear(news),
                () = wait_until(retry) => {
                    self.retry_at = None;
                    block_in_place(|| self.round(Instant::now()));
                }
                () = wait_until(doubt) => {
                    self.doubt = None;
                    // All is merged again.
                    self.fresh = true;
                    self.absorb();
                }
                _ = tick.tick() => self.tick(),
            }
            self.attach_if_ready(Instant::now())?;
        }
        if self.may_save() {
            let documents = self.documents();
            self.saver.finish(documents).await;
        }
        Ok(())
    }

    /// Takes what the sources say now.
    fn absorb(&mut self) {
        let begin = Instant::now();
        let states = self.feeds.iter_mut().map(|feed| feed.borrow_and_update().clone());
        let before = std::mem::replace(&mut self.sources, states.collect());
        if self.sources.iter().all(|state| state.synced) {
            self.doubt = None;
        }
        let same = |(now, before): (&SourceState, &SourceState)| now.says_the_same(before);
        if self.fresh || !self.sources.iter().zip(&before).all(same) {
            // It may have delivered before the loop first looked.
            let fresh = std::mem::take(&mut self.fresh);
            let first = |(now, before): (&SourceState, &SourceState)| {
                now.synced && (fresh || !before.synced)
            };
            if self.sources.iter().zip(&before).any(first) {
                // Were the agent killed and its source away, the next would know nothing.
                self.saver.hurry();
            }
            if self.sources.iter().any(|state| state.synced) {
                self.saver.fall_behind();
            }
            let input = |state: &SourceState| Input {
                source: Arc::clone(&state.name),
                snapshot: self.heard(state).cloned(),
                synced: state.synced,
            };
            let inputs = self.sources.iter().map(input).collect();
            block_in_place(|| {
                self.merger.merge(inputs);
                let snapshots = self.sources.iter().filter_map(|state| state.snapshot.clone());
                self.monitor.hear_sources(snapshots);
                self.monitor.follow(&mut self.merger, begin);
            });
            self.unsaved = true;
        }
        block_in_place(|| self.round(begin));
        if self.saver.is_hurried() {
            self.save();
        }
    }

    /// What serves of what a source has said.
    fn heard<'s>(&self, state: &'s SourceState) -> Option<&'s Arc<Snapshot>> {
        state.snapshot.as_ref().filter(|_| state.synced || self.doubt.is_none())
    }

    /// Takes what was learnt of the backends' health.
    fn hear(&mut self, news: News) {
        let now = Instant::now();
        let desired = self.merger.desired();
        self.monitor.absorb(news, &self.planner, desired, now);
        let touched = self.monitor.settle(&mut self.merger, now);
        if !touched.is_empty() {
            self.touched.extend(touched);
            block_in_place(|| self.round(now));
        }
    }

    /// Plans and applies once, in a round that began at `begin`.
    fn round(&mut self, begin: Instant) {
        // What packets meet and what is shown follow, whatever becomes of the tables. A planner that
        // adopts looks at all services.
        let changed = self.merger.take_changed();
        self.touched.extend(changed.iter().cloned());
        if self.lost
            && let Err(error) = self.look_again()
        {
            self.failed(&error);
            self.publish();
            return;
        }
        let plan = self.planner.plan_changes(self.merger.desired(), &changed);
        self.touched.extend(plan.touched);
        self.plan_rejections = plan.rejections;
        self.deferred = !plan.deferred.is_empty();
        self.removals.note(plan.left);
        let result = self.dataplane.apply(&plan.actions);
        own::round(begin.elapsed());
        let spent = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.work.last_round_micros = spent;
        self.work.longest_round_micros = self.work.longest_round_micros.max(spent);
        match result {
            Ok(()) => {
                let published = plan.actions.iter().filter(|a| matches!(a, Action::Publish { .. }));
                self.work.publishes += published.count() as u64;
                if !plan.actions.is_empty() {
                    self.work.rounds += 1;
                    self.unsaved = true;
                    tracing::debug!(actions = plan.actions.len(), micros = spent, "applied");
                }
                self.note_applied(&plan.deferred);
                self.work.last_error = None;
                self.backoff = FIRST_RETRY;
                self.note_published();
                self.start_grace();
            }
            Err(error) => {
                self.lost = true;
                self.failed(&error);
            }
        }
        // What waits for a grace period is planned again when it has passed.
        if !plan.deferred.is_empty() && self.grace.is_none() && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.backoff);
        }
        self.publish();
    }

    /// The tables hold what the sources say now, but for what is deferred.
    fn note_applied(&mut self, deferred: &BTreeSet<ServiceName>) {
        let desired = self.merger.desired();
        let source = |name: &ServiceName| Some(Arc::clone(&desired.services.get(name)?.source));
        let deferred = deferred.iter().filter_map(|name| Some((name.clone(), source(name)?)));
        let now = self.sources.iter().map(|state| (Arc::clone(&state.name), state.revision));
        self.revisions.applied_but(deferred, now);
    }

    /// What was absorbed is in the tables, but for what waits.
    fn note_published(&self) {
        for source in &self.sources {
            let applied = self.revisions.applied(&source.name);
            for heard in source.underway.published(applied) {
                own::published(&source.name, heard.elapsed());
            }
        }
    }

    /// Forgets what the planner believed, and adopts what the tables hold.
    fn look_again(&mut self) -> Result<(), ReconcileError> {
        // Any grace period under way belongs to the planner that is thrown away.
        self.grace = None;
        self.removals.lose_grace();
        self.dataplane.grace()()?;
        self.planner = adopt(&mut self.dataplane, self.limits, &mut self.recall)?;
        self.lost = false;
        Ok(())
    }

    /// Tries again soon.
    fn failed(&mut self, error: &dyn std::fmt::Display) {
        self.work.failures += 1;
        self.work.last_error = Some(error.to_string());
        own::error(ErrorKind::Apply);
        tracing::error!(%error, retry_in = ?self.backoff, "a change could not be applied");
        self.retry_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(LAST_RETRY);
    }

    fn start_grace(&mut self) {
        let needed = self.planner.needs_grace() || self.removals.need_grace();
        if self.grace.is_none() && needed {
            self.planner.start_grace();
            self.removals.start_grace();
            let wait = self.dataplane.grace();
            self.grace = Some(spawn_blocking(wait));
        }
    }

    fn grace_ended(&mut self, result: Result<(), DataplaneError>) {
        self.grace = None;
        match result {
            Ok(()) => {
                self.work.grace_periods += 1;
                self.planner.end_grace();
                self.removals.end_grace();
                if self.lost || self.deferred || !self.plan_rejections.is_empty() {
                    block_in_place(|| self.round(Instant::now()));
                } else {
                    // Nothing waited for this, so the next change need not wait for a look at it all.
                    self.start_grace();
                    self.publish();
                }
                self.destroy();
            }
            Err(error) => {
                // Whether what waited may be used again is not known any more.
                self.lost = true;
                self.failed(&error);
            }
        }
    }

    fn publish(&mut self) {
        let desired = self.merger.desired();
        let rejections: Vec<Rejection> = self
            .sources
            .iter()
            .flat_map(|state| state.rejections.iter())
            .chain(&desired.rejections)
            .chain(desired.waiting.values())
            .chain(&self.plan_rejections)
            .cloned()
            .collect();
        let source = |state| source_status(state, self.revisions.applied(&state.name));
        let sources = self.sources.iter().map(source).collect();
        let touched = std::mem::take(&mut self.touched);
        if self.wanted.follow(desired, &touched) {
            self.packets.send_replace(Arc::clone(self.wanted.now()));
        }
        self.reporter.update(desired, &self.planner, &touched);
        let saved = Saved {
            behind: self.saver.is_behind(),
            problem: self.saver.problem(),
            doubted: self.doubt.is_some(),
        };
        let attached = self.attached.as_ref().map(|hooks| (hooks, self.self_tests.status()));
        self.reporter.publish(attached, saved, sources, &self.work, rejections);
    }
}

/// A planner that believes what the tables hold, and what is recalled beside it.
fn adopt(
    dataplane: &mut impl Dataplane,
    limits: Limits,
    recall: &mut Recall,
) -> Result<Planner, ReconcileError> {
    let mut observed = dataplane.observe()?;
    recall.complete(&mut observed);
    Ok(Planner::adopt(limits, observed)?)
}

/// Never, while no grace period is under way.
async fn ended(
    grace: &mut Option<JoinHandle<Result<(), DataplaneError>>>,
) -> Result<(), DataplaneError> {
    match grace {
        Some(wait) => match wait.await {
            Ok(result) => result,
            Err(panic) => Err(DataplaneError::new("waiting for programs", panic)),
        },
        None => std::future::pending().await,
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
