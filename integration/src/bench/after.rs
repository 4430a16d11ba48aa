//! What follows a connect: requests and responses, and as much data as goes, on TCP and UDP. Pairs of
//! short turns; the ratio's 95 % interval says whether ours is felt at all.

use super::cpu::busy;
use super::scene::{Place, Subject};
use super::servers::{ECHO, SINK, Servers};
use super::statistics::{Estimate, median, of_sums, order, paired, percentile, tail};
use super::{Figure, Plan, Report};
use crate::lab;
use crate::wait::eventually;
use anyhow::Context as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The group of these figures.
pub(super) const GROUP: &str = "after";
/// What the others are compared with.
const NONE: &str = Subject::None.name();
/// Services that are loaded; how many makes no difference any more.
const SERVICES: u32 = 100;
/// A request and its response.
const REQUEST: usize = 64;
/// What is written at once to a TCP connection.
const CHUNK: usize = 128 * 1024;
/// What fits into a packet.
const DATAGRAM: usize = 1400;
const PATIENCE: Duration = Duration::from_secs(5);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Turns of each subject with each load.
    pub(super) turns: usize,
    /// How long a turn is.
    pub(super) span: Duration,
}

/// What a client does after it has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    TcpRequests,
    TcpBulk,
    UdpRequests,
    /// On a socket that is not connected: each request is translated anew, and each response.
    UnconnectedRequests,
    UdpBulk,
}

/// What a turn saw.
#[derive(Clone, Debug, Default)]
struct Turn {
    /// Microseconds from request to response; none where data only goes one way.
    latencies: Vec<f64>,
    /// Exchanges, or GB (10^9 bytes) that arrived.
    done: f64,
    /// In seconds.
    elapsed: f64,
    /// Microseconds on any processor.
    busy: f64,
}

/// Measures all loads.
pub(super) fn run(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let (turns, millis) = plan.choose((2, 20), (12, 60), (100, 100));
    let effort = Effort { turns, span: Duration::from_millis(millis) };
    measure(plan, effort, &Load::ALL, report)
}

pub(super) fn measure(
    plan: &Plan,
    effort: Effort,
    loads: &[Load],
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut measured = None;
    lab::run("bench-after", |lab| {
        let mut body = || {
            let places = Subject::ALL.iter().map(|subject| {
                let place = Place::set_up(lab, *subject, SERVICES)?;
                let servers = place.wire.server().run(Servers::talking);
                anyhow::Ok((servers, place))
            });
            let places = places.collect::<anyhow::Result<Vec<_>>>()?;
            for load in loads {
                let turns = take_turns(&places, effort, *load, plan.seed);
                tell(plan, *load, &places, &turns, report);
            }
            anyhow::Ok(())
        };
        measured = Some(body());
    });
    measured.context("the lab did not run")?
}

fn take_turns(
    places: &[(Servers, Place)],
    effort: Effort,
    load: Load,
    seed: u64,
) -> Vec<Vec<Turn>> {
    let turn = |(servers, place): &(Servers, Place)| {
        let (to, span, sunk) = (place.to, effort.span, servers.sunk());
        place.wire.client().run(move || load.turn(to, span, &sunk))
    };
    let mut turns = vec![Vec::new(); places.len()];
    // The first of each is for the caches.
    places.iter().for_each(|place| drop(turn(place)));
    for round in 0..effort.turns {
        for index in order(places.len(), seed, round) {
            turns[index].push(turn(&places[index]));
        }
    }
    turns
}

fn tell(
    plan: &Plan,
    load: Load,
    places: &[(Servers, Place)],
    turns: &[Vec<Turn>],
    report: &mut Report,
) {
    let of_turns =
        |turns: &[Turn], of: &dyn Fn(&Turn) -> f64| -> Vec<f64> { turns.iter().map(of).collect() };
    let spent = |turns: &[Turn]| -> Vec<(f64, f64)> {
        turns.iter().map(|turn| (turn.busy, turn.done)).collect()
    };
    let none = &turns[0];
    // A ratio is that of turns.
    let fewest = turns.iter().flatten().map(|turn| turn.latencies.len()).min().unwrap_or_default();
    for ((_, place), own) in places.iter().zip(turns) {
        let subject = place.subject.name();
        let mut tell = |metric: &str, value: f64, unit: &str, ratio: Estimate| {
            let figure = Figure::new(GROUP, subject, metric, value, unit);
            let figure = figure.case("load", load.name()).case("protocol", load.protocol());
            report.figure(match place.subject {
                Subject::None => figure,
                _ => figure.ratio_within(NONE, ratio.value, Some(ratio.interval)),
            });
        };
        let bulk = load.is_bulk();
        if bulk {
            let rate = |turn: &Turn| 8.0 * turn.done / turn.elapsed;
            let rates = of_turns(own, &rate);
            let ratio = paired(&rates, &of_turns(none, &rate), plan.seed);
            tell("throughput", median(&rates), "Gbit/s", ratio);
        } else {
            let all: Vec<f64> =
                own.iter().flat_map(|turn| turn.latencies.iter().copied()).collect();
            for (metric, share) in [("p50", 0.5), tail(fewest)] {
                let of = |turn: &Turn| percentile(&turn.latencies, share);
                let ratio = paired(&of_turns(own, &of), &of_turns(none, &of), plan.seed);
                tell(metric, percentile(&all, share), "us", ratio);
            }
        }
        let (own, none) = (spent(own), spent(none));
        let total = |of: fn(&(f64, f64)) -> f64| own.iter().map(of).sum::<f64>();
        let each = total(|turn| turn.0) / total(|turn| turn.1);
        let unit = if bulk { "us per GB" } else { "us per exchange" };
        tell("cpu", each, unit, of_sums(&own, &none, plan.seed));
    }
}

