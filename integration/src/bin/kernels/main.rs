//! `make kernels`: the tests in the real kernel, in other real kernels. Each is fetched from Debian,
//! booted in an emulated machine with a static build of the agent and of the tests, and reports.
//!
//! Software emulation only: it is there on every machine, and behaves the same on each.

mod boot;
mod build;
mod fetch;
mod ipvs;
mod pack;

use anyhow::{Context, bail};
use build::Built;
use clap::Parser;
use fetch::{Files, Unavailable};
use integration::kernels::programs::{Job, chosen, shared_out};
use integration::kernels::report::Report;
use integration::kernels::table::Table;
use integration::kernels::{KERNELS, Kernel};
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Cli {
    /// Kernels to test under, separated by commas; all of them by default
    #[arg(long, value_delimiter = ',')]
    kernels: Vec<String>,
    /// Test programs to run, separated by commas; all of them by default
    #[arg(long, value_delimiter = ',')]
    tests: Vec<String>,
    /// Run only what `make test` runs of them
    #[arg(long)]
    short: bool,
    /// Guests that run at once; each keeps a core busy
    #[arg(long, default_value_t = 2)]
    guests: usize,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Write the table of features in docs/kernels.md anew instead of comparing with it
    #[arg(long)]
    update: bool,
    /// Seconds after which a guest has failed
    #[arg(long, default_value_t = 3600)]
    limit: u64,
    /// Run no test, but measure IPVS beside others in the first of the kernels; print a line of JSON
    #[arg(long, conflicts_with_all = ["tests", "update"])]
    ipvs: bool,
    /// Seed of what is chosen at random while measuring
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How it went with one kernel.
enum Outcome {
    /// It can't be had, for this reason.
    Skipped(String),
    /// What was fetched is of no use.
    Failed(String),
    Ran(Vec<Guest>),
}

/// How it went in a guest.
struct Guest {
    report: Report,
    trouble: Vec<String>,
}

/// What guests are made of.
struct Parts<'a> {
    place: &'a Path,
    base: PathBuf,
    built: Built,
    /// Modules beside those that all kernels have.
    modules: &'static [&'static str],
    /// What each guest is to run.
    shares: Vec<Vec<Job>>,
    limit: Duration,
}

/// What is printed of a test program, or of a kernel as a whole.
#[derive(Serialize)]
struct Row<'a> {
    kernel: &'a str,
    release: &'a str,
    tests: &'a str,
    result: &'a str,
    /// Tests of the program, by name.
    passed: &'a [String],
    failed: &'a [String],
    seconds: u64,
    /// Why it was skipped.
    reason: &'a str,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let kernels = kernels(&cli.kernels)?;
    if cli.ipvs {
        return ipvs::measure(&cli, kernels[0]);
    }
    let programs = chosen(&cli.tests)?;
    let shares = shared_out(&programs, cli.short, cli.guests);
    let runs = |name| shares.iter().flatten().any(|job| job.program == name);
    let programs: Vec<_> = programs.into_iter().filter(|program| runs(program.name)).collect();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let target = workspace.join("target");
    let place = target.join("kernels");
    fs::create_dir_all(&place)?;
    let started = Instant::now();
    let built = build::build(workspace, &target, &programs)?;
    let base = pack::base(&place, &built, &[])?;
    note(&format!("built and packed in {} s", started.elapsed().as_secs()));

    let limit = Duration::from_secs(cli.limit);
    let parts = Parts { place: &place, base, built, modules: &[], shares, limit };
    let document = workspace.join("docs/kernels.md");
    let (mut failed, mut ran) = (false, 0);
    for kernel in kernels {
        let started = Instant::now();
        match run(kernel, &parts)? {
            Outcome::Skipped(reason) => {
                failed |= kernel.mandatory;
                let result = if kernel.mandatory { "FAIL" } else { "SKIP" };
                let reason = format!("can't be had: {reason}");
                print(&cli, &Row { reason: &reason, ..whole(kernel, result, started) })?;
            }
            Outcome::Failed(reason) => {
                failed = true;
                print(&cli, &Row { reason: &reason, ..whole(kernel, "FAIL", started) })?;
            }
            Outcome::Ran(guests) => {
                ran += 1;
                let (mut good, mut compared) = (true, false);
                let release = guests.first().map(|g| g.report.release.clone());
                for Guest { report, mut trouble } in guests {
                    // What a kernel has is the same in all of its guests.
                    if report.complete && !std::mem::replace(&mut compared, true) {
                        trouble.extend(compare(&document, kernel, &report, cli.update)?);
                    }
                    tell(&cli, kernel, &report, &trouble)?;
                    good &= trouble.is_empty() && report.tests.iter().all(|tests| tests.is_good());
                }
                failed |= !good;
                let result = if good { "PASS" } else { "FAIL" };
                let release = &release.unwrap_or_default();
                print(&cli, &Row { release, ..whole(kernel, result, started) })?;
            }
        }
    }
    if failed || ran == 0 {
        bail!("not all is as it should be; logs are below {}", place.display());
    }
    Ok(())
}

