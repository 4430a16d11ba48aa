//! `sock_diag(7)`: asks the kernel for sockets of the calling thread's network namespace, and has it
//! end them. Written out by hand, since the libraries for it can't say what MPTCP needs.

use aya::maps::MapData;
use bytemuck::{Pod, Zeroable};
use lb_common::rows::{ConnectionRow, SocketRows};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

// Attributes of a question.
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const INET_DIAG_REQ_PROTOCOL: u16 = 3;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;

// Attributes of an answer, and what is nested in them.
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_MPTCP: u16 = 3;
const MPTCP_SUBFLOW_ATTR_TOKEN_LOC: u16 = 2;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const SK_DIAG_BPF_STORAGE: u16 = 1;
const SK_DIAG_BPF_STORAGE_MAP_ID: u16 = 2;
const SK_DIAG_BPF_STORAGE_MAP_VALUE: u16 = 3;

/// Asks for [`INET_DIAG_INFO`], and with it for what lies above TCP.
const WITH_INFO: u8 = 1 << (INET_DIAG_INFO - 1);
/// Where `struct mptcp_info` has the token.
const TOKEN_IN_INFO: usize = 12;

/// What a socket that has a peer may be in: `TCP_ESTABLISHED` and so on, as bits.
const CONNECTED: u32 = 1 << 1;
const ON_ITS_WAY: u32 = 1 << 2;
const HALF_CLOSED: u32 = 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// The kernel answers at once, or something is wrong.
const PATIENCE_SECONDS: i64 = 2;

/// Which sockets.
#[derive(Clone, Copy, Debug)]
pub(in crate::dataplane) struct Question {
    pub(in crate::dataplane) protocol: u32,
    /// The peer's port; any if `None`.
    pub(in crate::dataplane) port: Option<u16>,
    /// Whether the MPTCP connection's token is wanted.
    pub(in crate::dataplane) token: bool,
}

/// A socket that has a peer.
#[derive(Clone, Copy, Debug)]
pub(in crate::dataplane) struct Found {
    family: u8,
    id: SocketId,
    pub(in crate::dataplane) cookie: u64,
    /// v4-mapped addresses as IPv4.
    pub(in crate::dataplane) peer: SocketAddr,
    /// The token of the MPTCP connection that it is, or belongs to.
    pub(in crate::dataplane) token: Option<u32>,
    /// Its inode, by which processes' descriptors name it.
    pub(in crate::dataplane) inode: u32,
    /// Who made it.
    pub(in crate::dataplane) uid: u32,
    /// What our programs keep on the socket itself.
    pub(in crate::dataplane) row: Option<ConnectionRow>,
    /// Since when that is so: [`lb_common::since`].
    pub(in crate::dataplane) since: u32,
}

/// A connection to the kernel, in the namespace of the thread that opened it.
#[derive(Debug)]
pub(in crate::dataplane) struct Diag {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct SocketId {
    source_port: u16,
    port: u16,
    source: [u8; 16],
    address: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: SocketId,
}

/// `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: SocketId,
    expires: u32,
    queues: [u32; 2],
    uid: u32,
    inode: u32,
}

const _: () = {
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<SocketId>() == 48);
    assert!(size_of::<Request>() == 56);
    assert!(size_of::<Message>() == 72);
};

// === impl Diag ===

