//! Sections `control-file`, `control-etcd`, `control-kubernetes`, `control-nftables`: how long it takes to load services of 10 backends each, and until a new connect sees one
//! change, by the number of services and by where they come from; what the agent costs, and how large
//! it and its tables are. Beside it nftables rules of kube-proxy's shape, loaded by `nft -f` and changed by a
//! transaction that names only what changes.

mod file;

use self::file::InFile;
use super::statistics::tail;
use super::{Extent, Figure, Plan, Report};
use crate::agent::Agent;
use crate::kubernetes::large::{Large as Cluster, publish_from_memory, serve, vip};
use crate::lab::{self, Lab};
use crate::large::{EACH, Large as Store, SERVICES, Seen, percentile, seen, spent};
use crate::netns;
use crate::packets::chains;
use crate::process::{Memory, binary};
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const GROUP: &str = "control";
/// How a program was built whose size is told.
pub(super) const INSTALLED: &str = "as installed";
/// Changes of an endpoint of which the agent says itself how soon they were published.
const EVENTS: usize = 400;
/// Beyond it `nft` takes hours.
const MOST_CHAINS: u32 = 10_000;
/// From there on a change by `nft` takes a second.
const MANY_CHAINS: u32 = 10_000;

/// Where services come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    File,
    Etcd,
    Kubernetes,
}

