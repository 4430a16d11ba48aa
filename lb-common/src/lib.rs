//! The contract between the kernel side (`lb-bpf`) and the agent (`lb-agent`).
//!
//! Everything both sides must agree on lives here and nowhere else: the rows of the tables
//! ([`rows`]), the constants below, and the arithmetic that chooses a backend ([`pick`]). The crate
//! is `no_std` when it is compiled for the kernel; the parts that need memory (building an alias
//! table) exist on the host only.
//!
//! | table | type | key -> value | writer |
//! |---|---|---|---|
//! | `FRONTENDS` | HASH | [`rows::FrontendKey`] -> frontend index `u32` | agent; never overwritten |
//! | `BLOCKS` | ARRAY, mapped | frontend index -> [`rows::BlockWord`] | agent; one 64-bit store |
//! | `BACKENDS` | ARRAY, mapped | row -> [`rows::BlockHeader`] or [`rows::BackendRow`] | agent; immutable while reachable |
//! | `CONNECTIONS` | ARRAY | socket cookie & mask -> [`rows::ConnectionRow`] | kernel |
//! | `CONNECTIONS_OVERFLOW` | HASH | socket cookie -> [`rows::ConnectionRow`] | kernel |
//! | `CONNECTION_TIMES` | ARRAY | socket cookie & mask -> [`since`] of that row of `CONNECTIONS` | kernel |
//! | `OVERFLOW_TIMES` | HASH | socket cookie -> [`since`] of that row of `CONNECTIONS_OVERFLOW` | kernel |
//! | `SOCKETS` | SK_STORAGE | socket -> [`rows::SocketRows`] | kernel |
//! | `AFFINITY` | LRU_HASH | [`rows::AffinityKey`] -> [`rows::AffinityWord`] | kernel |
//! | `BACKEND_STATS` | ARRAY, mapped | backend id -> [`rows::BackendCounters`] | kernel; agent zeroes idle ones |
//! | `SERVICE_STATS` | PERCPU_ARRAY | service id -> [`rows::ServiceCounters`] | kernel |
//! | `BACKEND_FILTER` | ARRAY, mapped | [`filter`] -> 64 bits | agent |
//! | `CONTROL` | ARRAY, mapped | [`control`] -> `u64` | see there |
//! | `EVENTS` | RINGBUF | [`rows::Event`] and [`rows::OutcomeEvent`] records | kernel, while somebody traces |
//! | `BACKEND_OUTCOMES` | ARRAY, mapped | backend id -> [`rows::BackendOutcomes`] | kernel; agent zeroes idle ones |
//! | `FAILURES` | RINGBUF | [`rows::FailureRecord`] records | kernel |

#![cfg_attr(target_arch = "bpf", no_std)]
#![forbid(unsafe_code)]

pub mod pick;
pub mod rows;

/// Version of the table layout; part of the pin path. Raise it with any change to a row, a key, a
/// table's type or the meaning of a field. With the feature `other-layout` it is another, and so is what
/// [`rows::BlockWord`] means: only a test of an upgrade is built so.
pub const LAYOUT_VERSION: u32 = if cfg!(feature = "other-layout") { 4000 } else { 1 };

/// Version of what the programs keep of sockets, clients and counts: all tables but `FRONTENDS`,
/// `BLOCKS`, `BACKENDS`, `EVENTS` and `FAILURES`. An agent whose layout is another takes over tables of
/// its own version of these. Raise it, together with [`LAYOUT_VERSION`], with any change to them.
pub const MEMORY_VERSION: u64 = 1;

/// Mark (`SO_MARK`) of sockets that are never translated: the agent's own, when it probes backends.
/// Setting it takes `CAP_NET_ADMIN` (or `CAP_NET_RAW`).
pub const PROBE_MARK: u32 = 0x6c62_0001;

/// A block never has more backend rows than this, so that a binary search over it takes at most
/// [`MEMBER_STEPS`] steps, which is the bound the verifier is given.
pub const MAX_BLOCK_ROWS: u32 = (1 << MEMBER_STEPS) - 1;

