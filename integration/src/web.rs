//! A minimal HTTP/1.0 client for the agent's TCP port, which also says what no client should.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

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

/// What is answered to these bytes, to the end of the connection.
pub fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
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

/// What is answered to `METHOD PATH`, with further header lines that end with `\r\n`.
pub fn ask(address: SocketAddr, request: &str, headers: &str) -> io::Result<Answer> {
    let text = format!("{request} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n");
    exchange(address, text.as_bytes())
}
