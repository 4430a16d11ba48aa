//! A TCP connection is accepted. All connections of checks are closed by RST, so that no TIME_WAIT is
//! left behind.

use super::{Outcome, PROBE_MARK};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

/// A connection that ends by RST and in no other way: whoever says goodbye first has to keep the
/// connection's place for a minute, so nobody is let say it.
#[derive(Debug)]
pub(super) struct Connection(TcpStream);

pub(super) async fn attempt(target: SocketAddr) -> Outcome {
    match connect(target).await {
        Ok(_) => Outcome::passing("L4OK"),
        Err(outcome) => outcome,
    }
}

/// Connects to the target itself, whatever the tables say of its address. Dropping the connection
/// resets it.
pub(super) async fn connect(target: SocketAddr) -> Result<Connection, Outcome> {
    let socket = socket(target).map_err(|error| Outcome {
        result: None,
        text: format!("can't make a socket with a mark: {error}; the agent needs CAP_NET_ADMIN"),
    })?;
    let stream = socket.connect(target).await.map_err(|error| failure(&error))?;
    // The kernel may have chosen the very port that is dialled: then nobody listens there, and the
    // socket is connected to itself.
    if stream.local_addr().is_ok_and(|own| own == target) {
        return Err(failure(&io::ErrorKind::ConnectionRefused.into()));
    }
    Ok(Connection(stream))
}

fn socket(target: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket2::SockRef::from(&socket).set_mark(PROBE_MARK)?;
    socket.set_zero_linger()?;
    Ok(socket)
}

/// Why no connection came about.
fn failure(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::failing("L4CON connection refused"),
        _ => Outcome::of_error("L4CON", error),
    }
}

// === impl Connection ===

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    /// Does nothing: see [`Connection`].
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
