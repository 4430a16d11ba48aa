//! What a report looks like: its form, and the tables of the listing verbs. That of
//! `backends` is in [`super::backends`], the longer texts of `describe` and `status` are in
//! [`super::details`]. Pure.

use super::backends::Backends;
use super::human::{age, bytes, moment, percent, span};
use super::report::Report;
use super::service::Stored;
use super::table::Table;
use super::{Form, Output, details};
use crate::health::board::CheckResult;
use crate::health::effective::Why;
use crate::model::{AdminState, Affinity, Client, Frontend, Lists, NoBackend, Policy};
use crate::status::{CheckStatus, HealthStatus, ServiceStatus, TableStatus};
use crate::summary::usable;
use anyhow::Context as _;
use std::time::SystemTime;

/// Characters of what a check says that a table has room for.
const ROOM: usize = 40;

/// How a table is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// With more columns.
    pub(crate) wide: bool,
    /// With column names.
    pub(crate) headers: bool,
    /// What ages are counted to.
    pub(crate) now: SystemTime,
}

/// `report` in the form asked for; always ends in a line feed unless it is empty.
pub(super) fn render(report: &Report, output: &Output, now: SystemTime) -> anyhow::Result<String> {
    let wide = output.form == Form::Wide;
    let look = Look { wide, headers: !output.no_headers, now };
    Ok(match output.form {
        Form::Table | Form::Wide => text(report, look),
        Form::Json => {
            serde_json::to_string_pretty(report).context("cannot write this as JSON")? + "\n"
        }
        Form::Yaml => serde_saphyr::to_string(report).context("cannot write this as YAML")?,
        Form::Name => names(report).into_iter().map(|name| name + "\n").collect(),
    })
}

fn text(report: &Report, look: Look) -> String {
    match report {
        Report::Services(services) => services_table(services, look).text(look.headers, 0),
        Report::Backends(lines) => {
            let mut backends = Backends::new(look);
            lines.iter().for_each(|line| backends.add(line));
            backends.text()
        }
        Report::Service(description) => details::service(description, look),
        Report::Status(agent) => details::agent(agent, look),
        Report::NoAgent(no_agent) => details::no_agent(no_agent),
        Report::Maps(tables) => maps_table(tables, look).text(look.headers, 0),
        Report::Stored(services) => stored_table(services, look).text(look.headers, 0),
    }
}

fn names(report: &Report) -> Vec<String> {
    match report {
        Report::Services(services) => services.iter().map(|s| s.name.clone()).collect(),
        // An address has no `/`, so the last one parts the two.
        Report::Backends(lines) => {
            lines.iter().map(|line| format!("{}/{}", line.service, line.address)).collect()
        }
        Report::Service(description) => vec![description.service.name.clone()],
        Report::Status(agent) => vec![if agent.ready { "serving" } else { "pending" }.to_owned()],
        Report::NoAgent(_) => vec!["absent".to_owned()],
        Report::Maps(tables) => tables.iter().map(|table| table.name.clone()).collect(),
        Report::Stored(services) => services.iter().map(|service| service.name.clone()).collect(),
    }
}

fn services_table(services: &[ServiceStatus], look: Look) -> Table {
    let usual = [
        "NAME",
        "FRONTENDS",
        "BACKENDS",
        "POLICY",
        "AFFINITY",
        "NO-BACKEND",
        "ACTIVE",
        "CONNECTS",
        "REFUSED",
        "SOURCE",
    ];
    let more: &[_] = if look.wide { &["UNTRACKED", "ID"] } else { &[] };
    let mut table = Table::new(usual.into_iter().chain(more.iter().copied()));
    for service in services {
        let frontends = service.frontends.iter().map(|f| f.frontend);
        let active: u64 = service.backends.iter().map(|backend| backend.active).sum();
        let mut cells = vec![
            service.name.clone(),
            summary(frontends, look),
            format!("{}/{}", usable(service), service.backends.len()),
            policy(service.policy).to_owned(),
            service.affinity.map_or_else(|| "-".to_owned(), |kept| affinity(kept, "/")),
            no_backend(service.no_backend).to_owned(),
            active.to_string(),
            service.counters.connects.to_string(),
            service.counters.no_backend.to_string(),
            service.source.clone(),
        ];
        if look.wide {
            cells.extend([service.counters.untracked.to_string(), id(service.id)]);
        }
        table.push(cells);
    }
    table
}