// === impl Load ===

impl Load {
    /// All of them, in the order in which they are told.
    pub(super) const ALL: [Self; 5] = [
        Self::TcpRequests,
        Self::UdpRequests,
        Self::UnconnectedRequests,
        Self::TcpBulk,
        Self::UdpBulk,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TcpRequests | Self::UdpRequests => "requests",
            Self::UnconnectedRequests => "requests, not connected",
            Self::TcpBulk | Self::UdpBulk => "bulk",
        }
    }

    pub(super) fn protocol(self) -> &'static str {
        match self {
            Self::TcpRequests | Self::TcpBulk => "tcp",
            Self::UdpRequests | Self::UnconnectedRequests | Self::UdpBulk => "udp",
        }
    }

    pub(super) fn is_bulk(self) -> bool {
        matches!(self, Self::TcpBulk | Self::UdpBulk)
    }

    /// On a new connection, which may hash elsewhere; to connect is not what is measured.
    #[track_caller]
    fn turn(self, to: SocketAddr, span: Duration, sunk: &Arc<AtomicU64>) -> Turn {
        let (mut request, mut response) = ([ECHO; REQUEST], [0; REQUEST]);
        request[0] = ECHO;
        match self {
            Self::TcpRequests => {
                let mut stream = dial(to);
                stream.set_nodelay(true).expect("an option of TCP");
                exchanges(span, || {
                    stream.write_all(&request).expect("the server reads");
                    stream.read_exact(&mut response).expect("the server answers");
                })
            }
            Self::UdpRequests => {
                let socket = socket();
                socket.connect(to).expect("a UDP socket connects");
                answered(&socket, || socket.send(&request));
                exchanges(span, || {
                    socket.send(&request).expect("a datagram is sent");
                    socket.recv(&mut response).expect("the server answers");
                })
            }
            Self::UnconnectedRequests => {
                let socket = socket();
                answered(&socket, || socket.send_to(&request, to));
                exchanges(span, || {
                    socket.send_to(&request, to).expect("a datagram is sent");
                    let (_, from) = socket.recv_from(&mut response).expect("the server answers");
                    assert_eq!(from, to, "whose answer is that");
                })
            }
            Self::TcpBulk => {
                let mut stream = dial(to);
                let data = vec![SINK; CHUNK];
                flood(span, sunk, || stream.write_all(&data).expect("the server reads"))
            }
            Self::UdpBulk => {
                let socket = socket();
                socket.connect(to).expect("a UDP socket connects");
                // What the path has no room for is lost.
                flood(span, sunk, || drop(socket.send(&[SINK; DATAGRAM])))
            }
        }
    }
}

fn dial(to: SocketAddr) -> TcpStream {
    let mut stream = None;
    eventually(&format!("{to} to answer"), PATIENCE, || {
        stream = TcpStream::connect_timeout(&to, PATIENCE).ok();
        stream.is_some()
    });
    let stream = stream.expect("it has answered");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option of all sockets");
    stream
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a UDP socket can be bound");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("an option of all sockets");
    socket
}

/// Asks until there is an answer, and from then on may wait for long: a device may take a moment to
/// carry.
fn answered(socket: &UdpSocket, mut ask: impl FnMut() -> std::io::Result<usize>) {
    eventually("an answer", PATIENCE, || ask().is_ok() && socket.recv(&mut [0; REQUEST]).is_ok());
    socket.set_read_timeout(Some(PATIENCE)).expect("an option of all sockets");
}

fn exchanges(span: Duration, mut exchange: impl FnMut()) -> Turn {
    let (begun, spent) = (Instant::now(), busy());
    let mut latencies = Vec::new();
    let mut last = begun;
    while last - begun < span {
        exchange();
        let now = Instant::now();
        latencies.push((now - last).as_secs_f64() * 1e6);
        last = now;
    }
    let busy = (busy() - spent).as_secs_f64() * 1e6;
    let (done, elapsed) = (latencies.len() as f64, (last - begun).as_secs_f64());
    Turn { latencies, done, elapsed, busy }
}

fn flood(span: Duration, sunk: &AtomicU64, mut send: impl FnMut()) -> Turn {
    let before = sunk.load(Ordering::Relaxed);
    let (begun, spent) = (Instant::now(), busy());
    while begun.elapsed() < span {
        send();
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let arrived = sunk.load(Ordering::Relaxed) - before;
    let busy = (busy() - spent).as_secs_f64() * 1e6;
    Turn { latencies: Vec::new(), done: arrived as f64 / 1e9, elapsed, busy }
}
