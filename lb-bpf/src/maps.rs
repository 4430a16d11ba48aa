//! The tables of the contract, and the few ways a program may touch them.
//!
//! References to rows of `BACKENDS` are sound because the agent never changes a row that is
//! reachable: it publishes fresh blocks and waits for a grace period, which includes this program's
//! run, before a row is used again. Words that do change while they are read (`BLOCKS`, cookies,
//! stamps, affinity) go through volatile access or compare-and-swap only; the BPF back end of LLVM
//! has no relaxed atomics.

#![expect(unsafe_code, reason = "table memory is reached through pointers from the kernel")]

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use core::arch::asm;
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};
use lb_common::rows::{
    Address, AffinityKey, AffinityWord, BackendCounters, BackendRow, BlockHeader, BlockWord,
    ConnectionRow, Event, FrontendKey, ServiceCounters, SocketRows,
};
use lb_common::{MEMBER_STEPS, SOCKET_PAIRS, control, features, filter};

/// `BPF_F_MMAPABLE`: the agent reads and writes the table by memory.
const MMAPABLE: usize = 1 << 10;

// The sizes here are placeholders that the agent overrides when it loads the object.

#[btf_map]
static FRONTENDS: HashMap<FrontendKey, u32, 65536> = HashMap::new();
#[btf_map]
static BLOCKS: Array<u64, 65536, MMAPABLE> = Array::new();
#[btf_map]
static BACKENDS: Array<BackendRow, 65536, MMAPABLE> = Array::new();
#[btf_map]
static CONNECTIONS: Array<ConnectionRow, 65536> = Array::new();
#[btf_map]
static CONNECTIONS_OVERFLOW: HashMap<u64, ConnectionRow, 65536> = HashMap::new();
#[btf_map]
static SOCKETS: SkStorage<SocketRows> = SkStorage::new();
#[btf_map]
static AFFINITY: LruHashMap<AffinityKey, u64, 65536> = LruHashMap::new();
#[btf_map]
static BACKEND_STATS: Array<BackendCounters, 65536, MMAPABLE> = Array::new();
#[btf_map]
static SERVICE_STATS: PerCpuArray<ServiceCounters, 65536> = PerCpuArray::new();
#[btf_map]
static BACKEND_FILTER: Array<u64, { filter::WORDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static CONTROL: Array<u64, { control::ENTRIES as usize }, MMAPABLE> = Array::new();
#[btf_map]
static EVENTS: RingBuf<(), 262144> = RingBuf::new();

/// Entries of `CONNECTIONS` less one; they are a power of two.
#[unsafe(no_mangle)]
static CONNECTIONS_MASK: u32 = 65535;
/// Bits of [`features`] that the running kernel has.
#[unsafe(no_mangle)]
static FEATURES: u32 = 0;
/// Cookie of the host's network namespace; 0: the initial namespace of the kernel.
#[unsafe(no_mangle)]
static HOST_NETNS: u64 = 0;

/// A live block.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    base: u32,
    rows: u32,
    pub(crate) header: &'static BlockHeader,
}

/// A row that remembers a socket's translation, in one of three tables.
#[derive(Clone, Copy)]
pub(crate) struct Remembered(*mut ConnectionRow);

#[inline(always)]
pub(crate) fn has(feature: u32) -> bool {
    // SAFETY: a global of this object; volatile because the loader sets it.
    unsafe { read_volatile(&raw const FEATURES) & feature != 0 }
}

#[inline(always)]
pub(crate) fn host_netns() -> u64 {
    // SAFETY: as in `has`.
    unsafe { read_volatile(&raw const HOST_NETNS) }
}

/// A frontend's key in the widths that the kernel's hash and comparison load. A load that spans
/// several stores has to wait until they have left the processor's store buffer.
#[repr(C, align(8))]
struct WideKey {
    address: [u64; 2],
    port_and_protocol: u32,
}

impl WideKey {
    #[inline(always)]
    fn new(key: &FrontendKey) -> Self {
        let mut wide = Self { address: [0; 2], port_and_protocol: 0 };
        let [a, b] = words(&key.address);
        let port_and_protocol = u32::from(key.port) | u32::from(key.protocol) << 16;
        // SAFETY: own fields; volatile, or the stores would be split into the parts they came from.
        unsafe {
            write_volatile(&raw mut wide.address[0], a);
            write_volatile(&raw mut wide.address[1], b);
            write_volatile(&raw mut wide.port_and_protocol, port_and_protocol);
        }
        wide
    }
}

