//! A file of services, read again whenever it changes.
//!
//! Decides when to look (on a hint from the directory, and every two seconds for safety) and what
//! becomes of what was read: a good document is delivered, a broken one leaves the last good
//! snapshot serving. What the text means is left to [`super::spec`].

mod look;
mod watch;

use self::look::{Look, Seen, look};
use self::watch::Watch;
use super::spec::{self, Translation};
use super::{Feed, SourceState};
use crate::claims::Claims;
use crate::config::{self, Config};
use crate::model::{Rejection, Snapshot};
use crate::yaml::Document;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch::{Sender, channel};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// When to look.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// From a hint to the look: editors and package managers touch a file several times.
    gather: Duration,
    /// Between looks without a hint.
    poll: Duration,
    /// How long a file must be left alone before it is read without a hint.
    rest: Duration,
}

const TIMING: Timing = Timing {
    gather: Duration::from_millis(20),
    poll: Duration::from_secs(2),
    rest: Duration::from_secs(1),
};

/// What does not change while the agent runs.
#[derive(Debug)]
struct File {
    path: PathBuf,
    origin: String,
    claims: Claims,
    main: bool,
}

/// What was made of a text.
#[derive(Debug)]
struct Reading {
    services: Result<Translation, Rejection>,
    /// In the main file only.
    settings: Option<Result<Config, Vec<Rejection>>>,
}

/// A file and what is known of it.
struct Follower {
    file: Arc<File>,
    seen: Seen,
    state: SourceState,
    /// The settings the agent runs with.
    started_with: Option<Config>,
}

/// The name of the source that reads this file.
pub fn source_name(path: &Path) -> Arc<str> {
    format!("file:{}", path.display()).into()
}

/// Reads a file once, for checking it.
///
/// # Errors
///
/// If the file is missing, may not be read, is no regular file or no UTF-8, is written meanwhile, or is refused as
/// a whole, as [`spec::translate`] says.
pub fn read(path: &Path, claims: &Claims, main: bool) -> Result<Translation, Rejection> {
    let origin = path.display().to_string();
    match look(path, &Seen::default(), true, Duration::ZERO) {
        Look::Changed(_, Ok(text)) => spec::translate(&origin, &text, claims, main),
        Look::Changed(_, Err(reason)) => {
            let reason = reason.strip_prefix(&format!("{origin}: ")).unwrap_or(&reason).to_owned();
            Err(Rejection { origin, service: None, reason })
        }
        Look::Same(_) | Look::Moving => {
            let reason = "the file is being written; try again".to_owned();
            Err(Rejection { origin, service: None, reason })
        }
    }
}

/// Follows a file. It is read before this returns, so that the first state already says whether
/// it is there and good; `cached` serves until it is. `main` is set for the main configuration
/// file, which also has settings: changes to those are reported, not applied. Must be called within
/// a tokio runtime; the task ends when the feed has no receiver left.
pub fn spawn(path: PathBuf, claims: Claims, main: bool, cached: Option<Arc<Snapshot>>) -> Feed {
    // Watched before it is read, so that no change falls between the two.
    let watch = Watch::new(&path);
    if !watch.works() {
        tracing::warn!(path = %path.display(), "directory can't be watched; polling it");
    }
    start(path, claims, main, cached, watch, TIMING)
}

fn start(
    path: PathBuf,
    claims: Claims,
    main: bool,
    cached: Option<Arc<Snapshot>>,
    watch: Watch,
    timing: Timing,
) -> Feed {
    let cached = cached.map(|cached| Arc::new(spec::allowed(&cached, &claims)));
    let state = SourceState::new(source_name(&path), cached);
    let origin = path.display().to_string();
    let file = Arc::new(File { path, origin, claims, main });
    let mut follower = Follower { file, seen: Seen::default(), state, started_with: None };
    let began = Instant::now();
    let found = follower.file.look(&follower.seen, true, timing.rest);
    if matches!(found, Found::Moving) {
        watch.again();
    }
    follower.absorb(found, began);
    let (sender, feed) = channel(follower.state.clone());
    tokio::spawn(follow(follower, watch, sender, timing));
    feed
}

async fn follow(
    mut follower: Follower,
    mut watch: Watch,
    sender: Sender<SourceState>,
    timing: Timing,
) {
    let mut poll = interval(timing.poll);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let hint = tokio::select! {
            () = sender.closed() => return,
            () = watch.hint() => true,
            _ = poll.tick() => false,
        };
        let heard = Instant::now();
        if hint {
            sleep(timing.gather).await;
        }
        let (file, seen) = (Arc::clone(&follower.file), follower.seen.clone());
        let looking = tokio::task::spawn_blocking(move || file.look(&seen, hint, timing.rest));
        let found = looking.await.unwrap_or_else(|panic| {
            Found::Unreadable(Seen::default(), format!("{}: {panic}", follower.file.origin))
        });
        if matches!(found, Found::Moving) {
            watch.again();
        }
        let changed = follower.absorb(found, heard);
        if changed {
            sender.send_replace(follower.state.clone());
        }
        // A change that was not announced: the directory is another one by now.
        if !hint && (changed || !watch.works()) {
            watch.renew();
        }
    }
}

