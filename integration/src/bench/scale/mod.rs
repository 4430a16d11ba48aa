//! Section `scale`, `make simulate`: one store and as many hosts as this machine bears, by the agent's own client;
//! then how a store and the checks fare with up to 5,000 hosts, as a [`model`] says it from what was
//! measured. Figures of the subject `measured` are the one, those of `model` the other.

mod hosts;
mod leases;
mod lists;
pub mod model;
pub mod page;

use self::hosts::{Hosts, Used};
use self::model::{Costs, Fleet, Room, cold_start, demands, line};
use super::probes;
use super::statistics::tail;
use super::{Figure, Plan, Report};
use crate::etcd::{Etcd, Proxy};
use crate::lab::{self, Lab};
use crate::large::percentile;
use crate::process::Memory;
use anyhow::Context;
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use std::io::Write as _;
use std::thread::available_parallelism;
use std::time::Duration;

const GROUP: &str = "scale";
/// Numbers of hosts that are asked about.
const ASKED: [f64; 5] = [100.0, 500.0, 1_000.0, 2_000.0, 5_000.0];
/// The share of a resource above which it counts as short: the rest is for bad days.
const SHORT: f64 = 0.7;
/// More than this share of a core for each one that there is, and the machine is what is measured.
const BUSY: f64 = 0.8;
/// Hosts behind a proxy, and for how long.
const PROXIED: usize = 10;
const PROXIED_FOR: Duration = Duration::from_secs(16);
/// A key of a backend is changed together with so many others, or alone.
const TOGETHER: usize = 100;

/// A large fleet: 10,000 services of 10 backends, all registered by themselves, all checked by every
/// host, each changed once an hour.
const LARGE: Fleet = Fleet {
    keys: 110_000.0,
    backends: 100_000.0,
    changes: 28.0,
    relist: 600.0,
    leases: 100_000.0,
    renewal: 10.0 / 3.0,
    interval: 2.0,
};
/// The same with a tenth of it.
const SMALL: Fleet =
    Fleet { keys: 11_000.0, backends: 10_000.0, changes: 2.8, leases: 10_000.0, ..LARGE };
/// What is extrapolated: what is served, and how.
const FLEETS: [(&str, Fleet); 4] = [
    ("1,000 services", SMALL),
    ("10,000 services", LARGE),
    ("10,000 services, checked by registrars", Fleet { interval: f64::INFINITY, ..LARGE }),
    (
        "10,000 services, checked by registrars, 20 backends on a lease",
        Fleet { interval: f64::INFINITY, leases: LARGE.leases / 20.0, ..LARGE },
    ),
];
/// Three members as they are usually given.
const ROOM: Room = Room {
    members: 3.0,
    cores: 4.0,
    // 10 Gbit/s.
    network: 1.25e9,
    memory: 8e9,
    checking: 0.25,
    checked: 0.01,
};

/// How much is done.
struct Amount {
    /// Numbers of hosts, one after the other.
    hosts: &'static [usize],
    /// For which quiet hosts and leases are watched.
    span: Duration,
    changes: usize,
    /// Services that are listed, and how often.
    services: usize,
    lists: usize,
    /// Hosts that start at the same moment.
    at_once: usize,
    leases: usize,
    /// Targets of checks.
    targets: usize,
}

const LEAST: Amount = Amount {
    hosts: &[2, 4],
    span: Duration::from_secs(4),
    changes: 2,
    services: 20,
    lists: 2,
    at_once: 2,
    leases: 10,
    targets: 100,
};
const QUICK: Amount = Amount {
    hosts: &[20, 50, 100],
    span: Duration::from_secs(5),
    changes: 10,
    services: 1_000,
    lists: 20,
    at_once: 10,
    leases: 300,
    targets: 500,
};
const FULL: Amount = Amount {
    hosts: &[100, 250, 500, 1_000, 2_000, 3_000, 5_000],
    span: Duration::from_secs(15),
    changes: 50,
    services: 10_000,
    lists: 20,
    at_once: 20,
    leases: 1_000,
    targets: 5_000,
};

/// What a number of hosts costs the store.
struct Step {
    hosts: f64,
    /// In each second in which nothing changes.
    quiet_cpu: f64,
    quiet_bytes: f64,
    memory: f64,
    /// For each change, told to all.
    change_cpu: f64,
    change_bytes: f64,
}

/// Measures, and says what follows from it.
///
/// # Errors
///
/// If the limit of open files can't be raised, or something can't be set up or measured.
pub fn run(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let amount = plan.choose(LEAST, QUICK, FULL);
    raise_file_limit()?;
    let mut costs = None;
    lab::run("bench-scale", |lab| costs = Some(measure(lab, &amount, report)));
    let costs = costs.context("the lab did not run")??;
    extrapolate(&costs, report);
    Ok(())
}

