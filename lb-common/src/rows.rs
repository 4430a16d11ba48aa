//! Rows of the kernel tables. All are `repr(C)` without padding, which the `Pod` derive proves at
//! compile time; the tests below pin every byte.
//!
//! Addresses and ports are kept as the kernel has them: in network order, IPv4 as v4-mapped IPv6.

use bytemuck::{Pod, Zeroable};

/// An IPv6 or v4-mapped IPv4 address: 16 bytes in network order, read as four native words because
/// that is how a program may load and store them in its context.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Address(pub [u32; 4]);

/// Key of `FRONTENDS`: what a client dials.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FrontendKey {
    /// The address.
    pub address: Address,
    /// The port, in network order.
    pub port: u16,
    /// [`crate::protocol::TCP`] or [`crate::protocol::UDP`].
    pub protocol: u8,
    /// Always 0.
    pub reserved: u8,
}

/// Value of `BLOCKS`: where a frontend's block begins and how many rows may be picked, in one word
/// that is stored and loaded whole. 0 means that nothing has been published yet; row 0 of
/// `BACKENDS` is therefore never part of a block.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct BlockWord(pub u64);

/// First row of a block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct BlockHeader {
    /// One of [`crate::policy`].
    pub policy: u8,
    /// One of [`crate::no_backend`].
    pub no_backend: u8,
    /// One of [`crate::affinity`].
    pub affinity: u8,
    /// One of [`crate::scope`].
    pub scope: u8,
    /// Seconds an affinity entry lives after its last use.
    pub affinity_timeout: u32,
    /// Frontends with the same group share a client's entry.
    pub affinity_group: u32,
    /// Index into `SERVICE_STATS`.
    pub service_id: u32,
    /// Rows that follow the ones that may be picked: backends that get no new connections but are
    /// still listed, with their ids (draining, disabled).
    pub resting: u32,
    /// Always 0.
    pub reserved: [u32; 3],
}

/// A backend of a block. The rows that may be picked are sorted by `id`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct BackendRow {
    /// The backend's address.
    pub address: Address,
    /// The backend's port, in network order.
    pub port: u16,
    /// Relative share of new connections; compared by `least_connections`.
    pub weight: u16,
    /// Index into `BACKEND_STATS`.
    pub id: u32,
    /// This slot keeps a draw whose fraction lies below; see [`crate::pick`].
    pub threshold: u32,
    /// The slot (0-based) that gets the other draws.
    pub alias: u32,
}

/// Which socket went where.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct ConnectionRow {
    /// The socket's cookie; 0 means a free row. In [`SocketRows`]: the row's use stamp.
    pub cookie: u64,
    /// What the client dialled.
    pub frontend: Address,
    /// Where it went.
    pub backend: Address,
    /// Port dialled, in network order.
    pub frontend_port: u16,
    /// The backend's port, in network order.
    pub backend_port: u16,
    /// The backend's id.
    pub backend_id: u32,
}

/// What `SOCKETS` keeps on a socket. An unconnected UDP socket has a row for each of the last
/// frontends it sent to, their `cookie` field being a use stamp (0: free, highest: last used). An
/// MPTCP socket has its connection in the first row, and since when ([`crate::since`]) in the
/// `cookie` field of the second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketRows {
    /// The rows, in no order.
    pub rows: [ConnectionRow; crate::SOCKET_PAIRS],
}

/// Key of `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct AffinityKey {
    /// Who the client is, by the block's kind of affinity.
    pub client: u64,
    /// [`BlockHeader::affinity_group`].
    pub group: u32,
    /// One of [`crate::affinity`], so that a changed kind can't meet old entries.
    pub kind: u32,
}

/// Value of `AFFINITY`: backend id (high half) and deadline in seconds of the monotonic clock (low
/// half), in one word so that no reader sees halves of two writes.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct AffinityWord(pub u64);

/// Value of `BACKEND_STATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct BackendCounters {
    /// Sockets sent to this backend since its id was assigned (for unconnected UDP: picks).
    pub connects: u64,
    /// Those of them that were closed, went elsewhere, or are not remembered. The difference is the
    /// number of sockets that are open to the backend: one counter less to write when connecting.
    pub closed: u64,
}

