//! The signals that a registrar takes, instead of dying of them.

use nix::sys::signal::Signal;
use std::io;
use tokio::signal::unix::{self, SignalKind, signal};

/// The signals.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    quit: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
}

// === impl Signals ===

impl Signals {
    /// From now on they come here.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.hangup.recv() => Signal::SIGHUP,
            _ = self.quit.recv() => Signal::SIGQUIT,
            _ = self.user1.recv() => Signal::SIGUSR1,
            _ = self.user2.recv() => Signal::SIGUSR2,
        }
    }
}

/// Whether a signal asks for an end that is prepared for. With a command the others are the
/// command's own: a reload, a log to reopen, a way to stop that it alone knows. Without one there is
/// nobody else to mean.
pub(super) fn asks_to_stop(signal: Signal, command: bool) -> bool {
    match signal {
        Signal::SIGTERM | Signal::SIGINT => true,
        Signal::SIGHUP | Signal::SIGQUIT => !command,
        _ => false,
    }
}
