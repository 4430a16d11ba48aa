//! Which socket went where: the direct-mapped table, its overflow, and MPTCP sockets.
//!
//! A row's cookie is its lock: only the socket with that cookie writes the row, under the socket
//! lock that connect and getpeername hold. A row is never evicted by another socket.

use crate::datagrams;
use crate::maps::{self, Remembered};
use crate::sock::{PROCEED, ReleasedSock, SockAddr};
use lb_common::protocol;
use lb_common::rows::{ConnectionRow, FrontendKey};

/// The row of this socket, if it has one.
#[inline(always)]
pub(crate) fn of(cookie: u64) -> Option<Remembered> {
    let slot = Remembered::slot(cookie)?;
    if slot.cookie() == cookie {
        return Some(slot);
    }
    if maps::overflow_in_use() { Remembered::overflow(cookie) } else { None }
}

/// Remembers where a socket goes, in place of where it went before.
#[inline(always)]
pub(crate) fn remember<const V6: bool>(
    sock: &SockAddr<'_, V6>,
    protocol: u8,
    mut row: ConnectionRow,
    service_id: u32,
) {
    row.cookie = sock.cookie();
    let remembered = match mptcp(sock, protocol) {
        Some(mptcp) => on_mptcp(mptcp, &row),
        None => in_tables(&row),
    };
    if remembered {
        maps::opened(row.backend_id);
    } else {
        maps::count_untracked(service_id);
    }
}

#[inline(always)]
fn mptcp<const V6: bool>(sock: &SockAddr<'_, V6>, number: u8) -> Option<*mut core::ffi::c_void> {
    if number == protocol::TCP { sock.mptcp() } else { None }
}

#[inline(always)]
fn on_mptcp(mptcp: *mut core::ffi::c_void, row: &ConnectionRow) -> bool {
    let Some(own) = Remembered::on_mptcp(mptcp, true) else { return false };
    if own.cookie() != 0 {
        maps::closed(own.backend_id());
    }
    own.fill(row);
    own.set_cookie(row.cookie);
    true
}

#[inline(always)]
fn in_tables(row: &ConnectionRow) -> bool {
    let Some(slot) = Remembered::slot(row.cookie) else { return false };
    if slot.cookie() == row.cookie {
        maps::closed(slot.backend_id());
        slot.fill(row);
        return true;
    }
    if maps::overflow_in_use() {
        forget_overflow(row.cookie);
    }
    if slot.cookie() == 0 && slot.claim(row.cookie) {
        slot.fill(row);
        return true;
    }
    maps::overflow_insert(row)
}

/// The socket connects to something that is no frontend: what it had dialled before is over.
#[inline(always)]
pub(crate) fn dialled_directly<const V6: bool>(sock: &SockAddr<'_, V6>, key: &FrontendKey) {
    forget(sock, key.protocol);
    if key.protocol == protocol::UDP {
        datagrams::sent_directly(sock, key);
    }
}

#[inline(always)]
pub(crate) fn forget<const V6: bool>(sock: &SockAddr<'_, V6>, number: u8) {
    forget_cookie(sock.cookie());
    if let Some(mptcp) = mptcp(sock, number) {
        forget_mptcp(mptcp);
    }
}

#[inline(always)]
fn forget_cookie(cookie: u64) {
    let Some(slot) = Remembered::slot(cookie) else { return };
    if slot.cookie() == cookie {
        maps::closed(slot.backend_id());
        slot.free(cookie);
    } else if maps::overflow_in_use() {
        forget_overflow(cookie);
    }
}

#[inline(always)]
fn forget_overflow(cookie: u64) {
    if let Some(row) = Remembered::overflow(cookie) {
        maps::closed(row.backend_id());
        maps::overflow_remove(cookie);
    }
}

#[inline(always)]
fn forget_mptcp(mptcp: *mut core::ffi::c_void) {
    if let Some(own) = Remembered::on_mptcp(mptcp, false)
        && own.cookie() != 0
    {
        maps::closed(own.backend_id());
        own.set_cookie(0);
    }
}

/// The last close of a socket.
#[inline(always)]
pub(crate) fn released(sock: &ReleasedSock<'_>) -> i32 {
    let number = sock.protocol();
    if sock.is_mptcp() {
        forget_mptcp(sock.sock());
    } else if number == u32::from(protocol::TCP) || number == u32::from(protocol::UDP) {
        forget_cookie(sock.cookie());
    }
    PROCEED
}
