//! The only process that a guest of `make kernels` begins with: makes a small system around the test
//! programs, runs them one after the other, says how they ended, and switches the guest off. Run by itself as
//! one of them, it measures IPVS beside others, and prints a figure a line.

use anyhow::{Context, bail, ensure};
use integration::bench::{self, Figure, ipvs};
use integration::kernels::programs::Job;
use integration::kernels::report::{Line, Tests, figures};
use integration::kernels::{JOB_LIST, MODULE_LIST, PAYLOAD};
use integration::wait::PATIENCE;
use lb_agent::dataplane::features;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, setrlimit};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The serial line that the report goes to; the first one is the kernel's.
const REPORT: &str = "/dev/ttyS1";

/// Tests that run at once. Most wait for something most of the time.
const THREADS: &str = "3";
/// What the deadlines of the tests are multiplied by.
const SLOWER: &str = "30";
/// How often an agent is killed: each time takes long.
const KILLS: &str = "3";
/// Files that a process may have open, as on a machine that somebody has set up.
const FILES: u64 = 65_536;
/// Where programs are; the kernel tells its first process nothing of that.
const PATH: &str = "/usr/sbin:/usr/bin";

/// File systems that tests take for granted: kind and place.
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

fn main() -> anyhow::Result<()> {
    if let (2.., Some(plan)) = (std::process::id(), std::env::args().nth(1)) {
        return measure(&plan);
    }
    // Elsewhere it would switch off the machine.
    ensure!(std::process::id() == 1, "to be started by the kernel of a guest only: `make kernels`");
    if let Err(error) = run() {
        complain(&format!("{error:#}"));
    }
    // Only now: whatever was said has left by then, as the line is written without delay.
    match reboot(RebootMode::RB_POWER_OFF)? {}
}

fn run() -> anyhow::Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place)?;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {kind} at {place}"))?;
    }
    let mut report = OpenOptions::new().write(true).open(REPORT).context(REPORT)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    say(&mut report, &Line::Kernel { release })?;
    load_modules()?;
    finish("ip", &["link", "set", "lo", "up"])?;
    // A kernel gives its first process so few that tests which hold many sockets must not run at once.
    setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES).context("raising the limit of open files")?;
    for (feature, found) in features::probe() {
        let (name, present) = (feature.name.to_owned(), found.is_ok());
        say(&mut report, &Line::Feature { name, present })?;
    }
    for line in fs::read_to_string(JOB_LIST).context(JOB_LIST)?.lines() {
        let (tests, measured) = test(&serde_json::from_str(line).context(JOB_LIST)?)?;
        say(&mut report, &Line::Tests(tests))?;
        for figure in measured {
            say(&mut report, &Line::Figure(figure))?;
        }
    }
    say(&mut report, &Line::End)
}

fn say(report: &mut File, line: &Line) -> anyhow::Result<()> {
    Ok(writeln!(report, "{}", serde_json::to_string(line)?)?)
}

/// Loads the modules that were packed; the rest, the kernel has or lacks.
fn load_modules() -> anyhow::Result<()> {
    for module in fs::read_to_string(MODULE_LIST).context(MODULE_LIST)?.lines() {
        finish("modprobe", &[module])?;
    }
    Ok(())
}

fn finish(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    let status = command.args(arguments).env("PATH", PATH).status().context(program.to_owned())?;
    if !status.success() {
        bail!("{program} {}: {status}", arguments.join(" "));
    }
    Ok(())
}

fn test(job: &Job) -> anyhow::Result<(Tests, Vec<Figure>)> {
    let log = Path::new("/run/output");
    let file = File::create(log)?;
    let started = Instant::now();
    let status = Command::new(Path::new(PAYLOAD).join("deps").join(&job.program))
        .args(&job.arguments)
        .current_dir(PAYLOAD)
        .env("PATH", PATH)
        .env("RUST_TEST_THREADS", THREADS)
        .env("KILLS", KILLS)
        .env(PATIENCE, SLOWER)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| job.program.clone())?;
    let output = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let trouble = (!status.success()).then(|| status.to_string());
    let tests = Tests::read(&job.program, &output, trouble, started.elapsed().as_secs());
    Ok((tests, figures(&output)))
}

fn measure(plan: &str) -> anyhow::Result<()> {
    let plan = serde_json::from_str(plan).context("a plan of the benchmark as JSON")?;
    let mut report = bench::Report::default();
    ipvs::here(&plan, &mut report)?;
    let mut out = std::io::stdout().lock();
    for figure in report.figures() {
        writeln!(out, "{}", serde_json::to_string(figure)?)?;
    }
    Ok(out.flush()?)
}

#[expect(clippy::print_stderr, reason = "the kernel's console is all there is")]
fn complain(text: &str) {
    eprintln!("kernels-init: {text}");
}
