//! What a run says of where it ran: absolute values mean nothing without it.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

/// Machine, kernel and sources of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor as it names itself.
    pub processor: String,
    /// Logical processors that the run may use.
    pub processors: usize,
    /// Main memory, in MiB.
    pub memory: u64,
    /// A hypervisor says that it is there.
    pub virtual_machine: bool,
    /// Release of the kernel.
    pub kernel: String,
    /// Of the sources; ends in `-dirty` where files differ from it.
    pub commit: String,
    /// The programs were compiled with optimisation: nothing else counts.
    pub optimised: bool,
}

// === impl Machine ===

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
            let mut found = lines.filter(|(key, _)| key.trim() == name);
            found.next().map(|(_, value)| value.trim().to_owned())
        };
        let memory = read("/proc/meminfo").split_whitespace().nth(1).map(str::parse::<u64>);
        Self {
            processor: field("model name").unwrap_or_else(unknown),
            processors: available_parallelism().map_or(1, usize::from),
            memory: memory.and_then(Result::ok).unwrap_or_default() / 1024,
            virtual_machine: field("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit().unwrap_or_else(unknown),
            optimised: !cfg!(debug_assertions),
        }
    }
}

impl Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, memory, virtual_machine, kernel, commit, optimised } =
            self;
        let kind = if *virtual_machine { "virtual machine" } else { "machine" };
        write!(
            f,
            "{kind} with {processors} processors ({processor}) and {:.1} GiB, Linux {kernel}, \
             commit {commit}",
            *memory as f64 / 1024.0
        )?;
        if !optimised {
            f.write_str("; compiled without optimisation")?;
        }
        Ok(())
    }
}

/// `None` outside a git work tree.
fn commit() -> Option<String> {
    let args = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude=*"];
    let output = Command::new("git").args(args).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned())
}

/// Empty where there is no such file: what is said of the machine does not stop a run.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn unknown() -> String {
    "unknown".to_owned()
}
