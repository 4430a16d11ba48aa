//! Counting connects, and the filter of backends' own addresses.

use super::words::atomic_add;
use super::{BACKEND_FILTER, BACKEND_STATS, SERVICE_STATS, has};
use core::ptr::{null_mut, read_volatile};
use lb_common::rows::{Address, BackendCounters, ServiceCounters};
use lb_common::{features, filter};

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

/// A service's counters on this CPU; null where nothing is counted. Looked up once: each lookup is
/// felt.
#[derive(Clone, Copy)]
pub(crate) struct ServiceCount(*mut ServiceCounters);

impl ServiceCount {
    #[inline(always)]
    pub(crate) fn of(service_id: u32) -> Option<Self> {
        if has(features::UNCOUNTED) {
            return Some(Self(null_mut()));
        }
        SERVICE_STATS.get_ptr_mut(service_id).map(Self)
    }

    /// How many sockets this CPU has sent to the service.
    #[inline(always)]
    pub(crate) fn connects(self) -> u64 {
        if self.0.is_null() {
            return 0;
        }
        // SAFETY: this CPU's own copy.
        unsafe { (*self.0).connects }
    }

    #[inline(always)]
    pub(crate) fn count_connect(self) {
        if !self.0.is_null() {
            // SAFETY: this CPU's own copy.
            unsafe { (*self.0).connects += 1 };
        }
    }

    #[inline(always)]
    pub(crate) fn count_no_backend(self) {
        if !self.0.is_null() {
            // SAFETY: this CPU's own copy.
            unsafe { (*self.0).no_backend += 1 };
        }
    }

    #[inline(always)]
    pub(crate) fn count_untracked(self) {
        if !self.0.is_null() {
            // SAFETY: this CPU's own copy.
            unsafe { (*self.0).untracked += 1 };
        }
    }
}

/// A socket went to a backend.
#[inline(always)]
pub(crate) fn connected(backend_id: u32) {
    if has(features::UNCOUNTED) {
        return;
    }
    if let Some(counters) = BACKEND_STATS.get_ptr_mut(backend_id) {
        // SAFETY: the field lies in the row.
        atomic_add(unsafe { &raw mut (*counters).connects }, 1);
    }
}

/// A socket that went to a backend is not counted as open any more, or never was.
#[inline(always)]
pub(crate) fn closed(backend_id: u32) {
    if has(features::UNCOUNTED) {
        return;
    }
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
