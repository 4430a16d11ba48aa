//! What it costs to follow what becomes of connects: nanoseconds per call of sock_ops by what the
//! call is about, and how often a connection is the reason for one.

use super::EMPTY;
use crate::bench::statistics::median;
use crate::bench::{Figure, Plan, Report};
use crate::dataplane::{Dataplane, Failures};
use crate::empty_program::EmptyProgram;
use crate::lab::Lab;
use crate::router::{Router, silent};
use crate::server::{Backends, any_port};
use crate::wait::let_pass;
use anyhow::{Context as _, ensure};
use aya::sys::{Stats, enable_stats};
use lb_agent::config::TableSizes;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The group of these figures.
const GROUP: &str = "sock_ops";
const ROUNDS: usize = 5;
/// Sockets that are open at once.
const SOCKETS: u64 = 500;
/// Connects that are over at once.
const CONNECTS: u64 = 5000;
/// Requests and responses on an established connection.
const EXCHANGES: u64 = 10_000;

const REFUSED: &str = "10.96.0.10:80";
const SERVED: &str = "10.96.0.20:80";
const SILENT: &str = "10.96.0.30:80";

/// A call of the program.
#[derive(Debug)]
struct Line {
    about: &'static str,
    ns_per_run: f64,
    /// Against a program that does nothing.
    ratio_to_empty: f64,
}

/// All calls of a connection.
#[derive(Debug)]
struct Connection {
    connection: &'static str,
    calls: f64,
    /// Less what as many calls of a program cost that does nothing.
    ns_above_empty: f64,
}

/// What was measured.
#[derive(Debug)]
struct Measured {
    /// Nanoseconds of the empty program.
    empty: f64,
    lines: Vec<Line>,
    connections: Vec<Connection>,
    /// Calls while [`EXCHANGES`] went over an established connection.
    calls_afterwards: u64,
}

/// Time and number of runs.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    nanoseconds: f64,
    runs: f64,
}

/// What one round saw, per connection.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    empty: Spent,
    listens: Spent,
    elsewhere: Spent,
    dials: Spent,
    repeats: Spent,
    closes: Spent,
    refused: Spent,
    refused_elsewhere: Spent,
    established: Spent,
    established_elsewhere: Spent,
    afterwards: u64,
}

/// Hears of failures, as an agent does: it makes them more expensive.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

// === impl Reader ===

impl Reader {
    fn start(lab: &Lab) -> Self {
        let mut failures = Failures::listen(lab);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut heard = 0;
            while !stopped.load(Ordering::Relaxed) {
                heard += failures.next(Duration::from_millis(50)).map_or(0, |all| all.len());
            }
            heard
        });
        Self { stop, thread }
    }

    /// How often it heard anything.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(0)
    }
}

// === impl Measured ===

impl Measured {
    fn tell(&self, report: &mut Report) {
        let Self { empty, lines, connections, calls_afterwards } = self;
        let figure = |metric, value, unit| Figure::new(GROUP, "ours", metric, value, unit);
        report.figure(Figure::new(GROUP, EMPTY, "time", *empty, "ns"));
        for Line { about, ns_per_run, ratio_to_empty } in lines {
            let figure = figure("time", *ns_per_run, "ns").case("call", about);
            report.figure(figure.ratio(EMPTY, *ratio_to_empty));
        }
        for Connection { connection, calls, ns_above_empty } in connections {
            report.figure(figure("calls", *calls, "per connection").case("connection", connection));
            report.figure(
                figure("above empty", *ns_above_empty, "ns").case("connection", connection),
            );
        }
        let calls = figure("calls", *calls_afterwards as f64, "in all");
        report.figure(calls.case("exchanges after connect", EXCHANGES));
    }
}

/// Measures and reports. To be called in the lab's own cgroup.
pub(super) fn run(lab: &Lab, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let rounds = plan.choose(1, 1, ROUNDS);
    measure(lab, rounds)?.tell(report);
    Ok(())
}

fn measure(lab: &Lab, rounds: usize) -> anyhow::Result<Measured> {
    let _statistics = enable_stats(Stats::RunTime).context("enabling run-time statistics")?;
    let _router = Router::start();
    // The servers stay outside, or their sockets' calls would count.
    let server = Backends::tcp("127.0.0.1", ["web"]);
    let shut = TcpListener::bind(any_port("127.0.0.1"))?.local_addr()?;
    let cgroups = [lab.cgroup().child("empty-ops"), lab.cgroup().child("ops")];
    let empty = EmptyProgram::on_sock_ops(cgroups[0].path()).context("the empty program")?;
    let addr = |text: &str| text.parse::<SocketAddr>();
    let services =
        [(addr(REFUSED)?, shut), (addr(SERVED)?, server.at(0)), (addr(SILENT)?, silent(true))];
    let dataplane = Dataplane::sized(lab, cgroups[1].path(), TableSizes::default(), &services);
    let reader = Reader::start(lab);

    let mut all = Vec::new();
    for _ in 0..rounds {
        let mut round = Round::default();
        cgroups[0].enter();
        let spent = || super::statistics(empty.id()?);
        round.empty = per(CONNECTS, spent, || connects(shut))?;
        cgroups[1].enter();
        let spent = || Ok(dataplane.runs("sock_ops"));
        round.listens = per(CONNECTS, spent, listens)?;
        round.refused_elsewhere = per(CONNECTS, spent, || connects(unused(shut)))?;
        round.established_elsewhere = per(CONNECTS, spent, || {
            // Not by a backend's address.
            connects(SocketAddr::new("127.0.0.2".parse()?, server.at(0).port()))
        })?;
        round.refused = per(CONNECTS, spent, || connects(addr(REFUSED)?))?;
        round.established = per(CONNECTS, spent, || connects(addr(SERVED)?))?;
        let mut dialling = Vec::new();
        let mut elsewhere = silent(true);
        elsewhere.set_port(81);
        round.elsewhere = per(SOCKETS, spent, || begin(elsewhere, &mut dialling))?;
        dialling.clear();
        round.dials = per(SOCKETS, spent, || begin(addr(SILENT)?, &mut dialling))?;
        round.repeats = per(SOCKETS, spent, || {
            let_pass(Duration::from_millis(1500));
            Ok(())
        })?;
        round.closes = per(SOCKETS, spent, || {
            dialling.clear();
            Ok(())
        })?;
        round.afterwards = exchange(addr(SERVED)?, || dataplane.runs("sock_ops").1)?;
        all.push(round);
    }
    lab.cgroup().enter();
    ensure!(reader.stop() > 0, "nobody heard of the failures");
    let whole = |round: &Round| round.repeats.runs >= 1.0 && round.repeats.runs.fract() == 0.0;
    ensure!(all.iter().all(whole), "some sockets were answered, or the machine is too busy");
    Ok(summary(&all))
}

