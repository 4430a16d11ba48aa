//! What makes the kernel run the programs: calls of one kind, as many as are asked for.

use super::services::{BACKENDS, Family, PORT, SERVICES, backend, frontend};
use crate::bench::Figure;
use crate::netns;
use anyhow::{Context as _, ensure};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use rand::RngExt as _;
use rand::rngs::StdRng;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

/// Sockets that are asked for their peers in turn, where they go to services at random.
const OPEN: usize = 1000;
/// How long a datagram may be on its way within one machine before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// A way to make a hook's program run. Each call runs it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) call: Call,
    pub(super) family: Family,
    pub(super) to: To,
    /// Each call has a new socket.
    pub(super) new: bool,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    ConnectTcp,
    ConnectUdp,
    /// The close of a socket that was connected.
    CloseUdp,
    Send,
    Receive,
    PeerName,
}

/// Whom the calls go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// One service again and again.
    Hot,
    /// Any of all services.
    Random,
    /// One address that is no frontend.
    Miss,
}

/// Answers datagrams for all backends of both families, from the address that was asked.
pub(super) struct Server {
    v4: UdpSocket,
    v6: UdpSocket,
}

// === impl Load ===

impl Load {
    /// The hook whose program runs.
    pub(super) fn hook(&self) -> &'static str {
        match (self.call, self.family) {
            (Call::ConnectTcp | Call::ConnectUdp, Family::V4) => "connect4",
            (Call::ConnectTcp | Call::ConnectUdp, Family::V6) => "connect6",
            (Call::CloseUdp, _) => "sock_release",
            (Call::Send, Family::V4) => "sendmsg4",
            (Call::Send, Family::V6) => "sendmsg6",
            (Call::Receive, Family::V4) => "recvmsg4",
            (Call::Receive, Family::V6) => "recvmsg6",
            (Call::PeerName, Family::V4) => "getpeername4",
            (Call::PeerName, Family::V6) => "getpeername6",
        }
    }

    /// Says in a figure what was done.
    pub(super) fn describe(&self, figure: Figure) -> Figure {
        let protocol = if self.call == Call::ConnectTcp { "tcp" } else { "udp" };
        let to = match self.to {
            To::Hot => "hot",
            To::Random => "random",
            To::Miss => "miss",
        };
        let socket = if self.new { "new" } else { "reused" };
        figure
            .case("hook", self.hook())
            .case("protocol", protocol)
            .case("to", to)
            .case("socket", socket)
    }

    /// Makes the calls; how many there were. `translated`: the programs send what is for a frontend
    /// to a backend.
    pub(super) fn run(
        &self,
        calls: usize,
        server: &Server,
        translated: bool,
        random: &mut StdRng,
    ) -> anyhow::Result<usize> {
        let calls = if self.call == Call::ConnectTcp { calls / 3 } else { calls };
        match self.call {
            Call::ConnectTcp => self.connect(Type::STREAM, calls, random)?,
            Call::ConnectUdp | Call::CloseUdp => self.connect(Type::DGRAM, calls, random)?,
            Call::Send => self.send(calls, random)?,
            Call::Receive => self.receive(calls, server, translated, random)?,
            Call::PeerName => self.ask_for_peers(calls, random)?,
        }
        Ok(calls)
    }

    /// That a call of this kind ends where it should, for nothing that is measured says so: at a backend of
    /// its service if the programs are `translated`, else where it was sent. A program that leaves at
    /// its first lookup runs as often as one that does its work.
    pub(super) fn check(
        &self,
        server: &Server,
        translated: bool,
        random: &mut StdRng,
    ) -> anyhow::Result<()> {
        let number = self.number(random);
        let asked = match self.to {
            To::Miss => self.address(random),
            _ => frontend(self.family, number),
        };
        let translated = translated && self.to != To::Miss;
        let arrived = match self.call {
            Call::ConnectTcp => self.accepted(asked, translated)?,
            _ => self.received(asked, translated, server)?,
        };
        let expected: Vec<SocketAddr> = match translated {
            true => (0..BACKENDS).map(|slot| backend(self.family, number, slot)).collect(),
            false => vec![asked],
        };
        ensure!(
            expected.contains(&arrived),
            "what is for {asked} arrives at {arrived}, not at one of {expected:?}: these programs do not do the \
             work that is measured"
        );
        Ok(())
    }

    /// Where a connection to this address arrives.
    fn accepted(&self, asked: SocketAddr, translated: bool) -> anyhow::Result<SocketAddr> {
        let port = if translated { PORT } else { asked.port() };
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let socket = Socket::new(self.domain(), Type::STREAM, None)?;
        socket.connect_timeout(&asked.into(), PATIENCE).with_context(|| {
            format!("connecting to {asked}, which {} to be translated", is_to(translated))
        })?;
        Ok(listener.accept()?.0.local_addr()?)
    }

    /// Where a datagram to this address arrives.
    fn received(
        &self,
        asked: SocketAddr,
        translated: bool,
        server: &Server,
    ) -> anyhow::Result<SocketAddr> {
        server.drain()?;
        let there = if translated { None } else { Some(self.bound(asked.port())?) };
        let socket = Socket::new(self.domain(), Type::DGRAM, None)?;
        match self.call {
            Call::Send | Call::Receive => socket.send_to(b"x", &asked.into())?,
            _ => {
                socket.connect(&asked.into())?;
                socket.send(b"x")?
            }
        };
        if self.call == Call::PeerName {
            let peer = socket.peer_addr()?.as_socket();
            ensure!(peer == Some(asked), "the peer of a socket to {asked} is {peer:?}");
        }
        let lost =
            || format!("a datagram to {asked}, which {} to be translated", is_to(translated));
        match there {
            None => server.asked(self.family).with_context(lost),
            Some(there) => {
                there.recv(&mut [0; 16]).with_context(lost)?;
                Ok(asked)
            }
        }
    }

    /// A socket for what is sent to this port, which no backend has.
    fn bound(&self, port: u16) -> anyhow::Result<UdpSocket> {
        let socket = match self.family {
            Family::V4 => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)),
            Family::V6 => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)),
        }?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Nobody listens; the program has run all the same, and that is what is measured.
    fn connect(&self, kind: Type, calls: usize, random: &mut StdRng) -> anyhow::Result<()> {
        let mut socket = Socket::new(self.domain(), kind, None)?;
        for call in 0..calls {
            if self.new && call > 0 {
                socket = Socket::new(self.domain(), kind, None)?;
            }
            let _ = socket.connect(&self.address(random).into());
        }
        Ok(())
    }

    fn send(&self, calls: usize, random: &mut StdRng) -> anyhow::Result<()> {
        let mut socket = Socket::new(self.domain(), Type::DGRAM, None)?;
        for call in 0..calls {
            if self.new && call > 0 {
                socket = Socket::new(self.domain(), Type::DGRAM, None)?;
            }
            let _ = socket.send_to(b"x", &self.address(random).into());
        }
        Ok(())
    }

    fn receive(
        &self,
        calls: usize,
        server: &Server,
        translated: bool,
        random: &mut StdRng,
    ) -> anyhow::Result<()> {
        server.drain()?;
        let client = match self.family {
            Family::V4 => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
            Family::V6 => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
        }?;
        client.set_read_timeout(Some(PATIENCE))?;
        for _ in 0..calls {
            let number = self.number(random);
            let asked = frontend(self.family, number);
            let to = if translated { asked } else { backend(self.family, number, 0) };
            client.send_to(b"x", to).with_context(|| format!("sending to {to}"))?;
            server.answer(self.family).with_context(|| format!("answering for {to}"))?;
            let answer = client.recv_from(&mut [0; 16]);
            let (_, source) = answer.with_context(|| format!("no answer for {to}"))?;
            ensure!(source == to, "{source} answers for {to}");
        }
        Ok(())
    }

    fn ask_for_peers(&self, calls: usize, random: &mut StdRng) -> anyhow::Result<()> {
        let open = if self.to == To::Hot { 1 } else { OPEN.min(calls) };
        let connected = |_| {
            let socket = Socket::new(self.domain(), Type::DGRAM, None)?;
            socket.connect(&self.address(random).into())?;
            Ok(socket)
        };
        let sockets: Vec<Socket> = (0..open).map(connected).collect::<std::io::Result<_>>()?;
        for socket in sockets.iter().cycle().take(calls) {
            socket.peer_addr()?;
        }
        Ok(())
    }

    fn number(&self, random: &mut StdRng) -> u32 {
        if self.to == To::Random { random.random_range(0..SERVICES) } else { SERVICES / 2 }
    }

    fn address(&self, random: &mut StdRng) -> SocketAddr {
        match (self.to, self.family) {
            (To::Miss, Family::V4) => (Ipv4Addr::new(127, 99, 0, 1), 80).into(),
            (To::Miss, Family::V6) => (Ipv6Addr::LOCALHOST, 80).into(),
            _ => frontend(self.family, self.number(random)),
        }
    }

    fn domain(&self) -> Domain {
        match self.family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        }
    }
}

