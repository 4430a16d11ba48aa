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
use crate::metrics::own::{self, ErrorKind};
use crate::model::check::Probe;
use crate::shown::flat;
use nix::errno::Errno;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
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

/// That this host can't probe is logged this often at most.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Most characters of what a try says; what a program prints may be longer.
const MAX_TEXT: usize = 256;
const MAX_OUTPUT_TEXT: usize = 4 * 1024;

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
    /// `None`: nothing, as this host could not even try; that says nothing of the target.
    result: Option<CheckResult>,
    text: String,
}

/// How far a try has come: where it got stuck when its time is over.
#[derive(Debug)]
struct Stage(AtomicU8);

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
    let (ended, mut ends) =
        mpsc::channel::<(Arc<Target>, Result<Report, String>)>(settings.in_flight);
    let mut gathered = Reports::new();
    let mut pass_on: Option<Instant> = None;
    let mut complained: Option<Instant> = None;
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
            Some((target, tried)) = ends.recv() => {
                let now = Instant::now();
                match tried {
                    Ok(report) => {
                        own::probe(kind(&target.check.probe), word(report.result), report.took);
                        let changed = schedule.done(&target, report.result, now, rand::random());
                        if let Some(changed) = changed {
                            gathered.push((target, report));
                            let at = if changed { now } else { now + GATHER };
                            pass_on = Some(pass_on.map_or(at, |before| before.min(at)));
                        }
                    }
                    Err(error) => {
                        own::error(ErrorKind::Probe);
                        schedule.skip(&target, now, rand::random());
                        if complained.is_none_or(|at| at + COMPLAIN <= now) {
                            complained = Some(now);
                            let (backend, check) = (target.backend, &target.check);
                            tracing::error!(
                                %backend, %check, error,
                                "this host can't run checks; what they last said stands"
                            );
                        }
                    }
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

/// Tries once. An error is this host's, not the target's.
async fn probe(target: &Target, trust: &Arc<Trust>) -> Result<Report, String> {
    let begin = Instant::now();
    let limit = target.check.timeout;
    let stage = Stage::default();
    let outcome = match timeout(limit, attempt(target, trust, &stage)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let limit = humantime::format_duration(limit);
            Outcome::failing(match target.check.probe {
                Probe::Exec(_) => format!("EXEC killed, no end within {limit}"),
                _ => format!("L{}TOUT no answer within {limit}", stage.get()),
            })
        }
    };
    let Outcome { result, text } = outcome;
    let most = match target.check.probe {
        Probe::Exec(_) => MAX_OUTPUT_TEXT,
        _ => MAX_TEXT,
    };
    let Some(result) = result else { return Err(flat(&text, most)) };
    let text = flat(&text, most).into();
    Ok(Report { result, text, took: begin.elapsed(), at: SystemTime::now() })
}

async fn attempt(target: &Target, trust: &Arc<Trust>, stage: &Stage) -> Outcome {
    match &target.check.probe {
        Probe::Tcp => tcp::attempt(target.address).await,
        Probe::Http(probe) => http::attempt(target.address, probe, trust, stage).await,
        Probe::Grpc(probe) => grpc::attempt(target.address, probe, trust, stage).await,
        Probe::Exec(probe) => exec::attempt(target.backend, probe).await,
    }
}

/// What a probe does, for the metrics.
fn kind(probe: &Probe) -> &'static str {
    match probe {
        Probe::Tcp => "tcp",
        Probe::Http(_) => "http",
        Probe::Grpc(_) => "grpc",
        Probe::Exec(_) => "exec",
    }
}

fn word(result: CheckResult) -> &'static str {
    match result {
        CheckResult::Passing => "passing",
        CheckResult::Warning => "warning",
        CheckResult::Failing => "failing",
    }
}

// === impl Stage ===

impl Stage {
    /// The handshake of TLS.
    const TLS: u8 = 6;
    /// The exchange itself.
    const EXCHANGE: u8 = 7;

    fn reach(&self, layer: u8) {
        self.0.store(layer, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self(AtomicU8::new(4))
    }
}

// === impl Outcome ===

impl Outcome {
    fn passing(text: impl Into<String>) -> Self {
        Self { result: Some(CheckResult::Passing), text: text.into() }
    }

    fn warning(text: impl Into<String>) -> Self {
        Self { result: Some(CheckResult::Warning), text: text.into() }
    }

    fn failing(text: impl Into<String>) -> Self {
        Self { result: Some(CheckResult::Failing), text: text.into() }
    }

    /// A failure, unless `error` is about what this host has run out of.
    fn of_error(prefix: &str, error: &io::Error) -> Self {
        let result = match error.raw_os_error().map(Errno::from_raw) {
            Some(
                Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOMEM
                | Errno::ENOBUFS
                | Errno::EAGAIN
                | Errno::EADDRNOTAVAIL,
            ) => None,
            _ => Some(CheckResult::Failing),
        };
        Self { result, text: format!("{prefix} {error}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_lacks_is_not_held_against_the_target() {
        let of = |errno: Errno| Outcome::of_error("L4CON", &errno.into()).result;
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EADDRNOTAVAIL] {
            assert_eq!(of(errno), None, "{errno}");
        }
        for errno in [Errno::ECONNREFUSED, Errno::EHOSTUNREACH, Errno::ENETUNREACH, Errno::EPERM] {
            assert_eq!(of(errno), Some(CheckResult::Failing), "{errno}");
        }
    }
}
