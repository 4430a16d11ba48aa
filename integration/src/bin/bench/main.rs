//! `make bench`: measures this load balancer and others side by side, on this machine; results as
//! JSON, as tables and as plots.

use anyhow::{Context as _, ensure};
use clap::Parser;
use integration::bench::machine::Machine;
use integration::bench::results::Results;
use integration::bench::table::tables;
use integration::bench::{Extent, Plan, Report, SECTIONS, Section, check, plots, publish, verdict};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Ratios are the result: nothing else should run on this machine meanwhile.
#[derive(Parser)]
struct Cli {
    /// Sections to run; all if none is named, `list` tells them
    sections: Vec<String>,
    /// Measure everything in a few minutes
    #[arg(long)]
    quick: bool,
    /// Seed of everything that is chosen at random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where results and plots are written
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Print one figure a line as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Only see whether ratios have collapsed, in a minute
    #[arg(long, conflicts_with_all = ["sections", "quick", "update"])]
    check: bool,
    /// Put the results of a whole run among this work tree's documents
    #[arg(long)]
    update: bool,
    /// Measure nothing: tables and plots of the last run
    #[arg(long, conflicts_with_all = ["sections", "quick", "check"])]
    again: bool,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if cli.sections == ["list"] {
        let mut out = std::io::stdout().lock();
        for Section { name, about, .. } in SECTIONS {
            writeln!(out, "{name:<18} {about}")?;
        }
        return Ok(());
    }
    let mut report = Report::default();
    if cli.check {
        check::run(check::SERVICES, cli.seed, &mut report)?;
        return verdict("ratios have collapsed", &verdict::collapsed(report.figures()));
    }
    if cli.again {
        return conclude(&cli, &Results::read(&cli.out)?);
    }
    let chosen = choose(&cli.sections)?;
    if cli.update {
        publish::check(&Machine::here(), &cli.sections)?;
    }
    let extent = if cli.quick { Extent::Quick } else { Extent::Full };
    let plan = Plan { extent, seed: cli.seed };
    // What others have measured is kept.
    let mut failed = Vec::new();
    for section in chosen {
        if let Err(error) = (section.run)(&plan, &mut report) {
            failed.push(format!("section {}: {error:#}", section.name));
        }
    }
    failed.extend(report.unusable().iter().map(|figure| format!("no samples: {figure}")));
    let finished = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let figures = report.figures().to_vec();
    let Cli { quick, seed, .. } = cli;
    let results = Results { machine: Machine::here(), finished, quick, seed, failed, figures };
    results.write(&cli.out)?;
    conclude(&cli, &results)
}

/// Shows a run, judges it, and publishes one that is good.
fn conclude(cli: &Cli, results: &Results) -> anyhow::Result<()> {
    show(cli, results)?;
    verdict("this run is not what it should be", &verdict::of_run(results))?;
    if cli.update { publish(results) } else { Ok(()) }
}

/// Plots and tables.
fn show(cli: &Cli, results: &Results) -> anyhow::Result<()> {
    plots::draw(&results.figures, &cli.out)?;
    let mut out = std::io::stdout().lock();
    if cli.json {
        for figure in &results.figures {
            writeln!(out, "{}", serde_json::to_string(figure)?)?;
        }
        return Ok(());
    }
    writeln!(out, "A {}\n", results.machine)?;
    for table in tables(&results.figures) {
        writeln!(out, "{}", table.text())?;
    }
    writeln!(out, "Results and plots are in {}.", cli.out.display())?;
    Ok(())
}

fn publish(results: &Results) -> anyhow::Result<()> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = own.parent().context("the work tree's root")?;
    publish::whole(results, root)?;
    publish::publish(results, root)
}

fn verdict(what: &str, lines: &[String]) -> anyhow::Result<()> {
    ensure!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
    Ok(())
}

fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Section>> {
    let known = SECTIONS.iter().map(|section| section.name).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        return Ok(SECTIONS.iter().collect());
    }
    let find = |name: &String| {
        let mut all = SECTIONS.iter();
        all.find(|section| section.name == name)
            .with_context(|| format!("there is no section {name}; there are {known}"))
    };
    names.iter().map(find).collect()
}
