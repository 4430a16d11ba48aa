//! Looks at the agent once a second for all who look at the page, while anybody does, and decides
//! what each of them is told: everything at first and after having fallen behind, else the changes.

use super::super::Parts;
use super::view::{Look, Moment};
use crate::status::{AgentStatus, ServiceStatus};
use hyper::body::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::broadcast::{Receiver, Sender, channel, error::RecvError};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(1);
/// Looking takes this part of the time at most: with very much to see, it is seen less often.
const PART: u32 = 8;
/// Changes that somebody may be behind.
const BEHIND: usize = 8;
/// Who may look at a time: fewer than there may be connections, so that others get one; and each may
/// be slow to take the picture of a moment of its own, which has some megabytes.
const MOST: usize = 16;

/// What is shown, and who looks.
pub(super) struct Watcher {
    parts: Parts,
    state: Mutex<State>,
}

enum State {
    /// Nobody looks.
    Idle,
    Live(Live),
    /// Nobody may look any more.
    Closed,
}

struct Live {
    sender: Sender<Bytes>,
    /// Absent until the first.
    picture: Option<Arc<Picture>>,
}

/// What was seen last.
struct Picture {
    look: Arc<Look>,
    /// The event for those who have seen nothing yet: one for all of them, made for the first.
    whole: OnceLock<Bytes>,
}

/// What somebody who looks is told.
pub(super) struct Told {
    watcher: Arc<Watcher>,
    receiver: Receiver<Bytes>,
    /// Whether the next must be everything.
    whole: bool,
}

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, state: Mutex::new(State::Idle) }
    }

    /// One more who looks; `None` if there are too many, or the end has come.
    pub(super) fn join(self: &Arc<Self>) -> Option<Told> {
        let mut state = self.lock();
        let receiver = match &*state {
            State::Closed => return None,
            State::Live(live) if live.sender.receiver_count() >= MOST => return None,
            State::Live(live) => live.sender.subscribe(),
            State::Idle => {
                let (sender, receiver) = channel(BEHIND);
                *state = State::Live(Live { sender, picture: None });
                tokio::spawn(Arc::clone(self).watch());
                receiver
            }
        };
        Some(Told { watcher: Arc::clone(self), receiver, whole: true })
    }

    /// Nobody is told anything any more.
    pub(super) fn close(&self) {
        *self.lock() = State::Closed;
    }

    /// Looks until nobody wants to know.
    async fn watch(self: Arc<Self>) {
        let begun = Instant::now();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = None;
        loop {
            ticks.tick().await;
            let started = Instant::now();
            match self.look(before.clone(), begun).await {
                Ok((look, change)) => {
                    before = Some(Arc::clone(&look));
                    if !self.tell(look, change) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the status page is not told of changes");
                    if !self.wanted() {
                        return;
                    }
                }
            }
            sleep((started.elapsed() * PART).saturating_sub(PERIOD)).await;
        }
    }

    /// Looks, and tells what is different.
    async fn look(
        &self,
        before: Option<Arc<Look>>,
        begun: Instant,
    ) -> Result<(Arc<Look>, Bytes), String> {
        let published = self.parts.now();
        let names = self.parts.names.borrow().clone();
        let packet_path = self.parts.packets.borrow().clone();
        let agent = AgentStatus { names, packet_path, ..published.agent.clone() };
        let moment = Moment {
            at: millis(begun.elapsed()),
            time: millis(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()),
        };
        let looked = self.parts.read_kernel(move |counters| {
            let mut services: Vec<ServiceStatus> =
                published.state.services.iter().map(|s| ServiceStatus::clone(s)).collect();
            counters.fill(&mut services)?;
            let look = Look::new(before.as_deref(), moment, agent, &services);
            let change = match &before {
                Some(before) => event("change", &look.change(before, &services)?),
                // Who waits for the first look is told everything.
                None => Bytes::new(),
            };
            Ok((Arc::new(look), change))
        });
        looked.await.map_err(|failure| failure.error)
    }

    /// Whether anybody was there to be told.
    fn tell(&self, look: Arc<Look>, change: Bytes) -> bool {
        let mut state = self.lock();
        let State::Live(live) = &mut *state else {
            return false;
        };
        live.picture = Some(Arc::new(Picture { look, whole: OnceLock::new() }));
        if live.sender.send(change).is_err() {
            *state = State::Idle;
            return false;
        }
        true
    }

    fn wanted(&self) -> bool {
        let mut state = self.lock();
        match &*state {
            State::Live(live) if live.sender.receiver_count() > 0 => true,
            State::Live(_) => {
                *state = State::Idle;
                false
            }
            State::Idle | State::Closed => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Told ===

impl Told {
    /// The event that comes next; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.whole
                && let Some(picture) = self.start_over()?
            {
                return Some(picture.whole());
            }
            match self.receiver.recv().await {
                Ok(change) if !self.whole => return Some(change),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.whole = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The last look, if there was one, after which all changes will be told; `None` at the end.
    fn start_over(&mut self) -> Option<Option<Arc<Picture>>> {
        let state = self.watcher.lock();
        let State::Live(live) = &*state else {
            return None;
        };
        let picture = live.picture.clone();
        if picture.is_some() {
            self.receiver = live.sender.subscribe();
            self.whole = false;
        }
        Some(picture)
    }
}

// === impl Picture ===

impl Picture {
    fn whole(&self) -> Bytes {
        let made = || match self.look.whole() {
            Ok(text) => event("whole", &text),
            Err(error) => {
                tracing::warn!(%error, "the status page is not told anything");
                // A comment: the changes tell what they can.
                Bytes::from_static(b":\n\n")
            }
        };
        self.whole.get_or_init(made).clone()
    }
}

/// A server-sent event. JSON has no line ends of its own.
fn event(kind: &str, data: &str) -> Bytes {
    format!("event: {kind}\ndata: {data}\n\n").into()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
