//! From a frontend to a backend: lookup, affinity, pick, verdict.

use crate::maps::{self, Block, Entry, ServiceCount};
use crate::sock::{self, PROCEED, SockAddr};
use crate::{connections, datagrams};
use lb_common::rows::{
    Address, AffinityKey, AffinityWord, BackendRow, ConnectionRow, Event, FrontendKey,
};
use lb_common::{affinity, no_backend, pick, policy, protocol, scope};

const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// connect(2): TCP, and UDP sockets that get a peer.
#[inline(always)]
pub(crate) fn connect<const V6: bool>(sock: &SockAddr<'_, V6>) -> i32 {
    let Some(key) = frontend_key(sock) else { return PROCEED };
    let Some(block) = visible_block(sock, &key) else {
        connections::dialled_directly(sock, &key);
        return PROCEED;
    };
    let Some(count) = ServiceCount::of(block.header.service_id) else { return PROCEED };
    let place = connections::place(sock);
    let random = pick::random_of(place.cookie(), count.connects());
    let Some(row) = choose(sock, &block, random) else {
        // A refused call leaves the socket as it was; one that passes goes somewhere else.
        if block.header.no_backend == no_backend::PASS {
            connections::dialled_directly(sock, &key);
        }
        return no_backend(sock, &key, &block, count);
    };
    let mptcp = connections::mptcp(sock, key.protocol);
    if connections::joins(mptcp, &place) {
        return PROCEED;
    }
    translate(sock, &key, &block, count, row);
    if !connections::remember(&place, mptcp, translation(&key, row)) {
        maps::closed(row.id);
        count.count_untracked();
    }
    PROCEED
}

/// sendmsg(2) and sendto(2) with an address, on UDP sockets.
#[inline(always)]
pub(crate) fn send<const V6: bool>(sock: &SockAddr<'_, V6>) -> i32 {
    let Some(key) = frontend_key(sock) else { return PROCEED };
    if key.protocol != protocol::UDP {
        return PROCEED;
    }
    let peer = sock.connected_peer();
    // A v4-mapped peer of a connected v6 socket comes by here with every send(), and the socket can
    // receive from that peer only: whatever the address is by now, it stays.
    if let Some((peer, port)) = peer
        && key.address == peer
        && key.port == port
    {
        return PROCEED;
    }
    let Some(block) = visible_block(sock, &key) else {
        datagrams::sent_directly(sock, &key);
        return PROCEED;
    };
    if let Some((peer, port)) = peer
        && let Some(remembered) = connections::of(sock.cookie())
        && remembered.row().backend == peer
        && remembered.row().backend_port == port
    {
        let row = remembered.row();
        // A connected socket that names the frontend it dialled stays with its backend.
        if key.address == row.frontend && key.port == row.frontend_port {
            sock.rewrite(row.backend, row.backend_port);
            return PROCEED;
        }
    }
    let pairs = datagrams::remembered(sock, &key);
    if let Some(row) = pairs.sticky(&block) {
        sock.rewrite(row.address, row.port);
        return PROCEED;
    }
    let Some(count) = ServiceCount::of(block.header.service_id) else { return PROCEED };
    let random = pick::random_of(u64::from(sock::random()), count.connects());
    let Some(row) = choose(sock, &block, random) else {
        return no_backend(sock, &key, &block, count);
    };
    translate(sock, &key, &block, count, row);
    // An unconnected socket is nobody's open connection.
    maps::closed(row.id);
    if !pairs.remember(translation(&key, row)) {
        count.count_untracked();
    }
    PROCEED
}

#[inline(always)]
fn frontend_key<const V6: bool>(sock: &SockAddr<'_, V6>) -> Option<FrontendKey> {
    let number = sock.protocol();
    if number != u32::from(protocol::TCP) && number != u32::from(protocol::UDP) {
        return None;
    }
    let protocol = number as u8;
    Some(FrontendKey { address: sock.address(), port: sock.port(), protocol, reserved: 0 })
}

#[inline(always)]
fn visible_block<const V6: bool>(sock: &SockAddr<'_, V6>, key: &FrontendKey) -> Option<Block> {
    let block = maps::block_of(key)?;
    // A backend whose address is also a frontend is probed itself, not one of those behind it.
    if sock.is_probe() || sock::is_excluded() {
        return None;
    }
    if block.header.scope == scope::HOST && !sock.in_host_netns() {
        return None;
    }
    Some(block)
}

#[inline(always)]
fn translation(key: &FrontendKey, row: &BackendRow) -> ConnectionRow {
    ConnectionRow {
        cookie: 0,
        frontend: key.address,
        backend: row.address,
        frontend_port: key.port,
        backend_port: row.port,
        backend_id: row.id,
    }
}

