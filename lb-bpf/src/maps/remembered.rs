//! Rows that remember where a socket went: in the direct-mapped table, in its overflow, or on the
//! socket itself.

use super::words::{HAS_COMPARE_AND_SWAP, atomic_add, compare_and_swap, words};
use super::{
    CONNECTION_TIMES, CONNECTIONS, CONNECTIONS_MASK, CONNECTIONS_OVERFLOW, CONTROL, OVERFLOW_TIMES,
    SOCKETS,
};
use aya_ebpf::bindings::{BPF_ANY, BPF_SK_STORAGE_GET_F_CREATE};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};
use lb_common::control;
use lb_common::rows::{Address, ConnectionRow, SocketRows};

/// A row that remembers a socket's translation, in one of three tables.
#[derive(Clone, Copy)]
pub(crate) struct Remembered(pub(super) *mut ConnectionRow);

impl Remembered {
    /// The direct-mapped row of this cookie, whoever holds it.
    #[inline(always)]
    pub(crate) fn slot(cookie: u64) -> Option<Self> {
        CONNECTIONS.get_ptr_mut(slot_of(cookie)).map(Self)
    }

    #[inline(always)]
    pub(crate) fn overflow(cookie: u64) -> Option<Self> {
        CONNECTIONS_OVERFLOW.get_ptr_mut(cookie).map(Self)
    }

    /// The row of an MPTCP socket, or the pairs of a UDP socket: see [`Pairs`].
    #[inline(always)]
    pub(super) fn in_socket(sock: *mut c_void, create: bool) -> Option<*mut SocketRows> {
        let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
        let map = (&raw const SOCKETS).cast_mut().cast();
        // SAFETY: `sock` is a socket the kernel handed to this program; the value lives with it.
        let rows = unsafe { bpf_sk_storage_get(map, sock, core::ptr::null_mut(), flags) };
        if rows.is_null() { None } else { Some(rows.cast()) }
    }

    #[inline(always)]
    pub(crate) fn on_mptcp(sock: *mut c_void, create: bool) -> Option<Self> {
        Self::in_socket(sock, create).map(|rows| Self(rows.cast()))
    }

    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        // SAFETY: aligned table memory; other programs claim and free the row concurrently.
        unsafe { read_volatile(&raw const (*self.0).cookie) }
    }

    #[inline(always)]
    pub(crate) fn backend_id(self) -> u32 {
        // SAFETY: as in `cookie`.
        unsafe { read_volatile(&raw const (*self.0).backend_id) }
    }

    /// The row as it is now. Only the socket that owns it changes it.
    #[inline(always)]
    pub(crate) fn row(&self) -> &ConnectionRow {
        // SAFETY: aligned table memory of the row's type, alive for this run.
        unsafe { &*self.0 }
    }

    /// Takes a free direct-mapped row; false if somebody else has it, or nobody can tell.
    #[inline(always)]
    pub(crate) fn claim(self, cookie: u64) -> bool {
        // SAFETY: the field lies in the row.
        HAS_COMPARE_AND_SWAP && compare_and_swap(unsafe { &raw mut (*self.0).cookie }, 0, cookie)
    }

    /// Gives the row back. A full barrier: the next owner's writes can't overtake this owner's reads.
    #[inline(always)]
    pub(crate) fn free(self, cookie: u64) {
        // SAFETY: the field lies in the row.
        compare_and_swap(unsafe { &raw mut (*self.0).cookie }, cookie, 0);
    }

    /// Fills everything but the cookie.
    #[inline(always)]
    pub(crate) fn fill(self, from: &ConnectionRow) {
        let ConnectionRow { cookie: _, frontend, backend, frontend_port, backend_port, backend_id } =
            from;
        // SAFETY: aligned table memory that this socket owns.
        unsafe {
            store(&raw mut (*self.0).frontend, frontend);
            store(&raw mut (*self.0).backend, backend);
            (*self.0).frontend_port = *frontend_port;
            (*self.0).backend_port = *backend_port;
            write_volatile(&raw mut (*self.0).backend_id, *backend_id);
        }
    }

    /// Notes since when an MPTCP socket's row is what it is; for [`Self::on_mptcp`] only.
    #[inline(always)]
    pub(crate) fn note_on_mptcp(self, since: u32) {
        // SAFETY: the row is the first of the socket's several.
        unsafe { write_volatile(&raw mut (*self.0.add(1)).cookie, u64::from(since)) }
    }

    #[inline(always)]
    pub(crate) fn set_cookie(self, cookie: u64) {
        // SAFETY: aligned table memory that this socket owns.
        unsafe { write_volatile(&raw mut (*self.0).cookie, cookie) }
    }
}

#[inline(always)]
fn slot_of(cookie: u64) -> u32 {
    // SAFETY: a global of this object; volatile because the loader sets it.
    cookie as u32 & unsafe { read_volatile(&raw const CONNECTIONS_MASK) }
}

/// Notes since when the direct-mapped row of this cookie is what it is; for who holds the row.
#[inline(always)]
pub(crate) fn note_since(cookie: u64, since: u32) {
    if let Some(time) = CONNECTION_TIMES.get_ptr_mut(slot_of(cookie)) {
        // SAFETY: aligned table memory.
        unsafe { write_volatile(time, since) }
    }
}

/// In words: an assignment of the whole may become a call of `memmove`, which is not there. The
/// addresses in a row are aligned to 8 bytes.
#[inline(always)]
fn store(to: *mut Address, from: &Address) {
    let to = to.cast::<u64>();
    let [a, b] = words(from);
    // SAFETY: the caller's pointer is to a whole address in a row.
    unsafe {
        write_volatile(to, a);
        write_volatile(to.add(1), b);
    }
}

#[inline(always)]
pub(crate) fn overflow_in_use() -> bool {
    match CONTROL.get_ptr(control::OVERFLOW_ROWS) {
        // SAFETY: aligned table memory.
        Some(rows) => unsafe { read_volatile(rows) != 0 },
        None => false,
    }
}

/// Whether the row fitted.
#[inline(always)]
pub(crate) fn overflow_insert(row: &ConnectionRow, since: u32) -> bool {
    // Counted first: whoever finds the count 0 may rely on there being no row.
    count_overflow(1);
    let inserted = CONNECTIONS_OVERFLOW.insert(row.cookie, row, u64::from(BPF_ANY)).is_ok();
    if inserted {
        // For want of memory the row has no time, which is shown as such.
        let _ = OVERFLOW_TIMES.insert(row.cookie, since, u64::from(BPF_ANY));
    } else {
        count_overflow(u64::MAX);
    }
    inserted
}

#[inline(always)]
pub(crate) fn overflow_remove(cookie: u64) {
    if CONNECTIONS_OVERFLOW.remove(cookie).is_ok() {
        count_overflow(u64::MAX);
        // There is none of a row that was written before there were times.
        let _ = OVERFLOW_TIMES.remove(cookie);
    }
}

#[inline(always)]
fn count_overflow(by: u64) {
    if let Some(rows) = CONTROL.get_ptr_mut(control::OVERFLOW_ROWS) {
        atomic_add(rows, by);
    }
}
