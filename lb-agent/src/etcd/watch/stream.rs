//! An open watch: what it says is delivered, whether it still lives is asked, and beside it the store
//! is listed for safety now and then.

use super::super::client::{Client, Listed};
use super::super::connection::Connection;
use super::super::error::EtcdError;
use super::super::kv::Change;
use super::super::position::{Position, advance};
use super::{End, Event, Follower};
use etcd_client::{WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

/// Between tries of a list for safety that failed.
const RELIST_AGAIN: Duration = Duration::from_secs(60);
/// Changes that may come in during a list for safety; with more, it is given up.
const CHANGES: usize = 200_000;

/// A watch that its member has confirmed.
pub(super) struct Stream {
    requests: WatchRequestSender,
    responses: WatchResponseStream,
    /// Keeps the connection open.
    connection: Connection,
}

/// What goes on beside the watch.
enum Aside {
    Listed(Result<Listed, EtcdError>),
    /// With the client, which may have had to log in again.
    Checked(Box<Client>, Result<(), EtcdError>),
}

/// A list for safety that is being made.
struct Relist {
    /// What had been delivered when it was begun.
    begun: i64,
    /// What came in since.
    since: Vec<Change>,
}

// === impl Stream ===

impl Stream {
    /// Opens a watch from this revision on and waits for the member's word.
    pub(super) async fn open(
        client: &mut Client,
        prefix: &str,
        start: i64,
    ) -> Result<Self, EtcdError> {
        let doing = format!("watch {prefix}");
        client
            .call(&doing, |mut connection| {
                let doing = &doing;
                async move {
                    let options = WatchOptions::new()
                        .with_prefix()
                        .with_start_revision(start)
                        .with_fragment();
                    let (requests, mut responses) =
                        connection.watch.watch(prefix, Some(options)).await?.split();
                    let at = connection.at(doing);
                    let first = responses.message().await?;
                    let first = first.ok_or_else(|| EtcdError::ended(at, "it closed the watch"))?;
                    if first.canceled() {
                        return Err(cancelled(&connection, doing, &first).into());
                    }
                    let revision = first.header().map_or(0, |header| header.revision());
                    if revision + 1 < start {
                        // It would wait for that revision and say nothing till then.
                        let line = format!(
                            "{} is at revision {revision}, before {start}",
                            connection.endpoint()
                        );
                        return Err(EtcdError::WentBack(line).into());
                    }
                    Ok(Self { requests, responses, connection })
                }
            })
            .await
    }
}

/// Why the member ended the watch.
fn cancelled(connection: &Connection, doing: &str, last: &WatchResponse) -> EtcdError {
    if last.compact_revision() > 0 {
        let line = format!(
            "{} knows only what is after revision {} ({doing})",
            connection.endpoint(),
            last.compact_revision()
        );
        return EtcdError::Compacted(line);
    }
    EtcdError::cancelled(connection.at(doing), last.cancel_reason())
}

// === impl Follower ===

impl Follower {
    /// Delivers what the watch says until it ends.
    pub(super) async fn pump(&mut self, mut stream: Stream) -> End {
        let doing = format!("watch {}", self.prefix);
        let timing = self.timing;
        let every = |period: Duration| {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut progress, mut check) = (every(timing.progress), every(timing.check));
        let mut heard = Instant::now();
        let mut relist: Option<Relist> = None;
        let mut asides: JoinSet<Aside> = JoinSet::new();
        loop {
            let done = tokio::select! {
                message = stream.responses.message() => {
                    let message = match message {
                        Ok(Some(message)) => message,
                        Ok(None) => {
                            let at = stream.connection.at(&doing);
                            return End::Broken(EtcdError::ended(at, "it closed the watch"));
                        }
                        Err(error) => {
                            let at = stream.connection.at(&doing);
                            return End::Broken(EtcdError::of(at, &error));
                        }
                    };
                    if message.canceled() {
                        return match cancelled(&stream.connection, &doing, &message) {
                            error @ EtcdError::Compacted(_) => End::Stale(error),
                            error => End::Broken(error),
                        };
                    }
                    let done = self.take(&message, &mut relist).await;
                    // Only now: the receiver may have kept us waiting.
                    heard = Instant::now();
                    // A sign of life is asked for every two seconds, and comes after all changes.
                    self.heard.mark(0, SystemTime::now());
                    done
                }
                _ = progress.tick() => {
                    // An error shows in the answers as well.
                    if stream.requests.request_progress().await.is_err() {
                        tracing::debug!(prefix = self.prefix, "the watch takes no more requests");
                    }
                    Ok(())
                }
                () = sleep_until(heard + timing.silence) => {
                    let at = stream.connection.at(&doing);
                    return End::Broken(EtcdError::silent(at, timing.silence));
                }
                _ = check.tick() => {
                    let (mut client, prefix) = (self.client.clone(), self.prefix.clone());
                    // One key, which need not be there: to count many costs the member time.
                    asides.spawn(async move {
                        let checked = client.get(&prefix).await.map(drop);
                        Aside::Checked(Box::new(client), checked)
                    });
                    Ok(())
                }
                () = sleep_until(self.relist_at), if relist.is_none() => {
                    let begun = self.position.as_ref().map_or(0, Position::last);
                    relist = Some(Relist { begun, since: Vec::new() });
                    let (mut client, prefix) = (self.client.clone(), self.prefix.clone());
                    let settle = timing.progress.min(timing.relist);
                    asides.spawn(async move {
                        let listed = client.listed(&prefix).await;
                        if listed.is_ok() {
                            // Till the watch has told what the list knows already, deletions above
                            // all: from a list alone nobody can tell one from a mishap.
                            sleep(settle).await;
                        }
                        Aside::Listed(listed)
                    });
                    Ok(())
                }
                Some(aside) = asides.join_next() => match aside {
                    Ok(Aside::Checked(_, Err(error @ EtcdError::Refused(_)))) => {
                        return End::Broken(error);
                    }
                    // The watch itself tells whether the member lives.
                    Ok(Aside::Checked(_, Err(_))) => Ok(()),
                    Ok(Aside::Checked(client, Ok(()))) => {
                        self.client = *client;
                        Ok(())
                    }
                    Ok(Aside::Listed(listed)) => self.take_list(listed, &mut relist).await,
                    Err(panic) => {
                        tracing::error!(prefix = self.prefix, %panic, "a look at etcd failed");
                        relist = None;
                        self.relist_later(RELIST_AGAIN);
                        Ok(())
                    }
                },
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Delivers what is new in a message.
    async fn take(
        &mut self,
        message: &WatchResponse,
        relist: &mut Option<Relist>,
    ) -> Result<(), End> {
        let Some(position) = &mut self.position else { return Ok(()) };
        if message.events().is_empty() {
            position.settle();
            return Ok(());
        }
        let changes = message.events().iter().filter_map(Change::seen).collect();
        let changes = position.absorb(changes);
        if changes.is_empty() {
            return Ok(());
        }
        let revision = position.last();
        if let Some(Relist { since, .. }) = relist
            && since.len() <= CHANGES
        {
            since.extend(changes.iter().cloned());
        }
        self.deliver(Event::Changed { revision, changes }).await
    }

    /// Delivers a list that was made for safety, as of what was delivered already.
    async fn take_list(
        &mut self,
        listed: Result<Listed, EtcdError>,
        relist: &mut Option<Relist>,
    ) -> Result<(), End> {
        let Some(Relist { begun, since }) = relist.take() else { return Ok(()) };
        let Listed { listing, cluster } = match listed {
            Ok(listed) if since.len() <= CHANGES => listed,
            Err(error @ EtcdError::Refused(_)) => return Err(End::Broken(error)),
            Ok(_) | Err(_) => {
                self.relist_later(self.timing.relist.min(RELIST_AGAIN));
                return Ok(());
            }
        };
        let Some(position) = &mut self.position else { return Ok(()) };
        if !position.is_in(cluster) || listing.revision < begun {
            let line = "what is listed is older than what was watched".to_owned();
            return Err(End::Stale(EtcdError::WentBack(line)));
        }
        position.cover(&listing);
        self.relist_later(self.timing.relist);
        self.deliver_list(advance(listing, since)).await
    }
}
