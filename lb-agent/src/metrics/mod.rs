//! `/metrics` for Prometheus: what the agent and the kernel tables say at the moment of asking, in either text
//! format. docs/observability.md lists every family; a test compares it with what an agent really answers.
//!
//! How many samples there are is bounded by the sizes of the tables, and without `per_backend` by the number of
//! services. What happens inside the agent is counted in [`own`]; the rest is read when asked for.

mod families;
pub(crate) mod own;
mod process;
mod reading;
mod tally;

use crate::config;
use crate::pulse::Pulse;
use crate::status::{Counters, NamesStatus, PacketPathStatus, Published};
use hyper::body::Bytes;
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;
use reading::Reading;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tally::Tally;
use tokio::sync::watch;

/// An answer is given again for this long: many who ask cost no more than one.
const FRESH: Duration = Duration::from_millis(500);

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// What is read for an answer.
#[derive(Clone)]
pub struct Sources {
    /// What the reconcile loop publishes.
    pub published: watch::Receiver<Arc<Published>>,
    /// What only the kernel knows.
    pub counters: Arc<dyn Counters>,
    /// How the writers of names do.
    pub names: watch::Receiver<Vec<NamesStatus>>,
    /// How the packet path fares.
    pub packets: watch::Receiver<PacketPathStatus>,
    /// Whether the loop still comes round.
    pub pulse: Pulse,
}

/// Answers with metrics, to one after the other.
#[derive(Clone)]
pub struct Metrics {
    sources: Sources,
    settings: config::Metrics,
    state: Arc<Mutex<State>>,
}

/// What is kept from one answer to the next.
#[derive(Default)]
struct State {
    tally: Tally,
    answers: Vec<Answer>,
    /// How long the last reading took.
    took: Duration,
}

struct Answer {
    format: Format,
    at: Instant,
    text: Bytes,
}

// === impl Format ===

impl Format {
    /// The best of those that an `Accept` header names; Prometheus' own, which everybody reads, if it
    /// names none.
    pub fn accepted(accept: &str) -> Self {
        let open = accept.split(',').any(|kind| {
            let mut parts = kind.split(';').map(str::trim);
            let name = parts.next();
            name == Some("application/openmetrics-text") && parts.all(|part| part != "q=0")
        });
        if open { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Metrics of these.
    pub fn new(sources: Sources, settings: config::Metrics) -> Self {
        Self { sources, settings, state: Arc::default() }
    }

    /// The whole text. Reads tables, which is many system calls, and waits for whoever asked before:
    /// not to be called on a thread of the runtime.
    ///
    /// # Errors
    ///
    /// If the kernel's tables can't be read, or no thread can be had to read them on. That is counted among the
    /// agent's own errors.
    pub fn text(&self, format: Format) -> anyhow::Result<Bytes> {
        // What a panic left is whole: it is only changed by calls that don't panic halfway.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.answers.retain(|answer| answer.at.elapsed() < FRESH);
        if let Some(answer) = state.answers.iter().find(|answer| answer.format == format) {
            return Ok(answer.text.clone());
        }
        let begin = Instant::now();
        let took = state.took;
        let reading =
            Reading::take(&self.sources, self.settings.per_backend, &mut state.tally, took)
                .inspect_err(|_| own::error(own::ErrorKind::Read))?;
        let mut registry = Registry::default();
        own::register(&mut registry);
        registry.register_collector(Box::new(reading));
        let mut text = String::new();
        match format {
            Format::Prometheus => prometheus_text::encode(&mut text, &registry)?,
            Format::OpenMetrics => text::encode(&mut text, &registry)?,
        }
        state.took = begin.elapsed();
        let text = Bytes::from(text);
        state.answers.push(Answer { format, at: Instant::now(), text: text.clone() });
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn the_format_is_what_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                          text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, expected) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain", Format::Prometheus),
            (prometheus, Format::OpenMetrics),
            ("text/plain, application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-texts", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }
}
