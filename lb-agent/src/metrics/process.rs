//! What the system says of the agent's own process, under the names that are common to all programs.

use super::families::Families;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The process, as far as it can be told.
#[derive(Debug, Default)]
pub(super) struct Process {
    cpu_seconds: Option<f64>,
    threads: Option<u64>,
    virtual_bytes: Option<u64>,
    resident_bytes: Option<u64>,
    open_files: Option<u64>,
    max_files: Option<u64>,
    started: Option<f64>,
}

// === impl Process ===

impl Process {
    /// This process now; it began at `started`.
    pub(super) fn read(started: SystemTime) -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the name, which may have spaces; the rest begins with the third.
        let fields: Vec<&str> =
            stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        let field =
            |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
        let system =
            |variable| sysconf(variable).ok().flatten().and_then(|n| u64::try_from(n).ok());
        let ticks = field(14).zip(field(15)).zip(system(SysconfVar::CLK_TCK));
        let resident = field(24).zip(system(SysconfVar::PAGE_SIZE));
        let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        Self {
            cpu_seconds: ticks
                .map(|((user, system), per_second)| (user + system) as f64 / per_second as f64),
            threads: field(20),
            virtual_bytes: field(23),
            resident_bytes: resident.map(|(pages, size)| pages * size),
            // One of them is the directory itself.
            open_files: open.map(|count| count.saturating_sub(1) as u64),
            max_files: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            started: started.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64()),
        }
    }

    pub(super) fn encode(&self, families: &mut Families<'_>) -> fmt::Result {
        let help = "Time on a CPU of the agent.";
        families.counter_f64("process_cpu_seconds", help, self.cpu_seconds)?;
        for (name, help, value) in [
            ("process_threads", "Threads of the agent.", self.threads),
            ("process_virtual_memory_bytes", "Address space of the agent.", self.virtual_bytes),
            ("process_resident_memory_bytes", "Memory of the agent.", self.resident_bytes),
            ("process_open_fds", "Open files of the agent.", self.open_files),
            ("process_max_fds", "Most files that the agent may have open.", self.max_files),
        ] {
            families.gauge(name, help, value.map(|value| ([], value)))?;
        }
        let help = "When the agent started, in seconds since 1970.";
        families.gauge_f64("process_start_time_seconds", help, self.started.map(|s| ([], s)))
    }
}
