//! The life of a registration: what has happened, and what is to be in the store then. Level-
//! triggered: after each event, [`Run::settle`] makes the store's side follow the state.
//!
//! The order of an end: the key says `drain`, a while passes, the key is removed, and only then does
//! the command get the signal, so that no new connection reaches a server that is going.

use super::super::say;
use super::check::{Checks, Verdict};
use super::child::{self, Child};
use super::claim::{self, Claim};
use super::keeping::Keeping;
use super::record::Record;
use super::signals::{Signals, asks_to_stop};
use super::told::Told;
use crate::etcd::{Client, KeyValue, Settings, TakeOver};
use crate::model::AdminState;
use anyhow::Context as _;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::pin::Pin;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// What is to be registered, and how.
#[derive(Debug)]
pub(super) struct Session {
    /// The backend's key.
    pub(super) key: String,
    /// Its value.
    pub(super) record: Record,
    /// How long its lease lives by itself.
    pub(super) ttl: Duration,
    /// How long to drain.
    pub(super) drain_wait: Duration,
    /// How the store is reached.
    pub(super) settings: Arc<Settings>,
}

/// Something that will be done at some time.
type Task<T = ()> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A session under way.
struct Run {
    session: Session,
    signals: Signals,
    child: Option<Child>,
    /// What the checks say, if there are any.
    verdict: Option<watch::Receiver<Verdict>>,
    /// Finds out whether the key is ours to take; `None` once it is.
    claiming: Option<Task<Option<i64>>>,
    /// The revision at which another's key is ours to take.
    free_at: Option<i64>,
    /// The lease on which we last kept it; what hangs there is our own.
    left_on: Option<i64>,
    keeping: Option<Keeping>,
    /// Removes what was kept.
    leaving: Option<Task>,
    phase: Phase,
    told: Told,
}

/// How far it is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Up,
    /// No new connections are wanted; `with` is for the command afterwards.
    Draining {
        until: Instant,
        with: Signal,
    },
    /// The key is to go; then the command gets this signal, unless it has had it.
    Removing {
        with: Option<Signal>,
    },
    /// Only the command's own end is waited for.
    Ending,
    /// The command has ended, with this.
    Ended(u8),
}

/// What happened.
enum Event {
    Ended(io::Result<ExitStatus>),
    Signal(Signal),
    Verdict,
    Claimed(Option<i64>),
    Kept,
    Left,
    Drained,
}

// === impl Session ===

impl Session {
    /// Registers until the command has ended or somebody asks for a stop; returns our exit code.
    pub(super) async fn run(
        self,
        command: &[OsString],
        checks: Checks,
    ) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::listen().context("cannot wait for signals")?;
        let address = self.record.address();
        let mut client = Client::new(Arc::clone(&self.settings));
        let mut announced = false;
        let first = tokio::select! {
            claim = claim::look(&mut client, &self.key, address, &mut announced) => claim,
            signal = stop(&mut signals, !command.is_empty()) => {
                // As if the command had been there to hear it.
                let code = if command.is_empty() { 0 } else { child::code_of(signal) };
                return Ok(code.into());
            }
        };
        let mut free_at = None;
        let claiming: Option<Task<Option<i64>>> = match first {
            Ok(Claim::Free(modified)) => {
                free_at = modified;
                None
            }
            // Before the command is started: nobody is hurt by the refusal yet.
            Ok(Claim::Taken(reason)) => anyhow::bail!(reason),
            Err(error) => {
                let reason = error.to_string();
                say(&format!("not registered yet: {reason}"));
                Some(Box::pin(claim::settle(client, self.key.clone(), address, Some(reason))))
            }
        };
        let child = match command {
            [] => None,
            words => match Child::start(words) {
                Ok(child) => Some(child),
                Err(error) => {
                    say(&error.to_string());
                    return Ok(error.exit_code().into());
                }
            },
        };
        let verdict = (!checks.list.is_empty()).then(|| {
            let (sender, verdict) = watch::channel(Verdict::default());
            tokio::spawn(checks.follow(sender));
            verdict
        });
        let run = Run {
            session: self,
            signals,
            child,
            verdict,
            claiming,
            free_at,
            left_on: None,
            keeping: None,
            leaving: None,
            phase: Phase::Up,
            told: Told::default(),
        };
        run.until_the_end().await
    }
}

/// Waits for a signal that asks for an end.
async fn stop(signals: &mut Signals, command: bool) -> Signal {
    loop {
        let signal = signals.next().await;
        if asks_to_stop(signal, command) {
            return signal;
        }
    }
}

// === impl Run ===

impl Run {
    async fn until_the_end(mut self) -> anyhow::Result<ExitCode> {
        loop {
            self.settle();
            if self.keeping.is_none() && self.leaving.is_none() {
                match (self.phase, &mut self.child) {
                    (Phase::Ended(code), _) => return Ok(code.into()),
                    (Phase::Removing { .. }, None) => return Ok(ExitCode::SUCCESS),
                    (Phase::Removing { with }, Some(child)) => {
                        with.map_or(Ok(()), |signal| child.signal(signal))
                            .context("cannot signal the command")?;
                        self.phase = Phase::Ending;
                    }
                    _ => {}
                }
            }
            let event = self.event().await;
            self.take(event)?;
        }
    }