fn summary(rounds: &[Round]) -> Measured {
    let median = |of: &dyn Fn(&Round) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
    let nothing = |round: &Round| round.empty.nanoseconds / round.empty.runs;
    // The calls about anything else, which come in between, are taken to cost what the empty program
    // costs; that they cost a little more is added to the one in question.
    let dials =
        |round: &Round, spent: Spent| spent.nanoseconds - (spent.runs - 1.0) * nothing(round);
    let ends = |round: &Round, spent: Spent| {
        let more = spent.runs - round.dials.runs;
        spent.nanoseconds - round.dials.nanoseconds - (more - 1.0) * nothing(round)
    };
    let line = |about, of: &dyn Fn(&Round) -> f64| Line {
        about,
        ns_per_run: two_digits(median(of)),
        ratio_to_empty: two_digits(median(&|round| of(round) / nothing(round))),
    };
    let connection = |connection, of: &dyn Fn(&Round) -> Spent| Connection {
        connection,
        calls: two_digits(median(&|round| of(round).runs)),
        ns_above_empty: two_digits(median(&|round| {
            of(round).nanoseconds - of(round).runs * nothing(round)
        })),
    };
    Measured {
        empty: two_digits(median(&nothing)),
        lines: vec![
            line("anything else (listen)", &|r| r.listens.nanoseconds / r.listens.runs),
            line("the first packet, not translated", &|r| dials(r, r.elsewhere)),
            line("the first packet, translated", &|r| dials(r, r.dials)),
            line("established", &|r| ends(r, r.established)),
            line("refused, while the agent listens", &|r| ends(r, r.refused)),
            line("unanswered, while the agent listens", &|r| dials(r, r.repeats)),
            line("closed while it dials", &|r| r.closes.nanoseconds / r.closes.runs),
        ],
        connections: vec![
            connection("not translated, established", &|r| r.established_elsewhere),
            connection("not translated, refused", &|r| r.refused_elsewhere),
            connection("translated, established", &|r| r.established),
            connection("translated, refused", &|r| r.refused),
        ],
        calls_afterwards: rounds.iter().map(|round| round.afterwards).sum(),
    }
}

fn two_digits(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// What `act`, which does something `times` times, costs each time.
fn per(
    times: u64,
    spent: impl Fn() -> anyhow::Result<(Duration, u64)>,
    act: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Spent> {
    let before = spent()?;
    act()?;
    let after = spent()?;
    let nanoseconds = (after.0 - before.0).as_nanos() as f64 / times as f64;
    Ok(Spent { nanoseconds, runs: (after.1 - before.1) as f64 / times as f64 })
}

fn socket() -> anyhow::Result<Socket> {
    Ok(Socket::new(Domain::IPV4, Type::STREAM, None)?)
}

fn listens() -> anyhow::Result<()> {
    for _ in 0..CONNECTS {
        socket()?.listen(1)?;
    }
    Ok(())
}

/// Connects and closes with a reset; whether anybody listens is the address's business.
fn connects(to: SocketAddr) -> anyhow::Result<()> {
    for _ in 0..CONNECTS {
        let socket = socket()?;
        socket.set_linger(Some(Duration::ZERO))?;
        drop(socket.connect(&SockAddr::from(to)));
    }
    Ok(())
}

/// An address where nobody listens that is no backend's.
fn unused(shut: SocketAddr) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::new(127, 0, 0, 2).into(), shut.port())
}

fn begin(to: SocketAddr, dialling: &mut Vec<Socket>) -> anyhow::Result<()> {
    for _ in 0..SOCKETS {
        let socket = socket()?;
        socket.set_nonblocking(true)?;
        ensure!(socket.connect(&SockAddr::from(to)).is_err(), "{to} answers at once");
        dialling.push(socket);
    }
    Ok(())
}

/// How often the program ran while requests and responses went over an established connection.
fn exchange(to: SocketAddr, runs: impl Fn() -> u64) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let mut greeting = [0; 64];
    ensure!(stream.read(&mut greeting)? > 0, "no greeting");
    let before = runs();
    let mut answer = [0; 64];
    for _ in 0..EXCHANGES {
        stream.write_all(&[7; 64])?;
        stream.read_exact(&mut answer)?;
    }
    Ok(runs() - before)
}