fn tell(cli: &Cli, kernel: &Kernel, report: &Report, trouble: &[String]) -> anyhow::Result<()> {
    for tests in &report.tests {
        let row = Row {
            kernel: kernel.name,
            release: &report.release,
            tests: &tests.program,
            result: if tests.is_good() { "pass" } else { "FAIL" },
            passed: &tests.passed,
            failed: &tests.failed,
            seconds: tests.seconds,
            reason: "",
        };
        print(cli, &row)?;
        if !tests.is_good() {
            note(&tests.output);
            note(tests.trouble.as_deref().unwrap_or("no test ran"));
        }
    }
    trouble.iter().for_each(|line| note(line));
    Ok(())
}

fn kernels(names: &[String]) -> anyhow::Result<Vec<&'static Kernel>> {
    if names.is_empty() {
        return Ok(KERNELS.iter().collect());
    }
    let known = || KERNELS.map(|kernel| kernel.name).join(", ");
    let find = |name: &String| {
        let found = KERNELS.iter().find(|kernel| kernel.name == name);
        found.with_context(|| format!("no kernel is called `{name}`; there are {}", known()))
    };
    names.iter().map(find).collect()
}

fn run(kernel: &Kernel, parts: &Parts<'_>) -> anyhow::Result<Outcome> {
    let place = parts.place.join(kernel.name);
    fs::create_dir_all(&place)?;
    let files = match fetch::fetch(kernel, &place) {
        Ok(files) => files,
        Err(error) if error.is::<Unavailable>() => {
            return Ok(Outcome::Skipped(format!("{error:#}")));
        }
        Err(error) => return Ok(Outcome::Failed(format!("{error:#}"))),
    };
    let modules = pack::modules(&place, &files, parts.modules)?;
    let guests = thread::scope(|scope| {
        let mut guests = Vec::new();
        for (number, jobs) in parts.shares.iter().enumerate() {
            let place = place.join(format!("guest{number}"));
            let (files, modules) = (&files, &modules);
            let guest = move || one_guest(kernel, &place, files, modules, parts, jobs);
            guests.push(scope.spawn(guest));
        }
        let ended = guests.into_iter().map(|guest| match guest.join() {
            Ok(outcome) => outcome,
            Err(panic) => resume_unwind(panic),
        });
        ended.collect::<anyhow::Result<Vec<_>>>()
    });
    Ok(Outcome::Ran(guests?))
}

fn one_guest(
    kernel: &Kernel,
    place: &Path,
    files: &Files,
    modules: &Path,
    parts: &Parts<'_>,
    jobs: &[Job],
) -> anyhow::Result<Guest> {
    fs::create_dir_all(place)?;
    let archive = pack::jobs(place, &parts.built, jobs)?;
    let initramfs = pack::together(place, [&parts.base, modules, &archive])?;
    let guest = boot::boot(kernel, place, &files.image, &initramfs, parts.limit)?;
    let report = Report::read(&guest.report);
    let mut trouble: Vec<_> = guest.trouble.into_iter().collect();
    if !report.complete {
        trouble.push(format!("{}\nthe guest ended too early", guest.console_tail));
    }
    let missing = report.missing(jobs);
    if !missing.is_empty() {
        trouble.push(format!("the guest did not say how these went: {}", missing.join(" ")));
    }
    Ok(Guest { report, trouble })
}

/// Holds the table of the documentation against what the kernel has.
fn compare(
    document: &Path,
    kernel: &Kernel,
    report: &Report,
    update: bool,
) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(document).with_context(|| document.display().to_string())?;
    let lost = || format!("{} has no table of features any more", document.display());
    let mut table = Table::read(&text).with_context(lost)?;
    if update {
        table.set(kernel.name, &report.features);
        fs::write(document, table.write_into(&text).with_context(lost)?)?;
        return Ok(Vec::new());
    }
    let mut lines = table.differs(kernel.name, &report.features);
    if !lines.is_empty() {
        lines.push("docs/kernels.md is out of date: `make kernels UPDATE=1` writes it".to_owned());
    }
    Ok(lines)
}

fn whole<'a>(kernel: &'a Kernel, result: &'a str, started: Instant) -> Row<'a> {
    Row {
        kernel: kernel.name,
        release: "",
        tests: "all",
        result,
        passed: &[],
        failed: &[],
        seconds: started.elapsed().as_secs(),
        reason: "",
    }
}

fn print(cli: &Cli, row: &Row<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if cli.json {
        writeln!(out, "{}", serde_json::to_string(row)?)?;
    } else {
        let Row { kernel, release, tests, result, passed, failed, seconds, reason } = row;
        let count = format!("{} passed", passed.len());
        let more = if *tests == "all" { format!("{release}{reason}") } else { count };
        writeln!(out, "{kernel:<7} {tests:<16} {result} {seconds:>4} s  {more}")?;
        for (names, verdict) in [(passed, "pass"), (failed, "FAIL")] {
            for name in *names {
                writeln!(out, "{kernel:<7} {tests:<16} {verdict}         {name}")?;
            }
        }
    }
    Ok(out.flush()?)
}

#[expect(clippy::print_stderr, reason = "what goes on, beside the results")]
fn note(text: &str) {
    eprintln!("{text}");
}

/// Runs a tool to its end; what it printed, or a line that says what is wrong.
fn output(command: &mut std::process::Command) -> anyhow::Result<String> {
    let tool = PathBuf::from(command.get_program());
    let tool = tool.display();
    let output = command
        .output()
        .with_context(|| format!("can't run {tool}; `sh lb-bpf/setup.sh kernels` installs it"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{tool}: {}", said.lines().last().unwrap_or("failed without a word"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
