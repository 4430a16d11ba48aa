//! What the status page is told: a whole picture at first, then what is different at each look, and
//! what happened in between in words. Pure.

mod news;

use crate::health::effective::Why;
use crate::heard::Heard;
use crate::pairs::side_by_side;
use crate::shown::clean;
use crate::status::{AgentStatus, ServiceStatus, SourceStatus};
use crate::summary::{self, Level, failures, shares, summary};
use news::News;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// Bytes of a text that are shown.
const LONGEST_TEXT: usize = 600;
/// Refused items that are shown one by one, and removals that are held, of each source.
const LISTED: usize = 200;
/// Frontends of a service that are named in the list.
const NAMED: usize = 2;

/// Connects, open sockets, failed connects, and connects that found no backend.
type Counts = [u64; 4];

/// When a look was taken.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Moment {
    /// Milliseconds of a clock that is never set; what rates are reckoned by.
    pub(super) at: u64,
    /// Milliseconds since 1970.
    pub(super) time: u64,
}

/// What was seen at one look.
#[derive(Debug)]
pub(super) struct Look {
    moment: Moment,
    agent: Value,
    ready: bool,
    rejected: usize,
    sources: Vec<SourceStatus>,
    /// For each source, how many seconds ago it was last heard to be up to date.
    lags: Vec<Option<u64>>,
    services: BTreeMap<String, Seen>,
    /// The number of the next service that is new.
    next: u32,
}

#[derive(Debug)]
struct Seen {
    row: Row,
    counts: Counts,
    /// By address.
    backends: Vec<(SocketAddr, Why)>,
}

/// A service in the list.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    /// By which the page knows it as long as it is there.
    id: u32,
    name: String,
    source: String,
    /// The first few.
    frontends: Vec<String>,
    /// How many there are.
    dialled: usize,
    usable: usize,
    backends: usize,
    level: Level,
    why: String,
}

/// A picture that needs none before it.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    moment: Moment,
    agent: &'a Value,
    lags: &'a [Option<u64>],
    rows: Vec<Listed<'a>>,
}

/// What is different from the look before.
#[derive(Serialize)]
struct Change<'a> {
    #[serde(flatten)]
    moment: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a Value>,
    lags: &'a [Option<u64>],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rows: Vec<Listed<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    counts: Vec<(u32, Counts)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    news: Vec<News>,
}

#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    row: &'a Row,
    counts: Counts,
}

// === impl Look ===

impl Look {
    /// What `agent` and `services`, counters filled in, look like; `before` is the look before.
    pub(super) fn new(
        before: Option<&Self>,
        moment: Moment,
        agent: AgentStatus,
        services: &[ServiceStatus],
    ) -> Self {
        let mut next = before.map_or(0, |before| before.next);
        let seen = services.iter().map(|service| {
            let known = before.and_then(|before| before.services.get(&service.name));
            let id = known.map_or(next, |known| known.row.id);
            next += u32::from(known.is_none());
            (service.name.clone(), Seen::new(id, service))
        });
        let services = seen.collect();
        let (ready, rejected) = (agent.ready, agent.rejections.len());
        let sources = agent.sources.clone();
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(moment.time);
        let lag = |source: &SourceStatus| {
            let since = |heard| time.duration_since(heard).unwrap_or_default().as_secs();
            source.heard.at().map(since)
        };
        let lags = sources.iter().map(lag).collect();
        Self { moment, agent: head(agent), ready, rejected, sources, lags, services, next }
    }

    /// For somebody who has seen nothing yet.
    pub(super) fn whole(&self) -> serde_json::Result<String> {
        let rows = self.services.values().map(Seen::listed).collect();
        let (moment, agent, lags) = (self.moment, &self.agent, &self.lags);
        serde_json::to_string(&Whole { moment, agent, lags, rows })
    }

