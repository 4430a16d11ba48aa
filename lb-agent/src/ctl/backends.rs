//! The table of `lbctl backends`, which may have 100,000 rows: the agent draws it, since to write all
//! of that as JSON and to read it again takes several times as long. Pure.

use super::human::{percent, span};
use super::render::{Look, health, id, lists, since, state, summary};
use super::report::BackendLine;
use super::table::Table;
use crate::model::{Frontend, Lease};
use crate::status::OutcomeCounts;
use std::sync::Arc;
use std::time::Duration;

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
    /// How the frontends of the last backend were written; the next mostly has the same.
    frontends: (Arc<[Frontend]>, String),
}

// === impl Backends ===

impl Backends {
    /// A table without rows.
    pub(crate) fn new(look: Look) -> Self {
        let more: &[_] = if look.wide { &WIDE } else { &[] };
        let names = USUAL.iter().chain(more).chain(&[LEASE, LISTS]).copied();
        let none: Arc<[Frontend]> = Arc::default();
        let frontends = (Arc::clone(&none), summary(none.iter().copied(), look));
        Self { look, table: Table::new(names), leases: look.wide, lists: false, frontends }
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, line: &BackendLine) {
        let Self { look, table, leases, lists: by_list, frontends } = self;
        if !Arc::ptr_eq(&frontends.0, &line.frontends) {
            let text = summary(line.frontends.iter().copied(), *look);
            *frontends = (Arc::clone(&line.frontends), text);
        }
        table.word(&line.service);
        table.word(&frontends.1);
        table.cell(line.address);
        table.word(state(line.state));
        table.cell(line.weight);
        match line.health.as_deref() {
            None => table.word("-"),
            known => table.word(&health(known, *look)),
        }
        table.cell(line.active);
        table.cell(line.connects);
        table.word(&line.source);
        table.word(&since(line, *look));
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
