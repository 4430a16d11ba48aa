//! An emulated machine that boots a kernel and ends.

use crate::pack::installed;
use anyhow::{Context, ensure};
use integration::kernels::Kernel;
use integration::process::exit_of;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const QEMU: &str = "qemu-system-x86_64";

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
    /// Why it did not come to its end by itself.
    pub(crate) trouble: Option<String>,
}

/// Boots and waits for the end. Logs stay in `place`; those of an earlier guest are gone.
pub(crate) fn boot(
    kernel: &Kernel,
    place: &Path,
    image: &Path,
    initramfs: &Path,
    limit: Duration,
) -> anyhow::Result<Guest> {
    // `nice` can be run in any case.
    let missing = || format!("no `{QEMU}` here; `sh lb-bpf/setup.sh kernels` installs it");
    ensure!(installed(QEMU).is_some(), missing());
    let [console, report] = logs(place);
    let serial = |file: &PathBuf| format!("file:{}", file.display());
    let mut command = Command::new("nice");
    command
        .args(["-n", "10", QEMU])
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
        .args(["-serial", &serial(&console), "-serial", &serial(&report)]);
    finish(&mut command, place, limit)
}

/// What the kernel's console and the line for reports are kept in.
fn logs(place: &Path) -> [PathBuf; 2] {
    ["console.log", "report.log"].map(|name| place.join(name))
}

/// Runs an emulator to its end.
fn finish(emulator: &mut Command, place: &Path, limit: Duration) -> anyhow::Result<Guest> {
    let logs = logs(place);
    for log in &logs {
        // One that ends before it opens them would be taken for the guest that wrote them.
        match fs::remove_file(log) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", log.display()));
            }
            _ => {}
        }
    }
    let mut child = emulator.stdin(Stdio::null()).spawn().context("can't run an emulator")?;
    let trouble = match exit_of(&mut child, limit) {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("{QEMU} ended by itself: {status}; see what it said above")),
        None => Some(format!("the guest was still running after {} s", limit.as_secs())),
    };
    // One that was not written says nothing.
    let [console, report] =
        logs.map(|log| String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned());
    let lines: Vec<_> = console.lines().collect();
    let console_tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    Ok(Guest { report, console_tail, trouble })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long for a shell on a busy machine.
    const LONG: Duration = Duration::from_secs(60);

    /// A shell in the place of an emulator, where a guest has run before.
    fn guest(script: &str, limit: Duration) -> Guest {
        let place = tempfile::tempdir().unwrap();
        for log in logs(place.path()) {
            fs::write(log, "of the run before").unwrap();
        }
        let mut shell = Command::new("sh");
        shell.current_dir(&place).args(["-c", script]);
        finish(&mut shell, place.path(), limit).unwrap()
    }

    #[test]
    fn a_guest_that_never_started_says_nothing() {
        let guest = guest("exit 3", LONG);
        assert_eq!((&*guest.report, &*guest.console_tail), ("", ""));
        let trouble = guest.trouble.unwrap();
        assert!(trouble.contains("exit status: 3"), "{trouble}");
    }

    #[test]
    fn a_guest_says_how_it_went_and_ends() {
        let ended = guest("echo up > console.log; echo all > report.log", LONG);
        assert_eq!((&*ended.report, &*ended.console_tail), ("all\n", "up"));
        assert_eq!(ended.trouble, None);
        let trouble = guest("exec sleep 60", Duration::from_millis(200)).trouble.unwrap();
        assert!(trouble.contains("still running after 0 s"), "{trouble}");
    }
}
