//! The table of `lbctl backends`, which may have 100,000 rows: the agent draws it, since to write all
//! of that as JSON and to read it again takes several times as long. Pure.

use super::human::{percent, span};
use super::render::{Look, health, id, lists, since, state, summary};
use super::report::BackendLine;
use super::table::{Shared, Table};
use crate::model::{Frontend, Lease};
use crate::status::OutcomeCounts;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const USUAL: [&str; 10] = [
    "SERVICE", "FRONTEND", "BACKEND", "STATE", "WEIGHT", "HEALTH", "ACTIVE", "CONNECTS", "SOURCE",
    "SINCE",
];
const WIDE: [&str; 5] = ["SHARE", "FAILURES", "RTT", "ID", "ZONE"];
const LEASE: &str = "LEASE";
const LISTS: &str = "LISTS";

/// The table, backend by backend.
pub(crate) struct Backends {
    look: Look,
    table: Table,
    /// Whether there is something in these columns.
    leases: bool,
    lists: bool,
    last: Last,
}

/// How parts of the last row were written; the next mostly has the same.
struct Last {
    service: (Arc<str>, Shared),
    frontends: (Arc<[Frontend]>, Shared),
    source: (Arc<str>, Shared),
    since: (Option<SystemTime>, Shared),
}

// === impl Backends ===

impl Backends {
    /// A table without rows.
    pub(crate) fn new(look: Look) -> Self {
        let more: &[_] = if look.wide { &WIDE } else { &[] };
        let names = USUAL.iter().chain(more).chain(&[LEASE, LISTS]).copied();
        let nothing = || (Arc::from(""), Shared::default());
        let no_frontends = Shared::new(summary(std::iter::empty(), look));
        let last = Last {
            service: nothing(),
            frontends: (Arc::default(), no_frontends),
            source: nothing(),
            since: (None, Shared::new(since(None, look))),
        };
        Self { look, table: Table::new(names), leases: look.wide, lists: false, last }
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, line: &BackendLine) {
        let Self { look, table, leases, lists: by_list, last } = self;
        last.follow(line, *look);
        table.shared(&last.service.1);
        table.shared(&last.frontends.1);
        table.address(line.address);
        table.word(state(line.state));
        table.number(line.weight.into());
        match line.health.as_deref() {
            None => table.word("-"),
            known => table.word(&health(known, *look)),
        }
        table.number(line.active);
        table.number(line.connects);
        table.shared(&last.source.1);
        table.shared(&last.since.1);
        if look.wide {
            table.cell(percent(line.share_percent));
            table.cell(failures(line.outcomes));
            table.cell(rtt(line.outcomes));
            table.cell(id(line.id));
            table.word(line.zone.as_deref().unwrap_or("-"));
        }
        *leases |= line.lease_left.is_some();
        match line.lease.as_ref() {
            None => table.word("-"),
            lease => table.cell(lease_left(lease, line.lease_left)),
        }
        *by_list |= look.wide && !line.lists.is_cluster();
        table.word(lists(line.lists));
        table.end_row();
    }

    /// Makes several parts one table; those that follow the first have no names above.
    pub(crate) fn align(parts: &mut [Self]) {
        let headers = parts.first().is_some_and(|first| first.look.headers);
        let leases = parts.iter().any(|part| part.leases);
        let lists = parts.iter().any(|part| part.lists);
        for (at, part) in parts.iter_mut().enumerate() {
            (part.leases, part.lists) = (leases, lists);
            part.look.headers &= at == 0;
        }
        Table::align(parts.iter_mut().map(|part| &mut part.table), headers);
    }

    /// The whole as text.
    pub(crate) fn text(mut self) -> String {
        for (name, shown) in [(LEASE, self.leases), (LISTS, self.lists)] {
            if !shown {
                self.table.hide(name);
            }
        }
        self.table.text(self.look.headers, 0)
    }
}

// === impl Last ===

impl Last {
    /// Makes it that of this row.
    fn follow(&mut self, line: &BackendLine, look: Look) {
        for (last, now) in [(&mut self.service, &line.service), (&mut self.source, &line.source)] {
            if !Arc::ptr_eq(&last.0, now) {
                *last = (Arc::clone(now), Shared::new(now.to_string()));
            }
        }
        if !Arc::ptr_eq(&self.frontends.0, &line.frontends) {
            let text = summary(line.frontends.iter().copied(), look);
            self.frontends = (Arc::clone(&line.frontends), Shared::new(text));
        }
        if self.since.0 != line.since {
            self.since = (line.since, Shared::new(since(line.since, look)));
        }
    }
}

/// What is left of a lease: `7s`, `?` when that is not known, `-` without one.
fn lease_left(lease: Option<&Lease>, left: Option<Duration>) -> String {
    match (lease, left) {
        (None, _) => "-".to_owned(),
        (Some(_), None) => "?".to_owned(),
        (Some(_), Some(left)) => span(u32::try_from(left.as_secs()).unwrap_or(u32::MAX)),
    }
}

/// TCP connects that were refused or not answered.
fn failures(outcomes: Option<OutcomeCounts>) -> String {
    let failed = |outcomes: OutcomeCounts| (outcomes.refused + outcomes.unanswered).to_string();
    outcomes.map_or_else(|| "-".to_owned(), failed)
}

fn rtt(outcomes: Option<OutcomeCounts>) -> String {
    let srtt = outcomes.and_then(|outcomes| outcomes.srtt);
    srtt.map_or_else(|| "-".to_owned(), |srtt| format!("{:.2}ms", srtt.as_secs_f64() * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases() {
        let lease = Lease { source: "etcd:registry".into(), id: 7 };
        let left = |seconds: u64| Some(Duration::from_millis(1000 * seconds + 300));
        for (lease, left, text) in [
            (Some(&lease), left(7), "7s"),
            (Some(&lease), left(0), "0s"),
            (Some(&lease), left(90), "1m30s"),
            (Some(&lease), None, "?"),
            (None, None, "-"),
        ] {
            assert_eq!(lease_left(lease, left), text);
        }
    }
}
