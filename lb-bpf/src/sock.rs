//! The kernel's context of a call, read and written.
//!
//! Context fields are loaded one by one with volatile reads: the verifier knows each field by its
//! offset and width, and refuses the merged loads that an optimiser would make of them.

#![expect(
    unsafe_code,
    reason = "the context is a pointer from the kernel, and helpers are calls into it"
)]

mod tcp;

use crate::maps;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_get_netns_cookie, bpf_get_prandom_u32,
    bpf_get_socket_cookie, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_set_retval,
    bpf_skc_to_mptcp_sock,
};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use core::ffi::c_void;
use core::ptr::{NonNull, read_volatile, write_volatile};
use lb_common::rows::Address;
use lb_common::{features, protocol};

pub(crate) use tcp::{Moment, TcpCall, state};

/// The call goes on with the address as it is now in the context.
pub(crate) const PROCEED: i32 = 1;
/// The call fails, with `EPERM` unless another error was set.
const FAIL: i32 = 0;

const AF_INET6: u32 = 10;
/// Socket state of a connected UDP socket.
const TCP_ESTABLISHED: u32 = 1;

/// A call with an address; `V6` says which of the context's address fields it has.
pub(crate) struct SockAddr<'a, const V6: bool> {
    context: &'a SockAddrContext,
}

/// A socket that is being closed for the last time.
pub(crate) struct ReleasedSock<'a> {
    context: &'a SockContext,
}

impl<'a, const V6: bool> SockAddr<'a, V6> {
    #[inline(always)]
    pub(crate) fn new(context: &'a SockAddrContext) -> Self {
        Self { context }
    }

    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.context.sock_addr
    }

    /// The socket, for socket storage.
    #[inline(always)]
    pub(crate) fn sock(&self) -> *mut c_void {
        self.bpf_sock().cast()
    }

    #[inline(always)]
    fn bpf_sock(&self) -> *mut bpf_sock {
        // SAFETY: a context field; the kernel guarantees that it is a socket.
        unsafe { (*self.raw()).__bindgen_anon_1.sk }
    }

    #[inline(always)]
    pub(crate) fn protocol(&self) -> u32 {
        // SAFETY: a context field.
        unsafe { read_volatile(&raw const (*self.raw()).protocol) }
    }

    /// The address of the call: dialled, sent to, received from, or the peer's.
    #[inline(always)]
    pub(crate) fn address(&self) -> Address {
        if !V6 {
            // SAFETY: a context field.
            return Address::from_v4_word(unsafe {
                read_volatile(&raw const (*self.raw()).user_ip4)
            });
        }
        let words = unsafe { (&raw const (*self.raw()).user_ip6).cast::<u32>() };
        // SAFETY: the four words of a context field.
        unsafe {
            Address([
                read_volatile(words),
                read_volatile(words.add(1)),
                read_volatile(words.add(2)),
                read_volatile(words.add(3)),
            ])
        }
    }

    /// The port of the call, in network order.
    #[inline(always)]
    pub(crate) fn port(&self) -> u16 {
        // SAFETY: a context field; the port is its low half.
        unsafe { read_volatile(&raw const (*self.raw()).user_port) as u16 }
    }

    #[inline(always)]
    pub(crate) fn rewrite(&self, address: Address, port: u16) {
        // SAFETY: context fields that this program type may write, in the widths it may use.
        unsafe {
            if V6 {
                let words = (&raw mut (*self.raw()).user_ip6).cast::<u32>();
                write_volatile(words, address.0[0]);
                write_volatile(words.add(1), address.0[1]);
                write_volatile(words.add(2), address.0[2]);
                write_volatile(words.add(3), address.0[3]);
            } else {
                write_volatile(&raw mut (*self.raw()).user_ip4, address.v4_word());
            }
            write_volatile(&raw mut (*self.raw()).user_port, u32::from(port));
        }
    }

    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: a helper that takes the context.
        unsafe { bpf_get_socket_cookie(self.context.as_ptr()) }
    }

    #[inline(always)]
    pub(crate) fn netns(&self) -> u64 {
        // SAFETY: a helper that takes the context.
        unsafe { bpf_get_netns_cookie(self.context.as_ptr()) }
    }

    #[inline(always)]
    pub(crate) fn in_host_netns(&self) -> bool {
        let host = match maps::host_netns() {
            // SAFETY: a helper that takes no context for the initial namespace.
            0 => unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) },
            cookie => cookie,
        };
        self.netns() == host
    }

    /// The peer of a connected datagram socket.
    #[inline(always)]
    pub(crate) fn connected_peer(&self) -> Option<(Address, u16)> {
        let sock = self.bpf_sock();
        // SAFETY: fields of the socket that this program type may read, in their own widths.
        unsafe {
            if read_volatile(&raw const (*sock).state) != TCP_ESTABLISHED {
                return None;
            }
            let port = read_volatile(&raw const (*sock).dst_port);
            // All fields are read before any is chosen: loads in two branches would be merged into
            // one through a computed pointer, which the verifier refuses.
            let family = read_volatile(&raw const (*sock).family);
            let word = read_volatile(&raw const (*sock).dst_ip4);
            let words = (&raw const (*sock).dst_ip6).cast::<u32>();
            let v6 = Address([
                read_volatile(words),
                read_volatile(words.add(1)),
                read_volatile(words.add(2)),
                read_volatile(words.add(3)),
            ]);
            let address = if family == AF_INET6 { v6 } else { Address::from_v4_word(word) };
            Some((address, port))
        }
    }

    /// Whether the agent probes a backend with it.
    #[inline(always)]
    pub(crate) fn is_probe(&self) -> bool {
        let sock = self.bpf_sock();
        // SAFETY: a field of the socket that this program type may read, in its own width.
        unsafe { read_volatile(&raw const (*sock).mark) == lb_common::PROBE_MARK }
    }

    /// Whether the socket has neither a port nor a peer, and shows none of an earlier association.
    #[inline(always)]
    pub(crate) fn looks_unused(&self) -> bool {
        let sock = self.bpf_sock();
        // SAFETY: fields of the socket that this program type may read, in their own widths.
        unsafe {
            let words = (&raw const (*sock).dst_ip6).cast::<u32>();
            let trace = read_volatile(&raw const (*sock).src_port)
                | u32::from(read_volatile(&raw const (*sock).dst_port))
                | read_volatile(&raw const (*sock).dst_ip4)
                | read_volatile(words)
                | read_volatile(words.add(1))
                | read_volatile(words.add(2))
                | read_volatile(words.add(3));
            trace == 0
        }
    }

    /// The MPTCP socket that a TCP subflow belongs to. One word with a null, not a word beside a flag: the
    /// compiler may load such a word before it looks at the flag, which kernels before 6.3 refuse.
    #[inline(always)]
    pub(crate) fn mptcp(&self) -> Option<NonNull<c_void>> {
        if !maps::has(features::MPTCP) {
            return None;
        }
        // SAFETY: a helper that takes a socket and returns null for plain TCP.
        NonNull::new(unsafe { bpf_skc_to_mptcp_sock(self.sock()) }.cast())
    }

    /// Makes the call fail with this errno (positive).
    #[inline(always)]
    pub(crate) fn fail(&self, errno: i32) -> i32 {
        if maps::has(features::SET_RETVAL) {
            // SAFETY: a helper without pointers. It can't fail for an errno in range, and if it did
            // the caller would see EPERM.
            unsafe { bpf_set_retval(-errno) };
        }
        FAIL
    }
}