/// An address as two little-endian words, which is what the target has.
#[inline(always)]
fn words(address: &Address) -> [u64; 2] {
    let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    let [a, b, c, d] = address.0;
    [pair(a, b), pair(c, d)]
}

/// The live block of a frontend; `None` if the address is no frontend, or nothing was published.
#[inline(always)]
pub(crate) fn block_of(key: &FrontendKey) -> Option<Block> {
    let wide = WideKey::new(key);
    // SAFETY: the same 20 bytes, more strictly aligned.
    let key = unsafe { &*(&raw const wide).cast::<FrontendKey>() };
    // SAFETY: a FRONTENDS element is never overwritten, and reused only after a grace period.
    let index = *unsafe { FRONTENDS.get(key) }?;
    let word = BLOCKS.get_ptr(index)?;
    // SAFETY: aligned table memory; one load of the word that the agent stores whole.
    let word = BlockWord(unsafe { read_volatile(word) });
    if word.0 == 0 {
        return None;
    }
    let header = BACKENDS.get_ptr(word.base())?.cast::<BlockHeader>();
    // SAFETY: the first row of a block is a header of the same size; immutable while reachable.
    let header = unsafe { &*header };
    Some(Block { base: word.base(), rows: word.rows(), header })
}

impl Block {
    #[inline(always)]
    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// Row of slot 0.
    #[inline(always)]
    pub(crate) fn first_row(&self) -> u32 {
        self.base.wrapping_add(1)
    }

    #[inline(always)]
    pub(crate) fn row(&self, slot: u32) -> Option<&'static BackendRow> {
        let row = BACKENDS.get_ptr(self.first_row().wrapping_add(slot))?;
        // SAFETY: immutable while reachable.
        Some(unsafe { &*row })
    }
}

/// Binary search of the `rows` rows from `first_row` on, sorted by id: the slot of the last row
/// whose id is not above `id`, or 0.
///
/// A function of its own, with numbers in and out, so that the verifier proves it once and not
/// again for each path that leads to it. (The kernel's word for that is a global function; it takes
/// the linkage from the symbol, hence `no_mangle`.)
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn lb_last_not_above(first_row: u32, rows: u32, id: u32) -> u32 {
    let mut low = 0u32;
    let mut length = rows;
    for _ in 0..MEMBER_STEPS {
        if length <= 1 {
            break;
        }
        let half = length >> 1;
        let middle = low.wrapping_add(half);
        let Some(row) = BACKENDS.get_ptr(first_row.wrapping_add(middle)) else { break };
        // SAFETY: immutable while reachable.
        if unsafe { (*row).id } <= id {
            low = middle;
        }
        length = length.wrapping_sub(half);
    }
    low
}

// === counters ===

#[inline(always)]
pub(crate) fn active(backend_id: u32) -> u64 {
    let Some(counters) = BACKEND_STATS.get_ptr(backend_id) else { return 0 };
    // SAFETY: aligned table memory. Closed before connects, so that the difference is never below 0.
    unsafe {
        let closed = read_volatile(&raw const (*counters).closed);
        let connects = read_volatile(&raw const (*counters).connects);
        BackendCounters { connects, closed }.active()
    }
}

/// A service's counters on this CPU. Looked up once: each lookup is felt.
#[derive(Clone, Copy)]
pub(crate) struct ServiceCount(*mut ServiceCounters);

impl ServiceCount {
    #[inline(always)]
    pub(crate) fn of(service_id: u32) -> Option<Self> {
        SERVICE_STATS.get_ptr_mut(service_id).map(Self)
    }

    /// How many sockets this CPU has sent to the service.
    #[inline(always)]
    pub(crate) fn connects(self) -> u64 {
        // SAFETY: this CPU's own copy.
        unsafe { (*self.0).connects }
    }

    #[inline(always)]
    pub(crate) fn count_connect(self) {
        // SAFETY: this CPU's own copy.
        unsafe { (*self.0).connects += 1 };
    }

