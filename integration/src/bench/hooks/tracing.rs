//! Somebody who traces, at the agent's pace, while the others are measured.

use crate::wait::let_pass;
use anyhow::Context as _;
use lb_agent::dataplane::trace::TraceReader;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two looks at the ring, as the agent makes them.
const PAUSE: Duration = Duration::from_millis(20);
/// Records that are read at a look.
const AT_ONCE: usize = 4096;

/// Traces until it is dropped.
pub(super) struct Tracing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tracing {
    /// From here on the programs write whose tables are below this directory.
    pub(super) fn start(pins: &Path) -> anyhow::Result<Self> {
        let mut reader = TraceReader::open(pins).context("reading the events")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                reader.renew();
                for _ in 0..AT_ONCE {
                    if reader.next_record().is_none() {
                        break;
                    }
                }
                let_pass(PAUSE);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics only where the process does.
            let _ = thread.join();
        }
    }
}