impl<'a> ReleasedSock<'a> {
    #[inline(always)]
    pub(crate) fn new(context: &'a SockContext) -> Self {
        Self { context }
    }

    #[inline(always)]
    pub(crate) fn protocol(&self) -> u32 {
        // SAFETY: a context field.
        unsafe { read_volatile(&raw const (*self.context.sock).protocol) }
    }

    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: a helper that takes the context.
        unsafe { bpf_get_socket_cookie(self.context.as_ptr()) }
    }

    #[inline(always)]
    pub(crate) fn sock(&self) -> *mut c_void {
        self.context.as_ptr()
    }

    /// Whether a TCP or MPTCP socket is closed before its connect was answered.
    #[inline(always)]
    pub(crate) fn is_dialling(&self) -> bool {
        // SAFETY: a context field.
        unsafe { read_volatile(&raw const (*self.context.sock).state) == state::SYN_SENT }
    }

    #[inline(always)]
    pub(crate) fn is_mptcp(&self) -> bool {
        self.protocol() == protocol::MPTCP
    }
}

#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// The monotonic clock as of the last tick, which is cheaper to read; the exact one where the kernel
/// has only that.
#[inline(always)]
pub(crate) fn now_coarse_ns() -> u64 {
    if !maps::has(features::COARSE_CLOCK) {
        return now_ns();
    }
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The monotonic clock, in seconds.
#[inline(always)]
pub(crate) fn now_seconds() -> u32 {
    (now_ns() / 1_000_000_000) as u32
}

#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
pub(crate) fn pid_tgid() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_pid_tgid() }
}

#[inline(always)]
pub(crate) fn process() -> u64 {
    pid_tgid() >> 32
}

#[inline(always)]
pub(crate) fn uid() -> u64 {
    // SAFETY: a helper without arguments; the user is the low half.
    u64::from(unsafe { bpf_get_current_uid_gid() } as u32)
}

#[inline(always)]
pub(crate) fn cgroup() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The calling thread's name.
#[inline(always)]
pub(crate) fn comm() -> [u8; 16] {
    let mut comm = [0u64; 2];
    // SAFETY: the helper fills as many bytes as it is told there are.
    unsafe { bpf_get_current_comm((&raw mut comm).cast(), 16) };
    // SAFETY: 16 bytes either way.
    unsafe { core::mem::transmute(comm) }
}

/// Whether the calling process is in a cgroup that is left alone, or below one. Where there is none,
/// all that is left of this is one load.
#[inline(always)]
pub(crate) fn is_excluded() -> bool {
    let count = maps::excluded();
    if count == 0 {
        return false;
    }
    is_below(maps::excluded_cgroup::<0>())
        || (count > 1 && is_below(maps::excluded_cgroup::<1>()))
        || (count > 2 && is_below(maps::excluded_cgroup::<2>()))
        || (count > 3 && is_below(maps::excluded_cgroup::<3>()))
}

#[inline(always)]
fn is_below((level, id): (u32, u64)) -> bool {
    // SAFETY: a helper without pointers. For a process that is less deep it returns 0, which is no
    // cgroup's id.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) == id }
}
