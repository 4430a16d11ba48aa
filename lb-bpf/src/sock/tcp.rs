//! What the kernel tells of a TCP socket while it connects.

use crate::maps;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_skc_to_mptcp_sock, bpf_skc_to_tcp_sock, bpf_sock_ops_cb_flags_set,
};
use aya_ebpf::programs::SockOpsContext;
use core::ffi::c_void;
use core::ptr::{NonNull, read_volatile};
use lb_common::features;
use lb_common::rows::Address;

/// States of a TCP socket, as far as connecting and closing go.
pub(crate) mod state {
    pub(crate) const ESTABLISHED: u32 = 1;
    pub(crate) const SYN_SENT: u32 = 2;
    pub(crate) const SYN_RECEIVED: u32 = 3;
    pub(crate) const FIN_WAIT2: u32 = 5;
    pub(crate) const CLOSED: u32 = 7;
    pub(crate) const CLOSE_WAIT: u32 = 8;
    pub(crate) const LAST_ACK: u32 = 9;
    pub(crate) const CLOSING: u32 = 11;
}

/// Why the program was called.
pub(crate) enum Moment {
    /// The first SYN is about to be sent.
    Dials,
    /// No answer came in time. With the number of earlier times.
    TimedOut(u32),
    /// The state changes. With the old one and the new one.
    Changes(u32, u32),
    /// Nothing of interest: these are calls that every connection makes, so they should be cheap.
    Other,
}

/// A call, always under the socket's lock.
pub(crate) struct TcpCall<'a> {
    context: &'a SockOpsContext,
}

impl<'a> TcpCall<'a> {
    /// The callbacks that nobody gets who has not asked for them.
    const WATCHING: u32 = BPF_SOCK_OPS_STATE_CB_FLAG | Self::UNANSWERED;
    const UNANSWERED: u32 = BPF_SOCK_OPS_RTO_CB_FLAG;

    #[inline(always)]
    pub(crate) fn new(context: &'a SockOpsContext) -> Self {
        Self { context }
    }

    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_ops {
        self.context.ops
    }

    #[inline(always)]
    pub(crate) fn moment(&self) -> Moment {
        // SAFETY: a context field.
        match unsafe { read_volatile(&raw const (*self.raw()).op) } {
            BPF_SOCK_OPS_TCP_CONNECT_CB => Moment::Dials,
            BPF_SOCK_OPS_RTO_CB => Moment::TimedOut(self.argument(0)),
            BPF_SOCK_OPS_STATE_CB => Moment::Changes(self.argument(0), self.argument(1)),
            _ => Moment::Other,
        }
    }

    #[inline(always)]
    fn argument(&self, number: usize) -> u32 {
        // SAFETY: a context field; the kernel fills as many as the moment has.
        unsafe { read_volatile((&raw const (*self.raw()).__bindgen_anon_1.args[number]).cast()) }
    }

