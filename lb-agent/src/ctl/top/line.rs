//! A line of `lbctl top`: what is shown of a service or a backend. Pure.

use super::state::{Column, LONGEST};
use crate::health::effective::Why;
use crate::shown::clean;
use crate::status::{BackendStatus, ServiceStatus};
use crate::summary::{self, Level, Summary};
use std::cmp::Ordering;
use std::time::Duration;

/// How a line is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    Good,
    Quiet,
    Warn,
    Bad,
}

/// A service or a backend.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// By which it is known from one look to the next.
    pub(super) key: String,
    /// The service it is, or belongs to.
    pub(super) service: String,
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) tone: Tone,
    /// Backends that serve of all, or the share of one.
    pub(super) part: String,
    /// New connections per second.
    pub(super) rate: f64,
    pub(super) active: u64,
    /// Failed connects per second.
    pub(super) failing: f64,
    pub(super) failed: u64,
    pub(super) rtt: Option<Duration>,
    pub(super) health: String,
}

/// A service with connects and failed connects per second.
pub(super) fn service_line(
    service: &ServiceStatus,
    summary: Summary,
    (rate, failing): (f64, f64),
) -> Line {
    let Summary { level, why, usable, active, failures, srtt } = summary;
    let tone = match level {
        Level::Ok => Tone::Good,
        Level::Degraded => Tone::Warn,
        Level::FailOpen | Level::Down => Tone::Bad,
    };
    Line {
        key: service.name.clone(),
        service: service.name.clone(),
        name: clean(&service.name, LONGEST),
        state: level.word(),
        tone,
        part: format!("{usable}/{}", service.backends.len()),
        rate,
        active,
        failing,
        failed: failures,
        rtt: srtt,
        health: clean(&why, LONGEST),
    }
}

/// A backend with its share in percent, and connects and failed connects per second.
pub(super) fn backend_line(
    service: &str,
    backend: &BackendStatus,
    share: f64,
    key: String,
    (rate, failing): (f64, f64),
) -> Line {
    let why = summary::why(backend);
    let tone = match why {
        Why::Serving => Tone::Good,
        Why::Failing | Why::Ejected | Why::FailOpen => Tone::Bad,
        Why::Draining | Why::Disabled | Why::Standby | Why::OtherZone => Tone::Quiet,
    };
    Line {
        key,
        service: service.to_owned(),
        name: backend.address.to_string(),
        state: why.word(),
        tone,
        part: format!("{share:.0}%"),
        rate,
        active: backend.active,
        failing,
        failed: summary::failures(backend),
        rtt: backend.outcomes.as_ref().and_then(|outcomes| outcomes.srtt),
        health: clean(&checked(backend), LONGEST),
    }
}

/// What the worst check said last.
fn checked(backend: &BackendStatus) -> String {
    let Some(check) = backend.health.as_ref().and_then(|health| health.check.as_ref()) else {
        return String::new();
    };
    let verdict = if check.up { "up" } else { "down" };
    let said = check.text.as_deref().unwrap_or_default();
    format!("{} {verdict} {} {said}", check.check, check.standing).trim_end().to_owned()
}

/// What somebody looks for comes first: texts from their beginning, numbers from the largest, the
/// worst state.
pub(super) fn compare(a: &Line, b: &Line, column: Column) -> Ordering {
    match column {
        Column::Name => a.key.cmp(&b.key),
        Column::State => b.tone.cmp(&a.tone).then(b.rate.total_cmp(&a.rate)),
        Column::Rate => b.rate.total_cmp(&a.rate),
        Column::Active => b.active.cmp(&a.active),
        Column::Failing => b.failing.total_cmp(&a.failing).then(b.failed.cmp(&a.failed)),
        Column::Rtt => b.rtt.cmp(&a.rtt),
    }
}
