//! Which socket went where: the direct-mapped table, its overflow, and MPTCP sockets.
//!
//! A row's cookie is its lock: only the socket with that cookie writes the row, under the socket
//! lock that connect and getpeername hold. A row is never evicted by another socket.

use crate::maps::{self, Remembered};
use crate::sock::{self, PROCEED, ReleasedSock, SockAddr};
use crate::{datagrams, outcomes};
use core::ffi::c_void;
use lb_common::rows::{ConnectionRow, FrontendKey};
use lb_common::{features, protocol, since};

/// The row of this socket, if it has one.
#[inline(always)]
pub(crate) fn of(cookie: u64) -> Option<Remembered> {
    let slot = Remembered::slot(cookie)?;
    if slot.cookie() == cookie {
        return Some(slot);
    }
    if maps::overflow_in_use() { Remembered::overflow(cookie) } else { None }
}

/// Where a socket's row is or would be.
pub(crate) struct Place {
    cookie: u64,
    slot: Option<Remembered>,
    /// Whose cookie the row had.
    holder: u64,
}

impl Place {
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }
}

/// Finds a socket's place. A new socket's row is never in a cache, so this is done well before the
/// row is needed: what comes between runs while the row is fetched.
#[inline(always)]
pub(crate) fn place<const V6: bool>(sock: &SockAddr<'_, V6>) -> Place {
    let cookie = sock.cookie();
    let slot = if maps::has(features::UNTRACKED) { None } else { Remembered::slot(cookie) };
    let holder = match slot {
        Some(slot) => slot.cookie(),
        None => 0,
    };
    Place { cookie, slot, holder }
}

/// Whether this is a further subflow of an MPTCP connection that another subflow has begun. It goes
/// where the connection goes, to an address that the backend has announced, and must neither be
/// translated nor change what is remembered of the connection.
#[inline(always)]
pub(crate) fn joins(mptcp: Option<*mut c_void>, place: &Place) -> bool {
    match mptcp {
        Some(mptcp) => belongs_to_another(mptcp, place.cookie),
        None => false,
    }
}

/// Remembers where a socket goes, in place of where it went before. False if there is no room.
///
/// To be the last thing a program does that nobody traces: an atomic operation after it would have
/// to wait for its stores to reach the row.
#[inline(always)]
pub(crate) fn remember(place: &Place, mptcp: Option<*mut c_void>, mut row: ConnectionRow) -> bool {
    if maps::has(features::UNTRACKED) {
        return true;
    }
    row.cookie = place.cookie;
    let since = since::stamp(sock::now_coarse_ns());
    match mptcp {
        Some(mptcp) => on_mptcp(mptcp, &row, since),
        None => in_tables(place, &row, since),
    }
}

/// The MPTCP socket that a TCP socket is a subflow of.
#[inline(always)]
pub(crate) fn mptcp<const V6: bool>(sock: &SockAddr<'_, V6>, number: u8) -> Option<*mut c_void> {
    if number == protocol::TCP { sock.mptcp() } else { None }
}

#[inline(always)]
fn on_mptcp(mptcp: *mut c_void, row: &ConnectionRow, since: u32) -> bool {
    let Some(own) = Remembered::on_mptcp(mptcp, true) else { return false };
    if own.cookie() != 0 {
        maps::closed(own.backend_id());
    }
    own.fill(row);
    own.note_on_mptcp(since);
    own.set_cookie(row.cookie);
    true
}

#[inline(always)]
fn in_tables(place: &Place, row: &ConnectionRow, since: u32) -> bool {
    let Some(slot) = place.slot else { return false };
    if place.holder == row.cookie {
        maps::closed(slot.backend_id());
        maps::note_since(row.cookie, since);
        slot.fill(row);
        return true;
    }
    if maps::overflow_in_use() {
        forget_overflow(row.cookie);
    }
    if place.holder == 0 && slot.claim(row.cookie) {
        // Before the rest: who finds the row filled finds its time.
        maps::note_since(row.cookie, since);
        slot.fill(row);
        return true;
    }
    maps::overflow_insert(row, since)
}

/// The socket connects to something that is no frontend: what it had dialled before is over.
///
/// To find out whether there is anything to forget costs as much as the lookup of the frontend did,
/// mostly for the cookie, so it is skipped for a socket that shows no trace of earlier use. A socket
/// that was used and then dissolved may look like that, too (`AF_UNSPEC` on UDP; no hook runs then);
/// what it has left behind could speak for the new peer only if that is the very same backend, so
/// for any address that may be a backend's the socket is looked up all the same.
#[inline(always)]
pub(crate) fn dialled_directly<const V6: bool>(sock: &SockAddr<'_, V6>, key: &FrontendKey) {
    if sock.looks_unused() && !maps::may_be_backend(&key.address, key.port) {
        return;
    }
    forget(sock, key.protocol);
    if key.protocol == protocol::UDP {
        datagrams::sent_directly(sock, key);
    }
}

#[inline(always)]
fn forget<const V6: bool>(sock: &SockAddr<'_, V6>, number: u8) {
    let cookie = sock.cookie();
    forget_cookie(cookie, false);
    if let Some(mptcp) = mptcp(sock, number)
        && !belongs_to_another(mptcp, cookie)
    {
        forget_mptcp(mptcp, false);
    }
}

/// Whether an MPTCP socket's row was made for another subflow than this one.
#[inline(always)]
fn belongs_to_another(mptcp: *mut c_void, cookie: u64) -> bool {
    match Remembered::on_mptcp(mptcp, false) {
        Some(own) => own.cookie() != 0 && own.cookie() != cookie,
        None => false,
    }
}

#[inline(always)]
fn forget_cookie(cookie: u64, gives_up: bool) {
    let Some(slot) = Remembered::slot(cookie) else { return };
    if slot.cookie() == cookie {
        ends(slot, gives_up);
        slot.free(cookie);
    } else if maps::overflow_in_use()
        && let Some(row) = Remembered::overflow(cookie)
    {
        ends(row, gives_up);
        maps::overflow_remove(cookie);
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
fn forget_mptcp(mptcp: *mut c_void, gives_up: bool) {
    if let Some(own) = Remembered::on_mptcp(mptcp, false)
        && own.cookie() != 0
    {
        ends(own, gives_up);
        own.set_cookie(0);
    }
}

/// In this order: an id that no open socket is counted on may be given to another backend.
#[inline(always)]
fn ends(remembered: Remembered, gives_up: bool) {
    let id = remembered.backend_id();
    if gives_up {
        outcomes::abandoned(id, remembered.cookie());
    }
    maps::closed(id);
}

/// The socket with this cookie has closed, and no program saw it.
#[inline(always)]
pub(crate) fn collect(cookie: u64) {
    forget_cookie(cookie, false);
}

/// The last close of a socket.
#[inline(always)]
pub(crate) fn released(sock: &ReleasedSock<'_>) -> i32 {
    if maps::has(features::UNTRACKED) {
        return PROCEED;
    }
    let number = sock.protocol();
    let gives_up = maps::has(features::OUTCOMES) && sock.is_dialling();
    if sock.is_mptcp() {
        forget_mptcp(sock.sock(), gives_up);
    } else if number == u32::from(protocol::TCP) || number == u32::from(protocol::UDP) {
        forget_cookie(sock.cookie(), gives_up);
    }
    PROCEED
}
