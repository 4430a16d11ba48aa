//! Nanoseconds per run of each hook's program, by the kernel's own statistics: ours, ours with parts
//! left out or added, and the map operations of others, beside a program that does nothing.

mod assembler;
mod loads;
mod outcomes;
mod services;
mod shapes;
mod subjects;
mod tracing;

use super::statistics::{median, order, paired};
use super::{Extent, Figure, Plan, Report};
use crate::lab::{self, Lab};
use anyhow::{Context as _, bail, ensure};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use loads::{Call, Load, Server, To};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use services::{BACKENDS, Family, SERVICES};
use std::time::Duration;
use subjects::{Subject, Subjects};

/// The group of these figures.
pub(super) const GROUP: &str = "hooks";
/// What the others are compared with.
const EMPTY: &str = "empty";

/// How often everything is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Turns of each subject.
    pub(super) turns: usize,
    /// Calls in a turn.
    pub(super) calls: usize,
}

/// What connect4 is tried with.
const CONNECTS: [Load; 7] = [
    load(Call::ConnectUdp, Family::V4, To::Hot, true),
    load(Call::ConnectUdp, Family::V4, To::Random, true),
    load(Call::ConnectUdp, Family::V4, To::Hot, false),
    load(Call::ConnectUdp, Family::V4, To::Random, false),
    load(Call::ConnectUdp, Family::V4, To::Miss, true),
    load(Call::ConnectTcp, Family::V4, To::Hot, true),
    load(Call::ConnectTcp, Family::V4, To::Random, true),
];

/// What the other hooks are tried with, in each family.
const OTHERS: [(Call, To, bool); 10] = [
    (Call::CloseUdp, To::Hot, true),
    (Call::CloseUdp, To::Random, true),
    (Call::Send, To::Hot, true),
    (Call::Send, To::Random, true),
    (Call::Send, To::Hot, false),
    (Call::Send, To::Random, false),
    (Call::Receive, To::Hot, false),
    (Call::Receive, To::Random, false),
    (Call::PeerName, To::Hot, false),
    (Call::PeerName, To::Random, false),
];

const fn load(call: Call, family: Family, to: To, new: bool) -> Load {
    Load { call, family, to, new }
}

/// Measures all hooks.
pub(super) fn run(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let effort = plan.choose(
        Effort { turns: 2, calls: 200 },
        Effort { turns: 8, calls: 2000 },
        Effort { turns: 30, calls: 5000 },
    );
    let mut outcomes = None;
    lab::run("bench-outcomes", |lab| outcomes = Some(outcomes::run(lab, plan, report)));
    outcomes.context("the lab did not run")??;
    let mut measured = None;
    lab::run("bench-hooks", |lab| measured = Some(measure(lab, plan, effort, report)));
    measured.context("the lab did not run")?
}

fn measure(lab: &Lab, plan: &Plan, effort: Effort, report: &mut Report) -> anyhow::Result<()> {
    let _statistics = enable_stats(Stats::RunTime).context("enabling run-time statistics")?;
    let server = Server::start()?;
    let all = Subjects::attach(lab)?;
    for load in CONNECTS {
        compare(lab, plan, effort, &server, &load, all.on_connect4(), report)?;
    }
    for family in [Family::V4, Family::V6] {
        if family == Family::V6 {
            for (to, new) in [(To::Hot, true), (To::Random, true), (To::Hot, false)] {
                let load = load(Call::ConnectUdp, family, to, new);
                compare(lab, plan, effort, &server, &load, all.elsewhere(&load), report)?;
            }
        }
        for (call, to, new) in OTHERS {
            let load = load(call, family, to, new);
            // Sockets of either family are closed alike.
            if load.call != Call::CloseUdp || family == Family::V4 {
                compare(lab, plan, effort, &server, &load, all.elsewhere(&load), report)?;
            }
        }
    }
    Ok(())
}

/// The ratios for a check: connects of new UDP sockets to one service and to any; and where each subject's calls of
/// other kinds end, for the time of a program that does nothing is no comparison.
pub(super) fn check(effort: Effort, seed: u64, report: &mut Report) -> anyhow::Result<()> {
    let plan = Plan { extent: Extent::Quick, seed };
    let mut measured = None;
    lab::run("bench-check-hooks", |lab| {
        let mut run = || {
            let _statistics = enable_stats(Stats::RunTime)?;
            let server = Server::start()?;
            let all = Subjects::attach(lab)?;
            for load in &CONNECTS[..2] {
                compare(lab, &plan, effort, &server, load, all.on_connect4(), report)?;
            }
            let tcp = load(Call::ConnectTcp, Family::V4, To::Random, true);
            let once = Effort { turns: 1, calls: 100 };
            compare(lab, &plan, once, &server, &tcp, all.on_connect4(), &mut Report::default())?;
            let send = load(Call::Send, Family::V4, To::Random, true);
            compare(
                lab,
                &plan,
                once,
                &server,
                &send,
                all.elsewhere(&send),
                &mut Report::default(),
            )?;
            anyhow::Ok(())
        };
        measured = Some(run());
    });
    measured.context("the lab did not run")?
}

/// Measures subjects in turns, the empty program first, and reports all of them.
fn compare(
    lab: &Lab,
    plan: &Plan,
    effort: Effort,
    server: &Server,
    load: &Load,
    subjects: Vec<&Subject>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let turns = take_turns(plan, effort, server, load, &subjects);
    // Their cgroups go when they do.
    lab.cgroup().enter();
    let turns = turns.with_context(|| load.hook())?;
    let empty = &turns[0];
    for (subject, own) in subjects.iter().zip(&turns) {
        let ratio = paired(own, empty, plan.seed);
        let figure = Figure::new(GROUP, subject.name(), "time", median(own), "ns");
        let figure = load.describe(figure).case("services", SERVICES).case("backends", BACKENDS);
        report.figure(match subject.name() {
            EMPTY => figure,
            _ => figure.ratio_within(EMPTY, ratio.value, Some(ratio.interval)),
        });
    }
    Ok(())
}

/// Nanoseconds of a run in each turn, by subject.
fn take_turns(
    plan: &Plan,
    effort: Effort,
    server: &Server,
    load: &Load,
    subjects: &[&Subject],
) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut turns = vec![Vec::new(); subjects.len()];
    for turn in 0..effort.turns {
        for index in order(subjects.len(), plan.seed, turn) {
            let subject = subjects[index];
            let _tracing = subject.trace()?;
            subject.cgroup().enter();
            // The same services for all of them.
            let mut random = StdRng::seed_from_u64(plan.seed.wrapping_add(turn as u64));
            let program = subject.program(load.hook())?;
            let before = statistics(program)?;
            let calls = load.run(effort.calls, server, subject.translates(), &mut random)?;
            let after = statistics(program)?;
            let runs = after.1 - before.1;
            ensure!(
                runs == calls as u64,
                "{} of {} ran {runs} times for {calls} calls",
                load.hook(),
                subject.name()
            );
            turns[index].push((after.0 - before.0).as_nanos() as f64 / runs as f64);
            if turn == 0 {
                let checked = load.check(server, subject.translates(), &mut random);
                checked.with_context(|| format!("{} on {}", subject.name(), load.hook()))?;
            }
        }
    }
    Ok(turns)
}

/// Time and runs of a program so far.
fn statistics(program: u32) -> anyhow::Result<(Duration, u64)> {
    for info in loaded_programs() {
        // Others load and unload programs meanwhile.
        let Ok(info) = info else { continue };
        if info.id() == program {
            return Ok((info.run_time(), info.run_count()));
        }
    }
    bail!("program {program} is gone")
}
