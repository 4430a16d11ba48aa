//! What is still connected to backends that are out of service, and when it is ended: once no program
//! can send a socket there any more, and once again a little later, because a socket that a program
//! has just sent there may not bear its peer yet.

use crate::dataplane::{DataplaneError, Destroy, Destroyed, Doomed};
use crate::plan::Left;
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::{JoinHandle, spawn_blocking};

/// How often each backend's sockets are looked for.
const PASSES: u8 = 2;

/// By backend id.
type Backends = BTreeMap<u32, Left>;

/// The backends, by how far they are.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// Since the last grace period began.
    fresh: Backends,
    /// Waiting for the grace period that is under way.
    waiting: Backends,
    /// Their turn has come; how many passes are to be made.
    ready: BTreeMap<u32, (Left, u8)>,
    /// They have had a pass, and wait for the next.
    again: BTreeMap<u32, (Left, u8)>,
    job: Option<Job>,
    /// What has been complained of.
    problems: BTreeSet<String>,
}

#[derive(Debug)]
struct Job {
    result: JoinHandle<Result<Destroyed, DataplaneError>>,
    backends: BTreeMap<u32, (Left, u8)>,
}

impl Removals {
    /// These are out of service with a plan that is about to be applied.
    pub(super) fn note(&mut self, left: Vec<Left>) {
        for left in left {
            self.ready.remove(&left.id);
            self.again.remove(&left.id);
            self.fresh.insert(left.id, left);
        }
    }

    /// Whether a grace period is needed for them.
    pub(super) fn need_grace(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// A grace period begins.
    pub(super) fn start_grace(&mut self) {
        self.waiting.append(&mut self.fresh);
    }

    /// It has passed.
    pub(super) fn end_grace(&mut self) {
        let ready = std::mem::take(&mut self.waiting).into_iter();
        self.ready.extend(ready.map(|(id, left)| (id, (left, PASSES))));
    }

    /// It failed, or nobody knows.
    pub(super) fn lose_grace(&mut self) {
        self.fresh.append(&mut self.waiting);
    }

    /// Time has gone by: those that have had a pass may have another.
    pub(super) fn tick(&mut self) {
        self.ready.append(&mut self.again);
    }

    /// Whether the id must not be given to another backend yet.
    pub(super) fn names(&self, id: u32) -> bool {
        let Self { fresh, waiting, ready, again, job, problems: _ } = self;
        let keys = |map: &BTreeMap<u32, (Left, u8)>| map.contains_key(&id);
        fresh.contains_key(&id)
            || waiting.contains_key(&id)
            || keys(ready)
            || keys(again)
            || job.as_ref().is_some_and(|job| keys(&job.backends))
    }

    /// Begins a pass for those whose turn it is and that are `still_left`, if none is under way.
    pub(super) fn start(
        &mut self,
        still_left: impl Fn(&Left) -> bool,
        destroy: impl FnOnce(Vec<Doomed>) -> Option<Destroy>,
    ) {
        if self.job.is_some() {
            return;
        }
        let mut backends = std::mem::take(&mut self.ready);
        backends.retain(|_, (left, _)| still_left(left));
        if backends.is_empty() {
            return;
        }
        let doomed =
            |(left, _): &(Left, u8)| Doomed { id: left.id, backend: left.address, tcp: left.tcp };
        match destroy(backends.values().map(doomed).collect()) {
            Some(work) => self.job = Some(Job { result: spawn_blocking(work), backends }),
            // Nobody is connected to them, or not yet to be seen.
            None => self.passed(backends),
        }
    }

    /// Waits for the pass under way; for ever if there is none.
    pub(super) async fn ended(&mut self) -> Result<Destroyed, DataplaneError> {
        let Some(job) = &mut self.job else { return std::future::pending().await };
        let result = match (&mut job.result).await {
            Ok(result) => result,
            Err(panic) => Err(DataplaneError::new("ending sockets", panic)),
        };
        if let Some(job) = self.job.take() {
            self.passed(job.backends);
        }
        result
    }

    /// Those that have not been complained of: most last, and come up with every pass.
    pub(super) fn new_problems(&mut self, problems: BTreeSet<String>) -> Vec<String> {
        problems.into_iter().filter(|problem| self.problems.insert(problem.clone())).collect()
    }

    fn passed(&mut self, backends: BTreeMap<u32, (Left, u8)>) {
        for (id, (left, passes)) in backends {
            // One that has left again meanwhile begins anew.
            if passes > 1 && !self.fresh.contains_key(&id) && !self.waiting.contains_key(&id) {
                self.again.entry(id).or_insert((left, passes - 1));
            }
        }
    }
}