fn is_to(translated: bool) -> &'static str {
    if translated { "is" } else { "is not" }
}

// === impl Server ===

impl Server {
    /// Starts in the calling thread's namespace, all backends' addresses becoming its own, and so
    /// the frontends': who is not translated finds a way all the same.
    pub(super) fn start() -> anyhow::Result<Self> {
        for network in ["10.96.0.0/12", "fd00:96::/32", "fd00:16::/32"] {
            netns::own_network(network);
        }
        let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        setsockopt(&v4, sockopt::Ipv4PacketInfo, &true)?;
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.set_only_v6(true)?;
        // Or it may not answer from addresses that it has by a route.
        socket.set_freebind_v6(true)?;
        socket.bind(&SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))))?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        let v6 = UdpSocket::from(socket);
        for socket in [&v4, &v6] {
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(Self { v4, v6 })
    }

    /// Throws away what other loads have sent.
    fn drain(&self) -> anyhow::Result<()> {
        for socket in [&self.v4, &self.v6] {
            socket.set_nonblocking(true)?;
            while socket.recv(&mut [0; 16]).is_ok() {}
            socket.set_nonblocking(false)?;
        }
        Ok(())
    }

    /// To which address the datagram was sent that has come in.
    fn asked(&self, family: Family) -> anyhow::Result<SocketAddr> {
        let mut data = [0; 16];
        let mut parts = [IoSliceMut::new(&mut data)];
        let mut space = nix::cmsg_space!(libc::in6_pktinfo);
        let fd = self.socket(family).as_raw_fd();
        let message =
            recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), MsgFlags::empty())?;
        let asked = message.cmsgs()?.next().context("a datagram without its destination")?;
        Ok(match asked {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                (Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)), PORT).into()
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                (Ipv6Addr::from(info.ipi6_addr.s6_addr), PORT).into()
            }
            other => anyhow::bail!("{other:?} says no destination"),
        })
    }

    fn socket(&self, family: Family) -> &UdpSocket {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Answers the datagram that has come in.
    fn answer(&self, family: Family) -> anyhow::Result<()> {
        let fd = self.socket(family).as_raw_fd();
        let mut data = [0; 16];
        let mut parts = [IoSliceMut::new(&mut data)];
        let mut space = nix::cmsg_space!(libc::in6_pktinfo);
        let message =
            recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), MsgFlags::empty())?;
        let client = message.address.context("a datagram without a sender")?;
        let asked = message.cmsgs()?.next().context("a datagram without its destination")?;
        let from = match &asked {
            ControlMessageOwned::Ipv4PacketInfo(info) => ControlMessage::Ipv4PacketInfo(info),
            ControlMessageOwned::Ipv6PacketInfo(info) => ControlMessage::Ipv6PacketInfo(info),
            other => anyhow::bail!("{other:?} says no destination"),
        };
        sendmsg(fd, &[IoSlice::new(b"y")], &[from], MsgFlags::empty(), Some(&client))?;
        Ok(())
    }
}