fn measure(lab: &Lab, amount: &Amount, report: &mut Report) -> anyhow::Result<Costs> {
    let steps = follow(lab, amount, report)?;
    let over = |of: fn(&Step) -> f64| {
        let points: Vec<(f64, f64)> = steps.iter().map(|step| (step.hosts, of(step))).collect();
        line(&points).1.max(0.0)
    };
    let mut costs = Costs {
        quiet_cpu: over(|step| step.quiet_cpu),
        quiet_bytes: over(|step| step.quiet_bytes),
        host_memory: over(|step| step.memory),
        change_cpu: over(|step| step.change_cpu),
        change_bytes: over(|step| step.change_bytes),
        listed_cpu: 0.0,
        listed_bytes: 0.0,
        renewal_cpu: 0.0,
        registrar_memory: 0.0,
        check_cpu: 0.0,
    };
    report.figure(measured("host, quiet", "cpu", costs.quiet_cpu * 1e6, "us/s"));
    report.figure(measured("host, quiet", "network", costs.quiet_bytes, "B/s"));
    report.figure(measured("host", "memory", costs.host_memory / 1e3, "kB"));
    report.figure(measured("change told to a host", "cpu", costs.change_cpu * 1e6, "us"));
    report.figure(measured("change told to a host", "network", costs.change_bytes, "B"));

    proxied(lab, report)?;

    let etcd = Etcd::start(lab.scratch());
    lists::fill(&etcd, amount.services);
    let lists = lists::one_by_one(&etcd, amount.lists)?;
    (costs.listed_cpu, costs.listed_bytes) = (lists.cpu, lists.bytes);
    let list = |metric, value, unit| measured("list", metric, value, unit).case("keys", lists.keys);
    report.figure(list("p50", millis(&lists.took, 0.5), "ms"));
    report.figure(list("cpu per key", lists.cpu * 1e6, "us"));
    report.figure(list("network per key", lists.bytes, "B"));
    let (took, gave_up) = lists::at_once(&etcd, amount.at_once)?;
    let all = list("all read", millis(&took, 1.0), "ms").case("hosts", amount.at_once);
    report.figure(all);
    let gave_up = list("tries given up", gave_up as f64, "").case("hosts", amount.at_once);
    report.figure(gave_up);
    drop(etcd);

    let etcd = Etcd::start(lab.scratch());
    for (leases, keys) in [(amount.leases, 1), (amount.leases / 10, 10)] {
        let found = leases::renewals(&etcd, leases, keys, amount.span)?;
        if keys == 1 {
            (costs.renewal_cpu, costs.registrar_memory) = (found.cpu, found.memory);
        }
        let figure = |what, metric, value, unit| {
            measured(what, metric, value, unit).case("keys", keys).case("leases", leases)
        };
        report.figure(figure("renewal of a lease", "cpu", found.cpu * 1e6, "us"));
        report.figure(figure("registrar", "memory", found.memory / 1e3, "kB"));
    }
    drop(etcd);

    let checks = probes::measure(lab, probes::Kind::Tcp, amount.targets, amount.span)?;
    costs.check_cpu = checks.cpu;
    report.figure(measured("check", "cpu", checks.cpu * 1e6, "us"));
    Ok(costs)
}

/// More and more hosts on one store, as long as the machine bears them.
fn follow(lab: &Lab, amount: &Amount, report: &mut Report) -> anyhow::Result<Vec<Step>> {
    let etcd = Etcd::start(lab.scratch());
    lists::fill(&etcd, 10);
    let mut hosts = Hosts::at(&etcd.endpoint())?;
    let mut steps = Vec::new();
    for count in amount.hosts {
        let (step, busy) = match step(&etcd, &mut hosts, *count, amount, report) {
            Ok(done) => done,
            // A line needs two points; what the machine does not bear is no failure of the rest.
            Err(error) if steps.len() >= 2 => {
                let _ = writeln!(std::io::stderr().lock(), "no more hosts than that: {error:#}");
                break;
            }
            Err(error) => return Err(error),
        };
        steps.push(step);
        if busy > BUSY || hosts.interruptions() > 0 {
            break;
        }
    }
    let most = steps.last().map_or(0.0, |step| step.hosts);
    report.figure(measured("store and hosts on this machine", "most hosts", most, ""));
    Ok(steps)
}

