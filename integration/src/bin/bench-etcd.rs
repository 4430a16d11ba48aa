//! `make bench-etcd`: how soon a change in a store is seen by a new connect, with 10,000 services of
//! 10 backends present; how long the agent takes to load them; what it costs while nothing changes.

use anyhow::Context;
use clap::Parser;
use integration::lab;
use integration::large::{EACH, Large, SERVICES, Seen, percentile};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

#[derive(Parser)]
struct Cli {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Changes of each kind
    #[arg(long, default_value_t = 300)]
    changes: usize,
    /// Seconds for which the idle agent is watched
    #[arg(long, default_value_t = 20)]
    idle: u64,
}

#[derive(Serialize)]
struct Row {
    what: String,
    unit: &'static str,
    value: f64,
    /// What it must stay below, if there is such a bound.
    bound: Option<f64>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let mut rows = None;
    lab::run("bench-etcd", |lab| rows = Some(measure(lab, &cli)));
    let rows = rows.context("the lab did not run")?;
    let mut out = std::io::stdout().lock();
    if cli.json {
        for row in rows {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        }
        return Ok(());
    }
    writeln!(out, "{SERVICES} services x {EACH} backends, {} changes of each kind\n", cli.changes)?;
    writeln!(out, "{:<46} {:>10} {:>10}", "MEASURE", "VALUE", "BOUND")?;
    for Row { what, unit, value, bound } in rows {
        let bound = bound.map_or_else(|| "-".to_owned(), |bound| format!("{bound} {unit}"));
        writeln!(out, "{what:<46} {:>10} {bound:>10}", format!("{value:.2} {unit}"))?;
    }
    Ok(())
}

fn measure(lab: &lab::Lab, cli: &Cli) -> Vec<Row> {
    let mut large = Large::fill(lab);
    let (agent, ready) = large.start_agent();
    let idle = large.idle_cost(&agent, Duration::from_secs(cli.idle));
    let changes: Vec<Seen> = (1..=cli.changes).map(|turn| large.change(turn)).collect();
    let additions: Vec<Seen> = (1..=cli.changes).map(|turn| large.add(turn)).collect();
    let mut rows = vec![row("agent started to all published", "s", ready.as_secs_f64(), Some(3.0))];
    rows.extend(latencies("backend changed", &changes));
    rows.extend(latencies("service added", &additions));
    rows.push(row("idle, share of a core", "%", idle.core * 100.0, Some(0.5)));
    rows.push(row("idle, memory", "MB", idle.memory.now as f64 / 1024.0, None));
    rows
}

fn latencies(what: &str, seen: &[Seen]) -> Vec<Row> {
    let answered: Vec<Duration> = seen.iter().map(|seen| seen.since_answered).collect();
    let asked: Vec<Duration> = seen.iter().map(|seen| seen.since_asked).collect();
    let cases = [
        ("put answered to seen, median", &answered, 0.5, None),
        ("put answered to seen, p99", &answered, 0.99, Some(10.0)),
        ("put sent to seen, median", &asked, 0.5, None),
        ("put sent to seen, p99", &asked, 0.99, None),
    ];
    let row_of = |(how, values, share, bound): (&str, &Vec<Duration>, f64, Option<f64>)| {
        let millis = percentile(values.clone(), share).as_secs_f64() * 1e3;
        row(&format!("{what}, {how}"), "ms", millis, bound)
    };
    cases.map(row_of).into()
}

fn row(what: &str, unit: &'static str, value: f64, bound: Option<f64>) -> Row {
    Row { what: what.to_owned(), unit, value: (value * 100.0).round() / 100.0, bound }
}
