//! Words that several programs, or the agent, write at once.

use core::arch::asm;
#[cfg(feature = "no-atomic-fetch")]
use core::ptr::{read_volatile, write_volatile};
use lb_common::rows::Address;

/// An address as two little-endian words, which is what the target has.
#[inline(always)]
pub(super) fn words(address: &Address) -> [u64; 2] {
    let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    let [a, b, c, d] = address.0;
    [pair(a, b), pair(c, d)]
}

#[inline(always)]
pub(super) fn atomic_add(word: *mut u64, by: u64) {
    // SAFETY: `word` is aligned table memory; LLVM has no atomics for this target, the kernel does.
    unsafe { asm!("lock *(u64 *)({p} + 0) += {v}", p = in(reg) word, v = in(reg) by) }
}

/// What the word was before.
#[cfg(not(feature = "no-atomic-fetch"))]
#[inline(always)]
pub(super) fn atomic_fetch_add(word: *mut u64, by: u64) -> u64 {
    let mut value = by;
    // SAFETY: as in `atomic_add`; the instruction takes the addend and returns the old word.
    unsafe {
        asm!(
            "{v} = atomic_fetch_add((u64 *)({p} + 0), {v})",
            p = in(reg) word,
            v = inout(reg) value,
        );
    }
    value
}

/// What the word was before; another CPU may have been told the same.
#[cfg(feature = "no-atomic-fetch")]
#[inline(always)]
pub(super) fn atomic_fetch_add(word: *mut u64, by: u64) -> u64 {
    // SAFETY: as in `atomic_add`.
    let value = unsafe { read_volatile(word) };
    atomic_add(word, by);
    value
}

/// Stores `new` if the word is `old`; whether it did. Fully ordered.
#[cfg(not(feature = "no-atomic-fetch"))]
#[inline(always)]
pub(super) fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> bool {
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

/// Stores `new` if the word is `old`; whether it did. Two CPUs may both have done so: where that
/// would matter, [`HAS_COMPARE_AND_SWAP`] has to be asked.
#[cfg(feature = "no-atomic-fetch")]
#[inline(always)]
pub(super) fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: as in `atomic_add`.
    unsafe {
        let is_old = read_volatile(word) == old;
        if is_old {
            write_volatile(word, new);
        }
        is_old
    }
}

/// Whether [`compare_and_swap`] is one.
pub(super) const HAS_COMPARE_AND_SWAP: bool = cfg!(not(feature = "no-atomic-fetch"));