/// Value of `BACKEND_OUTCOMES`: what became of TCP connects to a backend since its id was assigned.
/// One cache line. An attempt counts under the way it ended, and under `unanswered` besides if its
/// SYN had to be repeated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct BackendOutcomes {
    /// Connections that came about.
    pub established: u64,
    /// Attempts that were answered by a reset, or by ICMP's word for it.
    pub refused: u64,
    /// Attempts whose first SYN was not answered, or only by a router that knows no way.
    pub unanswered: u64,
    /// Attempts that the application gave up before they were decided.
    pub abandoned: u64,
    /// Attempts that failed since one last succeeded. Giving up is neither.
    pub consecutive: u64,
    /// When one last succeeded: monotonic clock, nanoseconds, a few milliseconds coarse; 0: never.
    pub last_success_ns: u64,
    /// When one last failed: monotonic clock, nanoseconds; 0: never.
    pub last_failure_ns: u64,
    /// Round-trip time that the handshake saw, in eighths of a microsecond: a mean that gives the
    /// newest an eighth of the weight; 0: none yet.
    pub srtt_eighths: u32,
    /// Always 0.
    pub reserved: u32,
}

/// A record of `FAILURES`: an attempt failed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FailureRecord {
    /// Monotonic clock, nanoseconds.
    pub time_ns: u64,
    /// The backend's id.
    pub backend_id: u32,
    /// One of [`crate::failure`].
    pub kind: u32,
    /// [`BackendOutcomes::consecutive`] with this one.
    pub consecutive: u64,
}

/// Value of `SERVICE_STATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceCounters {
    /// Sockets translated.
    pub connects: u64,
    /// Connects and datagrams that found no backend.
    pub no_backend: u64,
    /// Sockets translated but not remembered, because `CONNECTIONS_OVERFLOW` was full: their peer
    /// name is the backend's, and they are missing from `ACTIVE`.
    pub untracked: u64,
}

/// A record of `EVENTS`: one decision. Records are told apart by their size, and by nothing else:
/// they are read while they are written, so none outlives a change of its form.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// When the decision was begun: monotonic clock, nanoseconds.
    pub time_ns: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// The calling process (high half: process, low half: thread).
    pub pid_tgid: u64,
    /// Its cgroup's id.
    pub cgroup: u64,
    /// What was dialled.
    pub frontend: FrontendKey,
    /// Where it went: a backend, or what was dialled if there was none.
    pub backend: Address,
    /// Port of the backend, in network order.
    pub backend_port: u16,
    /// One of [`crate::no_backend`] when there was no backend.
    pub no_backend: u8,
    /// 1 if a backend was chosen.
    pub translated: u8,
    /// The backend's id.
    pub backend_id: u32,
    /// The service's id.
    pub service_id: u32,
    /// The calling thread's name, ended by a zero where it is shorter.
    pub comm: [u8; 16],
    /// Its effective user.
    pub uid: u32,
    /// Nanoseconds from the frontend that was found to what was remembered of the choice.
    pub took_ns: u32,
}

/// A record of `EVENTS`: what became of a TCP connect that was translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct OutcomeEvent {
    /// Monotonic clock, nanoseconds.
    pub time_ns: u64,
    /// The socket's cookie, as the decision had it.
    pub cookie: u64,
    /// Bytes that the backend has acknowledged, once the connection is closed.
    pub sent: u64,
    /// Bytes that came from the backend, once the connection is closed.
    pub received: u64,
    /// The backend's id; 0 once the connection is closed.
    pub backend_id: u32,
    /// One of [`crate::outcome`].
    pub kind: u32,
}

// === impl Address ===

impl Address {
    /// The v4-mapped form of an IPv4 address that is held as its network-order word.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), word])
    }

    /// The IPv4 word of a v4-mapped address, in network order.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0xffff_u32.to_be()
    }
}

#[cfg(not(target_arch = "bpf"))]
impl From<std::net::IpAddr> for Address {
    fn from(ip: std::net::IpAddr) -> Self {
        let octets = match ip {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(v6) => v6.octets(),
        };
        Self(bytemuck::cast(octets))
    }
}

#[cfg(not(target_arch = "bpf"))]
impl From<Address> for std::net::IpAddr {
    /// v4-mapped addresses come back as IPv4.
    fn from(address: Address) -> Self {
        let octets: [u8; 16] = bytemuck::cast(address.0);
        std::net::IpAddr::V6(octets.into()).to_canonical()
    }
}

// === impl FrontendKey ===

