//! What the application sees of its peer: the frontend it dialled, never the backend.
//!
//! A row speaks for a socket only while the peer seen is the row's backend.

use crate::maps::Remembered;
use crate::sock::{PROCEED, SockAddr};
use crate::{connections, datagrams};
use lb_common::protocol;

/// recvmsg(2) and recvfrom(2) that ask for the source of a datagram.
#[inline(always)]
pub(crate) fn received<const V6: bool>(sock: &SockAddr<'_, V6>) -> i32 {
    if sock.protocol() != u32::from(protocol::UDP) {
        return PROCEED;
    }
    let (address, port) = (sock.address(), sock.port());
    if sock.connected_peer().is_some()
        && let Some(connection) = connections::of(sock.cookie())
        && show_frontend(sock, connection)
    {
        return PROCEED;
    }
    if let Some((frontend, frontend_port)) = datagrams::frontend_of(sock, address, port) {
        sock.rewrite(frontend, frontend_port);
    }
    PROCEED
}

/// getpeername(2), and accept(2), which names the peer the same way.
#[inline(always)]
pub(crate) fn peer_name<const V6: bool>(sock: &SockAddr<'_, V6>) -> i32 {
    let number = sock.protocol();
    let connection = if number == protocol::MPTCP {
        Remembered::on_mptcp(sock.sock(), false)
    } else if number == u32::from(protocol::TCP) || number == u32::from(protocol::UDP) {
        connections::of(sock.cookie())
    } else {
        None
    };
    if let Some(connection) = connection {
        show_frontend(sock, connection);
    }
    PROCEED
}

#[inline(always)]
fn show_frontend<const V6: bool>(sock: &SockAddr<'_, V6>, connection: Remembered) -> bool {
    let row = connection.row();
    let speaks = connection.cookie() != 0
        && row.backend == sock.address()
        && row.backend_port == sock.port();
    if speaks {
        sock.rewrite(row.frontend, row.frontend_port);
    }
    speaks
}