fn maps_table(tables: &[TableStatus], look: Look) -> Table {
    let more: &[_] = if look.wide { &["TYPE", "KEY", "VALUE", "ID"] } else { &[] };
    let mut table =
        Table::new(["TABLE", "USED", "MAX", "FILL", "MEMORY"].iter().chain(more).copied());
    for map in tables {
        let TableStatus { name, kind, id, key_size, value_size, max_entries, used, memory } = map;
        // Socket storage has no size of its own: it grows with the sockets.
        let most = Some(*max_entries).filter(|most| *most > 0);
        let fill = used.zip(most).map(|(used, most)| 100.0 * used as f64 / f64::from(most));
        let unknown = || "-".to_owned();
        let mut cells = vec![
            name.clone(),
            used.map_or_else(unknown, |used| used.to_string()),
            most.map_or_else(unknown, |most| most.to_string()),
            fill.map_or_else(unknown, percent),
            memory.map_or_else(unknown, bytes),
        ];
        if look.wide {
            cells.extend([
                kind.clone(),
                key_size.to_string(),
                value_size.to_string(),
                id.to_string(),
            ]);
        }
        table.push(cells);
    }
    table
}

fn stored_table(services: &[Stored], look: Look) -> Table {
    let mut table = Table::new(["NAME", "FRONTENDS", "BACKENDS", "REGISTERED", "REVISION"]);
    for service in services {
        let Stored { name, frontends, backends, registered, revision, spec: _, problem } = service;
        let unknown = |text| if problem.is_some() { "?".to_owned() } else { text };
        table.push([
            name.clone(),
            unknown(first_of(frontends, look)),
            unknown(backends.to_string()),
            registered.to_string(),
            revision.to_string(),
        ]);
    }
    table
}

/// The first frontend and how many more there are; all of them when there is room.
pub(super) fn summary(frontends: impl Iterator<Item = Frontend>, look: Look) -> String {
    first_of(&frontends.map(|frontend| frontend.to_string()).collect::<Vec<_>>(), look)
}

fn first_of(texts: &[String], look: Look) -> String {
    match texts {
        [] => "-".to_owned(),
        all if look.wide => all.join(","),
        [only] => only.clone(),
        [first, others @ ..] => format!("{first} +{}", others.len()),
    }
}

/// When a backend came into its state: the moment itself where there is room, else how long ago.
pub(super) fn since(since: Option<SystemTime>, look: Look) -> String {
    if look.wide { moment(since) } else { age(since, look.now) }
}

/// What decides over a backend: its worst check, or what else keeps connections from it.
pub(super) fn health(health: Option<&HealthStatus>, look: Look) -> String {
    let Some(HealthStatus { why, check, ejected_for, .. }) = health else {
        return "-".to_owned();
    };
    match why {
        Why::Ejected => match ejected_for {
            // Rounded up: `0s` would look like an end that does not come.
            Some(left) => format!("{} {}s", why.word(), left.as_millis().div_ceil(1000)),
            None => why.word().to_owned(),
        },
        Why::Standby | Why::OtherZone | Why::FailOpen => why.word().to_owned(),
        Why::Serving | Why::Failing | Why::Draining | Why::Disabled => match check {
            Some(check) => checked(check, look),
            None => "-".to_owned(),
        },
    }
}

/// `up 3/3 L7OK 200 3ms`, `down 2/2 L4CON connection refused`; as much of it as a column has room for.
pub(super) fn checked(check: &CheckStatus, look: Look) -> String {
    let mut text = format!("{} {}", if check.up { "up" } else { "down" }, check.standing);
    if let Some(said) = &check.text {
        text = format!("{text} {}", shortened(said, look));
    }
    match (check.took, check.result) {
        (Some(took), Some(CheckResult::Passing | CheckResult::Warning)) => {
            format!("{text} {}ms", took.as_millis())
        }
        _ => text,
    }
}

