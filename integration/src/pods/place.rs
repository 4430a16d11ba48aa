//! Where something runs: a network namespace and a cgroup. Threads are moved there, and what they
//! begin stays there.

use super::Pair;
use crate::cgroup::Cgroup;
use crate::client::{Ports, ask, ask_connected, dial_within, udp};
use crate::sctp;
use crate::server::{Backends, Kind};
use crate::wait::patience;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Of all places: what one of them sends may come as another's.
static PORTS: Ports = Ports::after(0);

/// How long a client waits for a connection, as those of the conformance tests do.
const PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace and a cgroup, with what serves there.
#[derive(Debug)]
pub struct Place {
    // Fields are dropped in this order: a cgroup can't go before its threads.
    servers: Mutex<Vec<Backends>>,
    namespace: File,
    cgroup: Cgroup,
    name: String,
    node: String,
    addresses: Pair,
}

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a TCP connection.
    Tcp,
    /// By a UDP socket that is connected.
    Connected,
    /// By a UDP socket that is not.
    Unconnected,
    /// By an SCTP packet that asks for a connection.
    Sctp,
}

/// What came of a client's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who answered.
    pub tag: String,
    /// Whom the client's socket takes for its peer, or the source of the answer.
    pub peer: SocketAddr,
    /// The client's address as its own socket has it; unspecified if it is not connected.
    pub local: SocketAddr,
    /// The client's address as the server sees it.
    pub seen: SocketAddr,
}

// === impl Place ===

impl Place {
    pub(super) fn new(
        name: &str,
        node: &str,
        namespace: File,
        cgroup: Cgroup,
        addresses: Pair,
    ) -> Self {
        let (name, node) = (name.to_owned(), node.to_owned());
        Self { servers: Mutex::default(), namespace, cgroup, name, node, addresses }
    }

    /// What its servers call themselves.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the node it is on; its own, if it is one.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its addresses.
    pub fn addresses(&self) -> Pair {
        self.addresses
    }

    pub(super) fn namespace(&self) -> &File {
        &self.namespace
    }

    /// Runs something here, to its end. Threads that it starts stay here.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let body = || {
            self.cgroup.enter();
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("a namespace can be entered");
            what()
        };
        match thread::scope(|scope| scope.spawn(body).join()) {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Serves a port of both addresses under the place's name.
    pub fn serve(&self, kind: Kind, port: u16) {
        self.serve_as(kind, port, &self.name);
    }

    /// Serves a port of both addresses under another name.
    pub fn serve_as(&self, kind: Kind, port: u16, tag: &str) {
        let wanted = self.addresses.at(port).map(|address| (address, tag));
        let servers = self.run(|| Backends::start(kind, wanted));
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).push(servers);
    }

    /// How many connections and datagrams its servers have answered.
    pub fn answered(&self) -> u64 {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.iter().flat_map(Backends::hits).sum()
    }

    /// Asks who serves an address, and sees to it that the answer does not take too long.
    ///
    /// # Errors
    ///
    /// As [`Way::ask_within`].
    #[track_caller]
    pub fn ask(&self, way: Way, to: SocketAddr) -> io::Result<Asked> {
        let begun = Instant::now();
        let asked = self.run(|| way.ask(to));
        let took = begun.elapsed();
        assert!(
            took < 2 * PATIENCE * patience(),
            "{}: {way:?} to {to} took {took:?}: {asked:?}",
            self.name
        );
        asked
    }

    /// Asks from here, as [`Way::ask_within`] does.
    ///
    /// # Errors
    ///
    /// As [`Way::ask_within`].
    pub fn ask_within(&self, way: Way, to: SocketAddr, patience: Duration) -> io::Result<Asked> {
        self.run(|| way.ask_within(to, patience))
    }

    /// A UDP socket that is connected and has been answered, and by whom.
    #[track_caller]
    pub fn connected(&self, to: SocketAddr) -> (UdpSocket, String) {
        self.run(|| {
            let socket = udp(any(to));
            socket.connect(to).expect("a UDP socket connects");
            let tag = ask_connected(&socket).expect("an answer").tag;
            (socket, tag)
        })
    }
}

// === impl Way ===

impl Way {
    /// All ways that are translated when a socket connects or sends.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Connected, Self::Unconnected];

    /// Asks from where the calling thread is.
    ///
    /// # Errors
    ///
    /// As [`Self::ask_within`].
    pub fn ask(self, to: SocketAddr) -> io::Result<Asked> {
        self.ask_within(to, PATIENCE * patience())
    }

    /// [`ask`](Self::ask), but what takes longer than this has failed.
    ///
    /// # Errors
    ///
    /// If the connect is refused or undecided for so long, no answer comes, or it is no backend's.
    pub fn ask_within(self, to: SocketAddr, patience: Duration) -> io::Result<Asked> {
        match self {
            Self::Tcp => {
                let call = dial_within(to, patience)?;
                let (peer, local) = (call.stream.peer_addr()?, call.stream.local_addr()?);
                return Ok(Asked { tag: call.tag, peer, local, seen: call.seen });
            }
            Self::Sctp => return sctp::ask(to, patience),
            Self::Connected | Self::Unconnected => {}
        }
        let socket = PORTS.udp(if to.is_ipv4() { "0.0.0.0" } else { "[::]" })?;
        socket.set_read_timeout(Some(patience))?;
        let (reply, peer) = if self == Self::Connected {
            socket.connect(to)?;
            (ask_connected(&socket)?, socket.peer_addr()?)
        } else {
            let reply = ask(&socket, to)?;
            let source = reply.source;
            (reply, source)
        };
        Ok(Asked { tag: reply.tag, peer, local: socket.local_addr()?, seen: reply.seen })
    }
}

fn any(to: SocketAddr) -> &'static str {
    if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
}
