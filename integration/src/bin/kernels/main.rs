//! `make kernels`: the tests in the real kernel, in other real kernels. Each is fetched from Debian,
//! booted in an emulated machine with a static build of the agent and of the tests, and reports.
//!
//! Software emulation only: it is there on every machine, and behaves the same on each.

mod boot;
mod build;
mod fetch;
mod pack;

use anyhow::{Context, bail};
use clap::Parser;
use integration::kernels::report::Report;
use integration::kernels::table::Table;
use integration::kernels::{KERNELS, Kernel};
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Cli {
    /// Kernels to test under, separated by commas; all of them by default
    #[arg(long, value_delimiter = ',')]
    kernels: Vec<String>,
    /// Test programs to run, separated by commas; all of them by default
    #[arg(long, value_delimiter = ',')]
    tests: Vec<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Write the table of features in docs/kernels.md anew instead of comparing with it
    #[arg(long)]
    update: bool,
    /// Seconds after which a guest has failed
    #[arg(long, default_value_t = 1200)]
    limit: u64,
}

/// How it went with one kernel.
enum Outcome {
    Skipped(String),
    Ran { report: Report, trouble: Vec<String> },
}

/// What is printed of a test program, or of a kernel as a whole.
#[derive(Serialize)]
struct Row<'a> {
    kernel: &'a str,
    release: &'a str,
    tests: &'a str,
    result: &'a str,
    passed: u32,
    failed: &'a [String],
    seconds: u64,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let kernels = chosen(&cli.kernels)?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let target = workspace.join("target");
    let place = target.join("kernels");
    fs::create_dir_all(&place)?;
    let started = Instant::now();
    let built = build::build(workspace, &target, &cli.tests)?;
    let base = pack::base(&place, &built)?;
    note(&format!("built and packed in {} s", started.elapsed().as_secs()));

    let (mut failed, mut ran) = (false, 0);
    let document = workspace.join("docs/kernels.md");
    for kernel in kernels {
        let started = Instant::now();
        let outcome = run(kernel, &place.join(kernel.name), &base, Duration::from_secs(cli.limit))?;
        let seconds = started.elapsed().as_secs();
        match outcome {
            Outcome::Skipped(reason) if kernel.mandatory => {
                failed = true;
                print(&cli, &whole(kernel, "", "FAIL", seconds))?;
                note(&format!("{} can't be had, and must: {reason}", kernel.name));
            }
            Outcome::Skipped(reason) => {
                print(&cli, &whole(kernel, "", "SKIP", seconds))?;
                note(&format!("{} can't be had: {reason}", kernel.name));
            }
            Outcome::Ran { report, mut trouble } => {
                ran += 1;
                if report.complete {
                    trouble.extend(compare(&document, kernel, &report, cli.update)?);
                }
                for tests in &report.tests {
                    let result = if tests.is_good() { "pass" } else { "FAIL" };
                    print(
                        &cli,
                        &Row {
                            kernel: kernel.name,
                            release: &report.release,
                            tests: &tests.program,
                            result,
                            passed: tests.passed,
                            failed: &tests.failed,
                            seconds: tests.seconds,
                        },
                    )?;
                    if !tests.is_good() {
                        note(&tests.output);
                        note(tests.trouble.as_deref().unwrap_or("no test ran"));
                    }
                }
                trouble.iter().for_each(|line| note(line));
                let good = trouble.is_empty() && report.tests.iter().all(|tests| tests.is_good());
                failed |= !good;
                let result = if good { "PASS" } else { "FAIL" };
                print(&cli, &whole(kernel, &report.release, result, seconds))?;
            }
        }
    }
    if failed || ran == 0 {
        bail!("not all is as it should be; logs are below {}", place.display());
    }
    Ok(())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Kernel>> {
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

fn run(kernel: &Kernel, place: &Path, base: &Path, limit: Duration) -> anyhow::Result<Outcome> {
    fs::create_dir_all(place)?;
    let files = match fetch::fetch(kernel, place) {
        Ok(files) => files,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    let initramfs = pack::with_modules(place, base, &files)?;
    let guest = boot::boot(place, &files.image, &initramfs, limit)?;
    let report = Report::read(&guest.report);
    let mut trouble = Vec::new();
    if !report.complete {
        let reason = if guest.timed_out { "was still running" } else { "ended too early" };
        let after = limit.as_secs();
        trouble
            .push(format!("{}\nthe guest {reason} (its limit is {after} s)", guest.console_tail));
    }
    Ok(Outcome::Ran { report, trouble })
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

fn whole<'a>(kernel: &'a Kernel, release: &'a str, result: &'a str, seconds: u64) -> Row<'a> {
    Row { kernel: kernel.name, release, tests: "all", result, passed: 0, failed: &[], seconds }
}

fn print(cli: &Cli, row: &Row<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if cli.json {
        writeln!(out, "{}", serde_json::to_string(row)?)?;
    } else {
        let Row { kernel, release, tests, result, passed, failed, seconds } = row;
        let more = if *tests == "all" {
            (*release).to_owned()
        } else {
            format!("{passed} passed {}", failed.join(" "))
        };
        writeln!(out, "{kernel:<7} {tests:<16} {result} {seconds:>4} s  {}", more.trim_end())?;
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