    #[inline(always)]
    pub(crate) fn is_dialling(&self) -> bool {
        // SAFETY: a context field.
        unsafe { read_volatile(&raw const (*self.raw()).state) == state::SYN_SENT }
    }

    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: a helper that takes the context.
        unsafe { bpf_get_socket_cookie(self.context.as_ptr()) }
    }

    /// Where the socket goes, with the port in network order.
    #[inline(always)]
    pub(crate) fn peer(&self) -> (Address, u16) {
        const AF_INET6: u32 = 10;
        // SAFETY: context fields, all read before any is chosen, as in `connected_peer`.
        unsafe {
            let words = (&raw const (*self.raw()).remote_ip6).cast::<u32>();
            let family = read_volatile(&raw const (*self.raw()).family);
            let port = read_volatile(&raw const (*self.raw()).remote_port);
            let word = read_volatile(&raw const (*self.raw()).remote_ip4);
            let v6 = Address([
                read_volatile(words),
                read_volatile(words.add(1)),
                read_volatile(words.add(2)),
                read_volatile(words.add(3)),
            ]);
            let address = if family == AF_INET6 { v6 } else { Address::from_v4_word(word) };
            // The kernel has put the port's two bytes last.
            (address, (port >> 16) as u16)
        }
    }

    /// The round-trip time so far, in eighths of a microsecond; 0 if there is none yet.
    #[inline(always)]
    pub(crate) fn srtt(&self) -> u32 {
        // SAFETY: a context field.
        unsafe { read_volatile(&raw const (*self.raw()).srtt_us) }
    }

    /// Bytes that the peer has acknowledged, SYN and FIN included.
    #[inline(always)]
    pub(crate) fn bytes_acked(&self) -> u64 {
        // SAFETY: a context field.
        unsafe { read_volatile(&raw const (*self.raw()).bytes_acked) }
    }

    /// Bytes that came in order, FIN included.
    #[inline(always)]
    pub(crate) fn bytes_received(&self) -> u64 {
        // SAFETY: a context field.
        unsafe { read_volatile(&raw const (*self.raw()).bytes_received) }
    }

    /// Whether all that was sent is acknowledged.
    #[inline(always)]
    pub(crate) fn all_is_acked(&self) -> bool {
        // SAFETY: context fields.
        unsafe {
            read_volatile(&raw const (*self.raw()).snd_una)
                == read_volatile(&raw const (*self.raw()).snd_nxt)
        }
    }

    #[inline(always)]
    fn sock(&self) -> Option<*mut bpf_sock> {
        // SAFETY: a context field; null if the call is about half a socket.
        let sock = unsafe { read_volatile(&raw const (*self.raw()).__bindgen_anon_2.sk) };
        if sock.is_null() { None } else { Some(sock) }
    }

    /// The MPTCP socket that a TCP subflow belongs to.
    #[inline(always)]
    pub(crate) fn mptcp(&self) -> Option<NonNull<c_void>> {
        if !maps::has(features::MPTCP) {
            return None;
        }
        // SAFETY: a helper that takes a socket and returns null for plain TCP.
        NonNull::new(unsafe { bpf_skc_to_mptcp_sock(self.sock()?.cast()) }.cast())
    }

    /// The error that the application is going to see; 0 if there is none.
    #[inline(always)]
    pub(crate) fn error(&self) -> i32 {
        let Some(sock) = self.sock() else { return 0 };
        // SAFETY: a helper that takes a socket.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sock.cast()) };
        if tcp.is_null() {
            return 0;
        }
        // SAFETY: a `tcp_sock` begins with a `sock`, which has an `int` there: the agent has looked
        // it up in the kernel's own description, and the verifier compares.
        unsafe { read_volatile(tcp.cast::<u8>().add(maps::sk_err_offset() as usize).cast::<i32>()) }
    }

    // === callbacks ===

    /// Asks to be called until the attempt is decided.
    #[inline(always)]
    pub(crate) fn watch(&self) {
        self.set_callbacks(self.callbacks() | Self::WATCHING);
    }

    /// Ends what [`Self::watch`] began: from here on, the connection costs nothing.
    #[inline(always)]
    pub(crate) fn forget(&self) {
        self.set_callbacks(self.callbacks() & !Self::WATCHING);
    }

    /// Wants to hear no more of missing answers, which is also the mark that one is counted.
    #[inline(always)]
    pub(crate) fn mark_unanswered(&self) {
        self.set_callbacks(self.callbacks() & !Self::UNANSWERED);
    }

    #[inline(always)]
    pub(crate) fn is_unanswered(&self) -> bool {
        self.callbacks() & Self::UNANSWERED == 0
    }

    #[inline(always)]
    fn callbacks(&self) -> u32 {
        // SAFETY: a context field.
        unsafe { read_volatile(&raw const (*self.raw()).bpf_sock_ops_cb_flags) }
    }

    #[inline(always)]
    fn set_callbacks(&self, flags: u32) {
        // SAFETY: a helper that takes the context. All flags are known to the kernel: they were its
        // own, or are older than the other helpers that are used here.
        unsafe { bpf_sock_ops_cb_flags_set(self.raw(), flags.cast_signed()) };
    }
}
