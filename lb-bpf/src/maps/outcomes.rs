//! Counting what became of connects, and telling the agent of those that failed.

use super::words::{atomic_add, atomic_fetch_add};
use super::{BACKEND_OUTCOMES, FAILURES};
use core::ptr::{read_volatile, write_volatile};
use lb_common::failure;
use lb_common::rows::{BackendOutcomes, FailureRecord};

/// A backend's row.
#[derive(Clone, Copy)]
pub(crate) struct Outcomes(*mut BackendOutcomes);

impl Outcomes {
    #[inline(always)]
    pub(crate) fn of(backend_id: u32) -> Option<Self> {
        BACKEND_OUTCOMES.get_ptr_mut(backend_id).map(Self)
    }

    /// Notes a connection that came about; `srtt` in eighths of a microsecond, 0 if it is not known.
    ///
    /// What is not a counter is stored without care for other CPUs: the loss of a sample, or of a
    /// failure that races with a success, changes nothing that matters.
    #[inline(always)]
    pub(crate) fn established(self, srtt: u32, now: u64) {
        let row = self.0;
        // SAFETY: fields of aligned table memory, which other programs write concurrently.
        unsafe {
            atomic_add(&raw mut (*row).established, 1);
            if read_volatile(&raw const (*row).consecutive) != 0 {
                write_volatile(&raw mut (*row).consecutive, 0);
            }
            write_volatile(&raw mut (*row).last_success_ns, now);
            if srtt != 0 {
                let mean = read_volatile(&raw const (*row).srtt_eighths);
                let mean = if mean == 0 { srtt } else { mean - (mean >> 3) + (srtt >> 3) };
                write_volatile(&raw mut (*row).srtt_eighths, mean);
            }
        }
    }

    /// Counts one of [`failure`].
    #[inline(always)]
    pub(crate) fn failed(self, kind: u32) {
        let row = self.0;
        // SAFETY: as above.
        unsafe {
            if kind == failure::REFUSED {
                atomic_add(&raw mut (*row).refused, 1);
            } else {
                atomic_add(&raw mut (*row).unanswered, 1);
            }
        }
    }

    /// Notes that an attempt failed; how many have in succession.
    #[inline(always)]
    pub(crate) fn one_more_failed(self, now: u64) -> u64 {
        let row = self.0;
        // SAFETY: as above.
        unsafe {
            write_volatile(&raw mut (*row).last_failure_ns, now);
            atomic_fetch_add(&raw mut (*row).consecutive, 1).wrapping_add(1)
        }
    }

    #[inline(always)]
    pub(crate) fn abandoned(self) {
        // SAFETY: as above.
        atomic_add(unsafe { &raw mut (*self.0).abandoned }, 1);
    }
}

/// Wakes the agent, if it has read all there was before. A record that does not fit is not missed:
/// the row says the same.
#[inline(always)]
pub(crate) fn report(record: &FailureRecord) {
    const WAKE_IF_CAUGHT_UP: u64 = 0;
    let _ = FAILURES.output_untyped::<FailureRecord>(record, WAKE_IF_CAUGHT_UP);
}
