//! Follows all keys under a prefix: a list, then a watch that begins where the list ended, and again
//! when it must be so. Connections break, hang and are cut; members die; history is compacted; stores
//! are restored from backups or wiped: whatever happens, what is delivered is the store's true
//! order, and a list that may stand behind a gap says so.
//!
//! What the keys mean, and when a removal is to be believed, is left to the receiver.

mod stream;

use self::stream::Stream;
use super::backoff::Backoff;
use super::client::Client;
use super::error::EtcdError;
use super::kv::{Change, KeyValue, Listing};
use super::position::Position;
use super::settings::Settings;
use crate::heard::Heard;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep};

/// What is seen of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything under the prefix at one revision.
    Listed {
        /// The revision.
        revision: i64,
        /// The keys, in order.
        keys: Vec<KeyValue>,
        /// Changes may have been missed before it (outage, compaction, a store that went back in
        /// time, the periodic list for safety), so what is missing from it may be a mishap rather
        /// than a deletion. Never set on the first list.
        gap: bool,
    },
    /// Changes, in the order of the store.
    Changed {
        /// The revision of the last of them.
        revision: i64,
        /// The changes.
        changes: Vec<Change>,
    },
    /// The store can't be followed now; why and what to do, one line. Sent again when that changes.
    Down(String),
    /// It is followed again. Comes before the next `Changed`.
    Up,
}

/// When to do what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between requests for a sign of life. Not pings: members limit how often those may come.
    pub progress: Duration,
    /// How long a member that was asked for one may say nothing.
    pub silence: Duration,
    /// Between looks whether we are still allowed to read: an open watch is not asked for.
    pub check: Duration,
    /// Between lists for safety.
    pub relist: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            progress: Duration::from_secs(2),
            silence: Duration::from_secs(5),
            check: Duration::from_secs(5),
            relist: Duration::from_secs(600),
        }
    }
}

/// Events on their way to the receiver; while it is full, the member waits.
const EVENTS: usize = 64;

/// Follows all keys under `prefix`, which ends in `/`; `heard` is marked whenever nothing is missing.
/// Must be called within a tokio runtime; the task ends when the receiver is dropped.
pub fn follow(settings: Arc<Settings>, prefix: String, heard: Heard) -> Receiver<Event> {
    start(settings, prefix, Timing::default(), heard)
}

/// [`follow`], at another pace.
pub fn follow_at(settings: Arc<Settings>, prefix: String, timing: Timing) -> Receiver<Event> {
    start(settings, prefix, timing, Heard::default())
}

fn start(settings: Arc<Settings>, prefix: String, timing: Timing, heard: Heard) -> Receiver<Event> {
    let (sender, receiver) = channel(EVENTS);
    let follower = Follower {
        client: Client::new(settings),
        prefix,
        timing,
        heard,
        sender,
        position: None,
        listed: false,
        relist_at: Instant::now(),
        backoff: Backoff::new(),
        down: false,
        said: None,
    };
    tokio::spawn(follower.run());
    receiver
}

/// A prefix and how far it has been followed.
struct Follower {
    client: Client,
    prefix: String,
    timing: Timing,
    heard: Heard,
    sender: Sender<Event>,
    /// `None`: there must be a list.
    position: Option<Position>,
    /// Whether there ever was one.
    listed: bool,
    relist_at: Instant,
    backoff: Backoff,
    /// Whether `Down` was the last that was said of the store.
    down: bool,
    /// The reason given last, since it was last followed.
    said: Option<String>,
}

/// Why a session is over.
#[derive(Debug)]
enum End {
    /// Nobody listens any more.
    Unwanted,
    /// What was followed can't be followed on: there must be a list.
    Stale(EtcdError),
    /// The watch broke off.
    Broken(EtcdError),
    /// No member lets us begin.
    Failed(EtcdError),
}

// === impl Follower ===