/// The first words of what a check says, all of it where there is room.
fn shortened(said: &str, look: Look) -> String {
    match said.char_indices().nth(ROOM) {
        Some((at, _)) if !look.wide => format!("{}...", &said[..at]),
        _ => said.to_owned(),
    }
}

pub(super) fn id(id: Option<u32>) -> String {
    id.map_or_else(|| "-".to_owned(), |id| id.to_string())
}

pub(super) fn state(state: AdminState) -> &'static str {
    match state {
        AdminState::Ready => "ready",
        AdminState::Drain => "drain",
        AdminState::Disabled => "disabled",
    }
}

pub(super) fn lists(lists: Lists) -> &'static str {
    match lists {
        Lists::Cluster => "cluster",
        Lists::Node => "node",
        Lists::Both => "both",
    }
}

pub(super) fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Random => "random",
        Policy::LeastConnections => "least_connections",
    }
}

pub(super) fn no_backend(no_backend: NoBackend) -> &'static str {
    match no_backend {
        NoBackend::Refuse => "refuse",
        NoBackend::Unreachable => "unreachable",
        NoBackend::Pass => "pass",
    }
}

pub(super) fn affinity(affinity: Affinity, between: &str) -> String {
    let client = match affinity.client {
        Client::Netns => "netns",
        Client::Uid => "uid",
        Client::Cgroup => "cgroup",
        Client::Process => "process",
    };
    format!("{client}{between}{}", span(affinity.timeout_seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn look(wide: bool) -> Look {
        Look { wide, headers: true, now: SystemTime::UNIX_EPOCH }
    }

    fn check(up: bool, standing: &str, result: CheckResult, text: &str) -> Option<CheckStatus> {
        Some(CheckStatus {
            check: "tcp".to_owned(),
            up,
            standing: standing.to_owned(),
            result: Some(result),
            text: Some(text.to_owned()),
            took: Some(Duration::from_micros(3400)),
            at: None,
        })
    }

    #[test]
    fn what_decides_over_a_backend() {
        let passing = check(true, "3/3", CheckResult::Passing, "L7OK 200");
        let failing = check(false, "2/2", CheckResult::Failing, "L4CON connection refused");
        let shaky = check(true, "1/3", CheckResult::Failing, "L7STS 500");
        let warning = check(true, "3/3", CheckResult::Warning, "EXEC 1: full");
        let untried = passing.clone().map(|check| CheckStatus {
            result: None,
            text: None,
            took: None,
            ..check
        });
        let left = Some(Duration::from_millis(11_200));
        for (why, check, ejected_for, text) in [
            (Why::Serving, &passing, None, "up 3/3 L7OK 200 3ms"),
            (Why::Draining, &passing, None, "up 3/3 L7OK 200 3ms"),
            (Why::Serving, &shaky, None, "up 1/3 L7STS 500"),
            (Why::Serving, &warning, None, "up 3/3 EXEC 1: full 3ms"),
            (Why::Serving, &untried, None, "up 3/3"),
            (Why::Serving, &None, None, "-"),
            (Why::Failing, &failing, None, "down 2/2 L4CON connection refused"),
            (Why::Ejected, &passing, left, "ejected 12s"),
            (Why::Standby, &passing, None, "standby"),
            (Why::OtherZone, &None, None, "other-zone"),
            (Why::FailOpen, &failing, None, "fail-open"),
            (Why::Disabled, &None, None, "-"),
        ] {
            let status = HealthStatus { why, share: 1, check: check.clone(), ejected_for };
            assert_eq!(health(Some(&status), look(false)), text, "{why:?}");
        }
        assert_eq!(health(None, look(false)), "-");
        let long = check(false, "2/2", CheckResult::Failing, &"\u{e4}".repeat(50));
        let long = long.unwrap();
        let cut = format!("down 2/2 {}...", "\u{e4}".repeat(40));
        assert_eq!(checked(&long, look(false)), cut);
        assert!(checked(&long, look(true)).ends_with(&"\u{e4}".repeat(50)));
    }
}