impl Diag {
    pub(in crate::dataplane) fn open() -> nix::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; 1 << 16] })
    }

    /// Tells `each` of the sockets that fit the question, of both families. `storage` is the table
    /// whose rows are kept on sockets, and its id.
    pub(in crate::dataplane) fn dump(
        &mut self,
        question: &Question,
        storage: Option<(&MapData, u32)>,
        mut each: impl FnMut(Found),
    ) -> nix::Result<()> {
        let Question { protocol, port, token } = *question;
        let is_udp = protocol == u32::from(lb_common::protocol::UDP);
        let states = if is_udp { CONNECTED } else { CONNECTED | ON_ITS_WAY | HALF_CLOSED };
        let mut attributes = Vec::new();
        let narrow = u8::try_from(protocol).unwrap_or(u8::MAX);
        if u32::from(narrow) != protocol {
            put(&mut attributes, INET_DIAG_REQ_PROTOCOL, &protocol.to_ne_bytes());
        }
        if let Some((map, _)) = storage {
            let mut nested = Vec::new();
            let fd = map.fd().as_fd().as_raw_fd().to_ne_bytes();
            put(&mut nested, SK_DIAG_BPF_STORAGE_REQ_MAP_FD, &fd);
            put(&mut attributes, INET_DIAG_REQ_SK_BPF_STORAGES, &nested);
        }
        let map = storage.map(|(_, id)| id);
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = Request {
                family: u8::try_from(family).map_err(|_| Errno::EAFNOSUPPORT)?,
                protocol: narrow,
                extensions: if token { WITH_INFO } else { 0 },
                padding: 0,
                states,
                id: SocketId { port: port.unwrap_or(0).to_be(), ..SocketId::zeroed() },
            };
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            self.ask(SOCK_DIAG_BY_FAMILY, flags, &request, &attributes)?;
            self.answers(|body| each_found(body, protocol, map, &mut each))?;
        }
        Ok(())
    }

    /// Ends a socket if it still is what it was when it was found.
    pub(in crate::dataplane) fn destroy(&mut self, protocol: u8, found: &Found) -> nix::Result<()> {
        let request = Request {
            family: found.family,
            protocol,
            extensions: 0,
            padding: 0,
            states: u32::MAX,
            id: found.id,
        };
        self.ask(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, &request, &[])?;
        self.answers(|_| {})
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        request: &Request,
        attributes: &[u8],
    ) -> nix::Result<()> {
        self.sequence += 1;
        let length = size_of::<Header>() + size_of::<Request>() + attributes.len();
        let length = u32::try_from(length).map_err(|_| Errno::EMSGSIZE)?;
        let header = Header { length, kind, flags, sequence: self.sequence, port: 0 };
        let message = [bytemuck::bytes_of(&header), bytemuck::bytes_of(request), attributes];
        send(self.socket.as_raw_fd(), &message.concat(), MsgFlags::empty()).map(drop)
    }

    /// Reads to the end what the kernel answers to the last question.
    fn answers(&mut self, mut each: impl FnMut(&[u8])) -> nix::Result<()> {
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            let mut rest = self.buffer.get(..length).ok_or(Errno::EMSGSIZE)?;
            while let Some(header) = read::<Header>(rest, 0) {
                let length = usize::try_from(header.length).map_err(|_| Errno::EBADMSG)?;
                let body = rest.get(size_of::<Header>()..length).ok_or(Errno::EBADMSG)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                // What is left of a question that was given up.
                if header.sequence != self.sequence {
                    continue;
                }
                match header.kind {
                    NLMSG_ERROR | NLMSG_DONE => return outcome(body),
                    SOCK_DIAG_BY_FAMILY => each(body),
                    _ => {}
                }
            }
        }
    }
}

/// What the kernel says at the end: 0, or an error as a negative number.
fn outcome(body: &[u8]) -> nix::Result<()> {
    match read::<i32>(body, 0) {
        None | Some(0..) => Ok(()),
        Some(error) => Err(Errno::from_raw(-error)),
    }
}

/// Reads one socket.
fn each_found(body: &[u8], protocol: u32, map: Option<u32>, each: &mut impl FnMut(Found)) {
    let Some(Message { family, id, uid, inode, .. }) = read::<Message>(body, 0) else { return };
    let [a, b, c, d, ..] = id.address;
    let ip = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::new(a, b, c, d).into(),
        _ => Ipv6Addr::from(id.address).to_canonical(),
    };
    let [low, high] = id.cookie.map(u64::from);
    let mut found = Found {
        family,
        id,
        cookie: high << 32 | low,
        peer: SocketAddr::new(ip, u16::from_be(id.port)),
        token: None,
        inode,
        uid,
        row: None,
        since: 0,
    };
    for (kind, value) in attributes(body.get(size_of::<Message>()..).unwrap_or_default()) {
        match kind {
            INET_DIAG_INFO if protocol == lb_common::protocol::MPTCP => {
                found.token = read(value, TOKEN_IN_INFO);
            }
            INET_DIAG_ULP_INFO => {
                found.token = nested(value, INET_ULP_INFO_MPTCP)
                    .and_then(|subflow| nested(subflow, MPTCP_SUBFLOW_ATTR_TOKEN_LOC))
                    .and_then(|token| read(token, 0));
            }
            INET_DIAG_SK_BPF_STORAGES => {
                if let Some((row, since)) = map.and_then(|map| stored(value, map)) {
                    (found.row, found.since) = (Some(row), since);
                }
            }
            _ => {}
        }
    }
    each(found);
}

