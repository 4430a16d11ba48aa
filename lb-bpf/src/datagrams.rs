//! Unconnected UDP sockets: the last frontends a socket sent to, each with its backend.
//!
//! The pairs make a socket stay with its backend, and give its replies their frontend's address.
//! They hold no backend's id alive: a pair's backend is believed only if the live block still has
//! it, and then the block's address is used.

use crate::balance::member;
use crate::maps::{Block, Pairs, Remembered};
use crate::sock::SockAddr;
use lb_common::SOCKET_PAIRS;
use lb_common::rows::{Address, BackendRow, ConnectionRow, FrontendKey};

/// What a socket remembers of a frontend.
pub(crate) struct Memory {
    pairs: Option<Pairs>,
    /// The frontend's pair, or the one to give up for it.
    pair: Option<Remembered>,
    /// The stamp it was seen with.
    stamp: u64,
    is_frontends: bool,
}

/// Looks the frontend up in what the socket remembers.
#[inline(always)]
pub(crate) fn remembered<const V6: bool>(sock: &SockAddr<'_, V6>, key: &FrontendKey) -> Memory {
    let pairs = Pairs::of(sock.sock(), true);
    let (pair, is_frontends) = match pairs {
        Some(pairs) => pairs.of_frontend(&key.address, key.port),
        None => (None, false),
    };
    let stamp = match pair {
        Some(pair) => pair.stamp(),
        None => 0,
    };
    Memory { pairs, pair, stamp, is_frontends }
}

impl Memory {
    /// The backend the socket stays with, while it may still be picked.
    #[inline(always)]
    pub(crate) fn sticky(&self, block: &Block) -> Option<&'static BackendRow> {
        if !self.is_frontends {
            return None;
        }
        let pair = self.pair?;
        let row = member(block, pair.backend_id())?;
        if pair.row().backend != row.address || pair.row().backend_port != row.port {
            return None;
        }
        let newest = self.pairs?.newest();
        if self.stamp != newest {
            pair.restamp(self.stamp, newest + 1);
        }
        Some(row)
    }

    /// Remembers a new pair in place of the frontend's old one or of the least recently used.
    /// False if the socket has no memory.
    #[inline(always)]
    pub(crate) fn remember(&self, mut row: ConnectionRow) -> bool {
        let (Some(pairs), Some(pair)) = (self.pairs, self.pair) else { return false };
        row.cookie = pairs.newest() + 1;
        pair.replace_pair(self.stamp, &row);
        true
    }
}

/// The socket addresses a backend by its own name: replies from there are no frontend's any more.
#[inline(always)]
pub(crate) fn sent_directly<const V6: bool>(sock: &SockAddr<'_, V6>, key: &FrontendKey) {
    let Some(pairs) = Pairs::of(sock.sock(), false) else { return };
    // As many rounds as there could be pairs: each takes one away.
    for _ in 0..SOCKET_PAIRS {
        let Some(pair) = pairs.of_backend(&key.address, key.port) else { return };
        pair.restamp(pair.stamp(), 0);
    }
}

/// The frontend that was last dialled of those that led to this backend.
#[inline(always)]
pub(crate) fn frontend_of<const V6: bool>(
    sock: &SockAddr<'_, V6>,
    address: Address,
    port: u16,
) -> Option<(Address, u16)> {
    let pair = Pairs::of(sock.sock(), false)?.of_backend(&address, port)?;
    let stamp = pair.stamp();
    let row = pair.row();
    let named = (row.frontend, row.frontend_port);
    // Unchanged stamp and backend: no other thread has rewritten the pair while it was read.
    let settled = row.backend == address && row.backend_port == port && pair.stamp() == stamp;
    if settled && stamp != 0 { Some(named) } else { None }
}