    /// Makes the store's side follow the state.
    fn settle(&mut self) {
        let passing = self.verdict.as_ref().is_none_or(|verdict| verdict.borrow().passing);
        let state = match self.phase {
            Phase::Up if passing && self.claiming.is_none() => Some(AdminState::Ready),
            Phase::Draining { .. } => Some(AdminState::Drain),
            _ => None,
        };
        match (state, self.keeping.take()) {
            (Some(state), Some(keeping)) => {
                keeping.want(self.session.keys(state));
                self.keeping = Some(keeping);
            }
            (None, Some(Keeping { wanted, keeper, state })) => {
                drop(wanted);
                self.left_on = state.borrow().lease;
                self.told.given_up();
                self.leaving = Some(Box::pin(keeper.ended()));
            }
            // What was kept must be gone before: it would take the new key with it.
            (Some(state), None) if self.leaving.is_none() => {
                let Session { settings, ttl, .. } = &self.session;
                let keys = self.session.keys(state);
                let keeping = Keeping::begin(settings, *ttl, keys, self.take_over());
                self.keeping = Some(keeping);
            }
            (_, None) => {}
        }
    }

    /// What stood there when we looked is ours to take, and nothing that came after.
    fn take_over(&self) -> TakeOver {
        let free = self.free_at.map(|modified| (self.session.key.clone(), modified));
        TakeOver::At(free.into_iter().collect())
    }

    async fn event(&mut self) -> Event {
        let Self { signals, child, verdict, claiming, keeping, leaving, phase, .. } = self;
        let mut until = match phase {
            Phase::Draining { until, .. } => Some(*until),
            _ => None,
        };
        let ended = matches!(phase, Phase::Ended(_));
        tokio::select! {
            status = given(child, |child| child.end()), if !ended => Event::Ended(status),
            signal = signals.next() => Event::Signal(signal),
            () = given(verdict, changed) => Event::Verdict,
            modified = given(claiming, |task| task.as_mut()) => Event::Claimed(modified),
            () = given(keeping, |keeping| changed(&mut keeping.state)) => Event::Kept,
            () = given(leaving, |task| task.as_mut()) => Event::Left,
            () = given(&mut until, |until| sleep_until(*until)) => Event::Drained,
        }
    }

    fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Ended(status) => {
                let status = status.context("cannot wait for the command")?;
                self.phase = Phase::Ended(child::exit_code(status));
            }
            Event::Signal(signal) => self.take_signal(signal)?,
            Event::Verdict => {
                if let (Some(verdict), Phase::Up) = (&mut self.verdict, self.phase) {
                    self.told.verdict(&verdict.borrow_and_update(), self.keeping.is_some());
                }
            }
            Event::Claimed(modified) => {
                self.claiming = None;
                self.free_at = modified;
            }
            Event::Kept => self.take_state(),
            Event::Left => self.leaving = None,
            Event::Drained => {
                if let Phase::Draining { with, .. } = self.phase {
                    self.phase = Phase::Removing { with: Some(with) };
                }
            }
        }
        Ok(())
    }

    fn take_state(&mut self) {
        let Some(keeping) = &mut self.keeping else { return };
        let state = keeping.state.borrow_and_update().clone();
        let Session { key, record, settings, .. } = &self.session;
        let left = |found: &KeyValue| found.lease.is_some() && found.lease == self.left_on;
        if let Some(found) = &state.taken {
            match self.phase {
                // It came between our look and our first put, or is our own from before.
                Phase::Up if !self.told.ever() || left(found) => {
                    let client = Client::new(Arc::clone(settings));
                    let claim = claim::settle(client, key.clone(), record.address(), None);
                    self.claiming = Some(Box::pin(claim));
                    return;
                }
                // Nobody is sent here any more, or whoever is, is sent by another.
                Phase::Draining { with, .. } => self.phase = Phase::Removing { with: Some(with) },
                _ => {}
            }
        }
        self.told.state(&state, key, record.address());
    }

    fn take_signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        let stop = asks_to_stop(signal, self.child.is_some());
        if self.phase == Phase::Up && stop {
            self.phase = self.begin_to_stop(signal);
            return Ok(());
        }
        if let Some(child) = &mut self.child {
            child.signal(signal).context("cannot signal the command")?;
        }
        // Asked twice: whoever asks does not want to wait.
        if stop && matches!(self.phase, Phase::Draining { .. } | Phase::Removing { .. }) {
            self.phase = Phase::Removing { with: None };
        }
        Ok(())
    }

    fn begin_to_stop(&self, with: Signal) -> Phase {
        let wait = self.session.drain_wait;
        let registered = self.keeping.as_ref().is_some_and(|k| k.state.borrow().registered);
        // Without a store that hears of it, waiting would not keep any client away.
        if !registered || wait.is_zero() {
            return Phase::Removing { with: Some(with) };
        }
        say(&format!("{}: draining for {wait:?}", self.session.key));
        Phase::Draining { until: Instant::now() + wait, with }
    }
}

// === impl Session ===

impl Session {
    fn keys(&self, state: AdminState) -> Arc<BTreeMap<String, Vec<u8>>> {
        Arc::new(BTreeMap::from([(self.key.clone(), self.record.value(state))]))
    }
}

/// What becomes of a thing that may not be there; never anything of one that is not.
async fn given<'t, T, F>(thing: &'t mut Option<T>, then: impl FnOnce(&'t mut T) -> F) -> F::Output
where
    F: Future,
{
    match thing {
        Some(thing) => then(thing).await,
        None => std::future::pending().await,
    }
}

/// Waits for news. Those of a sender that has ended never come.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