#[inline(always)]
fn translate<const V6: bool>(
    sock: &SockAddr<'_, V6>,
    key: &FrontendKey,
    block: &Block,
    count: ServiceCount,
    row: &BackendRow,
) {
    maps::connected(row.id);
    count.count_connect();
    sock.rewrite(row.address, row.port);
    if maps::tracing() {
        trace(sock, key, block, (row.address, row.port, row.id), 1);
    }
}

#[inline(always)]
fn no_backend<const V6: bool>(
    sock: &SockAddr<'_, V6>,
    key: &FrontendKey,
    block: &Block,
    count: ServiceCount,
) -> i32 {
    count.count_no_backend();
    if maps::tracing() {
        trace(sock, key, block, (key.address, key.port, 0), 0);
    }
    match block.header.no_backend {
        no_backend::PASS => PROCEED,
        no_backend::UNREACHABLE => sock.fail(EHOSTUNREACH),
        _ => sock.fail(ECONNREFUSED),
    }
}

#[inline(always)]
fn trace<const V6: bool>(
    sock: &SockAddr<'_, V6>,
    key: &FrontendKey,
    block: &Block,
    (backend, backend_port, backend_id): (Address, u16, u32),
    translated: u8,
) {
    maps::emit(&Event {
        time_ns: sock::now_ns(),
        cookie: sock.cookie(),
        pid_tgid: sock::pid_tgid(),
        frontend: *key,
        backend,
        backend_port,
        no_backend: block.header.no_backend,
        translated,
        backend_id,
        service_id: block.header.service_id,
    });
}

/// The backend this connection gets, or none if the block has no rows.
#[inline(always)]
fn choose<const V6: bool>(
    sock: &SockAddr<'_, V6>,
    block: &Block,
    random: u64,
) -> Option<&'static BackendRow> {
    if block.rows() == 0 {
        return None;
    }
    let kind = block.header.affinity;
    if kind == affinity::NONE {
        return pick_row(block, random);
    }
    let client = match kind {
        affinity::UID => sock::uid(),
        affinity::CGROUP => sock::cgroup(),
        affinity::PROCESS => sock::process(),
        _ => sock.netns(),
    };
    let key = AffinityKey { client, group: block.header.affinity_group, kind: u32::from(kind) };
    stay(block, &key, random)
}

/// The backend this client stays with, or a fresh pick that it stays with from now on. When two
/// connections of a client race, the one whose entry got there first decides for both.
#[inline(always)]
fn stay(block: &Block, key: &AffinityKey, random: u64) -> Option<&'static BackendRow> {
    let now = sock::now_seconds();
    let deadline = now.saturating_add(block.header.affinity_timeout);
    let Some(entry) = Entry::of(key) else {
        let row = pick_row(block, random)?;
        if Entry::insert(key, AffinityWord::new(row.id, deadline)) {
            return Some(row);
        }
        let first = Entry::of(key).and_then(|entry| member(block, entry.word().backend_id()));
        return Some(first.unwrap_or(row));
    };
    let word = entry.word();
    if word.deadline() > now
        && let Some(row) = member(block, word.backend_id())
    {
        if word.deadline() != deadline {
            entry.swap(word, AffinityWord::new(row.id, deadline));
        }
        return Some(row);
    }
    let row = pick_row(block, random)?;
    if entry.swap(word, AffinityWord::new(row.id, deadline)) {
        return Some(row);
    }
    Some(member(block, entry.word().backend_id()).unwrap_or(row))
}

#[inline(always)]
fn pick_row(block: &Block, random: u64) -> Option<&'static BackendRow> {
    let first = draw_row(block, random as u32)?;
    if block.header.policy != policy::LEAST_CONNECTIONS {
        return Some(first);
    }
    let second = draw_row(block, (random >> 32) as u32)?;
    let first_wins = pick::first_is_less_loaded(
        maps::active(first.id),
        first.weight,
        maps::active(second.id),
        second.weight,
    );
    Some(if first_wins { first } else { second })
}

#[inline(always)]
fn draw_row(block: &Block, random: u32) -> Option<&'static BackendRow> {
    let draw = pick::draw(random, block.rows());
    let row = block.row(draw.slot)?;
    let slot = draw.resolve(row.threshold, row.alias);
    if slot == draw.slot { Some(row) } else { block.row(slot) }
}

/// The row of a backend, if it may be picked from this very block.
#[inline(always)]
pub(crate) fn member(block: &Block, id: u32) -> Option<&'static BackendRow> {
    if block.rows() == 0 {
        return None;
    }
    let row = block.row(maps::lb_last_not_above(block.first_row(), block.rows(), id))?;
    if row.id == id { Some(row) } else { None }
}