/// What a look at the file came to.
#[derive(Debug)]
enum Found {
    Same(Seen),
    Moving,
    Unreadable(Seen, String),
    Text(Seen, Box<Reading>),
}

// === impl File ===

impl File {
    /// Looks and, if there is something new, reads it. Blocks.
    fn look(&self, seen: &Seen, hint: bool, rest: Duration) -> Found {
        match look(&self.path, seen, hint, rest) {
            Look::Same(seen) => Found::Same(seen),
            Look::Moving => Found::Moving,
            Look::Changed(seen, Err(reason)) => Found::Unreadable(seen, reason),
            Look::Changed(seen, Ok(text)) => Found::Text(seen, Box::new(self.read(&text))),
        }
    }

    fn read(&self, text: &str) -> Reading {
        let document = match Document::parse(&self.origin, text) {
            Ok(document) => document,
            Err(problem) => {
                return Reading { services: Err(problem), settings: None };
            }
        };
        let settings = self.main.then(|| config::from_document(&self.path, &document));
        let services = spec::from_document(&self.origin, &document, &self.claims, self.main);
        Reading { services, settings }
    }
}

// === impl Follower ===

impl Follower {
    /// Takes in what was found, after somebody said at `heard` that there is something; whether the
    /// state changed.
    fn absorb(&mut self, found: Found, heard: Instant) -> bool {
        let (seen, error) = match found {
            Found::Moving => return false,
            Found::Same(seen) => {
                self.seen = seen;
                // What is there and can't be used is not what serves.
                if self.state.error.is_none() {
                    self.state.heard.mark(0, SystemTime::now());
                }
                return false;
            }
            Found::Unreadable(seen, reason) => (seen, reason),
            Found::Text(seen, reading) => match reading.services {
                Ok(translation) => {
                    self.seen = seen;
                    self.deliver(translation, reading.settings);
                    self.state.underway.note(self.state.revision, heard);
                    return true;
                }
                Err(problem) => (seen, format!("{}: {}", problem.origin, problem.reason)),
            },
        };
        self.seen = seen;
        if self.state.error.as_ref() == Some(&error) {
            return false;
        }
        let services = self.state.snapshot.as_ref().map_or(0, |s| s.services.len());
        tracing::warn!(%error, services, "file not usable; what was known keeps serving");
        self.state.error = Some(error);
        true
    }

    fn deliver(
        &mut self,
        mut translation: Translation,
        settings: Option<Result<Config, Vec<Rejection>>>,
    ) {
        if let Some(last) = &self.state.snapshot {
            spec::keep_last_good(&mut translation, last, &self.file.claims);
            spec::share_unchanged(&mut translation.snapshot, last);
        }
        let mut rejections = self.settings_problems(settings);
        rejections.append(&mut translation.rejections);
        self.log(rejections.len(), &translation.snapshot);
        let same = self.state.snapshot.as_deref() == Some(&translation.snapshot);
        if !same {
            self.state.snapshot = Some(Arc::new(translation.snapshot));
        }
        self.state.synced = true;
        self.state.revision += 1;
        let now = SystemTime::now();
        self.state.delivered = Some(now);
        self.state.heard.mark(0, now);
        self.state.refused += rejections.len() as u64;
        self.state.rejections = Arc::new(rejections);
        self.state.error = None;
    }

    /// Settings that are wrong, or that are not those the agent was started with.
    fn settings_problems(
        &mut self,
        settings: Option<Result<Config, Vec<Rejection>>>,
    ) -> Vec<Rejection> {
        let now = match settings {
            None => return Vec::new(),
            Some(Err(problems)) => return problems,
            Some(Ok(config)) => config,
        };
        let Some(started_with) = &self.started_with else {
            self.started_with = Some(now);
            return Vec::new();
        };
        let changed = started_with.changed_settings(&now);
        let problem = |key| Rejection {
            origin: self.file.origin.clone(),
            service: None,
            reason: format!("the setting `{key}` changed; restart the agent to apply it"),
        };
        changed.into_iter().map(problem).collect()
    }

    fn log(&self, rejected: usize, snapshot: &Snapshot) {
        let backends: usize = snapshot.services.values().map(|s| s.backends.len()).sum();
        tracing::info!(
            source = %self.state.name,
            services = snapshot.services.len(),
            backends,
            rejected,
            "file read"
        );
    }
}

#[cfg(test)]
mod tests;
