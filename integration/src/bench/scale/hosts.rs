//! Many hosts on one store, as the store sees them: each follows it by the agent's own client, with a
//! connection of its own and the same requests at the same pace.

use crate::etcd::Etcd;
use crate::wait::let_pass;
use anyhow::Context;
use lb_agent::etcd::{Client, Event, Operation, Settings, follow};
use lb_agent::heard::Heard;
use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// Where the store's keys are.
pub(super) const PREFIX: &str = "/lb/";
/// Hosts that start together: a store answers all of a wave within the agents' patience.
const WAVE: usize = 50;
/// How long all may take to hear of something.
const DEADLINE: Duration = Duration::from_secs(60);

/// The hosts.
pub(super) struct Hosts {
    runtime: Runtime,
    client: Client,
    settings: Arc<Settings>,
    said: (Sender<Said>, Receiver<Said>),
    count: usize,
    interruptions: usize,
}

/// What a host has heard.
struct Said {
    host: usize,
    what: What,
    at: Instant,
}

enum What {
    Listed,
    /// Changes, the last of them at this revision.
    Changed(i64),
    Down(String),
}

/// What a store has used up to a moment, and the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    at: Instant,
    cpu: Duration,
    bytes: u64,
}

/// What was used in between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    /// Seconds that passed.
    pub(super) seconds: f64,
    /// Seconds on a CPU.
    pub(super) cpu: f64,
    /// Bytes on the loopback device.
    pub(super) bytes: f64,
}

// === impl Hosts ===

impl Hosts {
    /// None yet, of a store's that is reached there. To be made, as all that follows, on a lab's thread.
    pub(super) fn at(endpoint: &str) -> anyhow::Result<Self> {
        let settings = settings(endpoint)?;
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let client = Client::new(Arc::clone(&settings));
        Ok(Self { runtime, client, settings, said: channel(), count: 0, interruptions: 0 })
    }

    /// How often one of them has lost the store.
    pub(super) fn interruptions(&self) -> usize {
        self.interruptions
    }

    /// Adds hosts until there are so many, wave by wave.
    pub(super) fn grow(&mut self, count: usize) -> anyhow::Result<()> {
        while self.count < count {
            self.start((count - self.count).min(WAVE))?;
        }
        Ok(())
    }

    /// Starts so many hosts together; how long until each has read the store.
    pub(super) fn start(&mut self, many: usize) -> anyhow::Result<Vec<Duration>> {
        let begun = Instant::now();
        for host in self.count..self.count + many {
            let _inside = self.runtime.enter();
            let mut events =
                follow(Arc::clone(&self.settings), PREFIX.to_owned(), Heard::default());
            let said = self.said.0.clone();
            self.runtime.spawn(async move {
                while let Some(event) = events.recv().await {
                    let what = match event {
                        Event::Listed { .. } => What::Listed,
                        Event::Changed { revision, .. } => What::Changed(revision),
                        Event::Down(why) => What::Down(why),
                        Event::Up => continue,
                    };
                    // Nobody listens at the end.
                    if said.send(Said { host, what, at: Instant::now() }).is_err() {
                        return;
                    }
                }
            });
        }
        let first = self.count;
        self.count += many;
        let heard = self.hear(first, |what| matches!(what, What::Listed))?;
        Ok(heard.into_iter().map(|at| at.saturating_duration_since(begun)).collect())
    }

    /// Changes so many keys in one transaction; how long until each host has heard of the last of
    /// them.
    pub(super) fn change(&mut self, keys: usize, turn: usize) -> anyhow::Result<Vec<Duration>> {
        let write = |number: usize| Operation::Put {
            key: format!("{PREFIX}backends/changing/{number}"),
            value: backend(turn * 1_000 + number).into_bytes(),
            lease: None,
        };
        let all: Vec<Operation> = (0..keys).map(write).collect();
        let asked = Instant::now();
        let Self { runtime, client, .. } = self;
        runtime.block_on(client.transact(&[], &all))?;
        let found = runtime.block_on(client.get(&format!("{PREFIX}backends/changing/0")))?;
        let revision = found.context("a key that was written is there")?.modified;
        let heard = self.hear(0, |what| matches!(what, What::Changed(at) if *at >= revision))?;
        Ok(heard.into_iter().map(|at| at.saturating_duration_since(asked)).collect())
    }

    /// When each host from this one on has first said so.
    fn hear(&mut self, first: usize, so: impl Fn(&What) -> bool) -> anyhow::Result<Vec<Instant>> {
        let mut heard = vec![None; self.count - first];
        let mut missing = heard.len();
        let end = Instant::now() + DEADLINE;
        let mut last = None;
        while missing > 0 {
            let left = end.saturating_duration_since(Instant::now());
            let said = match self.said.1.recv_timeout(left) {
                Ok(said) => said,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let why = last.unwrap_or_else(|| "they say nothing".to_owned());
                    anyhow::bail!(
                        "{missing} of {} hosts have not heard it after {DEADLINE:?}: {why}; the \
                         machine does not bear so many",
                        heard.len()
                    );
                }
            };
            let place = said.host.checked_sub(first).and_then(|place| heard.get_mut(place));
            match (place, said.what) {
                (_, What::Down(why)) => {
                    self.interruptions += 1;
                    last = Some(why);
                }
                (Some(place @ None), what) if so(&what) => {
                    *place = Some(said.at);
                    missing -= 1;
                }
                _ => {}
            }
        }
        Ok(heard.into_iter().flatten().collect())
    }

    /// Lets this time pass, and counts who lost the store.
    pub(super) fn rest(&mut self, span: Duration) {
        let_pass(span);
        let lost = self.said.1.try_iter().filter(|said| matches!(said.what, What::Down(_)));
        self.interruptions += lost.count();
    }
}

// === impl Used ===

impl Used {
    /// By now.
    pub(super) fn by(etcd: &Etcd) -> anyhow::Result<Self> {
        Ok(Self { at: Instant::now(), cpu: on_cpu(etcd.process_id())?, bytes: loopback()? })
    }

    /// Since then.
    pub(super) fn since(self, before: Self) -> Spent {
        Spent {
            seconds: (self.at - before.at).as_secs_f64(),
            cpu: self.cpu.saturating_sub(before.cpu).as_secs_f64(),
            bytes: (self.bytes - before.bytes) as f64,
        }
    }
}

/// Time on a CPU of all threads that a process has, to the nanosecond.
fn on_cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().context("a number of nanoseconds")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// How a client reaches a store.
pub(super) fn settings(endpoint: &str) -> anyhow::Result<Arc<Settings>> {
    let endpoint = endpoint.parse().map_err(anyhow::Error::msg)?;
    let endpoints = vec![endpoint];
    Ok(Arc::new(Settings { endpoints, tls: lb_agent::etcd::Tls::default(), user: None }))
}

/// The value of a backend's key.
pub(super) fn backend(number: usize) -> String {
    let [high, low] = [number / 250 % 250, number % 250];
    format!("{{\"address\":\"10.{}.{high}.{low}:8080\"}}", number / 62_500 % 250)
}

/// Bytes that have passed the loopback device of the calling thread's namespace.
fn loopback() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    let received = line.and_then(|line| line.split_whitespace().next());
    Ok(received.context("a namespace has a loopback device")?.parse()?)
}
