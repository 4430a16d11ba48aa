//! A minimal HTTP/1.0 client, so that the tests don't lean on the client they test.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Status code and body of `GET path` on the agent's Unix socket.
pub fn get(socket: &Path, path: &str) -> io::Result<(u16, String)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(stream, path).map(|(code, _, body)| (code, body))
}

/// Status code, head in lower case, and body of `GET path` on a TCP port.
pub fn get_tcp(address: SocketAddr, path: &str) -> io::Result<(u16, String, String)> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(stream, path)
}

fn ask(mut stream: impl io::Read + io::Write, path: &str) -> io::Result<(u16, String, String)> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("{path}: `{answer}`"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
    Ok((code, head.to_ascii_lowercase(), body.to_owned()))
}
