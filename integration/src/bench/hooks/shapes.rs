//! Programs with the map operations of other load balancers that work at connect time, written for
//! comparison: what they do with tables, and nothing else. They are nobody's programs, which do more.
//!
//! - Three hashes: the service by address and slot 0, the slot's backend id by the same table, the
//!   backend by its id; the way back into an LRU hash by socket cookie and backend.
//! - A prefix: the service by a longest-prefix match over address, port, protocol and source; the
//!   backend by service and ordinal in a hash; the way back into an LRU hash as above.

use super::assembler::{Helper, Program, Width};
use super::services::{BACKENDS, Family, SERVICES, backend, frontend};
use crate::empty_program::EmptyProgram;
use anyhow::{Context as _, bail};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData};
use aya_obj::generated::bpf_attach_type;
use aya_obj::generated::bpf_map_type::{
    self, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_LRU_HASH,
};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

/// `BPF_F_NO_PREALLOC`: the kernel has tries only so.
const NO_PREALLOC: u32 = 1;
/// Entries of each table. The three hashes need one per service, protocol and slot.
const ENTRIES: u32 = 131_072;
/// Bits of the trie's key that an entry without source ranges matches: address, port, protocol.
const PREFIX: u32 = 56;
/// Both protocols are served.
const PROTOCOLS: [u8; 2] = [6, 17];

/// Offsets in `struct bpf_sock_addr`.
const USER_IP4: i16 = 4;
const USER_PORT: i16 = 24;
const PROTOCOL: i16 = 36;

/// The kernel's context is kept here across calls.
const CONTEXT: u8 = 6;

/// Three lookups in hashes and a write to an LRU hash, on a hook of IPv4.
pub(super) fn three_hashes(cgroup: &Path, hook: bpf_attach_type) -> anyhow::Result<EmptyProgram> {
    let mut services = table(BPF_MAP_TYPE_HASH, 12, 8, 0)?;
    let mut backends = table(BPF_MAP_TYPE_HASH, 4, 8, 0)?;
    let back = table(BPF_MAP_TYPE_LRU_HASH, 16, 12, 0)?;
    let mut by_slot = HashMap::<_, [u8; 12], [u8; 8]>::try_from(&mut services)?;
    let mut by_id = HashMap::<_, [u8; 4], [u8; 8]>::try_from(&mut backends)?;
    for number in 0..SERVICES {
        for protocol in PROTOCOLS {
            let key = |slot: u32| -> [u8; 12] {
                let [low, high, ..] = slot.to_le_bytes();
                let [a, b, c, d, e, f] = octets(frontend(Family::V4, number));
                [a, b, c, d, e, f, low, high, protocol, 0, 0, 0]
            };
            by_slot.insert(key(0), pair(BACKENDS, number), 0)?;
            for slot in 0..BACKENDS {
                let id = 1 + number * BACKENDS + slot;
                by_slot.insert(key(slot + 1), pair(0, id), 0)?;
                by_id.insert(id.to_le_bytes(), row(number, slot), 0)?;
            }
        }
    }

    const KEY: i16 = -16;
    const ID: i16 = -20;
    let mut program = Program::default();
    program.set(CONTEXT, 1);
    program.load(2, CONTEXT, USER_IP4);
    program.keep(Width::Word, KEY, 2);
    program.load(2, CONTEXT, USER_PORT);
    program.keep(Width::Half, KEY + 4, 2);
    program.keep_value(Width::Half, KEY + 6, 0);
    program.load(2, CONTEXT, PROTOCOL);
    program.keep(Width::Word, KEY + 8, 2);
    program.lookup(fd(&services)?, KEY);
    program.load(7, 0, 0);
    program.load(8, 0, 4);
    program.leave_if_zero(7);
    program.call(Helper::Random);
    program.modulo(0, 7);
    program.add_value(0, 1);
    program.keep(Width::Half, KEY + 6, 0);
    program.lookup(fd(&services)?, KEY);
    program.load(2, 0, 4);
    program.keep(Width::Word, ID, 2);
    program.lookup(fd(&backends)?, ID);
    rewrite(&mut program, fd(&back)?);
    attach(cgroup, hook, "three_hashes", program)
}

