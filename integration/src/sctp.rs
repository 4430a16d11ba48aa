//! SCTP as far as the first two packets of a connection, written by hand and sent by raw sockets: a
//! kernel without SCTP translates its packets all the same. The greeting is what the server's
//! answer has for a cookie.

use crate::client::parse_greeting;
use crate::pods::Asked;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const PROTOCOL: i32 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// The parameter that an INIT ACK must have.
const STATE_COOKIE: u16 = 7;
/// Bytes of the common header, of a chunk of these two kinds without its parameters, and of what
/// stands before a parameter's value.
const HEADER: usize = 12;
const CHUNK: usize = 20;
const PARAMETER: usize = 4;

/// A server's end; answers what is addressed to it.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UdpSocket,
    port: u16,
}

/// What matters of a packet.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    from_port: u16,
    to_port: u16,
    verification: u32,
    kind: u8,
    tag: u32,
    cookie: Vec<u8>,
}

/// Asks for a connection, and returns who answered.
///
/// # Errors
///
/// What the socket was told by ICMP, or that nobody has answered for so long.
pub fn ask(to: SocketAddr, patience: Duration) -> io::Result<Asked> {
    let socket = raw(to, PROTOCOL)?;
    socket.connect(SocketAddr::new(to.ip(), 0))?;
    let mut local = socket.local_addr()?;
    // Connection tracking takes who comes again from the same port for who was there before, for seconds.
    static ASKED: AtomicU16 = AtomicU16::new(0);
    local.set_port(32_768 + ASKED.fetch_add(1, Ordering::Relaxed) % 28_232);
    let asked = Packet {
        from_port: local.port(),
        to_port: to.port(),
        verification: 0,
        kind: INIT,
        tag: rand::random_range(1..u32::MAX),
        cookie: Vec::new(),
    };
    socket.send(&asked.bytes())?;
    let end = Instant::now() + patience;
    let mut buffer = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut buffer)?;
        let Some(answer) = Packet::parse(payload(&buffer[..length], to)) else { continue };
        let ours = (answer.from_port, answer.to_port) == (to.port(), local.port());
        if ours && answer.kind == INIT_ACK && answer.verification == asked.tag {
            let greeting = String::from_utf8(answer.cookie).map_err(io::Error::other)?;
            let (tag, seen) = parse_greeting(greeting.trim_end())?;
            return Ok(Asked { tag, peer: to, local, seen });
        }
    }
}

// === impl Listener ===

impl Listener {
    pub(crate) fn at(address: SocketAddr) -> io::Result<Self> {
        let socket = raw(address, PROTOCOL)?;
        Socket::from(socket.try_clone()?)
            .bind(&SockAddr::from(SocketAddr::new(address.ip(), 0)))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, port: address.port() })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Answers the next request for a connection with the greeting for its sender; false when none
    /// waits.
    pub(crate) fn answer(&self, greeting: impl Fn(SocketAddr) -> String) -> bool {
        let mut buffer = [0; 2048];
        loop {
            let Ok((length, sender)) = self.socket.recv_from(&mut buffer) else { return false };
            let Some(asked) = Packet::parse(payload(&buffer[..length], sender)) else { continue };
            if asked.to_port != self.port || asked.kind != INIT {
                continue;
            }
            let answer = Packet {
                from_port: self.port,
                to_port: asked.from_port,
                verification: asked.tag,
                kind: INIT_ACK,
                tag: rand::random_range(1..u32::MAX),
                cookie: greeting(SocketAddr::new(sender.ip(), asked.from_port)).into_bytes(),
            };
            // An error means that the client has gone already.
            let _ = self.socket.send_to(&answer.bytes(), SocketAddr::new(sender.ip(), 0));
            return true;
        }
    }
}

