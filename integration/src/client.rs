//! Clients that dial a frontend and say who answered.

use crate::wait::patience;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Below those that the kernel hands out.
const PORTS: Range<u16> = 10_000..30_000;
/// How long an answer on the loopback device may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An open TCP connection, after the backend's greeting.
#[derive(Debug)]
pub struct Call {
    /// The connection; closed with a reset, so that no port is left in TIME_WAIT.
    pub stream: TcpStream,
    /// Who answered.
    pub tag: String,
    /// The client's address as the backend sees it.
    pub seen: SocketAddr,
}

/// A backend's answer to a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Who answered.
    pub tag: String,
    /// The client's address as the backend sees it.
    pub seen: SocketAddr,
    /// What the datagram said.
    pub text: String,
    /// Where the answer says it comes from.
    pub source: SocketAddr,
}

/// Local ports of UDP sockets, in turn: packets from one that was had a short while ago may still belong to
/// a flow to who answered then.
#[derive(Debug)]
pub struct Ports {
    turn: AtomicU16,
}

/// Connects and reads the greeting.
///
/// # Errors
///
/// What connect(2) failed with; and as [`Call::over`].
pub fn dial(to: SocketAddr) -> io::Result<Call> {
    Call::over(TcpStream::connect(to)?)
}

/// [`dial`], but an attempt that stays undecided for so long has failed.
///
/// # Errors
///
/// What connect(2) failed with, [`io::ErrorKind::TimedOut`] after so long; and as [`Call::over`].
pub fn dial_within(to: SocketAddr, patience: Duration) -> io::Result<Call> {
    Call::over(TcpStream::connect_timeout(&to, patience)?)
}

/// A socket of the family of `to`, that has not dialled yet.
pub fn stream(to: SocketAddr, protocol: Protocol) -> Socket {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol));
    socket.expect("a socket can be made")
}

/// A non-blocking connect that is under way.
#[track_caller]
pub fn begin(to: SocketAddr, protocol: Protocol) -> Socket {
    let socket = stream(to, protocol);
    socket.set_nonblocking(true).expect("a socket can be non-blocking");
    let begun = socket.connect(&SockAddr::from(to)).expect_err("no connect is decided at once");
    assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS), "{begun}");
    socket
}

/// How a connect ends that is under way.
///
/// # Errors
///
/// What the connect failed with.
#[track_caller]
pub fn ended(socket: &Socket) -> io::Result<()> {
    let mut watched = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let deadline = PollTimeout::try_from(10_000 * patience()).expect("a minute or so");
    assert_eq!(poll(&mut watched, deadline), Ok(1), "undecided after {deadline:?}");
    socket.take_error()?.map_or(Ok(()), Err)
}

/// A UDP socket that gives up waiting for an answer after a while.
pub fn udp(local: &str) -> UdpSocket {
    let socket = UdpSocket::bind(local).expect("a UDP socket can be bound");
    socket.set_read_timeout(Some(PATIENCE * patience())).expect("a socket takes a timeout");
    socket
}

/// Sends a datagram to `to` and waits for the answer.
///
/// # Errors
///
/// If the datagram can't be sent; and as [`reply`].
pub fn ask(socket: &UdpSocket, to: SocketAddr) -> io::Result<Reply> {
    socket.send_to(b"hello", to)?;
    reply(socket)
}

/// Sends a datagram on a connected socket and waits for the answer.
///
/// # Errors
///
/// If the datagram can't be sent; and as [`reply`].
pub fn ask_connected(socket: &UdpSocket) -> io::Result<Reply> {
    socket.send(b"hello")?;
    reply(socket)
}

/// Waits for the next answer.
///
/// # Errors
///
/// If none comes before the socket's timeout, an ICMP message came instead, or it is no backend's, as
/// [`Reply::parse`] says.
pub fn reply(socket: &UdpSocket) -> io::Result<Reply> {
    let mut buffer = [0; 2048];
    let (length, source) = socket.recv_from(&mut buffer)?;
    Reply::parse(&buffer[..length], source)
}

/// The cookie by which the kernel tables know a socket.
pub fn cookie(socket: &impl std::os::fd::AsFd) -> u64 {
    SockRef::from(socket).cookie().expect("a socket has a cookie")
}

// === impl Ports ===

impl Ports {
    /// From the one on that is so many after the first.
    pub const fn after(skipped: u16) -> Self {
        Self { turn: AtomicU16::new(skipped) }
    }

    /// [`udp`] at the next port that is free.
    ///
    /// # Errors
    ///
    /// If no socket can be had or `ip` is not this host's. That a port is taken is no error.
    pub fn udp(&self, ip: &str) -> io::Result<UdpSocket> {
        loop {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let port = PORTS.start + turn % (PORTS.end - PORTS.start);
            match UdpSocket::bind(format!("{ip}:{port}")) {
                Ok(socket) => {
                    socket.set_read_timeout(Some(PATIENCE * patience()))?;
                    return Ok(socket);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
    }
}

// === impl Call ===

impl Call {
    /// Reads the greeting on a connected stream.
    ///
    /// # Errors
    ///
    /// If the peer hangs up, no greeting comes in time, or it is no backend's.
    pub fn over(stream: impl Into<Socket>) -> io::Result<Self> {
        let socket = stream.into();
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE * patience()))?;
        socket.set_linger(Some(Duration::ZERO))?;
        let mut stream = TcpStream::from(socket);
        let (tag, seen) = parse_greeting(&read_line(&mut stream)?)?;
        Ok(Self { stream, tag, seen })
    }

    /// What getpeername(2) says.
    #[track_caller]
    pub fn peer(&self) -> SocketAddr {
        self.stream.peer_addr().expect("a connected socket has a peer")
    }

    /// Whether the connection still carries data to the backend and back.
    pub fn echoes(&mut self, text: &str) -> bool {
        let mut back = vec![0; text.len()];
        let sent = self.stream.write_all(text.as_bytes());
        sent.and_then(|()| self.stream.read_exact(&mut back)).is_ok() && back == text.as_bytes()
    }
}

// === impl Reply ===

impl Reply {
    /// Parses the answer of a UDP backend.
    ///
    /// # Errors
    ///
    /// If it has no line end, or its first line is no backend's greeting.
    pub fn parse(answer: &[u8], source: SocketAddr) -> io::Result<Self> {
        let answer = String::from_utf8_lossy(answer);
        let (greeting, text) = answer.split_once('\n').ok_or_else(|| not_a_greeting(&answer))?;
        let (tag, seen) = parse_greeting(greeting)?;
        Ok(Self { tag, seen, text: text.to_owned(), source })
    }
}

fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return String::from_utf8(line).map_err(io::Error::other),
            [other] => line.push(other),
        }
    }
}

/// Who a greeting is from, and the client's address in it.
pub(crate) fn parse_greeting(line: &str) -> io::Result<(String, SocketAddr)> {
    let (tag, seen) = line.split_once(' ').ok_or_else(|| not_a_greeting(line))?;
    let seen = seen.parse().map_err(|_| not_a_greeting(line))?;
    Ok((tag.to_owned(), seen))
}

fn not_a_greeting(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("`{text}` is no backend's greeting"))
}
