//! Running the binaries under test to their end.

use crate::wait::within;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How a process ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed to standard output.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
}

/// Memory of a process in kB. Left out are kernel tables that it has mapped, which are not its own, and
/// the program itself, whose size depends on how it was built.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident now.
    pub now: u64,
    /// Most that was resident at any time so far.
    pub peak: u64,
}

/// The path of one of the workspace's binaries, in the profile that the test was built in.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its own path");
    let directory = own.parent().expect("a file is in a directory");
    // Benchmarks are in target/<profile>, tests in target/<profile>/deps.
    let profile = directory.parent().filter(|_| directory.ends_with("deps")).unwrap_or(directory);
    let path = profile.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `make test` (or `cargo build`) first",
        path.display()
    );
    path
}

/// Copies a program that is to be run. A child does so: were the copy open for writing here, every child that
/// another thread starts would have it open, too, until it is the program that it is to be, and what is open for
/// writing can't be run.
#[track_caller]
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().expect("cp can be run");
    assert!(copied.success(), "{} can't be copied: {copied}", from.display());
}

/// The agent, without this capability (`net_admin`).
pub fn without(capability: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set=-{capability}")).arg(binary("lb-agent"));
    command
}

/// Runs a command to its end; one that does not end in time is killed and fails the test. Output
/// goes through files in `scratch`, which can't fill up as pipes do. A directory of the sources fails the
/// test: it would be left with these files.
#[track_caller]
pub fn run(command: &mut Command, scratch: &Path) -> Finished {
    assert!(!is_source(scratch), "{} is no scratch directory", scratch.display());
    let name = std::thread::current().id();
    let stdout = scratch.join(format!("{name:?}.out"));
    let stderr = scratch.join(format!("{name:?}.err"));
    let create = |path: &Path| File::create(path).expect("the scratch directory is writable");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(create(&stdout))
        .stderr(create(&stderr))
        .spawn()
        .unwrap_or_else(|error| panic!("can't run {command:?}: {error}"));
    let status = exit_of(&mut child, Duration::from_secs(60));
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (stdout, stderr) = (read(&stdout), read(&stderr));
    match status {
        Some(status) => Finished { code: status.code(), stdout, stderr },
        None => panic!("{command:?} did not end; it printed {stdout}\n{stderr}"),
    }
}

/// Whether it is below the workspace, and not where things are built.
fn is_source(path: &Path) -> bool {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it has members");
    path.starts_with(workspace) && !path.starts_with(workspace.join("target"))
}

/// Waits for a child to end; kills it and returns `None` if it has not before the deadline.
pub fn exit_of(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let status = within(deadline, || child.try_wait().expect("a child can be waited for"));
    if status.is_none() {
        kill(child);
    }
    status
}

/// Ends a child with SIGKILL and waits for it.
pub fn kill(child: &mut Child) {
    // Killing one that has ended already is refused, which is as good.
    let _ = child.kill();
    child.wait().expect("a child can be waited for");
}

// === impl Memory ===

impl Memory {
    /// Of a process that runs.
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process runs")
        };
        let kilobytes = |text: &str| -> u64 {
            text.trim().trim_end_matches(" kB").parse().expect("a number of kB")
        };
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            kilobytes(line.expect("a known field"))
        };
        let program = fs::read_link(format!("/proc/{pid}/exe")).expect("the process runs");
        let program = program.to_string_lossy();
        // Each mapping is a line that ends in its name, and after it `Rss:` and other fields.
        let (mut mapped, mut others) = (false, 0);
        for line in read("smaps").lines() {
            match line.strip_prefix("Rss:") {
                Some(resident) if mapped => others += kilobytes(resident),
                Some(_) => {}
                None if line.contains('-') => {
                    mapped = line.ends_with("anon_inode:bpf-map") || line.ends_with(&*program);
                }
                None => {}
            }
        }
        Self { now: field("VmRSS:") - others, peak: field("VmHWM:") - others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_directory_of_the_sources_is_for_scratch() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (path, is) in [
            (own.to_owned(), true),
            (own.join(".."), true),
            (own.with_file_name("docs"), true),
            (own.with_file_name("target"), false),
            (std::env::temp_dir(), false),
        ] {
            assert_eq!(is_source(&path), is, "{}", path.display());
        }
    }
}
