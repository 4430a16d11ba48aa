//! `make soak`: connects against changes for as long as one likes. Ends with one line of JSON; fails
//! if any connect went wrong.

use anyhow::{Context, bail};
use clap::Parser;
use integration::lab;
use integration::soak::{self, Fault, Options, Outcome};
use std::io::Write;
use std::time::Duration;

#[derive(Parser)]
struct Cli {
    /// For how long: `60s`, `1h`
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Clients
    #[arg(long, default_value_t = 2)]
    clients: u64,
    /// Repeats the changes and choices of an earlier run
    #[arg(long)]
    seed: Option<u64>,
    /// Does something wrong on purpose, to see that it is found
    #[arg(long, value_enum)]
    fault: Option<Fault>,
}

fn main() -> anyhow::Result<()> {
    let Cli { duration, clients, seed, fault } = Cli::parse();
    let seed = seed.unwrap_or_else(rand::random);
    let options = Options { duration, clients, seed, fault };
    say(&format!("seed {seed}"))?;
    let mut outcome = None;
    lab::run("soak", |lab| {
        let tell = |after: Duration, so_far: &Outcome| {
            let Outcome { connects, changes, publishes, grace_periods, .. } = so_far;
            let Outcome { wrong_service, removed_backend, failed, .. } = so_far;
            let line = format!(
                "{:>5} s: {connects} connects, {changes} changes, {publishes} publishes, \
                 {grace_periods} grace periods; {wrong_service} at a wrong service, \
                 {removed_backend} at a removed backend, {failed} failed",
                after.as_secs()
            );
            say(&line).expect("standard output is open");
        };
        let complain = |what: &str| say(what).expect("standard output is open");
        outcome = Some(soak::run(lab, &options, tell, complain));
    });
    let outcome = outcome.context("the lab did not run")?;
    say(&serde_json::to_string(&outcome)?)?;
    if !outcome.is_clean() {
        bail!("connects went wrong; repeat it with --seed {seed}");
    }
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}