    #[inline(always)]
    pub(crate) fn count_no_backend(self) {
        // SAFETY: this CPU's own copy.
        unsafe { (*self.0).no_backend += 1 };
    }

    #[inline(always)]
    pub(crate) fn count_untracked(self) {
        // SAFETY: this CPU's own copy.
        unsafe { (*self.0).untracked += 1 };
    }
}

/// A socket went to a backend.
#[inline(always)]
pub(crate) fn connected(backend_id: u32) {
    if let Some(counters) = BACKEND_STATS.get_ptr_mut(backend_id) {
        // SAFETY: the field lies in the row.
        atomic_add(unsafe { &raw mut (*counters).connects }, 1);
    }
}

/// A socket that went to a backend is not counted as open any more, or never was.
#[inline(always)]
pub(crate) fn closed(backend_id: u32) {
    if let Some(counters) = BACKEND_STATS.get_ptr_mut(backend_id) {
        // SAFETY: the field lies in the row.
        atomic_add(unsafe { &raw mut (*counters).closed }, 1);
    }
}

/// Whether the address may be some backend's own.
#[inline(always)]
pub(crate) fn may_be_backend(address: &Address, port: u16) -> bool {
    let (word, bit) = filter::position(address, port);
    match BACKEND_FILTER.get_ptr(word) {
        // SAFETY: aligned table memory.
        Some(word) => unsafe { read_volatile(word) & bit != 0 },
        None => true,
    }
}

// === remembered connections ===

impl Remembered {
    /// The direct-mapped row of this cookie, whoever holds it.
    #[inline(always)]
    pub(crate) fn slot(cookie: u64) -> Option<Self> {
        // SAFETY: a global of this object; volatile because the loader sets it.
        let mask = unsafe { read_volatile(&raw const CONNECTIONS_MASK) };
        CONNECTIONS.get_ptr_mut(cookie as u32 & mask).map(Self)
    }

    #[inline(always)]
    pub(crate) fn overflow(cookie: u64) -> Option<Self> {
        CONNECTIONS_OVERFLOW.get_ptr_mut(cookie).map(Self)
    }

    /// The row of an MPTCP socket, or the pairs of a UDP socket: see [`Pairs`].
    #[inline(always)]
    fn in_socket(sock: *mut c_void, create: bool) -> Option<*mut SocketRows> {
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

    /// Takes a free direct-mapped row; false if somebody else has it.
    #[inline(always)]
    pub(crate) fn claim(self, cookie: u64) -> bool {
        // SAFETY: the field lies in the row.
        has(features::COMPARE_AND_SWAP)
            && compare_and_swap(unsafe { &raw mut (*self.0).cookie }, 0, cookie)
    }

    /// Gives the row back. A full barrier where the kernel has compare-and-swap: the next owner's
    /// writes can't overtake this owner's reads.
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

    #[inline(always)]
    pub(crate) fn set_cookie(self, cookie: u64) {
        // SAFETY: aligned table memory that this socket owns.
        unsafe { write_volatile(&raw mut (*self.0).cookie, cookie) }
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
pub(crate) fn overflow_insert(row: &ConnectionRow) -> bool {
    // Counted first: whoever finds the count 0 may rely on there being no row.
    count_overflow(1);
    let inserted = CONNECTIONS_OVERFLOW.insert(row.cookie, row, u64::from(BPF_ANY)).is_ok();
    if !inserted {
        count_overflow(u64::MAX);
    }
    inserted
}

#[inline(always)]
pub(crate) fn overflow_remove(cookie: u64) {
    if CONNECTIONS_OVERFLOW.remove(cookie).is_ok() {
        count_overflow(u64::MAX);
    }
}

#[inline(always)]
fn count_overflow(by: u64) {
    if let Some(rows) = CONTROL.get_ptr_mut(control::OVERFLOW_ROWS) {
        atomic_add(rows, by);
    }
}

// === pairs of an unconnected UDP socket ===

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
        let (high, low) = halves(address);
        let found = lb_pair_of_frontend(self.0, high, low, port);
        (self.pair(found & PAIR_INDEX), found & PAIR_OLDEST == 0)
    }

    /// The pair last used of those that lead to a backend.
    #[inline(always)]
    pub(crate) fn of_backend(self, address: &Address, port: u16) -> Option<Remembered> {
        let (high, low) = halves(address);
        self.pair(lb_pair_of_backend(self.0, high, low, port))
    }

    /// The highest stamp in use.
    #[inline(always)]
    pub(crate) fn newest(self) -> u64 {
        lb_newest_pair(self.0)
    }
}

#[inline(always)]
fn halves(address: &Address) -> (u64, u64) {
    let [a, b, c, d] = address.0;
    (u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d))
}

