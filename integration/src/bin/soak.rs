//! `make soak`: connects against changes for as long as one likes. Ends with one line of JSON; fails
//! if any connect went wrong. Ctrl-C ends it early, with all that belongs to the end.

use anyhow::{Context, bail};
use clap::Parser;
use integration::lab;
use integration::soak::{self, Fault, Options, Outcome, Reached};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

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
    let stop = on_interrupt()?;
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
        outcome = Some(soak::run(lab, &options, &stop, tell, complain));
    });
    let outcome = outcome.context("the lab did not run")?;
    let Outcome { refused, unjudged, states, reached, .. } = outcome;
    let Reached { tcp, connected, datagrams } = reached;
    say(&format!(
        "{states} states; at a backend, by IPv4 and IPv6: {tcp:?} by TCP, {connected:?} by connected UDP, \
         {datagrams:?} by datagrams of unconnected UDP; {refused} had none to reach, {unjudged} took too \
         long to be judged"
    ))?;
    say(&serde_json::to_string(&outcome.verdict())?)?;
    if let Some(trouble) = outcome.trouble() {
        bail!("{trouble}; repeat it with --seed {seed}");
    }
    Ok(())
}

/// Becomes true with the first Ctrl-C or SIGTERM.
fn on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let said = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        });
        said.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}