#[cfg(not(target_arch = "bpf"))]
impl FrontendKey {
    /// The key of a frontend.
    pub fn new(address: std::net::IpAddr, port: u16, protocol: u8) -> Self {
        Self { address: address.into(), port: port.to_be(), protocol, reserved: 0 }
    }

    /// Address and port as a person writes them.
    pub fn socket_addr(&self) -> std::net::SocketAddr {
        std::net::SocketAddr::new(self.address.into(), u16::from_be(self.port))
    }
}

// === impl BlockWord ===

impl BlockWord {
    /// `base` is the row of the header, `rows` how many backends after it may be picked.
    pub const fn new(base: u32, rows: u32) -> Self {
        let (high, low) = Self::placed(base, rows);
        Self((high as u64) << 32 | low as u64)
    }

    /// Row of the block's header.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        Self::placed((self.0 >> 32) as u32, self.0 as u32).0
    }

    /// Backends that may be picked.
    #[inline(always)]
    pub const fn rows(self) -> u32 {
        Self::placed((self.0 >> 32) as u32, self.0 as u32).1
    }

    /// The first is the high half; in the other layout it is the low one.
    #[inline(always)]
    const fn placed(one: u32, two: u32) -> (u32, u32) {
        if cfg!(feature = "other-layout") { (two, one) } else { (one, two) }
    }
}

// === impl BackendCounters ===

impl BackendCounters {
    /// Sockets open to the backend.
    #[inline(always)]
    pub const fn active(&self) -> u64 {
        self.connects.saturating_sub(self.closed)
    }
}

// === impl AffinityWord ===

impl AffinityWord {
    /// `deadline` in seconds of the monotonic clock.
    #[inline(always)]
    pub const fn new(backend_id: u32, deadline: u32) -> Self {
        Self((backend_id as u64) << 32 | deadline as u64)
    }

