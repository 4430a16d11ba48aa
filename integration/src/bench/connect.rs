//! connect(2) on TCP: latency, rate and processor time, by the number of services; the last service is
//! dialled.

use super::cpu::busy;
use super::scene::{Place, Subject};
use super::servers::Servers;
use super::statistics::{Estimate, median, of_sums, order, paired, percentile, tail};
use super::{Figure, Plan, Report};
use crate::lab;
use crate::wait::eventually;
use anyhow::Context as _;
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The group of these figures.
pub(super) const GROUP: &str = "connect";
const DEADLINE: Duration = Duration::from_secs(10);
/// What the others are compared with.
const NONE: &str = Subject::None.name();

/// How much is measured.
#[derive(Clone, Debug)]
pub(super) struct Effort {
    /// Numbers of services for all subjects.
    pub(super) services: Vec<u32>,
    /// Numbers that only ours is tried with: to load that many rules takes others too long.
    pub(super) ours_alone: Vec<u32>,
    /// Turns of each subject.
    pub(super) turns: usize,
    /// Connects in a turn.
    pub(super) connects: usize,
}

/// What a turn saw.
#[derive(Clone, Debug)]
struct Turn {
    /// Microseconds of each connect.
    latencies: Vec<f64>,
    /// All of it, closes included, in seconds.
    elapsed: f64,
    /// Microseconds on any processor.
    busy: f64,
}

/// Measures at all sizes.
pub(super) fn run(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let effort = plan.choose(
        Effort { services: vec![1, 10], ours_alone: vec![100], turns: 2, connects: 20 },
        Effort {
            services: vec![1, 1000, 10_000],
            ours_alone: vec![100_000],
            turns: 10,
            connects: 500,
        },
        Effort {
            services: vec![1, 100, 1000, 10_000],
            ours_alone: vec![100_000],
            turns: 50,
            // Processor time comes in steps that a shorter turn has few of.
            connects: 8000,
        },
    );
    measure(plan, &effort, report)
}

pub(super) fn measure(plan: &Plan, effort: &Effort, report: &mut Report) -> anyhow::Result<()> {
    beside(plan, effort, &Subject::ALL, report)?;
    for services in &effort.ours_alone {
        at_size(plan, effort, *services, &[Subject::None, Subject::Ours], report)?;
    }
    Ok(())
}

/// These subjects at all sizes; the first is what the others are compared with.
pub(super) fn beside(
    plan: &Plan,
    effort: &Effort,
    subjects: &[Subject],
    report: &mut Report,
) -> anyhow::Result<()> {
    effort.services.iter().try_for_each(|size| at_size(plan, effort, *size, subjects, report))
}

fn at_size(
    plan: &Plan,
    effort: &Effort,
    services: u32,
    subjects: &[Subject],
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut measured = None;
    lab::run("bench-connect", |lab| {
        let mut body = || {
            let places = subjects.iter().map(|subject| Place::set_up(lab, *subject, services));
            let places = places.collect::<anyhow::Result<Vec<_>>>()?;
            let turns = take_turns(&places, effort, plan.seed);
            tell(plan, services, &places, &turns, report);
            anyhow::Ok(())
        };
        measured = Some(body());
    });
    measured.context("the lab did not run")?
}

fn take_turns(places: &[Place], effort: &Effort, seed: u64) -> Vec<Vec<Turn>> {
    let servers = places.iter().map(|place| {
        let servers = place.wire.server().run(Servers::accepting);
        let to = place.to;
        place.wire.client().run(move || {
            eventually(&format!("{to} to answer"), DEADLINE, || {
                TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok()
            });
        });
        servers
    });
    let _servers: Vec<Servers> = servers.collect();
    let mut turns = vec![Vec::new(); places.len()];
    for round in 0..effort.turns {
        for index in order(places.len(), seed, round) {
            let (to, connects) = (places[index].to, effort.connects);
            turns[index].push(places[index].wire.client().run(move || dial(to, connects)));
        }
    }
    turns
}

fn dial(to: SocketAddr, connects: usize) -> Turn {
    let to = SockAddr::from(to);
    let (spent, begun) = (busy(), Instant::now());
    let latencies = (0..connects).map(|_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
        // A reset leaves no port in TIME_WAIT.
        socket.set_linger(Some(Duration::ZERO)).expect("an option of TCP");
        let begun = Instant::now();
        socket.connect(&to).expect("the service answers");
        begun.elapsed().as_secs_f64() * 1e6
    });
    let latencies = latencies.collect();
    let elapsed = begun.elapsed().as_secs_f64();
    let busy = (busy() - spent).as_secs_f64() * 1e6;
    Turn { latencies, elapsed, busy }
}

fn tell(plan: &Plan, services: u32, places: &[Place], turns: &[Vec<Turn>], report: &mut Report) {
    let per_turn =
        |turns: &[Turn], of: &dyn Fn(&Turn) -> f64| -> Vec<f64> { turns.iter().map(of).collect() };
    let spent = |turns: &[Turn]| -> Vec<(f64, f64)> {
        turns.iter().map(|turn| (turn.busy, turn.latencies.len() as f64)).collect()
    };
    let none = &turns[0];
    for (place, own) in places.iter().zip(turns) {
        let subject = place.subject.name();
        let mut tell = |figure: Figure, ratio: Estimate| {
            let figure = figure.case("services", services);
            report.figure(match place.subject {
                Subject::None => figure,
                _ => figure.ratio_within(NONE, ratio.value, Some(ratio.interval)),
            });
        };
        let all: Vec<f64> = own.iter().flat_map(|turn| turn.latencies.iter().copied()).collect();
        // A ratio is that of turns.
        let fewest = own.iter().chain(none).map(|turn| turn.latencies.len()).min();
        for (metric, share) in [("p50", 0.5), ("p90", 0.9), tail(fewest.unwrap_or_default())] {
            let of = |turn: &Turn| percentile(&turn.latencies, share);
            let ratio = paired(&per_turn(own, &of), &per_turn(none, &of), plan.seed);
            tell(Figure::new(GROUP, subject, metric, percentile(&all, share), "us"), ratio);
        }
        let rate = |turn: &Turn| turn.latencies.len() as f64 / turn.elapsed;
        let rates = per_turn(own, &rate);
        let ratio = paired(&rates, &per_turn(none, &rate), plan.seed);
        tell(Figure::new(GROUP, subject, "rate", median(&rates), "1/s"), ratio);
        let (own, none) = (spent(own), spent(none));
        let ratio = of_sums(&own, &none, plan.seed);
        let total = |of: fn(&(f64, f64)) -> f64| own.iter().map(of).sum::<f64>();
        let each = total(|turn| turn.0) / total(|turn| turn.1);
        tell(Figure::new(GROUP, subject, "cpu", each, "us per connection"), ratio);
    }
}
