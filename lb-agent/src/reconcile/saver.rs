//! Saves what the next agent starts with, beside the loop: a large state takes longer to write than
//! a change may wait. Nothing depends on it while the agent runs, so a full disk costs a warning,
//! and under constant change it is written now and then only.

use super::{Files, TICK};
use crate::model::Snapshot;
use crate::status::State;
use crate::store;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};
use tokio::task::{JoinHandle, spawn_blocking};

/// Of all time, one part in so many may go into saving.
const SHARE: u32 = 100;
/// A slow disk must not make what is saved older than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is saved, as it was at one moment.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// The last snapshot of every source, by its name.
    pub(super) snapshots: BTreeMap<Arc<str>, Arc<Snapshot>>,
    /// Services and backends.
    pub(super) state: Arc<State>,
}

/// Saves at most one thing at a time, with a pause after each.
pub(super) struct Saver {
    files: Arc<Files>,
    running: Option<JoinHandle<(Duration, Option<String>)>>,
    /// Why what was to be saved last is not on disk.
    problem: Option<String>,
    not_before: Option<Instant>,
    /// What there is now is to be saved without a pause.
    hurried: bool,
    /// What is being saved was.
    saving_hurried: bool,
    /// [`Files::behind`] is there.
    behind: bool,
}

impl Saver {
    pub(super) fn new(files: Files) -> Self {
        let files = Arc::new(files);
        Self {
            behind: files.behind.exists(),
            files,
            running: None,
            problem: None,
            not_before: None,
            hurried: false,
            saving_hurried: false,
        }
    }

    /// Sources have said something: until it is saved, an agent that starts is to know that the tables hold
    /// more than it reads. To be called before they do.
    pub(super) fn fall_behind(&mut self) {
        if self.behind {
            return;
        }
        let path = &self.files.behind;
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        // It need not be on disk: the tables outlive the agent, not the host. And where it can't be made,
        // nothing can be saved either, and that is told.
        self.behind = made.and_then(|()| fs::write(path, "")).is_ok();
    }

    /// All that was said is saved.
    pub(super) fn catch_up(&mut self) {
        if self.behind && self.problem.is_none() {
            self.behind = match fs::remove_file(&self.files.behind) {
                Ok(()) => false,
                // The next agent waits for its sources for a while, and needs not.
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            };
        }
    }

    /// What there is now is to be saved as soon as nothing else is being saved.
    pub(super) fn hurry(&mut self) {
        self.hurried = true;
    }

    /// Whether something is to be saved without a pause.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried
    }

    /// Whether something like that is not on disk yet.
    pub(super) fn is_behind(&self) -> bool {
        self.hurried || self.saving_hurried
    }

    /// Why what was to be saved last is not on disk, and what to do about it. It is to be saved again.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Whether [`Saver::start`] may be called now.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.running.is_none() && (self.hurried || self.not_before.is_none_or(|at| at <= now))
    }

    /// Saves on another thread.
    pub(super) fn start(&mut self, documents: Documents) {
        let files = Arc::clone(&self.files);
        self.saving_hurried = std::mem::take(&mut self.hurried);
        self.running = Some(spawn_blocking(move || documents.save(&files)));
    }

    /// Waits until what was started is saved; for ever if nothing was. To be called again and again.
    /// Returns whether there is something to tell: that was hurried, or began or ceased to fail.
    pub(super) async fn ended(&mut self) -> bool {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let (took, problem) = running.await.unwrap_or_else(|panic| {
            (
                LONGEST_PAUSE,
                Some(format!("the state was not saved ({panic}); report this with the log")),
            )
        });
        let changed = problem != self.problem;
        match &problem {
            Some(problem) if changed => tracing::warn!("{problem}"),
            None if changed => tracing::info!("the state is saved again"),
            _ => {}
        }
        self.problem = problem;
        self.running = None;
        self.not_before = Some(Instant::now() + pause(took));
        std::mem::take(&mut self.saving_hurried) || changed
    }

    /// Saves now, after what is being saved.
    pub(super) async fn finish(&mut self, documents: Documents) {
        if self.running.is_some() {
            self.ended().await;
        }
        self.start(documents);
        self.ended().await;
        self.catch_up();
    }
}

