//! The tables of the contract, and the few ways a program may touch them.
//!
//! References to rows of `BACKENDS` are sound because the agent never changes a row that is
//! reachable: it publishes fresh blocks and waits for a grace period, which includes this program's
//! run, before a row is used again. Words that do change while they are read (`BLOCKS`, cookies,
//! stamps, affinity) go through volatile access or compare-and-swap only; the BPF back end of LLVM
//! has no relaxed atomics.

#![expect(unsafe_code, reason = "table memory is reached through pointers from the kernel")]

mod counters;
mod outcomes;
mod pairs;
mod remembered;
mod words;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage};
use aya_ebpf::macros::btf_map;
use core::ptr::{read_volatile, write_volatile};
use lb_common::rows::{
    AffinityKey, AffinityWord, BackendCounters, BackendOutcomes, BackendRow, BlockHeader,
    BlockWord, ConnectionRow, FrontendKey, ServiceCounters, SocketRows,
};
use lb_common::{MAX_EXCLUDED, MEMBER_STEPS, control, filter};
use words::{atomic_add, compare_and_swap, words};

pub(crate) use counters::{ServiceCount, active, closed, connected, may_be_backend};
pub(crate) use outcomes::{Outcomes, report};
pub(crate) use pairs::Pairs;
pub(crate) use remembered::{
    Remembered, note_since, overflow_in_use, overflow_insert, overflow_remove,
};

/// `BPF_F_NO_PREALLOC`: a row's memory is made with the row.
const NO_PREALLOC: usize = 1;
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
static CONNECTION_TIMES: Array<u32, 65536> = Array::new();
#[btf_map]
static OVERFLOW_TIMES: HashMap<u64, u32, 65536, NO_PREALLOC> = HashMap::new();
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
#[btf_map]
static BACKEND_OUTCOMES: Array<BackendOutcomes, 65536, MMAPABLE> = Array::new();
#[btf_map]
static FAILURES: RingBuf<(), 65536> = RingBuf::new();

/// Entries of `CONNECTIONS` less one; they are a power of two.
#[unsafe(no_mangle)]
static CONNECTIONS_MASK: u32 = 65535;
/// Bits of [`features`] that the running kernel has.
#[unsafe(no_mangle)]
static FEATURES: u32 = 0;
/// Cookie of the host's network namespace; 0: the initial namespace of the kernel.
#[unsafe(no_mangle)]
static HOST_NETNS: u64 = 0;
/// Where `struct sock` of the running kernel has `sk_err`.
#[unsafe(no_mangle)]
static SK_ERR_OFFSET: u32 = 0;
/// How many cgroups are excluded; the verifier removes the code of those that are not.
#[unsafe(no_mangle)]
static EXCLUDED: u32 = 0;
/// At which level of the hierarchy each is; that of the root is 0.
#[unsafe(no_mangle)]
static EXCLUDED_LEVELS: [u32; MAX_EXCLUDED] = [0; MAX_EXCLUDED];
/// Their ids.
#[unsafe(no_mangle)]
static EXCLUDED_IDS: [u64; MAX_EXCLUDED] = [0; MAX_EXCLUDED];

/// A live block.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    base: u32,
    rows: u32,
    pub(crate) header: &'static BlockHeader,
}

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

#[inline(always)]
pub(crate) fn sk_err_offset() -> u32 {
    // SAFETY: as in `has`.
    unsafe { read_volatile(&raw const SK_ERR_OFFSET) }
}

/// How many cgroups are excluded.
#[inline(always)]
pub(crate) fn excluded() -> usize {
    // SAFETY: as in `has`.
    unsafe { read_volatile(&raw const EXCLUDED) as usize }
}

/// Level and id of one of them.
#[inline(always)]
pub(crate) fn excluded_cgroup<const SLOT: usize>() -> (u32, u64) {
    const { assert!(SLOT < MAX_EXCLUDED) };
    // SAFETY: as in `has`, and the slot is within the arrays.
    unsafe {
        let level = read_volatile((&raw const EXCLUDED_LEVELS).cast::<u32>().add(SLOT));
        (level, read_volatile((&raw const EXCLUDED_IDS).cast::<u64>().add(SLOT)))
    }
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

/// Until when somebody traces; 0 if nobody does.
#[inline(always)]
pub(crate) fn traced_until() -> u64 {
    match CONTROL.get_ptr(control::TRACING) {
        // SAFETY: aligned table memory.
        Some(until) => unsafe { read_volatile(until) },
        None => 0,
    }
}

/// Hands a record to whoever traces. Never wakes the reader: a wakeup costs microseconds.
#[inline(always)]
pub(crate) fn emit<T: Copy + 'static>(record: &T) {
    const NO_WAKEUP: u64 = 1;
    if EVENTS.output_untyped::<T>(record, NO_WAKEUP).is_err()
        && let Some(lost) = CONTROL.get_ptr_mut(control::LOST_EVENTS)
    {
        atomic_add(lost, 1);
    }
}

/// The programs call helpers that the kernel reserves for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
