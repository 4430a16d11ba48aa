//! The registrar's own checks of what it registers: what they do, and how many results in a row
//! count. What follows from that is left to [`super`].

use anyhow::{Context as _, bail, ensure};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// Passes in a row that end a failure; the very first pass is enough by itself.
const RISE: u32 = 2;
/// Failures in a row that end a success.
const FALL: u32 = 3;

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The registered address takes connections.
    Tcp,
    /// A page is there: 2xx or 3xx.
    Http {
        /// `host:port`.
        authority: String,
        /// From the first `/` on.
        path: String,
    },
    /// A shell command ends with 0.
    Exec(String),
}

/// How to look.
#[derive(Clone, Debug)]
pub(super) struct Checks {
    /// All must pass.
    pub(super) list: Vec<Check>,
    /// What [`Check::Tcp`] connects to.
    pub(super) address: SocketAddr,
    /// From one round to the next.
    pub(super) interval: Duration,
    /// How long a round may take.
    pub(super) timeout: Duration,
}

/// What the checks have come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether the backend is to be used.
    pub(super) passing: bool,
    /// What the last round failed on, if it did.
    pub(super) reason: Option<String>,
}

/// Results in a row, counted. Pure.
#[derive(Debug, Default)]
struct Tally {
    passing: bool,
    /// Whether it has ever passed.
    passed: bool,
    /// Results in a row that say otherwise.
    against: u32,
}

// === impl Check ===

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "tcp" {
            return Ok(Self::Tcp);
        }
        if let Some(command) = text.strip_prefix("exec:").filter(|c| !c.trim().is_empty()) {
            return Ok(Self::Exec(command.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("http://") {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let path = if path.is_empty() { "/" } else { path };
            let full = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let authority = if full { host.to_owned() } else { format!("{host}:80") };
            let good = authority.parse::<hyper::http::uri::Authority>().is_ok_and(|authority| {
                authority.port_u16().is_some_and(|port| port > 0) && !authority.host().is_empty()
            });
            if good && !authority.contains('@') && path.parse::<hyper::Uri>().is_ok() {
                return Ok(Self::Http { authority, path: path.to_owned() });
            }
        }
        Err(format!(
            "`{text}` is no check; write tcp, http://HOST:PORT/PATH or exec:COMMAND (with exec, \
             curl checks https)"
        ))
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Http { authority, path } => write!(f, "http://{authority}{path}"),
            Self::Exec(command) => write!(f, "exec:{command}"),
        }
    }
}

impl Check {
    async fn run(&self, address: SocketAddr, end: Instant) -> anyhow::Result<()> {
        match self {
            Self::Tcp => {
                let connect = timeout_at(end, TcpStream::connect(address));
                connect.await.context("no answer in time")?.with_context(|| address.to_string())?;
                Ok(())
            }
            Self::Http { authority, path } => {
                timeout_at(end, fetch(authority, path)).await.context("no answer in time")?
            }
            Self::Exec(command) => execute(command, end).await,
        }
    }
}

async fn fetch(authority: &str, path: &str) -> anyhow::Result<()> {
    let stream = TcpStream::connect(authority).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors reach us through the request; it ends when the sender is dropped.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, authority)
        .header(USER_AGENT, "lbctl")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let status = sender.send_request(request).await?.status();
    ensure!(status.is_success() || status.is_redirection(), "status {status}");
    Ok(())
}

/// A group of processes that is ended with the check.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // The group may live on when its leader has ended; one that is gone is as good.
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        // Ends at once, since it has been killed: no process is left unwaited for.
        let _ = self.0.wait();
    }
}

async fn execute(command: &str, end: Instant) -> anyhow::Result<()> {
    // From before the start, so that no end is missed.
    let mut ended = signal(SignalKind::child())?;
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).process_group(0);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut group = Group(shell.spawn().context("cannot run /bin/sh")?);
    loop {
        if let Some(status) = group.0.try_wait()? {
            ensure!(status.success(), "{status}");
            return Ok(());
        }
        if timeout_at(end, ended.recv()).await.is_err() {
            bail!("not done in time, so it was killed");
        }
    }
}

// === impl Checks ===

impl Checks {
    /// Looks again and again; ends when nobody wants to know any more.
    pub(super) async fn follow(self, verdict: watch::Sender<Verdict>) {
        let mut rounds = interval(self.interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tally = Tally::default();
        let looking = async {
            loop {
                rounds.tick().await;
                let reason = self.round().await.err().map(|error| format!("{error:#}"));
                let passing = tally.count(reason.is_none());
                verdict.send_replace(Verdict { passing, reason });
            }
        };
        tokio::select! {
            () = verdict.closed() => {}
            () = looking => {}
        }
    }

    /// All at once; the first that fails decides.
    async fn round(&self) -> anyhow::Result<()> {
        let end = Instant::now() + self.timeout;
        let mut running = JoinSet::new();
        for check in self.list.clone() {
            let address = self.address;
            running.spawn(async move {
                let result = check.run(address, end).await;
                result.with_context(|| format!("check {check}"))
            });
        }
        while let Some(result) = running.join_next().await {
            result??;
        }
        Ok(())
    }
}

// === impl Tally ===

impl Tally {
    /// Whether it is passing, with one more result.
    fn count(&mut self, pass: bool) -> bool {
        self.against = if pass == self.passing { 0 } else { self.against + 1 };
        let needed = match (self.passing, self.passed) {
            (true, _) => FALL,
            (false, true) => RISE,
            (false, false) => 1,
        };
        if self.against >= needed {
            self.passing = pass;
            self.against = 0;
        }
        self.passed |= self.passing;
        self.passing
    }
}

#[cfg(test)]
mod tests;
