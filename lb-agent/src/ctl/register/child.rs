//! The command that a registration lasts as long as: started, signalled, waited for, and what its
//! end means for ours. When it is signalled is left to [`super`].

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus};
use tokio::signal::unix::{self, SignalKind, signal};

/// Exit codes of shells for a command that is not there, and for one that can't be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// A running command.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    /// Tells that some child has ended.
    ended: unix::Signal,
}

/// Why a command does not run, and the exit code that says so.
#[derive(Debug, thiserror::Error)]
#[error("cannot run `{}`: {error}; name a program that exists and may be run", .command.display())]
pub(super) struct NotStarted {
    command: OsString,
    error: io::Error,
}

// === impl Child ===

impl Child {
    /// Starts the command in a process group of its own: a Ctrl-C in the terminal must reach it
    /// through us, after the registration was taken back.
    pub(super) fn start(words: &[OsString]) -> Result<Self, NotStarted> {
        let (command, arguments) =
            words.split_first().map_or((OsString::new(), words), |(c, a)| (c.clone(), a));
        let not_started = |error| NotStarted { command: command.clone(), error };
        // From before the start, so that no end is missed.
        let ended = signal(SignalKind::child()).map_err(not_started)?;
        let process = Command::new(&command).args(arguments).process_group(0).spawn();
        Ok(Self { process: process.map_err(not_started)?, ended })
    }

    /// Its end. May be given up and asked for again.
    pub(super) async fn end(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            self.ended.recv().await;
        }
    }

    /// Hands a signal on to it. One that has ended needs none.
    pub(super) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // Once waited for, its number may be another's.
        if self.process.try_wait()?.is_some() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.process.id().cast_signed()), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Our own exit code for its end: its own, or 128 and the signal's number, as in shells.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// The exit code of a command that a signal has ended, as in shells.
pub(super) fn code_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)
}

// === impl NotStarted ===

impl NotStarted {
    /// As shells have it.
    pub(super) fn exit_code(&self) -> u8 {
        if self.error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(words: &[&str]) -> Result<Child, NotStarted> {
        Child::start(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn ends_are_told_as_shells_do() {
        for (script, code) in [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137)] {
            let mut child = start(&["sh", "-c", script]).unwrap();
            assert_eq!(exit_code(child.end().await.unwrap()), code, "{script}");
            // One that has ended is asked and signalled without harm.
            child.signal(Signal::SIGTERM).unwrap();
            assert_eq!(exit_code(child.end().await.unwrap()), code, "{script}");
        }
    }

    #[tokio::test]
    async fn signals_are_handed_on() {
        let mut child = start(&["sleep", "60"]).unwrap();
        child.signal(Signal::SIGTERM).unwrap();
        assert_eq!(exit_code(child.end().await.unwrap()), 128 + 15);
    }

    #[tokio::test]
    async fn what_cannot_be_run_is_said() {
        let missing = start(&["/nonexistent/x"]).unwrap_err();
        assert_eq!(missing.exit_code(), 127);
        assert!(missing.to_string().starts_with("cannot run `/nonexistent/x`: "), "{missing}");
        assert_eq!(start(&["/"]).unwrap_err().exit_code(), 126);
    }
}
