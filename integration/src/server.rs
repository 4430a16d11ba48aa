//! Backends that say who they are. A TCP backend greets each connection with one line, its tag and
//! the client's address as it sees it, and then echoes; a UDP backend answers each datagram with
//! such a line and the datagram; an SCTP backend answers requests for a connection with it.

use crate::{sctp, sys};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// Some backends, served by one thread until they are dropped.
#[derive(Debug)]
pub struct Backends {
    list: Arc<Vec<Backend>>,
    // Closing it is the signal to stop.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// What kind of socket a backend listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, with data accepted in the first packet.
    Tcp,
    /// MPTCP, which serves TCP clients as well.
    Mptcp,
    /// UDP.
    Udp,
    /// SCTP, as far as [`sctp`] goes.
    Sctp,
}

#[derive(Debug)]
struct Backend {
    address: SocketAddr,
    tag: String,
    door: Door,
    hits: AtomicU64,
}

#[derive(Debug)]
enum Door {
    Stream(TcpListener),
    Datagram(UdpSocket),
    Raw(sctp::Listener),
}

// === impl Backends ===

impl Backends {
    /// TCP backends on ports of their own, one for each tag.
    pub fn tcp<T: AsRef<str>>(ip: &str, tags: impl IntoIterator<Item = T>) -> Self {
        Self::start(Kind::Tcp, tags.into_iter().map(|tag| (any_port(ip), tag)))
    }

    /// UDP backends on ports of their own, one for each tag.
    pub fn udp<T: AsRef<str>>(ip: &str, tags: impl IntoIterator<Item = T>) -> Self {
        Self::start(Kind::Udp, tags.into_iter().map(|tag| (any_port(ip), tag)))
    }

    /// Backends at given addresses (port 0: any), each with its tag.
    pub fn start<T: AsRef<str>>(
        kind: Kind,
        wanted: impl IntoIterator<Item = (SocketAddr, T)>,
    ) -> Self {
        let open = |(address, tag): (SocketAddr, T)| Backend::open(kind, address, tag.as_ref());
        let list: Arc<Vec<Backend>> = Arc::new(wanted.into_iter().map(open).collect());
        let (stop, stopped) = UnixStream::pair().expect("a socket pair can be made");
        let served = Arc::clone(&list);
        let thread = thread::spawn(move || serve(&served, &stopped));
        Self { list, stop: Some(stop), thread: Some(thread) }
    }

    /// The address of backend `index`.
    pub fn at(&self, index: usize) -> SocketAddr {
        self.list[index].address
    }

    /// The addresses, in order.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.list.iter().map(|backend| backend.address)
    }

    /// The address of the backend with this tag.
    #[track_caller]
    pub fn tagged(&self, tag: &str) -> SocketAddr {
        let found = self.list.iter().find(|backend| backend.tag == tag);
        found.unwrap_or_else(|| panic!("no backend is tagged {tag}")).address
    }

    /// How many connections or datagrams each backend has answered, in order.
    pub fn hits(&self) -> Vec<u64> {
        self.list.iter().map(|backend| backend.hits.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.stop = None;
        let served = self.thread.take().map(JoinHandle::join);
        if matches!(served, Some(Err(_))) && !thread::panicking() {
            panic!("a backend panicked");
        }
    }
}

/// An address of this host where nobody listens on TCP.
pub fn closed(ip: &str) -> SocketAddr {
    let listener = TcpListener::bind(any_port(ip)).expect("a listener can be bound");
    listener.local_addr().expect("a bound socket has an address")
}

/// An address with port 0.
pub fn any_port(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().expect("an IP address"), 0)
}

fn serve(backends: &[Backend], stopped: &UnixStream) {
    let mut calls: Vec<TcpStream> = Vec::new();
    loop {
        let doors = backends.iter().map(|backend| backend.door.as_fd());
        let all = [stopped.as_fd()].into_iter().chain(doors).chain(calls.iter().map(AsFd::as_fd));
        let mut watched: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        if poll(&mut watched, PollTimeout::NONE).is_err() {
            continue;
        }
        let ready: Vec<bool> = watched.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        let (stop, ready) = ready.split_at(1);
        let (at_doors, at_calls) = ready.split_at(backends.len());
        if stop == [true] {
            return;
        }
        let mut at_calls = at_calls.iter();
        calls.retain_mut(|call| at_calls.next() == Some(&false) || echo(call).is_ok());
        for (backend, _) in backends.iter().zip(at_doors).filter(|(_, ready)| **ready) {
            backend.answer(&mut calls);
        }
    }
}

/// Sends back what has come in; an error when the client is gone.
fn echo(call: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    match call.read(&mut buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => call.write_all(&buffer[..length]),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

// === impl Backend ===

impl Backend {
    fn open(kind: Kind, address: SocketAddr, tag: &str) -> Self {
        let door = Door::open(kind, address)
            .unwrap_or_else(|error| panic!("can't serve {tag} on {address}: {error}"));
        let address = match &door {
            Door::Stream(listener) => listener.local_addr(),
            Door::Datagram(socket) => socket.local_addr(),
            Door::Raw(_) => Ok(address),
        };
        let address = address.expect("a bound socket has an address");
        Self { address, tag: tag.to_owned(), door, hits: AtomicU64::new(0) }
    }

    /// Answers all that waits at the door. Errors mean that a client has gone already.
    fn answer(&self, calls: &mut Vec<TcpStream>) {
        match &self.door {
            Door::Stream(listener) => {
                while let Ok((mut call, peer)) = listener.accept() {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    let greeted = call
                        .set_nonblocking(true)
                        .and_then(|()| call.write_all(self.greeting(peer).as_bytes()));
                    if greeted.is_ok() {
                        calls.push(call);
                    }
                }
            }
            Door::Datagram(socket) => {
                let mut buffer = [0; 2048];
                while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    let mut answer = self.greeting(peer).into_bytes();
                    answer.extend_from_slice(&buffer[..length]);
                    let _ = socket.send_to(&answer, peer);
                }
            }
            Door::Raw(listener) => {
                while listener.answer(|peer| self.greeting(peer)) {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn greeting(&self, peer: SocketAddr) -> String {
        format!("{} {peer}\n", self.tag)
    }
}

// === impl Door ===

impl Door {
    fn open(kind: Kind, address: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let (form, protocol) = match kind {
            Kind::Tcp => (Type::STREAM, Protocol::TCP),
            Kind::Mptcp => (Type::STREAM, Protocol::MPTCP),
            Kind::Udp => (Type::DGRAM, Protocol::UDP),
            Kind::Sctp => return sctp::Listener::at(address).map(Self::Raw),
        };
        let socket = Socket::new(domain, form.nonblocking(), Some(protocol))?;
        socket.set_reuse_address(kind != Kind::Udp)?;
        socket.bind(&SockAddr::from(address))?;
        if kind == Kind::Udp {
            return Ok(Self::Datagram(socket.into()));
        }
        socket.listen(4096)?;
        if kind == Kind::Tcp {
            sys::accept_fast_open(&socket)?;
        }
        Ok(Self::Stream(socket.into()))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(listener) => listener.as_fd(),
            Self::Datagram(socket) => socket.as_fd(),
            Self::Raw(listener) => listener.as_fd(),
        }
    }
}