impl Follower {
    async fn run(mut self) {
        let sender = self.sender.clone();
        let follow = async {
            loop {
                let end = self.session().await;
                if self.absorb(end).await.is_err() {
                    return;
                }
                let pause = self.backoff.failed(Instant::now().into_std(), rand::random());
                sleep(pause).await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = sender.closed() => {}
        }
    }

    /// What follows from the end of a session; an error if nobody listens any more.
    async fn absorb(&mut self, end: End) -> Result<(), End> {
        tracing::debug!(prefix = self.prefix, ?end, "watch ended");
        match end {
            End::Unwanted => return Err(End::Unwanted),
            End::Stale(why) => {
                tracing::info!(prefix = self.prefix, %why, "etcd is read anew");
                self.position = None;
            }
            End::Broken(error) => {
                // Where there are other members, one that is gone is not yet an outage; and a new
                // login may do what the old one does not.
                let alone = self.client.settings().endpoints.len() == 1;
                let outage = alone && matches!(error, EtcdError::Unreachable(_));
                self.client.rotate();
                if outage {
                    self.down(error).await?;
                }
            }
            End::Failed(error) => {
                self.client.rotate();
                self.down(error).await?;
            }
        }
        Ok(())
    }

    /// Follows the store as long as one watch lasts.
    async fn session(&mut self) -> End {
        match self.begin().await {
            Ok(stream) => self.pump(stream).await,
            Err(end) => end,
        }
    }

    /// Comes to where events follow on what was delivered.
    async fn begin(&mut self) -> Result<Stream, End> {
        self.check_position().await?;
        let mut list = None;
        let start = match &self.position {
            Some(position) => position.start(),
            None => {
                let listed = self.client.listed(&self.prefix).await.map_err(End::Failed)?;
                let position = Position::after(&listed.listing, listed.cluster);
                list = Some(listed.listing);
                self.relist_later(self.timing.relist);
                self.position.insert(position).start()
            }
        };
        let opened = Stream::open(&mut self.client, &self.prefix, start).await;
        if opened.is_ok() {
            self.backoff.good(Instant::now().into_std());
            self.up().await?;
        }
        // A list is good even if there is no watch.
        if let Some(listing) = list {
            self.deliver_list(listing).await?;
        }
        opened.map_err(|error| match error {
            EtcdError::Compacted(_) | EtcdError::WentBack(_) => End::Stale(error),
            error => End::Failed(error),
        })
    }

    /// Looks whether the store is the one that was followed: it may have been restored or wiped and
    /// have grown beyond what we know, under the same name and with the same members.
    async fn check_position(&mut self) -> Result<(), End> {
        let Some(position) = &self.position else { return Ok(()) };
        let held = match position.anchor() {
            None => false,
            Some((key, revision)) => match self.client.get_at(key, revision).await {
                Ok((found, cluster)) => position.is_held_by(found.as_ref(), cluster),
                Err(EtcdError::Compacted(_) | EtcdError::WentBack(_)) => false,
                Err(error) => return Err(End::Failed(error)),
            },
        };
        if !held {
            tracing::info!(
                prefix = self.prefix,
                revision = position.last(),
                "etcd may not be as it was at this revision; reading it anew"
            );
            self.position = None;
        }
        Ok(())
    }

    async fn deliver_list(&mut self, listing: Listing) -> Result<(), End> {
        let Listing { revision, keys } = listing;
        let gap = std::mem::replace(&mut self.listed, true);
        self.deliver(Event::Listed { revision, keys, gap }).await?;
        self.heard.mark(0, SystemTime::now());
        Ok(())
    }

    async fn deliver(&self, event: Event) -> Result<(), End> {
        self.sender.send(event).await.map_err(|_| End::Unwanted)
    }

    async fn down(&mut self, error: EtcdError) -> Result<(), End> {
        self.down = true;
        let reason = error.to_string();
        // Whoever shows it shows the last one.
        if self.said.as_ref() == Some(&reason) {
            return Ok(());
        }
        self.said = Some(reason.clone());
        self.deliver(Event::Down(reason)).await
    }

    async fn up(&mut self) -> Result<(), End> {
        self.said = None;
        if std::mem::take(&mut self.down) { self.deliver(Event::Up).await } else { Ok(()) }
    }

    /// Not all hosts at once: they may have been started together.
    fn relist_later(&mut self, wait: Duration) {
        self.relist_at = Instant::now() + wait.mul_f64(0.9 + rand::random::<f64>() / 5.0);
    }
}
