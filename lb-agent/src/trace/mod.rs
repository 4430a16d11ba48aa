//! Who traces: one reader of the kernel's ring for any number of subscribers, for as long as there
//! are any. A subscriber that is slow loses lines, which are counted, and holds up nobody.

mod cgroups;
mod join;
pub mod line;

use crate::dataplane::trace::{Record, TraceReader};
use crate::dataplane::{monotonic_now, preflight};
use crate::status::Published;
use cgroups::Cgroups;
use hyper::body::Bytes;
use join::{Joiner, Known};
use line::{Filter, Line, Missed};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};

/// Between two looks at the ring, which takes what 100,000 decisions a second leave in that time.
const PAUSE: Duration = Duration::from_millis(20);
/// Records that are read before the subscribers get them; no flood keeps the reader from pausing.
const AT_ONCE: usize = 4096;
/// Lines that wait for a subscriber.
const QUEUE: usize = 4096;
/// Subscribers at the same time.
const SUBSCRIBERS: usize = 16;

/// Lets others read what the kernel decides.
#[derive(Clone)]
pub struct Tracer {
    shared: Arc<Shared>,
}

struct Shared {
    pin_dir: PathBuf,
    published: watch::Receiver<Arc<Published>>,
    state: Mutex<State>,
    /// Ends the reader's pause.
    stop: Condvar,
}

#[derive(Default)]
struct State {
    subscribers: Vec<Subscriber>,
    /// The reader, while there is one.
    reader: Option<JoinHandle<()>>,
    /// What was lost at the last look.
    gaps: Gaps,
    stopped: bool,
}

/// What nobody could read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gaps {
    /// Events that the kernel had no room for, since the tables were made.
    lost: u64,
    /// For how long it recorded nothing, since the agent started.
    lapsed: Duration,
}

struct Subscriber {
    filter: Filter,
    lines: mpsc::Sender<Bytes>,
    /// What was lost when it came.
    before: Gaps,
    missed: Missed,
    told: Missed,
}

/// Why nobody can trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Enough do already.
    #[error("{SUBSCRIBERS} others trace already; end one of them")]
    Full,
    /// The agent is going.
    #[error("the agent is stopping; ask the next one")]
    Stopping,
    /// The ring can't be read.
    #[error("the kernel's events can't be read: {0}")]
    Unreadable(String),
}

/// Names of services by their ids, as last published.
#[derive(Default)]
struct Names {
    of: Option<Arc<Published>>,
    by_id: HashMap<u32, Arc<str>>,
}

// === impl Tracer ===

