//! The ring of decisions, and the switch that makes the programs write to it. Read in turns, never
//! waited for: a wakeup for each decision would cost more than the decision.

use super::sys::{self, Mapped};
use super::tables::{self, TableError, chain};
use aya::maps::{Map, MapData, RingBuf};
use lb_common::rows::{Event, OutcomeEvent};
use lb_common::{LAYOUT_VERSION, control};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For how long the programs write after they were last told to. A reader that dies costs no more
/// than that, and from then on a look at the clock per decision until the next agent starts.
pub const LEASE: Duration = Duration::from_secs(5);

/// A record of the ring.
#[derive(Clone, Copy, Debug)]
pub enum Record {
    /// A frontend was dialled.
    Decision(Event),
    /// Something became of a connect.
    Outcome(OutcomeEvent),
}

/// Reads the ring. There can be one at a time: what it has read is gone.
pub struct TraceReader {
    ring: RingBuf<MapData>,
    control: Mapped<u64>,
    /// Until when the programs write: monotonic clock.
    until: Duration,
}

/// Ends what a reader that died has left switched on.
///
/// # Errors
///
/// If `CONTROL` is not pinned there or can't be opened and mapped.
pub fn switch_off(pin_dir: &Path) -> Result<(), TableError> {
    let control = tables::open_control(&pins(pin_dir))?;
    control.publish(control::TRACING, 0);
    Ok(())
}

fn pins(pin_dir: &Path) -> PathBuf {
    pin_dir.join(LAYOUT_VERSION.to_string())
}

// === impl TraceReader ===

impl TraceReader {
    /// Opens the ring below `pin_dir`, drops what an earlier reader has left in it, and has the
    /// programs write.
    ///
    /// # Errors
    ///
    /// If `EVENTS` or `CONTROL` is not pinned there or can't be opened and mapped; nothing is switched on then.
    pub fn open(pin_dir: &Path) -> Result<Self, TableError> {
        let pins = pins(pin_dir);
        let failed = |reason: String| TableError::Failed { name: "EVENTS", reason };
        let map = MapData::from_pin(pins.join("EVENTS")).map_err(|e| failed(chain(&e)))?;
        let mut ring = RingBuf::try_from(Map::RingBuf(map)).map_err(|e| failed(chain(&e)))?;
        let control = tables::open_control(&pins)?;
        // Nothing is written while what an earlier reader left is thrown away.
        control.publish(control::TRACING, 0);
        while ring.next().is_some() {}
        let mut reader = Self { ring, control, until: sys::monotonic_now() };
        reader.renew();
        Ok(reader)
    }

    /// Has the programs write for another [`LEASE`]. Returns for how long they have not written,
    /// because the last time came too long ago.
    pub fn renew(&mut self) -> Duration {
        let now = sys::monotonic_now();
        let lapsed = now.saturating_sub(self.until);
        self.until = now + LEASE;
        let until = u64::try_from(self.until.as_nanos()).unwrap_or(u64::MAX);
        self.control.publish(control::TRACING, until);
        lapsed
    }

    /// Records that did not fit into the ring, since the tables were made.
    pub fn lost(&self) -> u64 {
        self.control.get(control::LOST_EVENTS).unwrap_or(0)
    }

    /// The next record; `None` if there is none yet. Those of another form are passed over: an
    /// earlier agent's programs may have written them.
    pub fn next_record(&mut self) -> Option<Record> {
        while let Some(bytes) = self.ring.next() {
            if let Some(record) = parse(&bytes) {
                return Some(record);
            }
        }
        None
    }
}

impl Drop for TraceReader {
    fn drop(&mut self) {
        self.control.publish(control::TRACING, 0);
    }
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let decision = bytemuck::try_pod_read_unaligned(bytes).map(Record::Decision);
    decision.or_else(|_| bytemuck::try_pod_read_unaligned(bytes).map(Record::Outcome)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_apart_by_their_size() {
        let event = Event { cookie: 7, ..Event::default() };
        let outcome = OutcomeEvent { cookie: 8, ..OutcomeEvent::default() };
        let decision = parse(bytemuck::bytes_of(&event));
        assert!(matches!(decision, Some(Record::Decision(read)) if read == event));
        let became = parse(bytemuck::bytes_of(&outcome));
        assert!(matches!(became, Some(Record::Outcome(read)) if read == outcome));
        assert!(parse(&bytemuck::bytes_of(&event)[..72]).is_none(), "of another form");
    }
}
