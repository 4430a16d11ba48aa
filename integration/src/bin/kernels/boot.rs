//! An emulated machine that boots a kernel and ends.

use anyhow::Context;
use integration::kernels::Kernel;
use integration::process::exit_of;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// An error ends the guest. A timer that is late on a busy machine is none.
const COMMAND_LINE: &str =
    "console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off no_timer_check";

/// Lines of the kernel's console that are shown when something went wrong.
const TAIL: usize = 40;

/// A guest that has ended.
pub(crate) struct Guest {
    /// What it said on the line for reports.
    pub(crate) report: String,
    /// The end of the kernel's console.
    pub(crate) console_tail: String,
    /// Whether it had to be ended.
    pub(crate) timed_out: bool,
}

/// Boots and waits for the end. Logs stay in `place`.
pub(crate) fn boot(
    kernel: &Kernel,
    place: &Path,
    image: &Path,
    initramfs: &Path,
    limit: Duration,
) -> anyhow::Result<Guest> {
    let (console, report) = (place.join("console.log"), place.join("report.log"));
    let serial = |file: &PathBuf| format!("file:{}", file.display());
    let mut child = Command::new("nice")
        .args(["-n", "10", "qemu-system-x86_64"])
        // One thread for all CPUs: several race with the kernel's patching of its own code. Without
        // cx16, which some versions emulate with wrong flags; see `Kernel::parameters`.
        .args(["-accel", "tcg,thread=single", "-M", "q35", "-cpu", "max,-cx16"])
        .args(["-m", "2048", "-smp", "2", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &format!("{COMMAND_LINE} {}", kernel.parameters)])
        .args(["-serial", &serial(&console), "-serial", &serial(&report)])
        .stdin(Stdio::null())
        .spawn()
        .context("can't run qemu-system-x86_64; `sh lb-bpf/setup.sh kernels` installs it")?;
    let timed_out = exit_of(&mut child, limit).is_none();
    let read =
        |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    let console = read(&console);
    let lines: Vec<_> = console.lines().collect();
    let console_tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    Ok(Guest { report: read(&report), console_tail, timed_out })
}
