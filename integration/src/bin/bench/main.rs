//! `make bench`: measures this load balancer and others side by side, on this machine; results as
//! JSON, as a table and as plots.

use anyhow::Context as _;
use clap::Parser;
use integration::bench::machine::Machine;
use integration::bench::results::Results;
use integration::bench::{Plan, Report, SECTIONS, Section};
use std::path::PathBuf;
use std::time::SystemTime;

#[derive(Parser)]
struct Cli {
    /// Sections to run; all if none is named
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
}

fn main() -> anyhow::Result<()> {
    let Cli { sections, quick, seed, out } = Cli::parse();
    let chosen = choose(&sections)?;
    let plan = Plan { quick, seed };
    let mut report = Report::default();
    for section in chosen {
        (section.run)(&plan, &mut report).with_context(|| format!("section {}", section.name))?;
    }
    let finished = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let figures = report.figures().to_vec();
    Results { machine: Machine::here(), finished, quick, seed, figures }.write(&out)
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