// === impl Packet ===

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let parameter = if self.cookie.is_empty() { 0 } else { PARAMETER + self.cookie.len() };
        let mut bytes = Vec::with_capacity(HEADER + CHUNK + parameter);
        bytes.extend(self.from_port.to_be_bytes());
        bytes.extend(self.to_port.to_be_bytes());
        bytes.extend(self.verification.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.kind, 0]);
        bytes.extend(length(CHUNK + parameter));
        bytes.extend(self.tag.to_be_bytes());
        // Window, streams each way, first sequence number.
        bytes.extend(65_536u32.to_be_bytes());
        bytes.extend([0, 1, 0, 1]);
        bytes.extend(1u32.to_be_bytes());
        if parameter > 0 {
            bytes.extend(STATE_COOKIE.to_be_bytes());
            bytes.extend(length(parameter));
            bytes.extend(&self.cookie);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let checksum = crc32c(&bytes);
        bytes[8..HEADER].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// A packet of one chunk of these two kinds, whose checksum is right.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let half = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let mut unsigned = bytes.to_vec();
        let checksum = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        unsigned.get_mut(8..HEADER)?.fill(0);
        let kind = *bytes.get(HEADER)?;
        if crc32c(&unsigned) != checksum || ![INIT, INIT_ACK].contains(&kind) {
            return None;
        }
        let at = HEADER + CHUNK;
        let cookie = match half(at) {
            Some(STATE_COOKIE) => {
                let end = at + usize::from(half(at + 2)?);
                bytes.get(at + PARAMETER..end)?.to_vec()
            }
            _ => Vec::new(),
        };
        Some(Self {
            from_port: half(0)?,
            to_port: half(2)?,
            verification: word(4)?,
            kind,
            tag: word(HEADER + 4)?,
            cookie,
        })
    }
}

/// A raw socket of an address's family; the standard library's type does what it needs.
pub(crate) fn raw(address: SocketAddr, protocol: i32) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    Ok(Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?.into())
}

/// What is behind the IP header, which IPv4 delivers and IPv6 does not.
pub(crate) fn payload(packet: &[u8], family: SocketAddr) -> &[u8] {
    let header = match packet.first() {
        Some(first) if family.is_ipv4() => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    packet.get(header..).unwrap_or_default()
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a short packet").to_be_bytes()
}

/// The checksum of RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab;
    use crate::netns;
    use crate::server::{Backends, Kind};

    #[test]
    fn packets_are_read_as_they_are_written() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        for (kind, cookie) in [(INIT, &b""[..]), (INIT_ACK, b"a 192.0.2.1:7\n")] {
            let cookie = cookie.to_vec();
            let packet = Packet { from_port: 1, to_port: 2, verification: 3, kind, tag: 4, cookie };
            let mut bytes = packet.bytes();
            assert_eq!(Packet::parse(&bytes), Some(packet));
            bytes[0] ^= 1;
            assert_eq!(Packet::parse(&bytes), None);
        }
        assert_eq!(Packet::parse(&[0; 11]), None);
    }

    #[test]
    fn a_listener_answers_what_is_for_it() {
        lab::run("sctp", |_| {
            netns::add_address("fd00::1");
            for (here, elsewhere) in [("127.0.0.1", "127.0.0.2"), ("fd00::1", "::1")] {
                let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
                let _servers = Backends::start(
                    Kind::Sctp,
                    [(at(here, 80), "a"), (at(here, 81), "b"), (at(elsewhere, 80), "c")],
                );
                let second = Duration::from_secs(5);
                for (to, tag) in
                    [(at(here, 80), "a"), (at(here, 81), "b"), (at(elsewhere, 80), "c")]
                {
                    let asked = ask(to, second).expect("an answer");
                    assert_eq!((asked.tag.as_str(), asked.seen), (tag, asked.local));
                }
                let nobody = ask(at(here, 82), Duration::from_millis(100)).map_err(|e| e.kind());
                let gone = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock];
                assert!(nobody.as_ref().is_err_and(|kind| gone.contains(kind)), "{nobody:?}");
            }
        });
    }
}
