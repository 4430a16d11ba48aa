//! The soak: connects without end, in the real kernel, against changes without end. The loop is the
//! agent's own ([`agent`]) and so are plan and tables; only the source is made up ([`world`]), which
//! gives more changes a second than any file could. [`clients`] dial; the [`ledger`] knows what was
//! right at any time between a connect's begin and its end, and judges.
//!
//! Every backend has an address of its own, and of two addresses of one host the kernel takes the
//! peer's own as the local one. So a socket's local address says where its connect really led, past
//! everything that translates peer names, and a connected UDP socket is judged without a datagram.
//! TCP connections, unconnected UDP and every so-manieth connected UDP socket are answered by the
//! backend, which says who it is.
//!
//! [`kills`] is the same with the real agent, which is killed all the time.

mod agent;
mod clients;
pub mod kills;
mod ledger;
mod world;

use crate::lab::Lab;
use crate::server::{Backends, Kind};
use agent::Loop;
use clap::ValueEnum;
use ledger::Ledger;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use world::World;

/// How often progress is told.
const TELL: Duration = Duration::from_secs(2);

/// For how long changes go on until what waits for grace periods is waited for, too: where they come much faster,
/// few frontends would ever be served.
const CHURN: Duration = Duration::from_millis(20);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For how long.
    pub duration: Duration,
    /// Clients.
    pub clients: u64,
    /// What the changes and the clients' choices follow from.
    pub seed: u64,
    /// What is done wrong on purpose.
    pub fault: Option<Fault>,
}

/// Something done wrong on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Now and then a block names another service's backend.
    WrongRow,
    /// Now and then a block is not published.
    StaleBlock,
    /// Now and then a frontend is not inserted.
    LostFrontend,
    /// Now and then a block is published a moment before it is written.
    PublishFirst,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Connects, and datagrams of unconnected sockets.
    pub connects: u64,
    /// Changes of backends, frontends, services, weights, states, policies and affinity.
    pub changes: u64,
    /// Connects that led to a service which the frontend did not belong to at any time meanwhile.
    pub wrong_service: u64,
    /// Connects that led to a backend which the service did not have at any time meanwhile.
    pub removed_backend: u64,
    /// Connects that failed although a backend was up all the time.
    pub failed: u64,
    /// Connects that took so long that the ledger had forgotten their begin.
    pub unjudged: u64,
    /// Connects to what had no service or no backend, which failed as they should.
    pub refused: u64,
    /// Connects that led to a backend as they should.
    pub reached: Reached,
    /// States handed to the loop.
    pub states: u64,
    /// Stores that made a block live.
    pub publishes: u64,
    /// Grace periods waited for.
    pub grace_periods: u64,
    /// What it can be repeated with.
    pub seed: u64,
}

/// By family, IPv4 first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// By TCP.
    pub tcp: [u64; 2],
    /// By a connected UDP socket.
    pub connected: [u64; 2],
    /// By a datagram of an unconnected UDP socket.
    pub datagrams: [u64; 2],
}

/// What is said last.
#[derive(Serialize)]
struct Verdict {
    connects: u64,
    changes: u64,
    wrong_service: u64,
    removed_backend: u64,
    failed: u64,
}

/// Soaks inside a lab, until `stop` at the latest. `tell` is given how it stands every few seconds,
/// `complain` what went wrong.
pub fn run(
    lab: &Lab,
    options: &Options,
    stop: &AtomicBool,
    mut tell: impl FnMut(Duration, &Outcome),
    mut complain: impl FnMut(&str),
) -> Outcome {
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut world = World::new();
    world::own_addresses();
    let backends = || world::backends().map(|(address, tag)| (address, tag.to_string()));
    let _tcp = Backends::start(Kind::Tcp, backends());
    let _udp = Backends::start(Kind::Udp, backends());
    let ledger = Ledger::new(&world.outcomes());
    let begun = Instant::now();
    let done = AtomicBool::new(false);
    let mut outcome = Outcome { seed: options.seed, ..Outcome::default() };
    thread::scope(|scope| {
        // However it ends, the clients must.
        let _stop = Stop(&done);
        let mut agent = Loop::start(lab, options.fault, world.snapshot());
        for number in 1..=options.clients {
            let (ledger, done) = (&ledger, &done);
            let seed = options.seed.wrapping_add(number);
            scope.spawn(move || clients::run(ledger, done, seed));
        }
        let (mut told, mut caught_up) = (begun, begun);
        while begun.elapsed() < options.duration && !stop.load(Ordering::Relaxed) {
            // Often some in a row, so that states are overtaken.
            let row = if random.random_bool(0.7) { 1 } else { random.random_range(2..5) };
            for _ in 0..row {
                outcome.changes += world.change(&mut random);
                ledger.widen(&world.outcomes());
                agent.say(world.snapshot());
                outcome.states += 1;
            }
            let mut published = agent.published();
            if caught_up.elapsed() >= CHURN {
                published = agent.caught_up(&world.served());
                caught_up = Instant::now();
            }
            ledger.narrow(&world.outcomes(), |line| published.is_installed(line));
            outcome.publishes = published.publishes();
            outcome.grace_periods = published.grace_periods();
            if told.elapsed() >= TELL {
                told = Instant::now();
                ledger.add_to(&mut outcome);
                tell(begun.elapsed(), &outcome);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    ledger.add_to(&mut outcome);
    ledger.complaints().iter().for_each(|complaint| complain(complaint));
    outcome
}

impl Outcome {
    /// Whether nothing went wrong.
    pub fn is_clean(&self) -> bool {
        self.trouble().is_none()
    }

    /// What went wrong, if anything.
    pub fn trouble(&self) -> Option<String> {
        let Self { wrong_service, removed_backend, failed, unjudged, .. } = *self;
        match (wrong_service + removed_backend + failed, unjudged) {
            (0, 0) => None,
            (0, _) => Some(format!("{unjudged} connects took too long to be judged")),
            (wrong, _) => Some(format!("{wrong} connects went wrong")),
        }
    }

    /// What a soak ends with, as JSON.
    pub fn verdict(&self) -> impl Serialize + use<> {
        let Self { connects, changes, wrong_service, removed_backend, failed, .. } = *self;
        Verdict { connects, changes, wrong_service, removed_backend, failed }
    }
}

/// Ends the clients when it goes out of scope.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_what_others_read() {
        let outcome = Outcome { connects: 12, changes: 3, refused: 4, ..Outcome::default() };
        let line =
            r#"{"connects":12,"changes":3,"wrong_service":0,"removed_backend":0,"failed":0}"#;
        assert_eq!(serde_json::to_string(&outcome.verdict()).unwrap(), line);
    }

    #[test]
    fn what_went_wrong_is_told_from_what_was_too_slow() {
        let slow = Outcome { connects: 12, unjudged: 2, ..Outcome::default() };
        for (outcome, trouble) in [
            (Outcome { connects: 12, refused: 4, ..Outcome::default() }, None),
            (slow, Some("2 connects took too long to be judged")),
            (Outcome { wrong_service: 1, ..slow }, Some("1 connects went wrong")),
            (Outcome { removed_backend: 1, failed: 1, ..slow }, Some("2 connects went wrong")),
        ] {
            assert_eq!(outcome.trouble().as_deref(), trouble);
            assert_eq!(outcome.is_clean(), trouble.is_none());
        }
    }
}
