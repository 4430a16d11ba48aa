//! Services and backends kept in etcd.
//!
//! Turns what is seen of the store into a [`SourceState`]: events become keys ([`keys`]), keys
//! become services or pools ([`layout`]). What the store said last serves while it is away. Following
//! it is left to [`crate::etcd`], handing out addresses to [`vips`] and [`allocate`].

mod allocate;
pub mod keys;
pub mod layout;
pub mod memory;
pub mod vips;

use self::allocate::Situation;
use self::keys::{Keyspace, Now};
use self::layout::{LayoutKind, Translator};
use self::memory::Memory;
use self::vips::{Addresses, Pool};
use super::{Feed, SourceState, spec};
use crate::claims::Claims;
use crate::config::EtcdSource;
use crate::etcd::{self, Event};
use crate::heard::Heard;
use crate::model::{Rejection, Snapshot};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch::{self, Sender};
use tokio::task::block_in_place;
use tokio::time::sleep_until;

/// Most events that are taken in before anything is published: a flood must not keep it from being
/// shown.
const BATCH: usize = 64;

/// A store and what is known of it.
struct Follower {
    config: Arc<EtcdSource>,
    state: SourceState,
    keys: Keyspace,
    translator: Translator,
    /// What the translator made last.
    translated: Arc<Snapshot>,
    /// What served before the agent started, as long as it is held.
    memory: Option<Memory>,
    cached: Option<Arc<Snapshot>>,
    /// Why the store can't be followed, and since when.
    down: Option<(String, SystemTime)>,
    /// Addresses: services that get none.
    without_address: Arc<Vec<Rejection>>,
    addresses: Option<(u64, Arc<Addresses>)>,
    /// Keys that are held.
    missing: Arc<BTreeSet<Arc<str>>>,
    /// Of which state of `keys`, and with which deadline of a memory, held removals were shown last.
    shown: (u64, Option<Option<Instant>>),
    /// Whether something was taken in that is not published.
    news: bool,
    /// When the first of what the store said of that was heard.
    heard: Option<Instant>,
}

/// Follows a store; `cached` serves until it can be read. Must be called within a multi-threaded
/// tokio runtime; the task ends when the feed has no receiver left.
pub fn spawn(config: Arc<EtcdSource>, claims: Claims, cached: Option<Arc<Snapshot>>) -> Feed {
    let heard = Heard::default();
    let events = etcd::follow(Arc::clone(&config.settings), config.prefix.clone(), heard.clone());
    start(config, claims, cached, events, heard)
}

fn start(
    config: Arc<EtcdSource>,
    claims: Claims,
    cached: Option<Arc<Snapshot>>,
    events: Receiver<Event>,
    heard: Heard,
) -> Feed {
    let cached = cached.map(|cached| Arc::new(spec::allowed(&cached, &claims)));
    let new = SourceState::new(Arc::clone(&config.name), cached.clone());
    let state = SourceState { heard, ..new };
    let (sender, feed) = watch::channel(state.clone());
    let (name, prefix) = (Arc::clone(&config.name), config.prefix.clone());
    let pool = Pool::new(prefix.clone(), &config.vip_pool, config.removal_grace, claims.clone());
    let (situations, situation) = watch::channel(Situation::default());
    // Only our own layout knows service addresses.
    let problems = (config.layout == LayoutKind::Native)
        .then(|| allocate::spawn(Arc::clone(&config), pool, situation));
    let mut translator = Translator::new(config.layout, name, prefix, claims);
    if let Some(cached) = &cached {
        translator.remember(cached);
    }
    let follower = Follower {
        keys: Keyspace::new(config.removal_grace),
        translator,
        translated: Arc::default(),
        config,
        state,
        memory: None,
        cached,
        down: None,
        without_address: Arc::default(),
        addresses: None,
        missing: Arc::default(),
        shown: (0, None),
        news: false,
        heard: None,
    };
    tokio::spawn(follow(follower, events, sender, situations, problems));
    feed
}