/// The row that an MPTCP socket keeps, and since when.
fn stored(storages: &[u8], map: u32) -> Option<(ConnectionRow, u32)> {
    let storages = attributes(storages).filter(|(kind, _)| *kind == SK_DIAG_BPF_STORAGE);
    let is_ours = |storage: &&[u8]| {
        nested(storage, SK_DIAG_BPF_STORAGE_MAP_ID).and_then(|id| read(id, 0)) == Some(map)
    };
    let ours = storages.map(|(_, storage)| storage).find(is_ours)?;
    let rows: SocketRows = read(nested(ours, SK_DIAG_BPF_STORAGE_MAP_VALUE)?, 0)?;
    let [row, beside, ..] = rows.rows;
    (row.cookie != 0).then_some((row, u32::try_from(beside.cookie).unwrap_or(0)))
}

// === attributes ===

fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Flags in the kind: nested, in network order.
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(read::<u16>(rest, 0)?);
        let kind = read::<u16>(rest, 2)? & KIND;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn nested(value: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(value).find(|(other, _)| *other == kind).map(|(_, value)| value)
}

fn read<T: Pod>(bytes: &[u8], at: usize) -> Option<T> {
    let bytes = bytes.get(at..at.checked_add(size_of::<T>())?)?;
    Some(bytemuck::pod_read_unaligned(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    const UDP: Question =
        Question { protocol: lb_common::protocol::UDP as u32, port: None, token: false };

    fn found(question: &Question) -> Vec<Found> {
        let mut all = Vec::new();
        Diag::open().unwrap().dump(question, None, |found| all.push(found)).unwrap();
        all
    }

    #[test]
    fn connected_sockets_are_found_and_no_others() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = peer.local_addr().unwrap();
        let cookie = |socket: &UdpSocket| socket2::SockRef::from(socket).cookie().unwrap();
        let [v4, mapped] = ["127.0.0.1:0", "[::]:0"].map(|own| UdpSocket::bind(own).unwrap());
        v4.connect(address).unwrap();
        mapped.connect(("::ffff:127.0.0.1", address.port())).unwrap();
        let question = Question { port: Some(address.port()), ..UDP };
        let all = found(&question);
        for socket in [&v4, &mapped] {
            let socket = all.iter().find(|found| found.cookie == cookie(socket)).unwrap();
            assert_eq!(socket.peer, address);
        }
        assert!(found(&UDP).iter().all(|found| found.cookie != cookie(&peer)), "it has no peer");
    }

    #[test]
    fn a_socket_that_went_elsewhere_is_not_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let tcp = lb_common::protocol::TCP;
        let question = Question { protocol: tcp.into(), port: Some(address.port()), token: false };
        let socket = *found(&question).iter().find(|found| found.peer == address).unwrap();
        let mut other = socket;
        other.id.cookie[0] += 1;
        let mut diag = Diag::open().unwrap();
        assert_eq!(diag.destroy(tcp, &other), Err(Errno::ENOENT));
        assert!(stream.take_error().unwrap().is_none());
        diag.destroy(tcp, &socket).unwrap();
        assert_eq!(stream.take_error().unwrap().and_then(|e| e.raw_os_error()), Some(103));
    }

    #[test]
    fn broken_answers_are_none() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0, "shorter than its head");
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0, "longer than what there is");
        let mut written = Vec::new();
        put(&mut written, 7, &[1, 2, 3]);
        put(&mut written, 8, &[4]);
        assert_eq!(attributes(&written).collect::<Vec<_>>(), [(7, &[1u8, 2, 3][..]), (8, &[4])]);
        each_found(&[0; 8], 6, None, &mut |_| panic!("not a whole socket"));
    }
}
