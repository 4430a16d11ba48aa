//! What an unconnected UDP socket remembers.

use super::Remembered;
use super::words::{compare_and_swap, words};
use core::ffi::c_void;
use lb_common::SOCKET_PAIRS;
use lb_common::rows::{Address, ConnectionRow, SocketRows};

/// Stamp of a pair that is being written.
const BUSY: u64 = u64::MAX;

/// The pairs a UDP socket remembers. Several threads may send and receive on one socket at once, so
/// a pair is taken by compare-and-swap of its stamp before it is written.
#[derive(Clone, Copy)]
pub(crate) struct Pairs(*mut SocketRows);

impl Pairs {
    #[inline(always)]
    pub(crate) fn of(sock: *mut c_void, create: bool) -> Option<Self> {
        Remembered::in_socket(sock, create).map(Self)
    }

    /// Pair `index`, if there are as many.
    #[inline(always)]
    pub(crate) fn pair(self, index: u32) -> Option<Remembered> {
        if index >= SOCKET_PAIRS as u32 {
            return None;
        }
        // SAFETY: the index is within the array.
        Some(Remembered(unsafe {
            (&raw mut (*self.0).rows).cast::<ConnectionRow>().add(index as usize)
        }))
    }

    /// The frontend's pair (true), or the one to give up for it (false).
    #[inline(always)]
    pub(crate) fn of_frontend(self, address: &Address, port: u16) -> (Option<Remembered>, bool) {
        let [high, low] = words(address);
        let found = lb_pair_of_frontend(self.0, high, low, port);
        (self.pair(found & PAIR_INDEX), found & PAIR_OLDEST == 0)
    }

    /// The pair last used of those that lead to a backend.
    #[inline(always)]
    pub(crate) fn of_backend(self, address: &Address, port: u16) -> Option<Remembered> {
        let [high, low] = words(address);
        self.pair(lb_pair_of_backend(self.0, high, low, port))
    }

    /// The highest stamp in use.
    #[inline(always)]
    pub(crate) fn newest(self) -> u64 {
        lb_newest_pair(self.0)
    }
}

const PAIR_INDEX: u32 = 0xff;
const PAIR_OLDEST: u32 = 0x100;

// The scans are functions of their own for the same reason as `lb_last_not_above`: inlined, each
// pair would multiply the paths the verifier walks. They check for null because the kernel assumes
// that a global function's pointer may be. Where global functions take no pointers yet, they are
// ordinary ones, which the verifier walks through with each call.

/// Index of the frontend's pair, or of the least recently used one with [`PAIR_OLDEST`].
#[inline(never)]
#[cfg_attr(not(feature = "no-atomic-fetch"), unsafe(no_mangle))]
extern "C" fn lb_pair_of_frontend(rows: *mut SocketRows, high: u64, low: u64, port: u16) -> u32 {
    if rows.is_null() {
        return PAIR_INDEX;
    }
    let mut oldest = 0;
    let mut oldest_stamp = u64::MAX;
    for index in 0..SOCKET_PAIRS as u32 {
        let Some(pair) = Pairs(rows).pair(index) else { break };
        let stamp = pair.stamp();
        let row = pair.row();
        if stamp != 0 && words(&row.frontend) == [high, low] && row.frontend_port == port {
            return index;
        }
        if stamp < oldest_stamp {
            oldest_stamp = stamp;
            oldest = index;
        }
    }
    oldest | PAIR_OLDEST
}

/// Index of the most recently used pair with this backend, or one too high.
#[inline(never)]
#[cfg_attr(not(feature = "no-atomic-fetch"), unsafe(no_mangle))]
extern "C" fn lb_pair_of_backend(rows: *mut SocketRows, high: u64, low: u64, port: u16) -> u32 {
    let mut found = PAIR_INDEX;
    if rows.is_null() {
        return found;
    }
    let mut newest = 0;
    for index in 0..SOCKET_PAIRS as u32 {
        let Some(pair) = Pairs(rows).pair(index) else { break };
        let stamp = pair.stamp();
        let row = pair.row();
        if stamp > newest && words(&row.backend) == [high, low] && row.backend_port == port {
            newest = stamp;
            found = index;
        }
    }
    found
}

#[inline(never)]
#[cfg_attr(not(feature = "no-atomic-fetch"), unsafe(no_mangle))]
extern "C" fn lb_newest_pair(rows: *mut SocketRows) -> u64 {
    let mut newest = 0;
    if rows.is_null() {
        return newest;
    }
    for index in 0..SOCKET_PAIRS as u32 {
        let Some(pair) = Pairs(rows).pair(index) else { break };
        let stamp = pair.stamp();
        if stamp > newest {
            newest = stamp;
        }
    }
    newest
}

impl Remembered {
    /// When the pair was last used: 0 if it is free or being written.
    #[inline(always)]
    pub(crate) fn stamp(self) -> u64 {
        let stamp = self.cookie();
        if stamp == BUSY { 0 } else { stamp }
    }

    /// Replaces a pair that was seen with `stamp`; does nothing if another thread was faster.
    #[inline(always)]
    pub(crate) fn replace_pair(self, stamp: u64, row: &ConnectionRow) {
        // SAFETY: the field lies in the row.
        let word = unsafe { &raw mut (*self.0).cookie };
        if compare_and_swap(word, stamp, BUSY) {
            self.fill(row);
            compare_and_swap(word, BUSY, row.cookie);
        }
    }

    /// Marks a pair as used, or as free with a `new` stamp of 0.
    #[inline(always)]
    pub(crate) fn restamp(self, stamp: u64, new: u64) {
        // SAFETY: the field lies in the row.
        compare_and_swap(unsafe { &raw mut (*self.0).cookie }, stamp, new);
    }
}
