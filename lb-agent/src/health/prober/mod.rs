//! The tasks that probe: takes in what is to be probed, says what the tries came to.
//!
//! One loop keeps the [`schedule`]; each try is a task of its own, with a cap on how many are under
//! way. What a try does is in [`tcp`], [`http`], [`grpc`] and [`exec`]; what results mean for a backend
//! is left to [`super::board`].

mod exec;
mod grpc;
mod http;
mod schedule;
mod tcp;
mod tls;

use self::schedule::Schedule;
use self::tls::Trust;
use super::board::{CheckResult, Report, Target, Wanted};
use crate::model::check::Probe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep_until, timeout};

/// Sockets with this mark (`SO_MARK`) are not translated: a backend's address that is also a
/// frontend must be probed itself.
pub use lb_common::PROBE_MARK;

/// Results that change nothing are passed on this often, for people to look at.
const GATHER: Duration = Duration::from_secs(1);

/// Due targets are looked at this often at most: one timer serves many of them.
const TICK: Duration = Duration::from_millis(5);

/// How probing is done on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tries under way at the same time.
    pub in_flight: usize,
}

/// What tries came to, oldest first.
pub type Reports = Vec<(Arc<Target>, Report)>;

/// What one try came to.
#[derive(Debug)]
struct Outcome {
    result: CheckResult,
    text: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { in_flight: 512 }
    }
}

/// Begins to probe. Ends when either channel's other end is dropped.
pub fn spawn(settings: Settings) -> (mpsc::UnboundedSender<Wanted>, mpsc::Receiver<Reports>) {
    let (wanted, asked) = mpsc::unbounded_channel();
    let (reports, results) = mpsc::channel(16);
    tokio::spawn(run(settings, asked, reports));
    (wanted, results)
}

async fn run(
    settings: Settings,
    mut asked: mpsc::UnboundedReceiver<Wanted>,
    reports: mpsc::Sender<Reports>,
) {
    let mut schedule = Schedule::default();
    let trust = Arc::new(Trust::default());
    let free = Arc::new(Semaphore::new(settings.in_flight));
    let (ended, mut ends) = mpsc::channel(settings.in_flight);
    let mut gathered = Reports::new();
    let mut pass_on: Option<Instant> = None;
    loop {
        // While no try may begin, the end of one wakes us.
        let due = schedule.next_due().filter(|_| free.available_permits() > 0);
        let wake = [due.map(|at| at.max(Instant::now() + TICK)), pass_on];
        tokio::select! {
            wanted = asked.recv() => {
                let Some(wanted) = wanted else { return };
                wanted.stop.iter().for_each(|target| schedule.remove(target));
                let now = Instant::now();
                for target in wanted.start {
                    schedule.add(target, now, rand::random());
                }
            }
            Some((target, report)) = ends.recv() => {
                let report: Report = report;
                let changed = schedule.done(&target, report.result, Instant::now(), rand::random());
                if let Some(changed) = changed {
                    gathered.push((target, report));
                    let now = Instant::now();
                    let at = if changed { now } else { now + GATHER };
                    pass_on = Some(pass_on.map_or(at, |before| before.min(at)));
                }
            }
            () = wait(wake) => {}
            () = reports.closed() => return,
        }
        let now = Instant::now();
        if pass_on.is_some_and(|at| at <= now) {
            pass_on = None;
            if reports.send(std::mem::take(&mut gathered)).await.is_err() {
                return;
            }
        }
        while let Ok(permit) = Arc::clone(&free).try_acquire_owned() {
            let Some(target) = schedule.take(now) else { break };
            let (ended, trust) = (ended.clone(), Arc::clone(&trust));
            tokio::spawn(async move {
                let report = probe(&target, &trust).await;
                drop(permit);
                // Nobody is left to be told when the loop has ended.
                drop(ended.send((target, report)).await);
            });
        }
    }
}

async fn wait(wake: [Option<Instant>; 2]) {
    match wake.into_iter().flatten().min() {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Tries once.
async fn probe(target: &Target, trust: &Arc<Trust>) -> Report {
    let begin = Instant::now();
    let limit = target.check.timeout;
    let outcome = match timeout(limit, attempt(target, trust)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let layer = if matches!(target.check.probe, Probe::Tcp) { 4 } else { 7 };
            let limit = humantime::format_duration(limit);
            Outcome::failing(format!("L{layer}TOUT no answer within {limit}"))
        }
    };
    let Outcome { result, text } = outcome;
    Report { result, text: text.into(), took: begin.elapsed(), at: SystemTime::now() }
}

async fn attempt(target: &Target, trust: &Arc<Trust>) -> Outcome {
    match &target.check.probe {
        Probe::Tcp => tcp::attempt(target.address).await,
        Probe::Http(probe) => http::attempt(target.address, probe, trust).await,
        Probe::Grpc(probe) => grpc::attempt(target.address, probe, trust).await,
        Probe::Exec(probe) => exec::attempt(target.backend, probe).await,
    }
}

// === impl Outcome ===

impl Outcome {
    fn passing(text: impl Into<String>) -> Self {
        Self { result: CheckResult::Passing, text: text.into() }
    }

    fn failing(text: impl Into<String>) -> Self {
        Self { result: CheckResult::Failing, text: text.into() }
    }
}
