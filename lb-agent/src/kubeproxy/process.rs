//! The usual metrics of a process, from `/proc`.

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fs;

/// Looks at each scrape.
#[derive(Debug)]
pub(super) struct Process;

/// What `/proc` says of this process.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    cpu_seconds: f64,
    started: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
    open_files: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        // Without /proc these are missing; nothing depends on them.
        let Some(figures) = look() else { return Ok(()) };
        let cpu = ConstCounter::new(figures.cpu_seconds);
        let kind = cpu.metric_type();
        let help = "Seconds of CPU time, user and system";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, kind)?)?;
        for (name, help, value) in [
            (
                "start_time_seconds",
                "When the process started, in seconds since 1970",
                figures.started,
            ),
            ("resident_memory_bytes", "Resident memory", figures.resident_bytes),
            ("virtual_memory_bytes", "Virtual memory", figures.virtual_bytes),
            ("open_fds", "Open file descriptors", figures.open_files),
        ] {
            let gauge = ConstGauge::new(value);
            let name = format!("process_{name}");
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor(&name, help, None, kind)?)?;
        }
        Ok(())
    }
}

fn look() -> Option<Figures> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may contain anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<f64> = fields.split(' ').map(|field| field.parse().unwrap_or(0.0)).collect();
    // proc(5) counts from 1, and two fields came before.
    let field = |number: usize| fields.get(number - 3).copied();
    let ticks = setting(SysconfVar::CLK_TCK)?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    Some(Figures {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        started: boot + field(22)? / ticks,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * setting(SysconfVar::PAGE_SIZE)?,
        open_files: fs::read_dir("/proc/self/fd").ok()?.fold(0.0, |count, _| count + 1.0),
    })
}

fn setting(variable: SysconfVar) -> Option<f64> {
    let value = sysconf(variable).ok().flatten()?;
    u32::try_from(value).ok().map(f64::from)
}
