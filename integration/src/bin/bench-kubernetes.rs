//! `make bench-kubernetes`: 10,000 services of 10 endpoints: from objects in memory to the kernel's
//! tables; how soon the change of an endpoint is published, and a new connect sees it; what the agent
//! costs meanwhile.

use anyhow::Context;
use clap::Parser;
use integration::kubernetes::large::{FromMemory, Large, publish_from_memory};
use integration::lab;
use integration::large::{EACH, SERVICES, percentile};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

#[derive(Parser)]
struct Cli {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Changes of an endpoint
    #[arg(long, default_value_t = 1000)]
    changes: usize,
    /// Seconds for which the idle agent is watched
    #[arg(long, default_value_t = 20)]
    idle: u64,
}

#[derive(Serialize)]
struct Row {
    what: &'static str,
    unit: &'static str,
    value: f64,
    /// What it must stay below, if there is such a bound.
    bound: Option<f64>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let (mut memory, mut rows) = (None, None);
    lab::run("bench-kubernetes-memory", |lab| memory = Some(publish_from_memory(lab)));
    lab::run("bench-kubernetes", |lab| rows = Some(measure(lab, &cli)));
    let FromMemory { translating, whole } = memory.context("the lab did not run")?;
    let mut all = vec![
        row("objects in memory to services", "ms", millis(translating), None),
        row("objects in memory to published tables", "ms", millis(whole), Some(500.0)),
    ];
    all.extend(rows.context("the lab did not run")?);
    let mut out = std::io::stdout().lock();
    if cli.json {
        for row in all {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        }
        return Ok(());
    }
    writeln!(out, "{SERVICES} services x {EACH} endpoints, {} changes of one\n", cli.changes)?;
    writeln!(out, "{:<46} {:>10} {:>10}", "MEASURE", "VALUE", "BOUND")?;
    for Row { what, unit, value, bound } in all {
        let bound = bound.map_or_else(|| "-".to_owned(), |bound| format!("{bound} {unit}"));
        writeln!(out, "{what:<46} {:>10} {bound:>10}", format!("{value:.2} {unit}"))?;
    }
    Ok(())
}

fn measure(lab: &lab::Lab, cli: &Cli) -> Vec<Row> {
    let large = Large::fill(lab);
    let (agent, ready) = large.start_agent();
    let round = agent.status().work.longest_round_micros as f64 / 1e3;
    let idle = large.idle_cost(&agent, Duration::from_secs(cli.idle));
    let published = large.publish(&agent, cli.changes.next_multiple_of(2));
    let (p50, p99) = (published.percentile(0.5), published.percentile(0.99));
    let changes = (1..=cli.changes).map(|turn| large.change(turn).since_asked);
    let changes: Vec<Duration> = changes.collect();
    vec![
        row("agent started to all published", "s", ready.as_secs_f64(), None),
        row("of that the longest round of its loop", "ms", round, None),
        row("event read to published, p50 at most", "ms", millis(p50), None),
        row("event read to published, p99 at most", "ms", millis(p99), Some(5.0)),
        row("endpoint changed to seen, p50", "ms", millis(percentile(changes.clone(), 0.5)), None),
        row("endpoint changed to seen, p99", "ms", millis(percentile(changes, 0.99)), None),
        row("idle, share of a core", "%", idle.core * 100.0, None),
        row("idle, memory", "MB", megabytes(idle.memory.now), None),
        row("most memory so far", "MB", megabytes(idle.memory.peak), Some(250.0)),
    ]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 / 1024.0
}

fn row(what: &'static str, unit: &'static str, value: f64, bound: Option<f64>) -> Row {
    Row { what, unit, value: (value * 100.0).round() / 100.0, bound }
}
