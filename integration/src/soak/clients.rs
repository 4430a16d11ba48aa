//! Clients: each dials a frontend of its choice, in one way or another, and reports where it came out.

use super::ledger::{Ledger, Way};
use super::world::{LINES, backend_of, dialled};
use crate::client::{ask, ask_connected, dial, udp};
use crate::wait::patience;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Of so many connected UDP sockets, one has its backend answer.
const ASKED: u32 = 64;
/// Connected UDP sockets for each dial of another kind.
const CONNECTED: u32 = 24;

/// How long an answer may take, on a machine of the usual speed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Dials until it is `done`.
pub(super) fn run(ledger: &Ledger, done: &AtomicBool, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    // One socket of each family stays, and what it remembers.
    let mut kept = [udp("0.0.0.0:0"), udp("[::]:0")];
    while !done.load(Ordering::Relaxed) {
        for _ in 0..CONNECTED {
            let asks = random.random_ratio(1, ASKED);
            once(ledger, &mut random, Way::Connected, |to| connected(to, asks));
        }
        once(ledger, &mut random, Way::Tcp, tcp);
        once(ledger, &mut random, Way::Unconnected, |to| datagram(&udp(any(to)), to));
        once(ledger, &mut random, Way::Unconnected, |to| {
            let kept = &mut kept[usize::from(to.is_ipv6())];
            let found = datagram(kept, to);
            if found.is_err() {
                // An answer that comes late after all is nobody's.
                *kept = udp(any(to));
            }
            found
        });
    }
}

fn once(
    ledger: &Ledger,
    random: &mut StdRng,
    way: Way,
    mut dial: impl FnMut(SocketAddr) -> io::Result<u32>,
) {
    let line = random.random_range(0..LINES);
    let to = dialled(line);
    let begun = ledger.begin(line);
    let found = dial(to);
    ledger.end(begun, way, found.map_err(|error| error.to_string()));
}

fn tcp(to: SocketAddr) -> io::Result<u32> {
    let call = dial(to)?;
    agreed(&call.tag, call.stream.local_addr()?, call.stream.peer_addr()?, to)
}

fn connected(to: SocketAddr, asks: bool) -> io::Result<u32> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
    socket.connect(&SockAddr::from(to))?;
    let socket = UdpSocket::from(socket);
    let local = socket.local_addr()?;
    if asks {
        socket.set_read_timeout(Some(PATIENCE * patience()))?;
        match ask_connected(&socket) {
            Ok(reply) => return agreed(&reply.tag, local, reply.source, to),
            // The backend has been removed since, and what was connected to it was ended.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
    backend_of(local.ip()).ok_or_else(|| wrong(format!("it is connected from {local}")))
}

fn datagram(socket: &UdpSocket, to: SocketAddr) -> io::Result<u32> {
    let reply = ask(socket, to)?;
    if reply.source != to {
        return Err(wrong(format!("{} answers, from {}", reply.tag, reply.source)));
    }
    number(&reply.tag)
}

/// The backend, if its own word, the local address and the peer's name fit together.
fn agreed(tag: &str, local: SocketAddr, peer: SocketAddr, to: SocketAddr) -> io::Result<u32> {
    let said = number(tag)?;
    if peer != to {
        return Err(wrong(format!("{tag} answers, and the peer is {peer}")));
    }
    if backend_of(local.ip()) != Some(said) {
        return Err(wrong(format!("{tag} answers, and it is connected from {local}")));
    }
    Ok(said)
}

fn number(tag: &str) -> io::Result<u32> {
    tag.parse().map_err(|_| wrong(format!("`{tag}` answers")))
}

fn wrong(text: String) -> io::Error {
    io::Error::other(text)
}

fn any(to: SocketAddr) -> &'static str {
    if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
}
