//! `make bench-hooks`: nanoseconds per run of connect4, ours beside an empty program, from the
//! kernel's own run-time statistics. Three rounds in turn, medians; the ratio is the result. What
//! sock_ops costs comes after that, see `outcomes`.

mod outcomes;

use anyhow::{Context, bail, ensure};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use clap::Parser;
use integration::cgroup::Cgroup;
use integration::empty_program::EmptyProgram;
use integration::lab::{self, Lab};
use lb_agent::config::TableSizes;
use lb_agent::dataplane::exclude::Excluded;
use lb_agent::dataplane::{Dataplane, Kernel, Settings, preflight};
use lb_agent::desired::{Desired, Entry};
use lb_agent::model::{
    Affinity, Backend, Client, Frontend, NoBackend, Policy, Protocol, Scope, Service,
};
use lb_agent::plan::{Limits, Planner};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const ROUNDS: usize = 3;
/// Turns of each program in a round.
const TURNS: u64 = 10;
const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 4;
const UDP_CONNECTS: u64 = 50_000;
/// A TCP connect goes through the whole stack and is answered by a reset: it takes longer.
const TCP_CONNECTS: u64 = 20_000;

#[derive(Parser)]
struct Cli {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Entries of the connection table
    #[arg(long, default_value_t = TableSizes::default().connections)]
    connections: u32,
    /// Seed of the random services
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Program {
    Empty,
    Ours,
}

/// Where the connects go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Case {
    /// One service again and again.
    Hot,
    /// Any of all services.
    Random,
    /// One address that is no frontend.
    Miss,
    /// One service with session affinity.
    Affinity,
}

#[derive(Serialize)]
struct Row {
    program: Program,
    hook: &'static str,
    case: Case,
    protocol: Protocol,
    ns_per_run: f64,
    ratio_to_empty: f64,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let (mut rows, mut measured) = (None, None);
    lab::run("bench-outcomes", |lab| measured = Some(outcomes::measure(lab)));
    lab::run("bench-hooks", |lab| rows = Some(measure(lab, &cli)));
    let rows = rows.context("the lab did not run")??;
    let measured = measured.context("the lab did not run")??;
    let mut out = std::io::stdout().lock();
    if cli.json {
        for row in rows {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        }
        return Ok(measured.json(&mut out)?);
    }
    writeln!(
        out,
        "connect4, {SERVICES} services x {BACKENDS} backends, medians of {ROUNDS} rounds, seed {}\n",
        cli.seed
    )?;
    writeln!(
        out,
        "{:<10} {:<9} {:<8} {:>10} {:>16}",
        "CASE", "PROTOCOL", "PROGRAM", "NS/RUN", "RATIO TO EMPTY"
    )?;
    for Row { program, hook: _, case, protocol, ns_per_run, ratio_to_empty } in rows {
        let (case, program) =
            (format!("{case:?}").to_lowercase(), format!("{program:?}").to_lowercase());
        writeln!(
            out,
            "{case:<10} {protocol:<9} {program:<8} {ns_per_run:>10.1} {ratio_to_empty:>16.2}"
        )?;
    }
    Ok(measured.text(&mut out)?)
}

fn measure(lab: &Lab, cli: &Cli) -> anyhow::Result<Vec<Row>> {
    let _statistics = enable_stats(Stats::RunTime).context("enabling run-time statistics")?;
    let cgroups = [lab.cgroup().child("empty"), lab.cgroup().child("ours")];
    let empty = EmptyProgram::on_connect4(cgroups[0].path()).context("the empty program")?;
    let ours = load(lab, &cgroups[1], cli.connections)?;
    let programs = [(Program::Empty, empty.id()?), (Program::Ours, ours)];

    let mut samples: BTreeMap<(Case, Protocol, Program), Vec<f64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        for case in [Case::Hot, Case::Random, Case::Miss, Case::Affinity] {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let seed = cli.seed + round as u64;
                let mut spent = [(Duration::ZERO, 0u64); 2];
                // Both programs in short turns, so that what else goes on hits both alike.
                for turn in 0..TURNS {
                    for (((_, id), cgroup), spent) in programs.iter().zip(&cgroups).zip(&mut spent)
                    {
                        cgroup.enter();
                        // The same services for both programs.
                        let mut random = StdRng::seed_from_u64(seed * TURNS + turn);
                        let (time, runs) = connects(*id, case, protocol, &mut random)?;
                        *spent = (spent.0 + time, spent.1 + runs);
                    }
                }
                for ((program, _), (time, runs)) in programs.iter().zip(spent) {
                    let ns = time.as_nanos() as f64 / runs as f64;
                    samples.entry((case, protocol, *program)).or_default().push(ns);
                }
            }
        }
    }
    lab.cgroup().enter();

    let medians: BTreeMap<_, f64> =
        samples.into_iter().map(|(key, values)| (key, median(values))).collect();
    let row = |(&(case, protocol, program), ns): (&(Case, Protocol, Program), &f64)| {
        let empty = medians.get(&(case, protocol, Program::Empty)).copied().unwrap_or(f64::NAN);
        let round = |value: f64| (value * 100.0).round() / 100.0;
        Row {
            program,
            hook: "connect4",
            case,
            protocol,
            ns_per_run: round(*ns),
            ratio_to_empty: round(ns / empty),
        }
    };
    Ok(medians.iter().map(row).collect())
}