impl Tracer {
    /// Traces what the tables below `pin_dir` decide. Nothing happens before somebody subscribes.
    pub fn new(pin_dir: PathBuf, published: watch::Receiver<Arc<Published>>) -> Self {
        let (state, stop) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { pin_dir, published, state, stop }) }
    }

    /// Lines from now on, as JSON, each with its line feed. They end when the agent does; to drop
    /// the receiver is to unsubscribe.
    ///
    /// # Errors
    ///
    /// [`TraceError::Full`] if too many trace already, [`TraceError::Stopping`] once the agent stops,
    /// [`TraceError::Unreadable`] if the kernel's ring can't be opened or no thread be had to read it.
    pub fn subscribe(&self, filter: Filter) -> Result<mpsc::Receiver<Bytes>, TraceError> {
        let mut state = self.shared.lock();
        if state.stopped {
            return Err(TraceError::Stopping);
        }
        state.subscribers.retain(|subscriber| !subscriber.lines.is_closed());
        if state.subscribers.len() >= SUBSCRIBERS {
            return Err(TraceError::Full);
        }
        if !state.is_reading() {
            let unreadable =
                |error: &dyn std::fmt::Display| TraceError::Unreadable(error.to_string());
            // The programs write from here on: who has the receiver misses nothing.
            let reader = TraceReader::open(&self.shared.pin_dir).map_err(|e| unreadable(&e))?;
            state.gaps.lost = reader.lost();
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name("trace".to_owned());
            let thread = thread.spawn(move || shared.read(reader)).map_err(|e| unreadable(&e))?;
            state.reader = Some(thread);
        }
        let (lines, receiver) = mpsc::channel(QUEUE);
        let (missed, told) = (Missed::default(), Missed::default());
        let before = state.gaps;
        state.subscribers.push(Subscriber { filter, lines, before, missed, told });
        Ok(receiver)
    }

    /// Ends all lines, and the programs' writing.
    pub fn stop(&self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        state.subscribers.clear();
        self.shared.stop.notify_all();
        // The reader switches off when it goes, and the tables may be gone after that.
        let reading = |state: &mut State| state.is_reading();
        let ended = self.shared.stop.wait_timeout_while(state, PAUSE * 50, reading);
        drop(ended);
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until there are no subscribers any more.
    fn read(&self, mut reader: TraceReader) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut cgroups = Cgroups::new(preflight::cgroup2_mount(&mounts));
        let mut joiner = Joiner::default();
        let mut names = Names::default();
        loop {
            let lapsed = reader.renew();
            let now = SystemTime::now();
            let epoch = now.checked_sub(monotonic_now()).unwrap_or(SystemTime::UNIX_EPOCH);
            let published = Arc::clone(&self.published.borrow());
            let mut known = Known {
                epoch,
                service: &mut |id| names.get(&published, id),
                cgroup: &mut |id, pid| cgroups.path(id, pid),
            };
            let mut lines = Vec::new();
            for _ in 0..AT_ONCE {
                let Some(record) = reader.next_record() else { break };
                lines.extend(match record {
                    Record::Decision(event) => joiner.decision(&event, &mut known),
                    Record::Outcome(event) => joiner.outcome(&event, epoch),
                });
            }
            let mut state = self.lock();
            let lapsed = state.gaps.lapsed + lapsed;
            state.deliver(&lines, Gaps { lost: reader.lost(), lapsed });
            if state.subscribers.is_empty() {
                drop(reader);
                state.reader = None;
                self.stop.notify_all();
                return;
            }
            let paused = self.stop.wait_timeout_while(state, PAUSE, |state| !state.stopped);
            drop(paused);
        }
    }
}

// === impl State ===

impl State {
    /// Also false of a reader that has panicked.
    fn is_reading(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| !reader.is_finished())
    }

    /// Hands each subscriber what it wants, and takes away those that have gone.
    fn deliver(&mut self, lines: &[Line], gaps: Gaps) {
        self.gaps = gaps;
        let mut texts: Vec<Option<Bytes>> = vec![None; lines.len()];
        for subscriber in &mut self.subscribers {
            for (line, text) in lines.iter().zip(&mut texts) {
                if subscriber.wants(line) {
                    subscriber.send(text.get_or_insert_with(|| written(line)).clone());
                }
            }
            subscriber.tell_missed(gaps);
        }
        self.subscribers.retain(|subscriber| !subscriber.lines.is_closed());
    }
}

// === impl Subscriber ===

impl Subscriber {
    fn wants(&self, line: &Line) -> bool {
        match line {
            Line::Decision(decided) => self.filter.wants(decided),
            Line::Outcome(outcome) => self.filter.wants(&outcome.decided),
            Line::Missed(_) => true,
        }
    }

    fn send(&mut self, line: Bytes) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.lines.try_send(line) {
            self.missed.dropped += 1;
        }
    }

    /// Says what is missing, once there is room to say it.
    fn tell_missed(&mut self, gaps: Gaps) {
        self.missed.lost = gaps.lost.saturating_sub(self.before.lost);
        self.missed.lapsed = gaps.lapsed.saturating_sub(self.before.lapsed);
        if self.missed != self.told {
            let line = written(&Line::Missed(self.missed));
            if self.lines.try_send(line).is_ok() {
                self.told = self.missed;
            }
        }
    }
}

