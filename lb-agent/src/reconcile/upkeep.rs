//! What the loop does besides publishing: it attaches the programs, tests itself, ends sockets, collects
//! rows, frees ids and saves.

use super::handover::{self, Next};
use super::saver::Documents;
use super::{ReconcileError, Reconciler};
use crate::dataplane::{Dataplane, DataplaneError, Destroyed, Swept};
use crate::metrics::own::{self, ErrorKind};
use crate::source::SourceState;
use std::time::Instant;
use tokio::task::block_in_place;

impl<D: Dataplane> Reconciler<D> {
    /// Ends what is connected to backends that are out of service, as far as it is their turn.
    pub(super) fn destroy(&mut self) {
        if !self.lost && !self.recall.is_needed() {
            let Self { removals, planner, merger, dataplane, .. } = self;
            let still_left = |left: &_| planner.is_left(merger.desired(), left);
            removals.start(still_left, |doomed| block_in_place(|| dataplane.destroy(doomed)));
        }
    }

    pub(super) fn destroyed(&mut self, result: Result<Destroyed, DataplaneError>) {
        match result {
            Ok(Destroyed { udp, tcp, problems }) => {
                self.work.destroyed_udp += udp;
                self.work.destroyed_tcp += tcp;
                if udp + tcp > 0 {
                    tracing::info!(
                        udp,
                        tcp,
                        "ended sockets that were connected to removed backends"
                    );
                    self.publish();
                }
                for problem in self.removals.new_problems(problems) {
                    own::error(ErrorKind::Destroy);
                    tracing::warn!(%problem, "some sockets to removed backends may not have been ended");
                }
            }
            Err(error) => {
                own::error(ErrorKind::Destroy);
                tracing::warn!(%error, "sockets to removed backends were not ended");
            }
        }
        self.destroy();
    }

    /// The first time that any source (or the cache) has said something and the tables hold it; where
    /// programs of another layout serve, all sources are waited for.
    pub(super) fn attach_if_ready(&mut self, now: Instant) -> Result<(), ReconcileError> {
        let delivered = self.sources.iter().any(|state| self.heard(state).is_some());
        if self.attached.is_some() || !delivered || self.retry_at.is_some() {
            return Ok(());
        }
        let whole = !self.deferred && self.sources.iter().all(|state| state.synced);
        match self.handover.next(!whole && self.dataplane.others_serve(), now) {
            Next::Begin => {
                let longest = handover::LONGEST;
                tracing::info!(
                    ?longest,
                    "programs of another layout serve on until all sources have delivered"
                );
                return Ok(());
            }
            Next::Wait => return Ok(()),
            Next::GoOn => {}
        }
        self.attached = Some(self.dataplane.attach()?);
        self.recall.end();
        tracing::info!(services = self.merger.desired().services.len(), "serving");
        self.self_tests.begin(now);
        self.collection.begin(now);
        self.test_itself();
        Ok(())
    }

    pub(super) fn test_itself(&mut self) {
        let found = block_in_place(|| self.dataplane.self_test());
        if !found.repairs.is_empty() {
            self.collection.begin(Instant::now());
        }
        self.self_tests.note(&found, Instant::now());
        self.attached = Some(found.attached);
        self.publish();
    }

    pub(super) fn swept(&mut self, swept: Swept) {
        if swept.collected > 0 {
            let rows = swept.collected;
            tracing::info!(rows, "collected rows of sockets that had closed unseen");
        }
        let has_failed = !swept.unprivileged;
        for problem in self.collection.note(swept, Instant::now()) {
            if has_failed {
                own::error(ErrorKind::Read);
            }
            tracing::warn!("{problem}");
        }
    }

    pub(super) fn tick(&mut self) {
        let Self { collection, dataplane, .. } = self;
        collection.tick(Instant::now(), |suspects| dataplane.sweep(suspects));
        self.removals.tick();
        self.destroy();
        let mut resting = self.planner.resting_backends();
        resting.retain(|id| !self.removals.names(*id));
        if !self.recall.is_needed() && !resting.is_empty() {
            match block_in_place(|| self.dataplane.idle(&resting)) {
                Ok(idle) => {
                    self.planner.free_backends(&idle);
                    // A service that did not fit may fit now.
                    if !idle.is_empty() && !self.plan_rejections.is_empty() {
                        block_in_place(|| self.round(Instant::now()));
                    }
                }
                Err(error) => tracing::warn!(%error, "resting backends can't be looked at"),
            }
        }
        if self.self_tests.is_due(Instant::now()) {
            self.test_itself();
        }
        self.save();
    }

    /// Until programs of another layout are replaced, only what their agent saved says what their ids
    /// stand for. And while what was saved is in doubt, there is nothing better to save.
    pub(super) fn may_save(&self) -> bool {
        let before = || self.attached.is_none() && self.dataplane.others_serve();
        !self.recall.is_needed() && self.doubt.is_none() && !before()
    }

    pub(super) fn save(&mut self) {
        if !self.may_save() {
            return;
        }
        if self.unsaved && self.saver.is_free(Instant::now()) {
            self.unsaved = false;
            let documents = self.documents();
            self.saver.start(documents);
        }
    }

    /// Something is on disk, or is to be saved again.
    pub(super) fn saved(&mut self, news: bool) {
        self.unsaved |= self.saver.problem().is_some();
        if !self.unsaved {
            self.saver.catch_up();
        }
        if news {
            self.publish();
        }
        if self.saver.is_hurried() {
            self.save();
        }
    }

    /// What the next agent is to know.
    pub(super) fn documents(&self) -> Documents {
        let snapshot = |state: &SourceState| Some((state.name.clone(), state.snapshot.clone()?));
        let snapshots = self.sources.iter().filter_map(snapshot).collect();
        Documents { snapshots, state: self.reporter.state() }
    }
}