    /// For somebody who has seen `before`. `services` is what this look was taken from.
    pub(super) fn change(
        &self,
        before: &Self,
        services: &[ServiceStatus],
    ) -> serde_json::Result<String> {
        let agent = Some(&self.agent).filter(|agent| **agent != before.agent);
        let mut change = Change {
            moment: self.moment,
            agent,
            lags: &self.lags,
            rows: Vec::new(),
            gone: Vec::new(),
            counts: Vec::new(),
            news: news::tell(before, self, services),
        };
        for pair in side_by_side(&before.services, &self.services) {
            match pair {
                (Some((_, before)), Some((_, now))) if before.row != now.row => {
                    change.rows.push(now.listed());
                }
                (Some((_, before)), Some((_, now))) if before.counts != now.counts => {
                    change.counts.push((now.row.id, now.counts));
                }
                (Some(_), Some(_)) | (None, None) => {}
                (None, Some((_, now))) => change.rows.push(now.listed()),
                (Some((_, before)), None) => change.gone.push(before.row.id),
            }
        }
        serde_json::to_string(&change)
    }
}

// === impl Seen ===

impl Seen {
    fn new(id: u32, service: &ServiceStatus) -> Self {
        let summary = summary(service);
        let mut frontends: Vec<_> = service.frontends.iter().map(|f| f.frontend).collect();
        frontends.sort_unstable();
        let row = Row {
            id,
            name: clean(&service.name, LONGEST_TEXT),
            source: clean(&service.source, LONGEST_TEXT),
            frontends: frontends.iter().take(NAMED).map(ToString::to_string).collect(),
            dialled: frontends.len(),
            usable: summary.usable,
            backends: service.backends.len(),
            level: summary.level,
            why: summary.why,
        };
        let counters = service.counters;
        let counts = [counters.connects, summary.active, summary.failures, counters.no_backend];
        let mut backends: Vec<_> =
            service.backends.iter().map(|b| (b.address, summary::why(b))).collect();
        backends.sort_unstable_by_key(|(address, _)| *address);
        Self { row, counts, backends }
    }

    fn listed(&self) -> Listed<'_> {
        Listed { row: &self.row, counts: self.counts }
    }
}

/// All there is to know about a service, as the page shows it on demand.
pub(super) fn details(mut service: ServiceStatus, agent: &AgentStatus) -> Value {
    service.frontends.sort_by_key(|frontend| frontend.frontend);
    service.backends.sort_by_key(|backend| backend.address);
    let summary = summary(&service);
    let backends: Vec<Value> = service
        .backends
        .iter()
        .zip(shares(&service))
        .map(|(backend, share)| {
            json!({
                "address": backend.address,
                "why": summary::why(backend).word(),
                "weight": backend.weight,
                "share": share,
                "active": backend.active,
                "connects": backend.connects,
                "failures": failures(backend),
                "outcomes": backend.outcomes,
                "health": backend.health,
                "zone": backend.zone,
                "leased": backend.lease.is_some(),
                "overridden": backend.said.is_some(),
                "since": backend.since.map(|since| humantime::format_rfc3339_seconds(since).to_string()),
            })
        })
        .collect();
    let about = |r: &&crate::model::Rejection| r.service.as_deref() == Some(&service.name);
    let rejections: Vec<_> = agent.rejections.iter().filter(about).take(LISTED).collect();
    let mut value = json!({
        "name": service.name,
        "source": service.source,
        "id": service.id,
        "policy": service.policy,
        "affinity": service.affinity,
        "no_backend": service.no_backend,
        "level": summary.level,
        "why": summary.why,
        "frontends": service.frontends,
        "backends": backends,
        "counters": service.counters,
        "rejections": rejections,
    });
    tidy(&mut value);
    value
}

/// The agent for the top of the page: all but the services, lists cut to what somebody can read.
fn head(mut agent: AgentStatus) -> Value {
    let rejected = agent.rejections.len();
    agent.rejections.truncate(LISTED);
    let held: Vec<usize> = agent.sources.iter().map(|source| source.held.len()).collect();
    for source in &mut agent.sources {
        source.held.truncate(LISTED);
        // Told apart: it is another each time, and the rest is not.
        source.heard = Heard::default();
    }
    // A status is plain data; what can't be written is told as such.
    let mut value =
        serde_json::to_value(agent).unwrap_or_else(|e| json!({ "error": e.to_string() }));
    value["rejected"] = json!(rejected);
    value["held"] = json!(held);
    tidy(&mut value);
    value
}

/// Makes every text fit to be shown.
fn tidy(value: &mut Value) {
    match value {
        Value::String(text) => *text = clean(text, LONGEST_TEXT),
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(fields) => fields.values_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests;