impl Documents {
    /// How long it took, and what went wrong.
    fn save(&self, files: &Files) -> (Duration, Option<String>) {
        let begin = Instant::now();
        let saved = store::save(&files.snapshots, &self.snapshots)
            .and_then(|()| store::save(&files.state, &*self.state));
        let problem = saved.err().map(|error| {
            format!("the state can't be saved: {error}; an agent that starts while a source is away would not know what it said; make room, or let the agent write there")
        });
        (begin.elapsed(), problem)
    }
}

/// From the end of one save to the next, when one took so long.
fn pause(took: Duration) -> Duration {
    (took * SHARE).clamp(TICK, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saving_takes_a_hundredth_of_the_time() {
        for (took, expected) in [(0, 1_000), (3, 1_000), (200, 20_000), (5_000, 60_000)] {
            let millis = Duration::from_millis;
            assert_eq!(pause(millis(took)), millis(expected), "{took} ms");
        }
    }

    #[tokio::test]
    async fn one_at_a_time_and_the_last_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::in_directory(directory.path());
        let mut saver = Saver::new(files.clone());
        let documents = |name: &str| Documents {
            snapshots: [(name.into(), Arc::default())].into(),
            ..Documents::default()
        };
        let saved = || store::load::<BTreeMap<String, Snapshot>>(&files.snapshots).unwrap();
        assert!(saver.is_free(Instant::now()));
        saver.start(documents("first"));
        assert!(!saver.is_free(Instant::now() + LONGEST_PAUSE), "it is saving");
        saver.ended().await;
        assert!(saved().unwrap().contains_key("first"));
        assert!(!saver.is_free(Instant::now()), "it pauses");
        assert!(saver.is_free(Instant::now() + LONGEST_PAUSE));

        assert_eq!(saver.problem(), None);

        saver.hurry();
        assert!(saver.is_free(Instant::now()) && saver.is_hurried());
        saver.start(documents("hurried"));
        assert!(!saver.is_hurried() && saver.is_behind());
        assert!(saver.ended().await, "that was hurried");
        assert!(!saver.is_behind() && !saver.is_free(Instant::now()));
        assert!(saved().unwrap().contains_key("hurried"));

        saver.start(documents("second"));
        saver.finish(documents("last")).await;
        assert!(saved().unwrap().contains_key("last"));
        assert!(store::load::<State>(&files.state).unwrap().is_some());
    }

    #[tokio::test]
    async fn what_could_not_be_saved_is_told_once_and_saved_later() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("later");
        // A file where the directory should be.
        fs::write(&inside, "").unwrap();
        let mut saver = Saver::new(Files::in_directory(&inside));
        for told in [true, false] {
            saver.fall_behind();
            saver.start(Documents::default());
            assert_eq!(saver.ended().await, told);
            let problem = saver.problem().unwrap();
            assert!(problem.starts_with("the state can't be saved: "), "{problem}");
        }
        fs::remove_file(&inside).unwrap();
        saver.start(Documents::default());
        assert!(saver.ended().await, "it is saved again");
        assert_eq!(saver.problem(), None);
    }

    #[tokio::test]
    async fn it_is_behind_from_what_is_said_until_that_is_saved() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::in_directory(directory.path());
        let mut saver = Saver::new(files.clone());
        saver.catch_up();
        for _ in 0..2 {
            saver.fall_behind();
            assert!(files.behind.exists());
        }
        saver.catch_up();
        assert!(!files.behind.exists());
        saver.fall_behind();
        // As another agent left it.
        let mut saver = Saver::new(files.clone());
        saver.finish(Documents::default()).await;
        assert!(!files.behind.exists());
    }
}
