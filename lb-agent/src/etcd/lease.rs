//! Keeps keys alive on a lease, whatever happens to the store.
//!
//! Level-triggered: each round compares what is wanted with what hangs on the lease, and does the
//! difference. A lease that is gone is made anew and all its keys are put again; a key that somebody
//! else has deleted is put again. One that somebody else has put is left alone, unless [`TakeOver`]
//! says otherwise: two keepers of one key would overwrite each other for ever. When nothing is wanted
//! any more, the lease is ended, and with it exactly those keys that are still ours.

mod round;

use self::round::{Round, is_kept};
use super::backoff::Backoff;
use super::client::Client;
use super::error::EtcdError;
use super::kv::KeyValue;
use super::settings::{CALL_TIMEOUT, Settings};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::{self, Receiver, Sender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// The keys that are wanted, with their values.
pub type Wanted = Arc<BTreeMap<String, Vec<u8>>>;

/// What a keeper may do with keys that others have put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakeOver {
    /// Overwrite them: nobody else has any business with keys of these names.
    Any,
    /// Overwrite those that were last changed at this revision, and no others. A key is put when it
    /// is absent, or ours.
    At(BTreeMap<String, i64>),
}

/// Longest that cleaning up may take.
const CLEAN_UP: Duration = Duration::from_secs(3);
/// Shortest time a member is given to answer, however short the lease.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(500);

/// A task that keeps keys alive.
#[derive(Debug)]
pub struct Keeper {
    state: Receiver<KeeperState>,
    task: JoinHandle<()>,
}

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeeperState {
    /// All wanted keys are in the store, on a lease that lives. Stays set through an outage that is
    /// shorter than the lease.
    pub registered: bool,
    /// The lease.
    pub lease: Option<i64>,
    /// A wanted key as somebody else has put it; the first, if there are several. It is looked at
    /// again, and put when it is free.
    pub taken: Option<KeyValue>,
    /// What is in the way, and what to do; one line.
    pub error: Option<String>,
}

// === impl Keeper ===

impl Keeper {
    /// Begins to keep the keys. `wanted` is the whole set. Must be called within a tokio runtime;
    /// when the sender of `wanted` is dropped, the keys are deleted and the task ends.
    pub fn spawn(
        settings: Arc<Settings>,
        ttl: Duration,
        wanted: Receiver<Wanted>,
        take_over: TakeOver,
    ) -> Self {
        let (sender, state) = watch::channel(KeeperState::default());
        // A member that hangs must not cost us the lease.
        let patience = (ttl / 3).clamp(SHORTEST_PATIENCE, CALL_TIMEOUT);
        let client = Client::new(settings).with_patience(patience);
        let task = tokio::spawn(keep(Round::new(client, ttl, take_over), wanted, sender));
        Self { state, task }
    }

    /// How far it has come.
    pub fn state(&self) -> Receiver<KeeperState> {
        self.state.clone()
    }

    /// Waits for the clean-up, which takes a bounded time once the sender of `wanted` is dropped.
    pub async fn ended(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the keeper of keys failed");
        }
    }
}

async fn keep(mut round: Round, mut wanted: Receiver<Wanted>, state: Sender<KeeperState>) {
    let mut unwanted = wanted.clone();
    let mut backoff = Backoff::new();
    let rounds = async {
        loop {
            let now = Arc::clone(&wanted.borrow_and_update());
            let outcome = round.go(&now).await;
            let pause = match &outcome {
                Ok(()) => {
                    backoff.good(Instant::now().into_std());
                    round.until_due()
                }
                Err(_) => backoff.failed(Instant::now().into_std(), rand::random()),
            };
            publish(&state, &round, &now, outcome.err());
            tokio::select! {
                () = sleep(pause) => {}
                // Its end is noticed below.
                Ok(()) = wanted.changed() => {}
            }
        }
    };
    tokio::select! {
        () = rounds => {}
        () = async { while unwanted.changed().await.is_ok() {} } => {}
    }
    clean_up(round).await;
    state.send_replace(KeeperState::default());
}

fn publish(
    state: &Sender<KeeperState>,
    round: &Round,
    wanted: &BTreeMap<String, Vec<u8>>,
    error: Option<EtcdError>,
) {
    let taken = round.taken();
    let now = KeeperState {
        registered: round.lives() && is_kept(wanted, round.kept()),
        lease: round.lease(),
        error: error.map(|error| error.to_string()).or_else(|| taken.map(anothers)),
        taken: taken.cloned(),
    };
    state.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}

fn anothers(KeyValue { key, lease, .. }: &KeyValue) -> String {
    let on = lease.map_or_else(|| "no lease".to_owned(), |lease| format!("lease {lease:x}"));
    format!("{key} was put by somebody else (on {on}); it is put again when that one is gone")
}

/// Ends the lease, and with it the keys that hang on it; those alone: a key may be another's by now.
async fn clean_up(mut round: Round) {
    let Some(lease) = round.lease() else { return };
    let mut backoff = Backoff::new();
    let tries = async {
        let mut last = None;
        while let Err(error) = round.client().revoke(lease).await {
            tracing::debug!(%error, "the lease is not ended yet");
            let same = last.as_ref() == Some(&error);
            if !same {
                tracing::warn!(%error, lease, "can't delete the keys yet");
            }
            last = Some(error);
            sleep(backoff.failed(Instant::now().into_std(), rand::random())).await;
        }
    };
    if timeout(CLEAN_UP, tries).await.is_err() {
        let ttl = round.ttl();
        tracing::warn!(lease, ?ttl, "the keys could not be deleted; they go when the lease ends");
    }
}