const PAIR_INDEX: u32 = 0xff;
const PAIR_OLDEST: u32 = 0x100;

// The scans are functions of their own for the same reason as `lb_last_not_above`: inlined, each
// pair would multiply the paths the verifier walks. They check for null because the kernel assumes
// that a global function's pointer may be.

/// Index of the frontend's pair, or of the least recently used one with [`PAIR_OLDEST`].
#[inline(never)]
#[unsafe(no_mangle)]
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
        if stamp != 0 && halves(&row.frontend) == (high, low) && row.frontend_port == port {
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
#[unsafe(no_mangle)]
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
        if stamp > newest && halves(&row.backend) == (high, low) && row.backend_port == port {
            newest = stamp;
            found = index;
        }
    }
    found
}

#[inline(never)]
#[unsafe(no_mangle)]
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

// === affinity ===

/// A client's entry.
#[derive(Clone, Copy)]
pub(crate) struct Entry(*mut u64);

impl Entry {
    #[inline(always)]
    pub(crate) fn of(key: &AffinityKey) -> Option<Self> {
        AFFINITY.get_ptr_mut(key).map(Self)
    }

    /// Makes an entry; false if one is there already or there is no memory.
    #[inline(always)]
    pub(crate) fn insert(key: &AffinityKey, word: AffinityWord) -> bool {
        AFFINITY.insert(key, &word.0, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    pub(crate) fn word(self) -> AffinityWord {
        // SAFETY: aligned table memory. The element may be evicted and reused meanwhile: the word
        // then names a backend of another group, which the membership search refuses.
        AffinityWord(unsafe { read_volatile(self.0) })
    }

    #[inline(always)]
    pub(crate) fn swap(self, old: AffinityWord, new: AffinityWord) -> bool {
        compare_and_swap(self.0, old.0, new.0)
    }
}

// === events ===

#[inline(always)]
pub(crate) fn tracing() -> bool {
    match CONTROL.get_ptr(control::TRACING) {
        // SAFETY: aligned table memory.
        Some(tracing) => unsafe { read_volatile(tracing) != 0 },
        None => false,
    }
}

/// Hands a record to whoever traces. Never wakes the reader: a wakeup costs microseconds.
#[inline(always)]
pub(crate) fn emit(event: &Event) {
    const NO_WAKEUP: u64 = 1;
    if EVENTS.output_untyped::<Event>(event, NO_WAKEUP).is_err()
        && let Some(lost) = CONTROL.get_ptr_mut(control::LOST_EVENTS)
    {
        atomic_add(lost, 1);
    }
}

// === words ===

#[inline(always)]
fn atomic_add(word: *mut u64, by: u64) {
    // SAFETY: `word` is aligned table memory; LLVM has no atomics for this target, the kernel does.
    unsafe { asm!("lock *(u64 *)({p} + 0) += {v}", p = in(reg) word, v = in(reg) by) }
}

/// Stores `new` if the word is `old`; whether it did. Fully ordered. Kernels before 5.12 get an
/// ordinary store, whose races cost a client its stickiness and never its correctness; rows that
/// need more are not used there.
#[inline(always)]
fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> bool {
    if !has(features::COMPARE_AND_SWAP) {
        // SAFETY: aligned table memory.
        return unsafe {
            let same = read_volatile(word) == old;
            if same {
                write_volatile(word, new);
            }
            same
        };
    }
    let mut seen = old;
    // SAFETY: as in `atomic_add`; the instruction takes and returns the compared word in r0.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({p} + 0, r0, {n})",
            p = in(reg) word,
            n = in(reg) new,
            inout("r0") seen,
        );
    }
    seen == old
}

/// The programs call helpers that the kernel reserves for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
