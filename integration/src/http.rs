//! A minimal HTTP/1.0 client, so that the tests don't lean on the client they test.

use crate::wait::patience;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Status code and body of `GET path` on the agent's Unix socket.
///
/// # Errors
///
/// If nobody answers there in time, or the answer is no HTTP.
pub fn get(socket: &Path, path: &str) -> io::Result<(u16, String)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE * patience()))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n");
    answered(stream, request.as_bytes()).map(|answer| (answer.code, answer.body))
}

/// What is answered to these bytes, to the end of the connection.
///
/// # Errors
///
/// If nobody answers there in time, or the answer is no HTTP.
pub fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE * patience()))?;
    answered(stream, request)
}

/// What is answered to `METHOD PATH`, with further header lines that end with `\r\n`.
///
/// # Errors
///
/// As [`exchange`].
pub fn ask(address: SocketAddr, request: &str, headers: &str) -> io::Result<Answer> {
    let text = format!("{request} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n");
    exchange(address, text.as_bytes())
}

fn answered(mut stream: impl Read + Write, request: &[u8]) -> io::Result<Answer> {
    // Who refuses a request may close before it has all of it.
    let sent = stream.write_all(request);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    if answer.is_empty() {
        sent.and(read.map(drop))?;
    }
    let answer = String::from_utf8_lossy(&answer);
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("`{answer}`"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
    Ok(Answer { code, head: head.to_ascii_lowercase(), body: body.to_owned() })
}
