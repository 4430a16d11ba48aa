//! The agent killed at random moments, again and again, while clients dial and its file changes.
//! Nothing of what it was at may show, and nothing may be left behind.

use super::ledger::Ledger;
use super::world::{self, World};
use super::{Outcome, Stop, clients};
use crate::agent::Agent;
use crate::lab::Lab;
use crate::server::{Backends, Kind};
use crate::spec::{Spec, service, services};
use crate::wait::{eventually, let_pass, patience, within};
use lb_agent::status::ServiceStatus;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);
/// How long after a change the agent is killed, at most, in microseconds: in the first round.
const MOMENTS: u64 = 60_000;
/// What that becomes, at least and at most.
const BOUNDS: RangeInclusive<u64> = 5_000..=2_000_000;

/// Services, frontends and backends that fill the tables to the last entry but those of sockets.
const SERVICES: u32 = 32;
const FRONTENDS: u32 = 2 * SERVICES;
const BACKENDS: u32 = 16;
/// Rows of their blocks.
const FULL_ROWS: u32 = FRONTENDS * (BACKENDS + 1);
/// The first belongs to nobody, and a block that changes needs room beside the one that it replaces.
const ROWS: u32 = 1 + FULL_ROWS + 4 * (BACKENDS + 1);

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Killed {
    /// What clients and agents did.
    pub outcome: Outcome,
    /// Agents that were killed before the kernel had all that their file said: the next one had work left.
    pub at_work: u32,
    /// Agents that were killed when the kernel had what had changed: the next one had nothing to do.
    pub idle: u32,
}

/// Kills the agent so often, or up to three times as often where it takes that until both kinds of kills came
/// about. Panics if it does not come back each time with what its file says, or
/// if anything has leaked in the end.
///
/// How fast the agent is depends on the machine. So the moments of the kills reach further after one that came
/// before the work was done, and less far after one that came later: there are about as many of both.
pub fn run(lab: &Lab, kills: u32, seed: u64, mut complain: impl FnMut(&str)) -> Killed {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new();
    world::own_addresses();
    let backends = || world::backends().map(|(address, tag)| (address, tag.to_string()));
    let _tcp = Backends::start(Kind::Tcp, backends());
    let _udp = Backends::start(Kind::Udp, backends());
    lab.set_settings(&format!(
        "tables: {{services: {SERVICES}, frontends: {FRONTENDS}, rows: {ROWS}, backends: {}}}",
        SERVICES * BACKENDS
    ));
    let ledger = Ledger::new(&world.outcomes());
    let mut outcome = Outcome { seed, ..Outcome::default() };
    let (mut at_work, mut idle, mut moments) = (0, 0, MOMENTS);
    let done = AtomicBool::new(false);
    let agent = Agent::start(lab, &world.file());
    let pins = pins(lab);
    let agent = thread::scope(|scope| {
        let mut agent = agent;
        // However it ends, the clients must.
        let _stop = Stop(&done);
        for number in 1..=2 {
            let (ledger, done) = (&ledger, &done);
            scope.spawn(move || clients::run(ledger, done, seed.wrapping_add(number)));
        }
        // Where all takes long, more often, until the moments are such that both happen.
        let enough = |at_work: u32, idle: u32| at_work.min(idle) >= kills / 10;
        let mut turn = 0;
        while turn < kills || (turn < 3 * kills && !enough(at_work, idle)) {
            turn += 1;
            let before = world.outcomes();
            let changes = random.random_range(1..4);
            for change in 1..=changes {
                if change == changes {
                    // Not later: then it would always be killed when it has just answered.
                    // What is not told is not counted: it is for whoever reads the outcome.
                    let work = agent.try_status().map(|status| status.work).unwrap_or_default();
                    outcome.publishes += work.publishes;
                    outcome.grace_periods += work.grace_periods;
                }
                outcome.changes += world.change(&mut random);
                ledger.widen(&world.outcomes());
                lab.write_config(&world.file());
                outcome.states += 1;
                // From before the file is noticed to after all is done.
                let_pass(Duration::from_micros(random.random_range(0..moments)));
            }
            agent.kill9();
            agent = Agent::adopt(lab);
            eventually("what the file says", DEADLINE, || is_applied(&agent, &world));
            if agent.status().work.rounds > 0 {
                at_work += 1;
                moments = (moments * 3 / 2).min(*BOUNDS.end() * u64::from(patience()));
            } else if world.outcomes() != before {
                idle += 1;
                moments = (moments * 2 / 3).max(*BOUNDS.start());
            }
            ledger.narrow(&world.outcomes(), |_| true);
        }
        agent
    });
    agent.expect_no_connections();
    expect_no_leak(lab, agent, &pins);
    ledger.add_to(&mut outcome);
    ledger.complaints().iter().for_each(|complaint| complain(complaint));
    Killed { outcome, at_work, idle }
}

