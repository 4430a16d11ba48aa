//! Following one kind of objects: a list, and every change after it.
//!
//! The list comes as a stream where the server can do that, else in pages. Whatever ends a watch,
//! the next begins where it was; only a server that has forgotten that place is listed anew. That it
//! goes well is told as soon as the server answers, so a quiet cluster is not taken for a dead one.

use super::arrival::Arrival;
use super::client::{Connection, Made};
use super::cluster::Change;
use super::requests::{events, key, page, raw_fault, text};
use super::trouble::{At, Kind, Trouble};
use crate::heard::Heard;
use futures_util::{StreamExt as _, pin_mut};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::runtime::watcher::DefaultBackoff;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};

/// Objects in a page of a list.
const PAGE: u32 = 500;
/// How long the server is asked to keep a watch, in seconds; it ends it then, and the next begins.
const WATCH_SECONDS: u32 = 290;
/// A watch that ends before this, having said nothing, is no good.
const SHORT: Duration = Duration::from_secs(1);

/// How patient to be.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// An answer must begin within this.
    pub answer: Duration,
    /// A watch that says nothing for so long is dead: servers send a bookmark every minute.
    pub silence: Duration,
    /// Longest pause between tries.
    pub longest_pause: Duration,
    /// Pause between tries for what the server withholds and what can be done without.
    pub rare: Duration,
}

/// Which objects.
#[derive(Clone, Debug)]
pub(super) struct What {
    pub(super) resource: &'static str,
    pub(super) group: &'static str,
    pub(super) labels: Option<&'static str>,
    pub(super) fields: Option<String>,
    /// Whether it can be done without them.
    pub(super) optional: bool,
    /// Which part of what the source is heard by; those that can be done without are none.
    pub(super) part: Option<usize>,
}

/// How it goes.
#[derive(Clone, Debug)]
pub(super) enum News<T> {
    /// When it was heard of.
    Change(Change<T>, Instant),
    /// The server answers.
    Up,
    /// It can't be followed for now, in a line.
    Down(String),
    /// The server withholds what can be done without, in a line.
    Withheld(String),
    /// An object that is none is left out. Those of a list come before it is complete.
    Unreadable {
        /// Its `namespace/name`, if that much could be read.
        key: Option<String>,
        /// In a line.
        reason: String,
        /// What it was until now is over; when that was heard of.
        changed: Option<Instant>,
    },
}

/// What all watches share.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) connection: Connection,
    pub(super) timing: Timing,
    /// Woken when one of them reaches the server again.
    pub(super) back: Arc<Notify>,
    /// Marked whenever one of them knows that nothing is missing.
    pub(super) heard: Heard,
}

/// One kind of objects, followed.
struct Watch<T, E> {
    what: What,
    common: Common,
    events: Sender<E>,
    wrap: fn(News<T>) -> E,
    /// Up to where everything is known.
    position: Option<String>,
    /// Whether the server takes watches that begin with a list.
    streaming: bool,
    /// Whether there was an event that does not say what it is about, so what is known may be wrong.
    gap: bool,
    down: bool,
}

/// Why a round ended.
enum End {
    /// Nobody listens any more.
    Unheard,
    Trouble(Trouble),
}

/// Follows objects for as long as somebody listens.
pub(super) async fn follow<T, E>(
    what: What,
    common: Common,
    events: Sender<E>,
    wrap: fn(News<T>) -> E,
) where
    T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let watch = Watch {
        what,
        common,
        events,
        wrap,
        position: None,
        streaming: true,
        gap: false,
        down: false,
    };
    watch.run().await;
}

// === impl Timing ===

impl Default for Timing {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(100),
            longest_pause: Duration::from_secs(30),
            rare: Duration::from_secs(300),
        }
    }
}

// === impl Watch ===

