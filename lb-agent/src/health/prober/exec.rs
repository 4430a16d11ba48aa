//! A program's exit code: 0 passing, 1 a warning, anything else failing. Its output is kept, up to a
//! limit; when its time is over, it is killed together with what it has started.

use super::Outcome;
use crate::model::check::ExecProbe;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

/// Most bytes of output that are kept.
const MAX_OUTPUT: u64 = 4 * 1024;
/// How long output is waited for when the program has ended: what it wrote is there already, and
/// somebody else may hold the pipe.
const LEFT: Duration = Duration::from_millis(100);

/// A process group that does not outlive the try.
struct Group(Option<Pid>);

pub(super) async fn attempt(backend: SocketAddr, probe: &ExecProbe) -> Outcome {
    let Some((program, arguments)) = probe.command.split_first() else {
        return Outcome::failing("EXEC there is no command");
    };
    let child = Command::new(program)
        .args(arguments)
        .env("LB_BACKEND", backend.to_string())
        .env("LB_ADDRESS", backend.ip().to_string())
        .env("LB_PORT", backend.port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Outcome::of_error(&format!("EXEC {program}:"), &error),
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let group = Group(group);
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let status = {
        let reading =
            async { tokio::join!(first(output, &mut said), first(errors, &mut complained)) };
        let mut reading = pin!(reading);
        let (status, read) = tokio::select! {
            status = child.wait() => (status, false),
            _ = &mut reading => (child.wait().await, true),
        };
        // At once: while its members live, or have just died, the group's id is nobody else's.
        drop(group);
        if !read {
            // What has been read by then is kept.
            drop(timeout(LEFT, reading).await);
        }
        status
    };
    let code = match status {
        Ok(status) => status.code(),
        Err(error) => return Outcome::failing(format!("EXEC {program}: {error}")),
    };
    let said = if said.is_empty() { complained } else { said };
    let said = String::from_utf8_lossy(&said).trim().replace('\n', " | ");
    let said = if said.is_empty() { said } else { format!(": {said}") };
    match code {
        Some(0) => Outcome::passing(format!("EXEC 0{said}")),
        Some(1) => Outcome::warning(format!("EXEC 1{said}")),
        Some(code) => Outcome::failing(format!("EXEC {code}{said}")),
        None => Outcome::failing(format!("EXEC killed{said}")),
    }
}

/// The first part of what comes; the rest is read and thrown away, so that the program can end.
async fn first(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let read = (&mut stream).take(MAX_OUTPUT).read_to_end(kept).await;
    let drained = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    if let Err(error) = read.and(drained) {
        kept.extend_from_slice(format!(" (its output can't be read: {error})").as_bytes());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails when all of it has ended, which is what was wanted.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
