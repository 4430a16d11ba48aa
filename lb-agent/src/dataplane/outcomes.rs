//! What became of translated TCP connects, as the kernel side has noted it: the rows, and word of
//! each failure as it happens. What to make of it is left to others.

use super::sys::{self, Mapped, Readable};
use super::tables::{self, TableError, chain};
use aya::maps::{Map, MapData, RingBuf};
use lb_common::rows::{BackendOutcomes, FailureRecord};
use lb_common::{LAYOUT_VERSION, failure};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The backend's host answered with a reset.
    Refused,
    /// Nobody answered within a second, or a router said that there is no way.
    Unanswered,
}

/// A backend that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its id.
    pub backend: u32,
    /// How it failed last.
    pub kind: FailureKind,
    /// Attempts that failed since one last succeeded, when this was noted.
    pub consecutive: u64,
    /// When it failed last, on the clock of [`monotonic_now`].
    pub at: Duration,
}

/// The rows of all backends.
pub struct Outcomes {
    rows: Mapped<BackendOutcomes>,
}

/// Hears of failures. There can be one: what it has read is gone.
pub struct FailureReader {
    ring: Readable<RingBuf<MapData>>,
}

/// The clock that the kernel side stamps outcomes with.
pub fn monotonic_now() -> Duration {
    sys::monotonic_now()
}

// === impl Outcomes ===

impl Outcomes {
    /// Opens the table below `pin_dir`, for reading.
    ///
    /// # Errors
    ///
    /// If `BACKEND_OUTCOMES` is not pinned there, as where an earlier agent of this layout made the tables, or
    /// can't be opened and mapped.
    pub fn open(pin_dir: &Path) -> Result<Self, TableError> {
        let pins = pin_dir.join(LAYOUT_VERSION.to_string());
        Ok(Self { rows: tables::open_outcomes(&pins, false)? })
    }

    /// The rows of these ids, in their order; zeros for an id that there is not.
    pub fn outcomes(&self, ids: &[u32]) -> Vec<BackendOutcomes> {
        ids.iter().map(|id| self.rows.get(*id).unwrap_or_default()).collect()
    }
}

// === impl FailureReader ===

impl FailureReader {
    /// Opens the ring below `pin_dir`, and drops what happened before: the rows tell of that. To be
    /// called from within the runtime.
    ///
    /// # Errors
    ///
    /// If `FAILURES` is not pinned there or can't be opened and mapped, or the runtime can't watch it.
    pub fn open(pin_dir: &Path) -> Result<Self, TableError> {
        let pins = pin_dir.join(LAYOUT_VERSION.to_string());
        let failed = |reason: String| TableError::Failed { name: "FAILURES", reason };
        let map = MapData::from_pin(pins.join("FAILURES")).map_err(|e| failed(chain(&e)))?;
        let ring = RingBuf::try_from(Map::RingBuf(map)).map_err(|e| failed(chain(&e)))?;
        let mut ring = Readable::new(ring).map_err(|e| failed(e.to_string()))?;
        while ring.get_mut().next().is_some() {}
        Ok(Self { ring })
    }

    /// Waits for failures. Those of one backend are one, the last; the backends come in the order of
    /// their ids. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// If the runtime no longer tells when there is something to read: it shuts down.
    pub async fn next(&mut self) -> io::Result<Vec<Failure>> {
        loop {
            let mut ready = self.ring.readable().await?;
            let mut failures = BTreeMap::new();
            let ring = ready.get_inner_mut();
            while let Some(record) = ring.next() {
                if let Some(failure) = parse(&record) {
                    failures.insert(failure.backend, failure);
                }
            }
            // Only now, with nothing left to read, does the kernel wake anybody again.
            ready.clear_ready();
            if !failures.is_empty() {
                return Ok(failures.into_values().collect());
            }
        }
    }
}

/// A record; `None` for one that a later version of the kernel side may write.
fn parse(bytes: &[u8]) -> Option<Failure> {
    let record: FailureRecord = bytemuck::try_pod_read_unaligned(bytes).ok()?;
    let FailureRecord { time_ns, backend_id, kind, consecutive } = record;
    let kind = match kind {
        failure::REFUSED => FailureKind::Refused,
        failure::UNANSWERED => FailureKind::Unanswered,
        _ => return None,
    };
    Some(Failure { backend: backend_id, kind, consecutive, at: Duration::from_nanos(time_ns) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_are_written() {
        let record = FailureRecord {
            time_ns: 1_500_000_000,
            backend_id: 7,
            kind: failure::UNANSWERED,
            consecutive: 3,
        };
        let failure = parse(bytemuck::bytes_of(&record)).unwrap();
        let at = Duration::from_millis(1500);
        let kind = FailureKind::Unanswered;
        assert_eq!(failure, Failure { backend: 7, kind, consecutive: 3, at });
        let unknown = FailureRecord { kind: 99, ..record };
        assert_eq!(parse(bytemuck::bytes_of(&unknown)), None);
        assert_eq!(parse(&bytemuck::bytes_of(&record)[1..]), None);
    }
}