impl<T, E> Watch<T, E>
where
    T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    async fn run(mut self) {
        let mut pauses = DefaultBackoff::default();
        loop {
            let trouble = match self.round().await {
                Ok(()) => continue,
                Err(End::Unheard) => return,
                Err(End::Trouble(trouble)) => trouble,
            };
            let withheld = trouble.kind == Kind::Withheld && self.what.optional;
            match trouble.kind {
                Kind::Expired => {
                    tracing::info!(resource = self.what.resource, "listing anew: {}", trouble.text);
                    self.position = None;
                }
                Kind::NotUnderstood if self.streaming && self.position.is_none() => {
                    tracing::debug!(resource = self.what.resource, "in pages: {}", trouble.text);
                    self.streaming = false;
                    continue;
                }
                _ => {
                    self.down = true;
                    let news = if withheld { News::Withheld } else { News::Down };
                    if self.tell(news(trouble.text)).await.is_err() {
                        return;
                    }
                }
            }
            let timing = self.common.timing;
            let pause = pauses.next().unwrap_or(timing.longest_pause).min(timing.longest_pause);
            let pause = if withheld { timing.rare } else { pause };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.common.back.notified(), if !withheld => {}
                () = self.events.closed() => return,
            }
        }
    }

    /// Lists if need be, then watches until something ends it.
    async fn round(&mut self) -> Result<(), End> {
        let made = self.common.connection.made().await.map_err(End::Trouble)?;
        let done = self.follow(&made).await;
        if let Err(End::Trouble(trouble)) = &done
            && [Kind::Unreachable, Kind::Unauthorized].contains(&trouble.kind)
        {
            self.common.connection.forget(&made).await;
        }
        done
    }

    async fn follow(&mut self, made: &Made) -> Result<(), End> {
        let api = Api::<T>::all(made.client.clone());
        if std::mem::take(&mut self.gap) {
            // In pages, because there what can't be read costs no other.
            self.position = None;
            self.streaming = false;
        }
        if self.position.is_none() && !self.streaming {
            self.list(made, &api).await?;
        }
        self.watch(made, &api).await
    }

    /// In pages.
    async fn list(&mut self, made: &Made, api: &Api<T>) -> Result<(), End> {
        self.change(Change::Begin, Instant::now()).await?;
        let mut parameters = ListParams {
            label_selector: self.what.labels.map(str::to_owned),
            field_selector: self.what.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        loop {
            let page = self.ask(made, "list", page(made, api.resource_url(), &parameters)).await?;
            let arrived = Instant::now();
            for object in page.items.unwrap_or_default() {
                match serde_json::from_str(object.get()) {
                    Ok(object) => self.change(Change::Listed(object), arrived).await?,
                    Err(_) => {
                        let (key, fault) = raw_fault::<T>(&object);
                        self.unreadable(made, key, fault, None).await?;
                    }
                }
            }
            parameters.continue_token = page.metadata.continue_.filter(|next| !next.is_empty());
            if parameters.continue_token.is_some() {
                continue;
            }
            let version = page.metadata.resource_version.filter(|version| !version.is_empty());
            let version = version.ok_or_else(|| {
                End::Trouble(Trouble::ended(self.at(made, "list"), "has no resourceVersion"))
            })?;
            self.position = Some(version);
            self.change(Change::Complete, arrived).await?;
            self.is_up_to_date();
            return Ok(());
        }
    }

    /// From where everything is known, or from nothing by a stream that begins with a list.
    async fn watch(&mut self, made: &Made, api: &Api<T>) -> Result<(), End> {
        let mut listing = self.position.is_none();
        let parameters = WatchParams {
            label_selector: self.what.labels.map(str::to_owned),
            field_selector: self.what.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: listing,
        };
        let position = self.position.clone().unwrap_or_default();
        let arrival = Arrival::new();
        let asking = events(made, api.resource_url(), &parameters, &position, &arrival);
        let stream = self.ask(made, "watch", asking).await?;
        pin_mut!(stream);
        if listing {
            self.change(Change::Begin, arrival.last()).await?;
        }
        let began = Instant::now();
        let mut quiet = true;
        let silence = self.common.timing.silence;
        loop {
            let next = tokio::select! {
                next = timeout(silence, stream.next()) => next,
                () = self.events.closed() => return Err(End::Unheard),
            };
            let at = self.at(made, "watch");
            let event = match next {
                // What waits for nothing but the next change is asked again, from where it was.
                Err(_) if listing => return Err(End::Trouble(Trouble::silent(at, silence))),
                Err(_) => {
                    tracing::warn!(
                        resource = self.what.resource,
                        ?silence,
                        "the watch says \
                        nothing; starting another"
                    );
                    self.common.connection.forget(made).await;
                    return Ok(());
                }
                Ok(None) if listing => {
                    return Err(End::Trouble(Trouble::ended(at, "ended before its list did")));
                }
                Ok(None) if quiet && began.elapsed() < SHORT => {
                    return Err(End::Trouble(Trouble::ended(at, "ends as soon as it begins")));
                }
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) if is_unreadable(&error) => {
                    self.gap = true;
                    if listing {
                        return Ok(());
                    }
                    // It says nothing of what it is about. What is known of that stays until the
                    // watch has ended: to list at once would be to list at each such event.
                    self.unreadable(made, None, String::new(), None).await?;
                    continue;
                }
                Ok(Some(Err(error))) if listing || began.elapsed() < SHORT => {
                    return Err(End::Trouble(Trouble::of(at, &error)));
                }
                // If the server is away, the next try tells.
                Ok(Some(Err(error))) => {
                    tracing::debug!(resource = self.what.resource, %error, "the watch broke");
                    return Ok(());
                }
                Ok(Some(Ok(event))) => event,
            };
            quiet = false;
            let arrived = arrival.last();
            match event {
                WatchEvent::Added(object) if listing => match T::deserialize(&object) {
                    Ok(object) => self.change(Change::Listed(object), arrived).await?,
                    Err(error) => {
                        self.unreadable(made, key(&object), error.to_string(), None).await?;
                    }
                },
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.advance(&object, listing);
                    match T::deserialize(&object) {
                        Ok(object) => self.change(Change::Put(object), arrived).await?,
                        // As a list does; what it was before is not what it is now.
                        Err(error) => self.leave_out(made, &object, &error, arrived).await?,
                    }
                }
                WatchEvent::Deleted(object) => {
                    self.advance(&object, listing);
                    match (T::deserialize(&object), key(&object)) {
                        (Ok(object), _) => self.change(Change::Delete(object), arrived).await?,
                        (Err(_), Some(key)) => {
                            self.change(Change::Forget(key.into()), arrived).await?;
                        }
                        (Err(error), None) => {
                            self.leave_out(made, &object, &error, arrived).await?;
                        }
                    }
                }
                WatchEvent::Bookmark(bookmark) => {
                    let metadata = bookmark.metadata;
                    let end = metadata.annotations.contains_key("k8s.io/initial-events-end");
                    if listing && !end {
                        continue;
                    }
                    self.position = Some(metadata.resource_version);
                    if std::mem::take(&mut listing) {
                        self.change(Change::Complete, arrived).await?;
                    }
                }
                WatchEvent::Error(status) => {
                    return Err(End::Trouble(Trouble::said(at, &status)));
                }
            }
            // What could not be read may have said anything.
            if !listing && !self.gap {
                self.is_up_to_date();
            }
        }
    }

    /// Asks, with patience, and tells that the server answers.
    async fn ask<A>(
        &mut self,
        made: &Made,
        verb: &'static str,
        asking: impl Future<Output = kube::Result<A>>,
    ) -> Result<A, End> {
        let patience = self.common.timing.answer;
        let answer = match timeout(patience, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(End::Trouble(Trouble::of(self.at(made, verb), &error))),
            Err(_) => return Err(End::Trouble(Trouble::silent(self.at(made, verb), patience))),
        };
        if std::mem::take(&mut self.down) {
            self.common.back.notify_waiters();
            self.tell(News::Up).await?;
        }
        Ok(answer)
    }

    /// The server tells of everything in its order, and every minute that there is nothing to tell.
    fn is_up_to_date(&self) {
        if let Some(part) = self.what.part {
            self.common.heard.mark(part, SystemTime::now());
        }
    }

    fn advance(&mut self, object: &Value, listing: bool) {
        // Before the list is complete, there is no place to go on from.
        if !listing && let Some(version) = text(object, "resourceVersion") {
            self.position = Some(version.to_owned());
        }
    }

    /// An object that was changed can't be read. One without a name is looked for in the next list.
    async fn leave_out(
        &mut self,
        made: &Made,
        object: &Value,
        error: &serde_json::Error,
        arrived: Instant,
    ) -> Result<(), End> {
        let key = key(object);
        self.gap |= key.is_none();
        self.unreadable(made, key, error.to_string(), Some(arrived)).await
    }

    fn at<'a>(&self, made: &'a Made, verb: &'static str) -> At<'a> {
        let What { resource, group, .. } = self.what;
        At { server: &made.server, verb, resource, group }
    }

    /// `fault`: what is wrong with it, if that is known.
    async fn unreadable(
        &self,
        made: &Made,
        key: Option<String>,
        fault: String,
        changed: Option<Instant>,
    ) -> Result<(), End> {
        let fault = if fault.is_empty() { fault } else { format!(" ({fault})") };
        let reason = format!(
            "an object among the {} of {} is none{fault} and is left out; correct what wrote it",
            self.what.resource, made.server.url
        );
        self.tell(News::Unreadable { key, reason, changed }).await
    }

    async fn change(&self, change: Change<T>, arrived: Instant) -> Result<(), End> {
        self.tell(News::Change(change, arrived)).await
    }

    async fn tell(&self, news: News<T>) -> Result<(), End> {
        self.events.send((self.wrap)(news)).await.map_err(|_| End::Unheard)
    }
}

/// Whether it is about one object of a watch only. The library takes a line that it can't read for a
/// status, which then says nothing.
fn is_unreadable(error: &kube::Error) -> bool {
    match error {
        kube::Error::SerdeError(_) => true,
        kube::Error::Api(status) => status.code == 0 && status.message.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