/// A longest-prefix match, a lookup in a hash and a write to an LRU hash, on a hook of IPv4.
pub(super) fn prefix(cgroup: &Path, hook: bpf_attach_type) -> anyhow::Result<EmptyProgram> {
    let mut services = table(BPF_MAP_TYPE_LPM_TRIE, 16, 8, NO_PREALLOC)?;
    let mut backends = table(BPF_MAP_TYPE_HASH, 8, 8, 0)?;
    let back = table(BPF_MAP_TYPE_LRU_HASH, 16, 12, 0)?;
    let mut trie = LpmTrie::<_, [u8; 12], [u8; 8]>::try_from(&mut services)?;
    let mut by_ordinal = HashMap::<_, [u8; 8], [u8; 8]>::try_from(&mut backends)?;
    for number in 0..SERVICES {
        for protocol in PROTOCOLS {
            let [a, b, c, d, e, f] = octets(frontend(Family::V4, number));
            let key = [a, b, c, d, e, f, protocol, 0, 0, 0, 0, 0];
            trie.insert(&Key::new(PREFIX, key), pair(BACKENDS, number), 0)?;
        }
        for ordinal in 0..BACKENDS {
            by_ordinal.insert(pair(number, ordinal), row(number, ordinal), 0)?;
        }
    }

    const KEY: i16 = -16;
    const ORDINAL: i16 = -24;
    let mut program = Program::default();
    program.set(CONTEXT, 1);
    // The source of a socket that has not connected yet is unknown: 0.
    program.keep_value(Width::Word, KEY, 88);
    program.load(2, CONTEXT, USER_IP4);
    program.keep(Width::Word, KEY + 4, 2);
    program.load(2, CONTEXT, USER_PORT);
    program.keep(Width::Half, KEY + 8, 2);
    program.load(2, CONTEXT, PROTOCOL);
    program.keep(Width::Half, KEY + 10, 2);
    program.keep_value(Width::Word, KEY + 12, 0);
    program.lookup(fd(&services)?, KEY);
    program.load(7, 0, 0);
    program.load(8, 0, 4);
    program.leave_if_zero(7);
    program.call(Helper::Random);
    program.modulo(0, 7);
    program.keep(Width::Word, ORDINAL, 8);
    program.keep(Width::Word, ORDINAL + 4, 0);
    program.lookup(fd(&backends)?, ORDINAL);
    rewrite(&mut program, fd(&back)?);
    attach(cgroup, hook, "prefix", program)
}

/// Remembers the way back and rewrites the address; `r0` is the backend's row, `r8` the service.
fn rewrite(program: &mut Program, back: BorrowedFd<'_>) {
    const KEY: i16 = -48;
    const VALUE: i16 = -64;
    program.load(7, 0, 0);
    program.load(9, 0, 4);
    program.set(1, CONTEXT);
    program.call(Helper::SocketCookie);
    program.keep(Width::Double, KEY, 0);
    program.keep(Width::Word, KEY + 8, 7);
    program.keep(Width::Word, KEY + 12, 9);
    program.load(2, CONTEXT, USER_IP4);
    program.keep(Width::Word, VALUE, 2);
    program.load(2, CONTEXT, USER_PORT);
    program.keep(Width::Word, VALUE + 4, 2);
    program.keep(Width::Word, VALUE + 8, 8);
    program.update(back, KEY, VALUE);
    program.store(Width::Word, CONTEXT, USER_IP4, 7);
    program.store(Width::Word, CONTEXT, USER_PORT, 9);
}

fn attach(
    cgroup: &Path,
    hook: bpf_attach_type,
    name: &str,
    program: Program,
) -> anyhow::Result<EmptyProgram> {
    EmptyProgram::of(cgroup, hook, name, &program.finish())
        .with_context(|| format!("loading {name}"))
}

fn table(kind: bpf_map_type, key: u32, value: u32, flags: u32) -> anyhow::Result<Map> {
    let object = aya_obj::Map::new_from_params(kind as u32, key, value, ENTRIES, flags);
    let data = MapData::create(object, "comparison", None).context("making a table")?;
    Ok(match kind {
        BPF_MAP_TYPE_LPM_TRIE => Map::LpmTrie(data),
        BPF_MAP_TYPE_LRU_HASH => Map::LruHashMap(data),
        _ => Map::HashMap(data),
    })
}

fn fd(map: &Map) -> anyhow::Result<BorrowedFd<'_>> {
    match map {
        Map::HashMap(data) | Map::LpmTrie(data) | Map::LruHashMap(data) => Ok(data.fd().as_fd()),
        _ => bail!("no table for comparison is of this kind"),
    }
}

/// Address and port as the kernel's context has them.
fn octets(address: SocketAddr) -> [u8; 6] {
    let [e, f] = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, e, f]
        }
        IpAddr::V6(_) => [0; 6],
    }
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_le_bytes(), second.to_le_bytes());
    [a, b, c, d, e, f, g, h]
}

/// A backend's address and port, as the kernel's context takes them.
fn row(number: u32, slot: u32) -> [u8; 8] {
    let [a, b, c, d, e, f] = octets(backend(Family::V4, number, slot));
    [a, b, c, d, e, f, 0, 0]
}