fn written(line: &Line) -> Bytes {
    // Numbers and texts can be written, always.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

// === impl Names ===

impl Names {
    fn get(&mut self, published: &Arc<Published>, id: u32) -> Arc<str> {
        if !self.of.as_ref().is_some_and(|known| Arc::ptr_eq(&known.state, &published.state)) {
            let services = published.state.services.iter();
            let named = |service: &Arc<crate::status::ServiceStatus>| {
                Some((service.id?, service.name.as_str().into()))
            };
            self.by_id = services.filter_map(named).collect();
            self.of = Some(Arc::clone(published));
        }
        let unknown = || format!("service-{id}").into();
        self.by_id.get(&id).map_or_else(unknown, Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions(count: u64) -> Vec<Line> {
        let line =
            |cookie| Line::Decision(Arc::new(line::Decided { cookie, ..line::tests::decided() }));
        (0..count).map(line).collect()
    }

    fn gaps(lost: u64, seconds: u64) -> Gaps {
        Gaps { lost, lapsed: Duration::from_secs(seconds) }
    }

    fn subscriber(state: &mut State, room: usize, filter: Filter) -> mpsc::Receiver<Bytes> {
        let (lines, receiver) = mpsc::channel(room);
        let (missed, told) = (Missed::default(), Missed::default());
        let before = state.gaps;
        state.subscribers.push(Subscriber { filter, lines, before, missed, told });
        receiver
    }

    fn read(receiver: &mut mpsc::Receiver<Bytes>) -> Vec<Line> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|text| serde_json::from_slice(&text).unwrap())
            .collect()
    }

    #[test]
    fn the_slow_lose_lines_and_hold_up_nobody() {
        let mut state = State { gaps: gaps(7, 0), ..State::default() };
        let mut slow = subscriber(&mut state, 3, Filter::default());
        let mut quick = subscriber(&mut state, 100, Filter::default());
        let mut other = subscriber(&mut state, 1, Filter { pid: Some(1), ..Filter::default() });
        state.deliver(&decisions(5), gaps(7, 0));
        assert_eq!(read(&mut quick).len(), 5);
        assert_eq!(read(&mut slow).len(), 3, "the first");
        assert_eq!(read(&mut other), []);
        // Told as soon as there is room, once, and counted from when each began.
        state.deliver(&[], gaps(9, 0));
        let missed =
            |lost, dropped| [Line::Missed(Missed { lost, dropped, lapsed: Duration::ZERO })];
        assert_eq!(read(&mut slow), missed(2, 2));
        assert_eq!(read(&mut quick), missed(2, 0));
        state.deliver(&[], gaps(9, 0));
        assert_eq!(read(&mut slow), []);
        let mut late = subscriber(&mut state, 1, Filter::default());
        state.deliver(&[], gaps(10, 0));
        assert_eq!(read(&mut late), missed(1, 0));
        state.deliver(&[], gaps(10, 3));
        let lapsed = Missed { lost: 3, dropped: 0, lapsed: Duration::from_secs(3) };
        assert_eq!(read(&mut quick).last(), Some(&Line::Missed(lapsed)));
        drop((slow, other));
        state.deliver(&[], gaps(10, 3));
        assert_eq!(state.subscribers.len(), 2);
    }

    #[test]
    fn without_tables_nobody_traces() {
        let published = crate::report::empty_status(SystemTime::UNIX_EPOCH);
        let published = Published { agent: published, state: Arc::default() };
        let (_publish, published) = watch::channel(Arc::new(published));
        let tracer = Tracer::new("/does/not/exist".into(), published);
        let refused = tracer.subscribe(Filter::default()).unwrap_err();
        assert!(matches!(refused, TraceError::Unreadable(_)), "{refused}");
        tracer.stop();
        let refused = tracer.subscribe(Filter::default()).unwrap_err();
        assert!(matches!(refused, TraceError::Stopping), "{refused}");
    }
}