/// So many hosts; with the share of the machine that they take while nothing changes.
fn step(
    etcd: &Etcd,
    hosts: &mut Hosts,
    count: usize,
    amount: &Amount,
    report: &mut Report,
) -> anyhow::Result<(Step, f64)> {
    hosts.grow(count)?;
    let (before, own) = (Used::by(etcd)?, cpu_of_all());
    hosts.rest(amount.span);
    let quiet = Used::by(etcd)?.since(before);
    let cores = available_parallelism()?.get() as f64;
    let busy = (quiet.cpu + cpu_of_all() - own) / quiet.seconds / cores;

    let before = Used::by(etcd)?;
    let mut told = Vec::new();
    let mut last = Vec::new();
    for turn in 0..amount.changes {
        let heard = hosts.change(1, turn)?;
        last.push(percentile(heard.clone(), 1.0));
        told.extend(heard);
    }
    let spent = Used::by(etcd)?.since(before);
    let mut together = Vec::new();
    for turn in 0..amount.changes.div_ceil(10) {
        together.push(percentile(hosts.change(TOGETHER, turn)?, 1.0));
    }

    let changes = amount.changes as f64;
    let step = Step {
        hosts: count as f64,
        quiet_cpu: quiet.cpu / quiet.seconds,
        quiet_bytes: quiet.bytes / quiet.seconds,
        memory: Memory::of(etcd.process_id()).now as f64 * 1024.0,
        change_cpu: (spent.cpu - quiet.cpu / quiet.seconds * spent.seconds) / changes,
        change_bytes: (spent.bytes - quiet.bytes / quiet.seconds * spent.seconds) / changes,
    };
    let figure =
        |subject, metric, value, unit| measured(subject, metric, value, unit).case("hosts", count);
    report.figure(figure("store, quiet", "cpu", step.quiet_cpu * 100.0, "%"));
    report.figure(figure("store", "memory", step.memory / 1e6, "MB"));
    report.figure(figure("change", "p50", millis(&told, 0.5), "ms"));
    let (name, share) = tail(told.len());
    report.figure(figure("change", name, millis(&told, share), "ms"));
    report.figure(figure("change, last host", "p50", millis(&last, 0.5), "ms"));
    report.figure(figure("100 changes, last host", "p50", millis(&together, 0.5), "ms"));
    report.figure(figure("store lost", "times", hosts.interruptions() as f64, ""));
    Ok((step, busy))
}

/// Hosts behind etcd's own proxy: it answers nobody who asks whether a watch still lives.
fn proxied(lab: &Lab, report: &mut Report) -> anyhow::Result<()> {
    let etcd = Etcd::start(lab.scratch());
    lists::fill(&etcd, 10);
    let proxy = Proxy::before(&etcd, lab.scratch());
    let mut hosts = Hosts::at(&proxy.endpoint())?;
    hosts.start(PROXIED)?;
    let before = hosts.interruptions();
    hosts.rest(PROXIED_FOR);
    let lost = (hosts.interruptions() - before) as f64 / PROXIED as f64;
    let figure = measured("host behind grpc-proxy", "store lost", lost, "times");
    report.figure(figure.case("seconds", PROXIED_FOR.as_secs()));
    Ok(())
}

/// What follows for fleets that don't fit on this machine.
fn extrapolate(costs: &Costs, report: &mut Report) {
    for (name, fleet) in FLEETS {
        let figure = |metric, value, unit| {
            Figure::new(GROUP, "model", metric, value, unit).case("fleet", name)
        };
        for demand in demands(costs, &fleet, &ROOM) {
            let of = demand.resource.name();
            for hosts in ASKED {
                let share = figure("share", demand.share(hosts) * 100.0, "%");
                report.figure(share.case("of", of).case("hosts", hosts));
            }
            if let Some(hosts) = demand.hosts_at(SHORT) {
                report.figure(figure("hosts until 70 %", hosts, "").case("of", of));
            }
        }
        for hosts in ASKED {
            let seconds = cold_start(costs, &fleet, &ROOM, hosts);
            report.figure(figure("cold start", seconds, "s").case("hosts", hosts));
        }
    }
}

fn measured(what: &str, metric: &str, value: f64, unit: &str) -> Figure {
    Figure::new(GROUP, "measured", metric, value, unit).case("what", what)
}

fn millis(times: &[Duration], share: f64) -> f64 {
    percentile(times.to_vec(), share).as_secs_f64() * 1e3
}

/// Seconds that this process has been on a CPU.
fn cpu_of_all() -> f64 {
    crate::large::spent(std::process::id()).as_secs_f64()
}

/// Each host has a connection.
fn raise_file_limit() -> anyhow::Result<()> {
    let (_, most) = getrlimit(Limit::RLIMIT_NOFILE)?;
    setrlimit(Limit::RLIMIT_NOFILE, most, most).context("can't open as many files as allowed")?;
    Ok(())
}
