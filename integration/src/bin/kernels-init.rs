//! The only process that a guest of `make kernels` begins with: makes a small system around the test
//! programs, runs them one after the other, says how they ended, and switches the guest off.

use anyhow::{Context, bail, ensure};
use integration::kernels::report::{Line, Tests};
use integration::kernels::{MODULE_LIST, PAYLOAD};
use integration::wait::PATIENCE;
use lb_agent::dataplane::features;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The serial line that the report goes to; the first one is the kernel's.
const REPORT: &str = "/dev/ttyS1";

/// Tests that run at once. Most wait for something most of the time.
const THREADS: &str = "3";
/// What the deadlines of the tests are multiplied by.
const SLOWER: &str = "30";

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
    for (feature, found) in features::probe() {
        let (name, present) = (feature.name.to_owned(), found.is_ok());
        say(&mut report, &Line::Feature { name, present })?;
    }
    for program in programs()? {
        let tests = test(&program)?;
        say(&mut report, &Line::Tests(tests))?;
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
    let status = Command::new(program).args(arguments).status().context(program.to_owned())?;
    if !status.success() {
        bail!("{program} {}: {status}", arguments.join(" "));
    }
    Ok(())
}

fn programs() -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(Path::new(PAYLOAD).join("deps"))?;
    let mut programs: Vec<_> =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    programs.sort();
    Ok(programs)
}

fn test(program: &Path) -> anyhow::Result<Tests> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let log = Path::new("/run/output");
    let file = File::create(log)?;
    let started = Instant::now();
    let status = Command::new(program)
        .current_dir(PAYLOAD)
        .env("RUST_TEST_THREADS", THREADS)
        .env(PATIENCE, SLOWER)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| name.clone().into_owned())?;
    let output = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let trouble = (!status.success()).then(|| status.to_string());
    Ok(Tests::read(&name, &output, trouble, started.elapsed().as_secs()))
}

#[expect(clippy::print_stderr, reason = "the kernel's console is all there is")]
fn complain(text: &str) {
    eprintln!("kernels-init: {text}");
}