/// Fills the tables and attaches our programs; the id of connect4.
fn load(lab: &Lab, cgroup: &Cgroup, connections: u32) -> anyhow::Result<u32> {
    let host = preflight::check(Some(cgroup.path()), lab.pin_dir())?;
    let sizes = TableSizes { connections, ..TableSizes::default() };
    let (features, netns, sk_err) = (host.features, host.netns, host.sk_err);
    let excluded = Excluded::default();
    let settings = Settings { sizes, features, netns, sk_err, excluded };
    let mut kernel = Kernel::open(lab.pin_dir(), cgroup.path(), &settings)?;
    let TableSizes { frontends, services, rows, backends, .. } = sizes;
    let limits = Limits { frontends, services, rows, backends };
    let mut planner = Planner::adopt(limits, kernel.observe()?)?;
    let plan = planner.plan(&services_to_dial()?);
    ensure!(plan.rejections.is_empty(), "{:?}", plan.rejections);
    kernel.apply(&plan.actions)?;
    let attached = kernel.attach()?;
    let connect4 = attached.iter().find(|hook| hook.hook == "connect4");
    Ok(connect4.context("connect4 is not attached")?.program_id)
}

/// Service `SERVICES` is the one with affinity.
fn services_to_dial() -> anyhow::Result<Desired> {
    let mut desired = Desired { complete: true, ..Desired::default() };
    for number in 0..=SERVICES {
        let backend = |n| {
            let address =
                SocketAddr::new(Ipv4Addr::from(0x7f10_0000 + number * BACKENDS + n).into(), 9);
            (address, Backend::default())
        };
        let affinity = Affinity { client: Client::Netns, timeout_seconds: 3600 };
        let service = Service {
            frontends: [Protocol::Tcp, Protocol::Udp]
                .map(|protocol| {
                    (Frontend::new(frontend(number), 80, protocol), Scope::Everywhere.into())
                })
                .into(),
            backends: (0..BACKENDS).map(backend).collect(),
            policy: Policy::Random,
            affinity: (number == SERVICES).then_some(affinity),
            no_backend: NoBackend::Refuse,
            no_node_backend: Default::default(),
            backends_from: Vec::new(),
            source_ranges: Vec::new(),
            health: Default::default(),
        };
        let entry = Entry::new(Arc::new(service), "bench".into());
        desired.services.insert(format!("service{number}").parse()?, entry);
    }
    Ok(desired)
}

fn frontend(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a60_0000 + number).into()
}

/// Connects new sockets for one turn; the time that the program took for how many runs.
fn connects(
    program: u32,
    case: Case,
    protocol: Protocol,
    random: &mut StdRng,
) -> anyhow::Result<(Duration, u64)> {
    let (kind, connects) = match protocol {
        Protocol::Tcp => (Type::STREAM, TCP_CONNECTS),
        Protocol::Udp => (Type::DGRAM, UDP_CONNECTS),
        Protocol::Sctp => anyhow::bail!("no program sees SCTP"),
    };
    let count = connects / TURNS;
    let before = statistics(program)?;
    for _ in 0..count {
        let address = match case {
            Case::Hot => frontend(SERVICES / 2),
            Case::Random => frontend(random.random_range(0..SERVICES)),
            Case::Miss => Ipv4Addr::new(127, 99, 0, 1).into(),
            Case::Affinity => frontend(SERVICES),
        };
        let socket = Socket::new(Domain::IPV4, kind, None)?;
        // Nobody listens; the program has run all the same, and that is what is measured.
        drop(socket.connect(&SocketAddr::new(address, 80).into()));
    }
    let after = statistics(program)?;
    let runs = after.1 - before.1;
    ensure!(runs == count, "the program ran {runs} times for {count} connects");
    Ok((after.0 - before.0, runs))
}

fn statistics(program: u32) -> anyhow::Result<(Duration, u64)> {
    for info in loaded_programs() {
        let info = info?;
        if info.id() == program {
            return Ok((info.run_time(), info.run_count()));
        }
    }
    bail!("program {program} is gone")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