/// Steps of the membership search: enough for [`MAX_BLOCK_ROWS`] rows.
pub const MEMBER_STEPS: u32 = 17;

/// Pairs of frontend and backend that an unconnected UDP socket remembers.
pub const SOCKET_PAIRS: usize = 8;

/// Cgroups whose sockets can be left alone, with those below them.
pub const MAX_EXCLUDED: usize = 4;

/// Protocol numbers as a frontend key carries them (IANA).
pub mod protocol {
    /// TCP, also for the subflow of an MPTCP socket.
    pub const TCP: u8 = 6;
    /// UDP; UDPLITE (136) is another protocol and is left alone.
    pub const UDP: u8 = 17;
    /// What the reverse hooks see on an MPTCP socket.
    pub const MPTCP: u32 = 262;
}

/// Values of [`rows::BlockHeader::policy`].
pub mod policy {
    /// Weighted random choice.
    pub const RANDOM: u8 = 0;
    /// Two weighted random candidates; the one with fewer open sockets per weight.
    pub const LEAST_CONNECTIONS: u8 = 1;
}

/// Values of [`rows::BlockHeader::no_backend`]: what the caller sees when a block has no rows.
pub mod no_backend {
    /// `ECONNREFUSED`.
    pub const REFUSE: u8 = 0;
    /// `EHOSTUNREACH`.
    pub const UNREACHABLE: u8 = 1;
    /// The address is left as it was dialled.
    pub const PASS: u8 = 2;
}

/// Values of [`rows::BlockHeader::scope`]: whose sockets a frontend is for.
pub mod scope {
    /// Every socket under the cgroup.
    pub const EVERYWHERE: u8 = 0;
    /// Sockets in the host's network namespace only.
    pub const HOST: u8 = 1;
}

/// Values of [`rows::BlockHeader::affinity`]: who counts as one client.
pub mod affinity {
    /// No session affinity.
    pub const NONE: u8 = 0;
    /// The socket's network namespace: a pod.
    pub const NETNS: u8 = 1;
    /// The effective user id of the calling process.
    pub const UID: u8 = 2;
    /// The cgroup of the calling process.
    pub const CGROUP: u8 = 3;
    /// The calling process (thread group id).
    pub const PROCESS: u8 = 4;
}

/// A filter of all addresses that have ever been a backend's: a socket that dials one of them by its
/// own name needs more care than one that goes anywhere else. Bits are only ever set.
pub mod filter {
    use crate::rows::Address;

    /// Words of 64 bits.
    pub const WORDS: u32 = 1 << 14;

    /// Word and bit of an address and a port (in network order).
    #[inline(always)]
    pub const fn position(address: &Address, port: u16) -> (u32, u64) {
        let [a, b, c, d] = address.0;
        let mixed = (a ^ c.rotate_left(11)).wrapping_mul(0x85eb_ca6b)
            ^ (b ^ (port as u32).rotate_left(16)).wrapping_mul(0xc2b2_ae35)
            ^ d.wrapping_mul(0x9e37_79b1);
        let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x2c1b_3c6d);
        ((mixed >> 6) % WORDS, 1 << (mixed % 64))
    }
}

/// Since when a socket goes where it goes, in 32 bits: about a quarter of a second coarse, and good
/// for 36 years.
pub mod since {
    /// A unit is 2^28 nanoseconds, because a shift costs less than a division.
    const SHIFT: u32 = 28;

    /// From the monotonic clock, in nanoseconds. Never 0 in those 36 years: that is a row that was
    /// written before there were times.
    #[inline(always)]
    pub const fn stamp(now_ns: u64) -> u32 {
        ((now_ns >> SHIFT) as u32).wrapping_add(1)
    }