    /// The backend the client stays with.
    #[inline(always)]
    pub const fn backend_id(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Until when, in seconds of the monotonic clock.
    #[inline(always)]
    pub const fn deadline(self) -> u32 {
        self.0 as u32
    }
}

const _: () = {
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<FrontendKey>() == 20);
    assert!(size_of::<BlockWord>() == 8);
    assert!(size_of::<BlockHeader>() == 32);
    assert!(size_of::<BackendRow>() == 32);
    assert!(size_of::<ConnectionRow>() == 48);
    assert!(size_of::<SocketRows>() == 384);
    assert!(size_of::<AffinityKey>() == 16);
    assert!(size_of::<AffinityWord>() == 8);
    assert!(size_of::<BackendCounters>() == 16);
    assert!(size_of::<BackendOutcomes>() == 64);
    assert!(size_of::<FailureRecord>() == 24);
    assert!(size_of::<ServiceCounters>() == 24);
    assert!(size_of::<Event>() == 104);
    assert!(size_of::<OutcomeEvent>() == 40);
};

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::bytes_of;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

    #[test]
    fn address_bytes_are_network_order_and_v4_is_mapped() {
        let expect = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 0, 1];
        assert_eq!(bytes_of(&Address::from(V4)), expect);
        let word = u32::from_ne_bytes([10, 96, 0, 1]);
        assert_eq!(Address::from_v4_word(word), Address::from(V4));
        assert_eq!(Address::from(V4).v4_word(), word);
        assert!(Address::from(V4).is_v4());
        assert_eq!(IpAddr::from(Address::from(V4)), V4);

        let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 1));
        assert_eq!(bytes_of(&Address::from(v6))[..4], [0xfd, 0, 0, 0x96]);
        assert!(!Address::from(v6).is_v4());
        assert_eq!(IpAddr::from(Address::from(v6)), v6);
    }

    #[test]
    fn frontend_key_bytes() {
        let key = FrontendKey::new(V4, 0x1234, crate::protocol::UDP);
        let bytes = bytes_of(&key);
        assert_eq!(bytes[16..], [0x12, 0x34, 17, 0]);
        assert_eq!(key.socket_addr(), "10.96.0.1:4660".parse().unwrap());
    }

    #[test]
    fn block_header_bytes() {
        let header = BlockHeader {
            policy: 1,
            no_backend: 2,
            affinity: 3,
            scope: 1,
            affinity_timeout: 0x0102_0304,
            affinity_group: 5,
            service_id: 6,
            resting: 7,
            reserved: [0; 3],
        };
        let mut expect = vec![1, 2, 3, 1];
        for word in [0x0102_0304_u32, 5, 6, 7, 0, 0, 0] {
            expect.extend(word.to_ne_bytes());
        }
        assert_eq!(bytes_of(&header), expect);
    }

    #[test]
    fn backend_row_bytes() {
        let row = BackendRow {
            address: V4.into(),
            port: 80u16.to_be(),
            weight: 9,
            id: 0x0a0b_0c0d,
            threshold: u32::MAX,
            alias: 2,
        };
        let mut expect = bytes_of(&row.address).to_vec();
        expect.extend([0, 80]);
        expect.extend(9u16.to_ne_bytes());
        for word in [0x0a0b_0c0d, u32::MAX, 2] {
            expect.extend(word.to_ne_bytes());
        }
        assert_eq!(bytes_of(&row), expect);
    }

    #[test]
    fn connection_row_bytes() {
        let row = ConnectionRow {
            cookie: 0x1122_3344_5566_7788,
            frontend: V4.into(),
            backend: Address([1, 2, 3, 4]),
            frontend_port: 80u16.to_be(),
            backend_port: 8080u16.to_be(),
            backend_id: 77,
        };
        let mut expect = 0x1122_3344_5566_7788_u64.to_ne_bytes().to_vec();
        expect.extend(bytes_of(&row.frontend));
        expect.extend(bytes_of(&row.backend));
        expect.extend([0, 80, 0x1f, 0x90]);
        expect.extend(77u32.to_ne_bytes());
        assert_eq!(bytes_of(&row), expect);
    }

    #[test]
    fn words_hold_both_halves() {
        let word = BlockWord::new(0xdead_beef, 17);
        assert_eq!((word.base(), word.rows()), (0xdead_beef, 17));
        let word = AffinityWord::new(u32::MAX, 3);
        assert_eq!((word.backend_id(), word.deadline()), (u32::MAX, 3));
    }

    #[test]
    fn counters_and_affinity_bytes() {
        let counters = BackendCounters { connects: 7, closed: 3 };
        assert_eq!(bytes_of(&counters), [7u64.to_ne_bytes(), 3u64.to_ne_bytes()].concat());
        assert_eq!(counters.active(), 4);
        let counters = ServiceCounters { connects: 1, no_backend: 2, untracked: 3 };
        assert_eq!(bytes_of(&counters), [1u64, 2, 3].map(u64::to_ne_bytes).concat());
        let key = AffinityKey { client: 0x0102_0304_0506_0708, group: 9, kind: 2 };
        let mut expect = 0x0102_0304_0506_0708_u64.to_ne_bytes().to_vec();
        expect.extend([9u32.to_ne_bytes(), 2u32.to_ne_bytes()].concat());
        assert_eq!(bytes_of(&key), expect);
    }

    #[test]
    fn outcome_bytes() {
        let outcomes = BackendOutcomes {
            established: 1,
            refused: 2,
            unanswered: 3,
            abandoned: 4,
            consecutive: 5,
            last_success_ns: 6,
            last_failure_ns: 7,
            srtt_eighths: 8,
            reserved: 0,
        };
        let mut expect = [1u64, 2, 3, 4, 5, 6, 7].map(u64::to_ne_bytes).concat();
        expect.extend([8u32, 0].map(u32::to_ne_bytes).concat());
        assert_eq!(bytes_of(&outcomes), expect);
        let record = FailureRecord { time_ns: 1, backend_id: 2, kind: 3, consecutive: 4 };
        let mut expect = 1u64.to_ne_bytes().to_vec();
        expect.extend([2u32, 3].map(u32::to_ne_bytes).concat());
        expect.extend(4u64.to_ne_bytes());
        assert_eq!(bytes_of(&record), expect);
    }

    #[test]
    fn socket_rows_are_connection_rows() {
        let mut rows = SocketRows::default();
        rows.rows[1].cookie = 1;
        assert_eq!(bytes_of(&rows)[48..56], 1u64.to_ne_bytes());
        assert_eq!(bytes_of(&rows).len(), 48 * crate::SOCKET_PAIRS);
    }

    #[test]
    fn event_has_no_padding_before_its_words() {
        assert_eq!(std::mem::offset_of!(Event, frontend), 32);
        assert_eq!(std::mem::offset_of!(Event, backend), 52);
        assert_eq!(std::mem::offset_of!(Event, backend_id), 72);
        assert_eq!(std::mem::offset_of!(Event, took_ns), 100);
        assert_eq!(std::mem::offset_of!(OutcomeEvent, kind), 36);
    }
}