/// Services that can be changed.
enum World<'a> {
    File(InFile<'a>),
    Etcd(Box<Store<'a>>),
    Kubernetes(Cluster<'a>),
}

/// How much is done.
#[derive(Clone, Copy)]
struct Amount {
    services: u32,
    changes: usize,
    idle: u32,
}

/// Services in a file; and how large the programs are.
pub(super) fn file(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    programs(report)?;
    all(Source::File, plan, report)
}

/// Services in etcd.
pub(super) fn etcd(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    all(Source::Etcd, plan, report)
}

/// Services of a cluster, from the API server of the tests.
pub(super) fn kubernetes(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    if plan.extent == Extent::Full {
        lab::run("bench-control-memory", |lab| from_memory(lab, report));
    }
    all(Source::Kubernetes, plan, report)
}

/// The same services as rules, by `nft`.
pub(super) fn nftables(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    for amount in amounts(plan).filter(|amount| amount.services <= MOST_CHAINS) {
        lab::run("bench-control-chains", |_| rules(amount, report));
    }
    Ok(())
}

fn amounts(plan: &Plan) -> impl Iterator<Item = Amount> {
    let numbers: &[u32] = plan.choose(&[100][..], &[100, 1_000], &[100, 1_000, 10_000, 100_000]);
    let (changes, idle) = plan.choose((3, 1), (30, 3), (200, 10));
    numbers.iter().map(move |services| Amount { services: *services, changes, idle })
}

fn all(source: Source, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    for amount in amounts(plan) {
        let mut done = None;
        lab::run("bench-control", |lab| done = Some(ours(lab, source, amount, report)));
        let done = done.context("the lab did not run")?;
        done.with_context(|| format!("{} services", amount.services))?;
    }
    Ok(())
}

fn ours(lab: &Lab, source: Source, amount: Amount, report: &mut Report) -> anyhow::Result<()> {
    let Amount { services, changes, idle } = amount;
    let many = services - 1;
    let top = tables(services);
    let (mut world, (agent, ready)) = World::with(lab, source, many, &top);
    let figure = |metric: &str, value: f64, unit: &str| {
        let figure = Figure::new(GROUP, "ours", metric, value, unit);
        figure.case("source", source.name()).case("services", services)
    };
    let refused = agent.status().rejections;
    anyhow::ensure!(refused.is_empty(), "{} services are refused: {:?}", refused.len(), refused[0]);
    report.figure(figure("load", ready.as_secs_f64() * 1e3, "ms"));
    report.figure(figure("load, cpu", spent(agent.pid()).as_secs_f64() * 1e3, "ms"));
    let rounds = agent.status().work.longest_round_micros;
    report.figure(figure("load, longest round", rounds as f64 / 1e3, "ms"));
    let cost = crate::large::idle_cost(lab, &agent, many, idle);
    report.figure(figure("idle, cpu", cost.core * 100.0, "%"));

    let changed: Vec<Seen> = (1..=changes).map(|turn| world.change(turn)).collect();
    latencies(&changed, "change", &figure, report);
    if let World::Etcd(store) = &mut world {
        let added: Vec<Seen> = (1..=changes).map(|turn| store.add(turn)).collect();
        latencies(&added, "service added", &figure, report);
    }
    if let World::Kubernetes(cluster) = &world
        && services == SERVICES
    {
        let published = cluster.publish(&agent, EVENTS);
        let at = |share: f64| published.percentile(share).as_secs_f64() * 1e3;
        report.figure(figure("event to tables, p50 at most", at(0.5), "ms"));
        report.figure(figure("event to tables, p99 at most", at(0.99), "ms"));
    }

    let Memory { now, peak } = Memory::of(agent.pid());
    report.figure(figure("memory", megabytes(now), "MB"));
    report.figure(figure("memory, most", megabytes(peak), "MB"));
    let tables: u64 = agent.maps().iter().filter_map(|table| table.memory).sum();
    report.figure(figure("tables", tables as f64 / 1e6, "MB"));
    Ok(())
}

fn latencies(
    seen: &[Seen],
    what: &str,
    figure: &impl Fn(&str, f64, &str) -> Figure,
    report: &mut Report,
) {
    let asked: Vec<Duration> = seen.iter().map(|seen| seen.since_asked).collect();
    let answered: Vec<Duration> = seen.iter().map(|seen| seen.since_answered).collect();
    for (times, from) in [(asked, ""), (answered, " since answered")] {
        for (name, share) in [("p50", 0.5), tail(times.len())] {
            let value = percentile(times.clone(), share).as_secs_f64() * 1e3;
            report.figure(figure(&format!("{what}{from} {name}"), value, "ms"));
        }
    }
}

fn rules(amount: Amount, report: &mut Report) {
    let Amount { services, changes, .. } = amount;
    let (many, probe) = (services - 1, vip(services - 1));
    let figure = |metric: &str, value: f64, unit: &str| {
        Figure::new(GROUP, "nftables", metric, value, unit).case("services", services)
    };
    let _servers = serve();
    // Whoever connects needs a way there before the rules are asked.
    netns::own_network("10.96.0.0/12");
    let begun = Instant::now();
    chains::load(many);
    report.figure(figure("load", begun.elapsed().as_secs_f64() * 1e3, "ms"));
    let changes = if services < MANY_CHAINS { changes } else { changes.min(20) };
    let change = |turn: usize| {
        let asked = Instant::now();
        chains::change(many, (turn + 1) % 2, turn % 2);
        seen(asked, Instant::now(), probe, turn % 2)
    };
    let changed: Vec<Seen> = (1..=changes).map(change).collect();
    latencies(&changed, "change", &figure, report);
}

/// Of a cluster's objects that are in memory already.
fn from_memory(lab: &Lab, report: &mut Report) {
    let found = publish_from_memory(lab);
    let figure = |metric: &str, time: Duration| {
        let figure = Figure::new(GROUP, "ours", metric, time.as_secs_f64() * 1e3, "ms");
        figure.case("source", "kubernetes").case("services", SERVICES)
    };
    report.figure(figure("objects in memory to services", found.translating));
    report.figure(figure("objects in memory to tables", found.whole));
}

/// How large the programs are: as they are installed if these sources were built so, else as they are here.
fn programs(report: &mut Report) -> anyhow::Result<()> {
    for name in ["lb-agent", "lbctl"] {
        let here = binary(name);
        let installed = here.parent().map(|profile| profile.with_file_name("dist").join(name));
        let is_current = |path: &PathBuf| path.is_file() && version(path) == version(&here);
        let (path, build) = match installed.filter(is_current) {
            Some(path) => (path, INSTALLED),
            None => (here, "with debug information"),
        };
        let size = fs::metadata(&path)?.len() as f64 / 1e6;
        let figure = Figure::new(GROUP, "ours", "program", size, "MB");
        report.figure(figure.case("name", name).case("build", build));
    }
    Ok(())
}

/// What a program says of its sources. Whether documents had changed when it was built makes no difference.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.replace("-dirty", ""))
}

/// Table sizes as configuration: nothing where the usual ones do.
fn tables(services: u32) -> String {
    if services <= SERVICES {
        return String::new();
    }
    // Those that are added later, too; a change is written beside what it replaces.
    let (frontends, backends) = (services * 5 / 4, services * EACH * 5 / 4);
    let rows = 2 * (frontends + backends);
    format!(
        "tables: {{frontends: {frontends}, services: {frontends}, rows: {rows}, \
         backends: {backends}}}"
    )
}

fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 * 1024.0 / 1e6
}

// === impl World ===

impl<'a> World<'a> {
    /// Fills the source and starts an agent on it.
    fn with(lab: &'a Lab, source: Source, many: u32, top: &str) -> (Self, (Agent<'a>, Duration)) {
        match source {
            Source::File => {
                let file = InFile::fill(lab, many);
                let started = file.start_agent(top);
                (Self::File(file), started)
            }
            Source::Etcd => {
                let store = Store::fill_with(lab, many);
                let started = store.start_agent_with(top);
                (Self::Etcd(Box::new(store)), started)
            }
            Source::Kubernetes => {
                let cluster = Cluster::fill_with(lab, many);
                let started = cluster.start_agent_with(top);
                (Self::Kubernetes(cluster), started)
            }
        }
    }

    /// Moves the last service's only backend to the other server, and waits until connects go there.
    fn change(&mut self, turn: usize) -> Seen {
        match self {
            Self::File(file) => file.change(turn),
            Self::Etcd(store) => store.change(turn),
            Self::Kubernetes(cluster) => cluster.change(turn),
        }
    }
}

// === impl Source ===

impl Source {
    /// How figures call it.
    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Etcd => "etcd",
            Self::Kubernetes => "kubernetes",
        }
    }
}