/// Whether the agent says that the kernel has exactly this.
fn is_applied(agent: &Agent<'_>, world: &World) -> bool {
    let wanted = world.snapshot();
    let told = agent.services();
    let right = |service: &ServiceStatus| {
        let name = service.name.parse().expect("a name");
        let Some(wanted) = wanted.services.get(&name) else { return false };
        let has = service.backends.iter().map(|b| (b.address, b.state)).collect();
        let states = wanted.backends.iter().map(|(address, backend)| (*address, backend.state));
        let frontends: BTreeSet<_> = service.frontends.iter().map(|told| &told.frontend).collect();
        states.collect::<BTreeMap<_, _>>() == has
            && frontends.into_iter().eq(wanted.frontends.keys())
            && service.frontends.iter().all(|frontend| frontend.installed)
    };
    let status = agent.status();
    told.len() == wanted.services.len()
        && told.iter().all(right)
        && status.rejections.is_empty()
        && status.work.last_error.is_none()
}

/// After all that, what is left of the tables is enough to fill them to the last entry, as new ones
/// would be, and there are the pins that there were.
fn expect_no_leak(lab: &Lab, agent: Agent<'_>, before: &BTreeSet<String>) {
    agent.reload(&services(&[]));
    let used = |agent: &Agent<'_>, name: &str| {
        let table = agent.maps().into_iter().find(|table| table.name == name);
        table.expect("the agent knows its tables").used
    };
    let tables = ["FRONTENDS", "BLOCKS", "BACKENDS", "CONNECTIONS", "CONNECTIONS_OVERFLOW"];
    for table in tables {
        assert_eq!(used(&agent, table), Some(0), "{table}");
    }
    // What the last plan has freed waits for a grace period, and ids for a look at the sockets; the
    // services come one after the other as there is room.
    lab.write_config(&services(&full()));
    let rows = Some(u64::from(FULL_ROWS));
    let wanted = (FRONTENDS as usize, (SERVICES * BACKENDS) as usize, rows, Vec::new());
    let filled = || {
        let told = agent.services();
        let installed = told.iter().flat_map(|service| &service.frontends).filter(|f| f.installed);
        let backends = told.iter().flat_map(|service| &service.backends);
        let with_ids = backends.filter(|backend| backend.id.is_some()).count();
        let rows = used(&agent, "BACKENDS");
        (installed.count(), with_ids, rows, agent.status().rejections)
    };
    let full = within(DEADLINE, || (filled() == wanted).then_some(()));
    // Frontends, backends, rows and what was refused say what has leaked.
    assert!(full.is_some(), "not full: {:?}", filled());
    assert_eq!(pins(lab), *before);
    assert_eq!(agent.status().hooks.len(), 10);
}

/// Services that fill the tables: two frontends each, which share no block.
fn full() -> Vec<Spec> {
    let service = |number| {
        let backends = (1..=BACKENDS).map(|host| format!("10.2.{number}.{host}:80"));
        service(format!("full{number}"))
            .frontend(format!("10.97.{number}.1:80"))
            .host_frontend(format!("10.97.{number}.2:80"))
            .backends(backends)
    };
    (0..SERVICES).map(service).collect()
}

/// The names of all pins.
fn pins(lab: &Lab) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut directories = vec![lab.pin_dir().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir().expect("the pin directory can be read") {
            let entry = entry.expect("the pin directory can be read");
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
            names.insert(entry.path().display().to_string());
        }
    }
    names
}
