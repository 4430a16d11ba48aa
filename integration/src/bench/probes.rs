//! Section `probes`: what checks of many targets cost the agent. The servers are another process; on
//! the loopback device the kernel's work for both ends is charged to whoever sends, so that the agent
//! pays for some of the servers' too.

use super::{Figure, Plan, Report};
use crate::agent::Agent;
use crate::lab::{self, Lab};
use crate::large::spent;
use crate::process::Memory;
use crate::spec::{service, services};
use crate::wait::let_pass;
use anyhow::Context;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const GROUP: &str = "probes";
/// Backends of one service.
const EACH: usize = 100;
/// From one check of a target to the next: the agent's default.
const INTERVAL: Duration = Duration::from_secs(2);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";

/// What is checked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: what the agent costs with so many backends.
    None,
    /// A connection.
    Tcp,
    /// A request.
    Http,
}

/// What checks cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checks {
    /// Tries a second, as the servers count them.
    pub(super) tries: f64,
    /// Share of one core, 1 being all of it.
    pub(super) core: f64,
    /// Time on a CPU for one try, in seconds; 0 without tries.
    pub(super) cpu: f64,
    /// Resident memory, in MB.
    pub(super) memory: f64,
}

/// All kinds, one after the other.
pub(super) fn run(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let (targets, span) = plan.choose((100, 2), (1_000, 6), (10_000, 20));
    let all: &[Kind] = &[Kind::None, Kind::Tcp, Kind::Http];
    for kind in plan.choose(&all[2..], all, all).iter().copied() {
        let mut checks = None;
        lab::run("bench-probes", |lab| {
            checks = Some(measure(lab, kind, targets, Duration::from_secs(span)));
        });
        let Checks { tries, core, cpu, memory } = checks.context("the lab did not run")??;
        let figure = |metric, value, unit| {
            let figure = Figure::new(GROUP, "ours", metric, value, unit);
            figure.case("check", kind.name()).case("targets", targets)
        };
        report.figure(figure("tries", tries, "1/s"));
        report.figure(figure("cpu", core * 100.0, "%"));
        if kind != Kind::None {
            report.figure(figure("cpu per try", cpu * 1e6, "us"));
        }
        report.figure(figure("memory", memory, "MB"));
    }
    Ok(())
}

/// Has an agent check so many targets, each every 2 seconds, and watches it for a while.
pub(super) fn measure(
    lab: &Lab,
    kind: Kind,
    targets: usize,
    span: Duration,
) -> anyhow::Result<Checks> {
    let server = Server::start(kind)?;
    let targets: Vec<SocketAddr> = (0..targets)
        .map(|n| {
            let ip = u32::from(Ipv4Addr::new(127, 1, 0, 1)) + u32::try_from(n).unwrap_or(u32::MAX);
            SocketAddr::from((Ipv4Addr::from(ip), server.address.port()))
        })
        .collect();
    let all: Vec<_> = targets
        .chunks(EACH)
        .enumerate()
        .map(|(n, backends)| {
            let spec = service(format!("s{n}"))
                .frontend(format!("10.96.{}.{}:80", n / 250, 1 + n % 250))
                .backends(backends);
            match kind {
                Kind::None => spec,
                Kind::Tcp => spec.with("checks: [tcp]"),
                Kind::Http => spec.with("checks: [{http: {path: /healthz}}]"),
            }
        })
        .collect();
    let agent = Agent::start(lab, &services(&all));
    // All have had their first result, and what starting has left behind is done.
    let_pass(4 * INTERVAL);
    let (begin, before, opened) = (Instant::now(), spent(agent.pid()), accepted()?);
    let_pass(span);
    let (used, tries) = (spent(agent.pid()) - before, accepted()? - opened);
    let (seconds, used) = (begin.elapsed().as_secs_f64(), used.as_secs_f64());
    Ok(Checks {
        tries: tries as f64 / seconds,
        core: used / seconds,
        cpu: if tries == 0 { 0.0 } else { used / tries as f64 },
        memory: Memory::of(agent.pid()).now as f64 / 1024.0,
    })
}

/// Connections that servers of this network namespace have accepted.
fn accepted() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both.find(|(name, _)| *name == "PassiveOpens").context("PassiveOpens")?;
    Ok(value.parse()?)
}

/// A server that answers at one port of all addresses, for as long as it is held.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

// === impl Server ===

impl Server {
    fn start(kind: Kind) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let address = (Ipv4Addr::LOCALHOST, listener.local_addr()?.port()).into();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || serve(&listener, kind == Kind::Http, &stopped));
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It looks after each connection.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            // A panic of its own has been told.
            drop(thread.join());
        }
    }
}

fn serve(listener: &TcpListener, http: bool, stopped: &AtomicBool) {
    let mut request = [0; 4096];
    while !stopped.load(Ordering::Relaxed) {
        // What goes wrong with a connection is the client's to notice.
        let Ok((mut stream, _)) = listener.accept() else { continue };
        if http {
            let read = stream.read(&mut request);
            if read.is_ok_and(|length| length > 0) {
                drop(stream.write_all(ANSWER));
            }
        }
    }
}

// === impl Kind ===

impl Kind {
    /// How figures call it.
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Http => "http",
        }
    }
}
