//! Section `churn`: what a connect takes while 1,000 backends a second are replaced in etcd, beside quiet. The
//! connects go to a service whose own backend stays, and to that backend itself, turn by turn: what
//! etcd and the agent take of the processors meanwhile shows in both, what changing tables costs in the
//! first alone.

use super::statistics::tail;
use super::{Extent, Figure, Plan, Report};
use crate::lab::{self, Lab};
use crate::large::{EACH, Large, backend, percentile};
use crate::wait::let_pass;
use anyhow::{Context, ensure};
use etcd_client::{Client, Txn, TxnOp};
use socket2::SockRef;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval};

const GROUP: &str = "churn";
/// Backends that are replaced in each second: so many in a transaction, so often.
const TOGETHER: u32 = 10;
const EVERY: Duration = Duration::from_millis(10);
/// Where backends are before, and where after a change.
const SIDES: [u32; 2] = [0xAC10_0000, 0xAC20_0000];
/// From one pair of connects to the next.
const PACE: Duration = Duration::from_millis(1);
/// In a full run, with fewer changes a second than that the figures are not what they are called.
const FEWEST: f64 = 900.0;

/// Connect times.
#[derive(Default)]
struct Times {
    ours: Vec<Duration>,
    direct: Vec<Duration>,
}

/// Measures connects in quiet and in churn, in turns.
pub(super) fn run(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let mut done = None;
    lab::run("bench-churn", |lab| done = Some(measure(lab, plan, report)));
    done.context("the lab did not run")?
}

fn measure(lab: &Lab, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let (services, span, turns) = plan.choose((100, 1, 1), (1_000, 2, 2), (10_000, 10, 3));
    let span = Duration::from_secs(span);
    let large = Large::fill_with(lab, services);
    let (agent, _) = large.start_agent();
    let ways = (large.probe(), large.server());

    let (mut quiet, mut churn) = (Times::default(), Times::default());
    let (mut changes, mut applied, mut seconds) = (0, 0, 0.0);
    for _ in 0..turns {
        connects(ways, span, &mut quiet)?;
        let published = || agent.status().work.publishes;
        let (begun, before) = (Instant::now(), published());
        let meanwhile = || connects(ways, span, &mut churn);
        changes += churning(&large.endpoint(), services, changes, meanwhile)?;
        seconds += begun.elapsed().as_secs_f64();
        applied += published() - before;
    }
    let figure = |subject: &str, metric: &str, value: f64, unit: &str| {
        Figure::new(GROUP, subject, metric, value, unit).case("services", services)
    };
    let replaced = changes as f64 / seconds;
    report.figure(figure("ours", "backends replaced", replaced, "1/s"));
    ensure!(
        plan.extent != Extent::Full || replaced >= FEWEST,
        "only {replaced:.0} backends a second were replaced, of 1,000: nothing else should run on this machine"
    );
    report.figure(figure("ours", "sets of backends published", applied as f64 / seconds, "1/s"));
    for (when, times) in [("quiet", quiet), ("churn", churn)] {
        for (metric, share) in [("p50", 0.5), tail(times.ours.len().min(times.direct.len()))] {
            let [ours, direct] = [&times.ours, &times.direct]
                .map(|times| percentile(times.clone(), share).as_secs_f64() * 1e6);
            report.figure(figure("direct", metric, direct, "us").case("while", when));
            let figure = figure("ours", metric, ours, "us").case("while", when);
            report.figure(figure.ratio("direct", ours / direct));
        }
    }
    Ok(())
}

/// Does `meanwhile` while backends are replaced, after `before` that were already; returns how many were.
fn churning(
    endpoint: &str,
    services: u32,
    before: u64,
    meanwhile: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let (stop, replaced) = (AtomicBool::new(false), AtomicU64::new(before));
    thread::scope(|scope| {
        let writer = scope.spawn(|| replace(endpoint, services, &stop, &replaced));
        let done = meanwhile();
        stop.store(true, Ordering::Relaxed);
        match writer.join() {
            Ok(written) => done.and(written).map(|()| replaced.load(Ordering::Relaxed) - before),
            Err(_) => anyhow::bail!("the thread that replaces backends panicked"),
        }
    })
}

/// Moves backends from one side to the other and back, one service after the other.
fn replace(
    endpoint: &str,
    services: u32,
    stop: &AtomicBool,
    replaced: &AtomicU64,
) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::connect([endpoint], None).await?;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        // One backend of each of so many services; when all had their turn, all go back.
        let mut first = u32::try_from(replaced.load(Ordering::Relaxed))?;
        loop {
            ticks.tick().await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let puts = (first..first + TOGETHER).map(|step| {
                let side = SIDES[(step / services + 1) as usize % 2];
                let (key, value) = backend(step % services * EACH, side);
                TxnOp::put(key, value, None)
            });
            client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await?;
            replaced.fetch_add(TOGETHER.into(), Ordering::Relaxed);
            first += TOGETHER;
        }
        anyhow::Ok(())
    })
}

/// Connects to the service and to its backend in turns, for so long.
fn connects(
    (service, direct): (SocketAddr, SocketAddr),
    span: Duration,
    times: &mut Times,
) -> anyhow::Result<()> {
    let end = Instant::now() + span;
    for turn in 0_u32.. {
        if Instant::now() >= end {
            break;
        }
        // The first after a pause finds caches cold and the processor asleep.
        connect(direct)?;
        if turn.is_multiple_of(2) {
            times.ours.push(connect(service)?);
            times.direct.push(connect(direct)?);
        } else {
            times.direct.push(connect(direct)?);
            times.ours.push(connect(service)?);
        }
        // Connects without a pause would be what keeps the processors busy.
        let_pass(PACE);
    }
    Ok(())
}

fn connect(to: SocketAddr) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let stream = TcpStream::connect(to).with_context(|| format!("{to} does not answer"))?;
    let took = begun.elapsed();
    // A reset leaves no port in TIME_WAIT.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(took)
}