async fn follow(
    mut follower: Follower,
    mut events: Receiver<Event>,
    sender: Sender<SourceState>,
    situations: Sender<Situation>,
    mut problems: Option<watch::Receiver<Arc<Vec<Rejection>>>>,
) {
    loop {
        tokio::select! {
            biased;
            () = sender.closed() => return,
            event = events.recv() => match event {
                Some(event) => follower.take_all(event, &mut events),
                None => {
                    // It ends when we do, so it has failed.
                    follower.lost();
                    sender.send_replace(follower.state.clone());
                    sender.closed().await;
                    return;
                }
            },
            () = until(follower.next_deadline()) => follower.expire(),
            found = next(&mut problems) => follower.problems(found),
        }
        if block_in_place(|| follower.publish()) {
            sender.send_replace(follower.state.clone());
        }
        let situation = follower.situation();
        situations.send_if_modified(|before| {
            let changed = *before != situation;
            *before = situation;
            changed
        });
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The next problems; never, if nobody hands out addresses.
async fn next(problems: &mut Option<watch::Receiver<Arc<Vec<Rejection>>>>) -> Arc<Vec<Rejection>> {
    if let Some(receiver) = problems
        && receiver.changed().await.is_ok()
    {
        return Arc::clone(&receiver.borrow_and_update());
    }
    std::future::pending().await
}

fn now() -> Now {
    Now { instant: Instant::now(), system: SystemTime::now() }
}

// === impl Follower ===

impl Follower {
    /// Takes in an event and those that wait behind it: the more changes come, the more of them are
    /// worked on at a time, and a single one waits for nothing.
    fn take_all(&mut self, first: Event, events: &mut Receiver<Event>) {
        block_in_place(|| {
            self.take(first);
            for _ in 1..BATCH {
                match events.try_recv() {
                    Ok(event) => self.take(event),
                    // Whether it has ended is for the next look to say.
                    Err(_) => return,
                }
            }
        });
    }

    fn take(&mut self, event: Event) {
        self.news = true;
        if matches!(event, Event::Listed { .. } | Event::Changed { .. }) {
            self.heard.get_or_insert(now().instant);
        }
        let Self { keys, translator, .. } = self;
        let apply = |key: &str, value: Option<&etcd::KeyValue>| translator.set(key, value);
        match event {
            Event::Listed { revision, keys: list, gap } => {
                let first = !self.state.synced;
                keys.listed(&list, gap, now(), apply);
                self.listed(revision, &list, first, gap);
            }
            Event::Changed { revision, changes } => {
                tracing::debug!(source = %self.state.name, revision, changes = changes.len());
                keys.changed(&changes, now(), apply);
            }
            Event::Down(reason) => {
                tracing::warn!(source = %self.state.name, error = %reason, "the store is away; \
                    what was known keeps serving");
                let since = self.down.take().map_or_else(SystemTime::now, |(_, since)| since);
                self.down = Some((reason, since));
                keys.down();
                self.memory.iter_mut().for_each(Memory::down);
                return;
            }
            Event::Up => {
                let now = now();
                keys.up(now);
                self.memory.iter_mut().for_each(|memory| memory.up(now));
                if let Some((_, since)) = self.down.take() {
                    let away = since.elapsed().unwrap_or_default();
                    tracing::info!(source = %self.state.name, ?away, "the store is back");
                }
                return;
            }
        }
        self.state.synced = true;
        self.state.revision += 1;
        self.state.delivered = Some(SystemTime::now());
    }

    fn listed(&mut self, revision: i64, list: &[etcd::KeyValue], first: bool, gap: bool) {
        let (name, keys) = (&self.state.name, list.len());
        tracing::info!(source = %name, revision, keys, first, gap, "keys listed");
        let held = self.keys.holding();
        if held > 0 {
            tracing::warn!(source = %name, held, grace = ?self.config.removal_grace,
                "keys are missing; what they said keeps serving for a while");
        }
        let Some(cached) = self.cached.take().filter(|_| first) else { return };
        if self.config.removal_grace.is_zero() || !self.lacks_all_of(&cached, list) {
            return;
        }
        // What served before the agent started was in a store that has nothing of it now. As for a
        // store that is seen to lose everything, that may be a mishap.
        self.memory = Memory::new(cached, &self.config.prefix, self.config.removal_grace, now());
        if let Some(memory) = &mut self.memory {
            if self.down.is_some() {
                memory.down();
            }
            tracing::warn!(source = %self.state.name, grace = ?self.config.removal_grace,
                "nothing that served before is in the store; it keeps serving for a while");
        }
    }

    /// Whether the first list has nothing of what deserves its name: services, or pools. Backends
    /// without services don't count: registrars put theirs again by themselves.
    fn lacks_all_of(&mut self, cached: &Snapshot, list: &[etcd::KeyValue]) -> bool {
        if self.config.layout == LayoutKind::Native {
            let services = format!("{}services/", self.config.prefix);
            return !cached.services.is_empty()
                && !list.iter().any(|key| key.key.starts_with(&services));
        }
        if let Some(new) = self.translator.snapshot() {
            self.translated = new;
            // Even the same as before is news: now the store says it.
            self.state.snapshot = None;
        }
        !cached.pools.is_empty() && self.translated.pools.is_empty()
    }

    /// The task that follows the store has ended.
    fn lost(&mut self) {
        let reason = "the store is not followed any more; restart the agent and report this";
        tracing::error!(source = %self.state.name, "{reason}");
        self.state.error = Some(reason.to_owned());
    }

    fn problems(&mut self, found: Arc<Vec<Rejection>>) {
        self.without_address = found;
        self.news = true;
    }

    fn next_deadline(&self) -> Option<Instant> {
        let memory = self.memory.as_ref().and_then(Memory::deadline);
        self.keys.next_deadline().into_iter().chain(memory).min()
    }

    /// Believes the removals whose time is up.
    fn expire(&mut self) {
        let now = Instant::now();
        let Self { keys, translator, .. } = self;
        let removed = keys.expire(now, |key, value| translator.set(key, value));
        let forgotten = self
            .memory
            .take_if(|memory| memory.deadline().is_some_and(|deadline| deadline <= now))
            .is_some();
        tracing::info!(source = %self.state.name, removed, forgotten, "held removals are believed");
        self.news = true;
    }

    /// Brings the state to what was taken in; whether that changed it.
    fn publish(&mut self) -> bool {
        if !std::mem::take(&mut self.news) {
            return false;
        }
        let (before, heard) = (self.state.clone(), self.heard.take());
        if self.state.synced {
            self.translate();
        }
        // What says nothing new needs no publishing.
        if let Some(heard) = heard
            && !self.state.says_the_same(&before)
        {
            self.state.underway.note(self.state.revision, heard);
        }
        let error = |(reason, since): &(String, SystemTime)| {
            let since = humantime::format_rfc3339_millis(*since);
            format!("{reason} (away since {since}; what was known keeps serving)")
        };
        self.state.error = self.down.as_ref().map(error);
        self.show_held();
        !self.state.says_the_same(&before)
            || !Arc::ptr_eq(&self.state.rejections, &before.rejections)
            || !Arc::ptr_eq(&self.state.held, &before.held)
            || self.state.refused != before.refused
            || self.state.error != before.error
    }

    fn show_held(&mut self) {
        let shown = (self.keys.changes(), self.memory.as_ref().map(Memory::deadline));
        if self.shown == shown {
            return;
        }
        self.shown = shown;
        // Addresses don't hang on backends.
        let backends = format!("{}backends/", self.config.prefix);
        self.missing = Arc::new(self.keys.missing(&backends));
        let held = self.memory.iter().map(Memory::held).chain(self.keys.held()).collect();
        self.state.held = Arc::new(held);
    }

    fn translate(&mut self) {
        let new = self.translator.snapshot();
        let changed = new.is_some();
        if let Some(new) = new {
            self.translated = new;
        }
        let serves = match &self.memory {
            Some(memory) => Arc::new(memory.over(&self.translated)),
            None => Arc::clone(&self.translated),
        };
        let same = !changed && self.state.snapshot.as_ref() == Some(&serves);
        if !same {
            self.state.snapshot = Some(serves);
        }
        let mut rejections = self.translator.rejections();
        if !self.without_address.is_empty() {
            rejections =
                Arc::new(rejections.iter().chain(&*self.without_address).cloned().collect());
        }
        if self.state.rejections != rejections {
            self.state.rejections = rejections;
        }
        self.state.refused = self.translator.refused();
    }

    /// What whoever hands out addresses needs to know.
    fn situation(&mut self) -> Situation {
        if let Some(now) = self.translator.addresses()
            && self.addresses.as_ref().is_none_or(|(changes, _)| *changes != now.changes)
        {
            self.addresses = Some((now.changes, Arc::new(now.into())));
        }
        Situation {
            addresses: self.addresses.as_ref().map(|(_, addresses)| Arc::clone(addresses)),
            missing: Arc::clone(&self.missing),
            live: self.state.synced && self.down.is_none() && self.memory.is_none(),
        }
    }
}

#[cfg(test)]
mod tests;