    /// Back to nanoseconds of the monotonic clock, a unit too early at most; `None` if unknown.
    pub const fn nanoseconds(stamp: u32) -> Option<u64> {
        match stamp.checked_sub(1) {
            Some(units) => Some((units as u64) << SHIFT),
            None => None,
        }
    }
}

/// Indexes of the `CONTROL` table.
pub mod control {
    /// How many rows `CONNECTIONS_OVERFLOW` holds; kept by the kernel side. While it is 0, nobody
    /// pays for a lookup there.
    pub const OVERFLOW_ROWS: u32 = 0;
    /// Until when somebody reads `EVENTS`: monotonic clock, nanoseconds; 0: nobody. Written by the
    /// reader, again and again, so that a reader that dies is not written for.
    pub const TRACING: u32 = 1;
    /// Events that did not fit into the ring.
    pub const LOST_EVENTS: u32 = 2;
    /// [`crate::MEMORY_VERSION`] of the agent that filled the tables; 0: it told none. This and the
    /// rows of `BACKEND_STATS` are the same in every layout.
    pub const MEMORY: u32 = 3;
    /// Entries in the table.
    pub const ENTRIES: u32 = 4;
}

/// Values of [`rows::FailureRecord::kind`].
pub mod failure {
    /// The backend's host answered with a reset.
    pub const REFUSED: u32 = 0;
    /// Nobody answered, or a router said that there is no way.
    pub const UNANSWERED: u32 = 1;
}

/// Values of [`rows::OutcomeEvent::kind`].
pub mod outcome {
    /// The connection came about.
    pub const ESTABLISHED: u32 = 0;
    /// The backend's host answered with a reset.
    pub const REFUSED: u32 = 1;
    /// The first SYN was not answered; the kernel goes on trying.
    pub const UNANSWERED: u32 = 2;
    /// The kernel gave up: no answer in all its time.
    pub const TIMED_OUT: u32 = 3;
    /// The application gave up before the attempt was decided.
    pub const ABANDONED: u32 = 4;
    /// The connection is over.
    pub const CLOSED: u32 = 5;
    /// A router said that there is no way, or this host knew of none.
    pub const UNREACHABLE: u32 = 6;
}

/// Bits of the program's `FEATURES` global: what the running kernel can do, and what measurements
/// leave out. The verifier removes the code that is never reached.
pub mod features {
    /// `bpf_set_retval` (5.18): the caller sees the right errno instead of `EPERM`.
    pub const SET_RETVAL: u32 = 1 << 0;
    /// `bpf_skc_to_mptcp_sock` (5.19).
    pub const MPTCP: u32 = 1 << 1;
    /// What becomes of connects is followed: `bpf_skc_to_tcp_sock` (5.9), and the kernel describes
    /// its types.
    pub const OUTCOMES: u32 = 1 << 2;
    /// Atomic operations that return what was there before (5.12), and functions that take memory
    /// (5.13). Not a matter of dead code: an object that has them is refused as a whole, so there is
    /// one without.
    pub const ATOMICS: u32 = 1 << 3;
    /// `bpf_ktime_get_coarse_ns` (5.11).
    pub const COARSE_CLOCK: u32 = 1 << 4;
    /// Where sockets went is not remembered. For measurements only, which say so what it costs.
    pub const UNTRACKED: u32 = 1 << 30;
    /// Nothing is counted. For measurements only.
    pub const UNCOUNTED: u32 = 1 << 31;
}

#[cfg(test)]
mod tests {
    use super::since;

    #[test]
    fn times_come_back_a_unit_too_early_at_most() {
        const UNIT: u64 = 1 << 28;
        let years = 36 * 365 * 24 * 3600 * 1_000_000_000;
        for now in [0, 1, UNIT - 1, UNIT, UNIT + 1, 3_600_000_000_000, years] {
            let then = since::nanoseconds(since::stamp(now)).expect("a time");
            assert!(then <= now && now - then < UNIT, "{now} {then}");
        }
        assert_eq!(since::nanoseconds(0), None);
    }
}
