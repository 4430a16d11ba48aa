//! A TCP connection is accepted; it is closed by RST, so that no TIME_WAIT is left behind.

use super::{Outcome, PROBE_MARK};
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpSocket, TcpStream};

pub(super) async fn attempt(target: SocketAddr) -> Outcome {
    let accepted = async {
        let stream = connect(target).await?;
        stream.set_zero_linger()
    };
    match accepted.await {
        Ok(()) => Outcome::passing("L4OK"),
        Err(error) => failure(&error),
    }
}

/// Connects to the target itself, whatever the tables say of its address.
pub(super) async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket2::SockRef::from(&socket).set_mark(PROBE_MARK)?;
    socket.connect(target).await
}

/// Why no connection came about.
pub(super) fn failure(error: &io::Error) -> Outcome {
    let text = match error.kind() {
        io::ErrorKind::ConnectionRefused => "L4CON connection refused".to_owned(),
        _ => format!("L4CON {error}"),
    };
    Outcome::failing(text)
}
