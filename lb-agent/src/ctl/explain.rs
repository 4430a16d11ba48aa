//! What `explain` looks like. Pure.

use super::human::percent;
use super::render::{Look, affinity, checked, health, policy};
use super::table::Table;
use crate::explain::{Candidate, Explanation, LeftOut, Near, Reason, Walk};
use crate::model::{NoBackend, Policy, Scope};
use crate::shown::clean;
use std::fmt::Write as _;
use std::time::Duration;

/// Characters of a text that others wrote.
const LONGEST: usize = 300;

/// The service's name.
pub(super) fn name(explained: &Explanation) -> String {
    explained.service.as_ref().map(|name| format!("{name}\n")).unwrap_or_default()
}

/// In sentences, and a table of backends.
pub(super) fn text(explained: &Explanation, look: Look) -> String {
    let mut text = String::new();
    let Explanation { frontend, service, source, walk, .. } = explained;
    match walk {
        None => {
            line(&mut text, format!("{frontend} is no frontend: a connect there is left alone."));
            for Near { frontend, service } in &explained.closest {
                line(&mut text, format!("Did you mean {frontend}, of {service}?"));
            }
        }
        Some(walk) => {
            let unnamed = || format!("service-{}", walk.service_id);
            let service = service.clone().unwrap_or_else(unnamed);
            let source = source.as_deref().filter(|source| *source != "-");
            let source = source.map(|source| format!(" ({})", clean(source, LONGEST)));
            let scope = match walk.scope {
                Scope::Everywhere => "every socket under the agent's cgroup",
                Scope::Host => "sockets in the host's network namespace only",
            };
            let source = source.unwrap_or_default();
            line(&mut text, format!("{frontend} is a frontend of {service}{source}, for {scope}."));
            line(&mut text, verdict(walk));
            if let Some(kept) = walk.affinity {
                let clients: u64 = walk.candidates.iter().filter_map(|c| c.clients).sum();
                let kept = affinity(kept, " for ");
                let clients =
                    if clients == 1 { "1 stays".to_owned() } else { format!("{clients} stay") };
                line(
                    &mut text,
                    format!(
                        "A client stays with its backend, by {kept}; {clients} now, and the shares are those of new clients."
                    ),
                );
            }
            if explained.fails_open {
                line(
                    &mut text,
                    "Too few backends are healthy: unhealthy ones get connections, too.".to_owned(),
                );
            }
            if look.wide {
                let Walk { index, block, service_id, .. } = walk;
                line(
                    &mut text,
                    format!(
                        "In the tables: frontend {index}, block at row {block}, service {service_id}."
                    ),
                );
            }
            section(&mut text, "Backends", &backends(explained, walk, look), look);
        }
    }
    section(&mut text, "Left out", &left_out(&explained.left_out, look), look);
    if !explained.notes.is_empty() {
        text.push_str("\nNotes:\n");
        explained
            .notes
            .iter()
            .for_each(|note| line(&mut text, format!("  {}", clean(note, LONGEST))));
    }
    text
}

fn line(text: &mut String, line: String) {
    text.push_str(&line);
    text.push('\n');
}

fn section(text: &mut String, title: &str, table: &Table, look: Look) {
    if !table.is_empty() {
        // Writing to a string succeeds.
        let _ = write!(text, "\n{title}:\n{}", table.text(look.headers, 2));
    }
}

/// What a caller gets.
fn verdict(walk: &Walk) -> String {
    let without = match walk.no_backend {
        NoBackend::Refuse => "refused (ECONNREFUSED)",
        NoBackend::Unreachable => "refused as unreachable (EHOSTUNREACH)",
        NoBackend::Pass => "left alone, with the address as it was dialled",
    };
    match (walk.candidates.len(), walk.policy) {
        (0, _) => format!("It has no backend for new connections: a connect is {without}."),
        (1, _) => "A connect goes to its one backend.".to_owned(),
        (n, Policy::Random) => {
            format!("A connect goes to one of {n} backends, at random by weight.")
        }
        (n, Policy::LeastConnections) => format!(
            "A connect goes to one of {n} backends, the less loaded of two that are drawn by weight ({}); the shares are those of this moment.",
            policy(walk.policy)
        ),
    }
}

fn backends(explained: &Explanation, walk: &Walk, look: Look) -> Table {
    let kept: &[_] = if walk.affinity.is_some() { &["CLIENTS"] } else { &[] };
    let usual = ["BACKEND", "SHARE", "WEIGHT", "ACTIVE", "HEALTH"];
    let more: &[_] = if look.wide { &["ID"] } else { &[] };
    let mut table = Table::new(usual.iter().chain(kept).chain(more).copied());
    for candidate in &walk.candidates {
        let Candidate { address, id, weight, share_percent, active, clients } = candidate;
        let known = explained.health.iter().find(|(of, _)| of == address).map(|(_, known)| known);
        let mut cells = vec![
            address.to_string(),
            percent(*share_percent),
            weight.to_string(),
            active.to_string(),
            clean(&health(known, look), LONGEST),
        ];
        if walk.affinity.is_some() {
            cells.push(clients.map_or_else(|| "-".to_owned(), |clients| clients.to_string()));
        }
        if look.wide {
            cells.push(id.to_string());
        }
        table.push(cells);
    }
    table
}

fn left_out(left_out: &[LeftOut], look: Look) -> Table {
    let mut table = Table::new(["BACKEND", "WHY"]);
    for left in left_out {
        table.push([left.address.to_string(), why(left, look)]);
    }
    table
}

fn why(left: &LeftOut, look: Look) -> String {
    let LeftOut { address: _, reason, by_operator, zone, check, ejected_for } = left;
    let who = if *by_operator { " by an operator" } else { "" };
    let check = check.as_ref().map(|check| {
        let result = clean(&checked(check, look), LONGEST);
        format!("{}: {result}", clean(&check.check, LONGEST))
    });
    let and = |text: String| match &check {
        Some(check) => format!("{text} ({check})"),
        None => text,
    };
    match reason {
        Reason::OtherFamily => "of the other address family".to_owned(),
        Reason::Draining => and(format!("draining{who}: no new connections, old ones live")),
        Reason::Disabled => and(format!("disabled{who}")),
        Reason::Failing => match &check {
            Some(check) => format!("failing {check}"),
            None => "failing its checks".to_owned(),
        },
        Reason::Ejected => {
            let left = ejected_for.map(|left: Duration| left.as_millis().div_ceil(1000));
            let left = left.map(|seconds| format!(" for {seconds}s more")).unwrap_or_default();
            and(format!("ejected{left}: connects to it failed"))
        }
        Reason::Standby => and("stands by: a lower priority level serves".to_owned()),
        Reason::OtherZone => {
            let zone = zone.as_ref().map(|zone| format!(" ({})", clean(zone, LONGEST)));
            and(format!("in another zone{}: this host's serves", zone.unwrap_or_default()))
        }
        Reason::NotInstalled => "not in the tables: see the notes, or `lbctl status`".to_owned(),
        Reason::NotLedTo => and("this frontend leads to others".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Affinity, Client};
    use crate::status::CheckStatus;
    use std::time::SystemTime;

    fn look(wide: bool) -> Look {
        Look { wide, headers: true, now: SystemTime::UNIX_EPOCH }
    }

    fn candidate(address: &str, share_percent: f64) -> Candidate {
        let address = address.parse().unwrap();
        Candidate { address, id: 4, weight: 3, share_percent, active: 2, clients: Some(5) }
    }

    fn explained() -> Explanation {
        Explanation {
            frontend: "10.96.0.1:80".parse().unwrap(),
            service: Some("web".to_owned()),
            source: Some("file:a\n\u{1b}[2J".to_owned()),
            walk: Some(Walk {
                index: 1,
                block: 2,
                service_id: 3,
                policy: Policy::Random,
                no_backend: NoBackend::Unreachable,
                affinity: Some(Affinity { client: Client::Netns, timeout_seconds: 10_800 }),
                scope: Scope::Host,
                candidates: vec![candidate("10.0.0.1:80", 75.0), candidate("10.0.0.2:80", 25.0)],
                resting: Vec::new(),
            }),
            fails_open: true,
            health: Vec::new(),
            left_out: vec![LeftOut {
                address: "10.0.0.3:80".parse().unwrap(),
                reason: Reason::Failing,
                by_operator: false,
                zone: None,
                check: Some(CheckStatus {
                    check: "http /healthz".to_owned(),
                    up: false,
                    standing: "2/2".to_owned(),
                    result: None,
                    text: Some("L7STS 500 \u{1b}[31m".to_owned()),
                    took: None,
                    at: None,
                }),
                ejected_for: None,
            }],
            closest: Vec::new(),
            notes: vec!["refused: x\ny".to_owned()],
        }
    }

    #[test]
    fn in_sentences() {
        let expected = "\
10.96.0.1:80/tcp is a frontend of web (file:a\\n\\u{1b}[2J), for sockets in the host's network namespace only.
A connect goes to one of 2 backends, at random by weight.
A client stays with its backend, by netns for 3h; 10 stay now, and the shares are those of new clients.
Too few backends are healthy: unhealthy ones get connections, too.

Backends:
  BACKEND       SHARE   WEIGHT   ACTIVE   HEALTH   CLIENTS
  10.0.0.1:80   75.0%   3        2        -        5
  10.0.0.2:80   25.0%   3        2        -        5

Left out:
  BACKEND       WHY
  10.0.0.3:80   failing http /healthz: down 2/2 L7STS 500 \\u{1b}[31m

Notes:
  refused: x\\ny
";
        assert_eq!(text(&explained(), look(false)), expected);
        assert!(text(&explained(), look(true)).contains("frontend 1, block at row 2, service 3"));
        assert_eq!(name(&explained()), "web\n");
    }

    #[test]
    fn nobody_there() {
        let mut none = explained();
        none.walk.as_mut().unwrap().candidates.clear();
        let told = text(&none, look(false));
        assert!(told.contains("a connect is refused as unreachable (EHOSTUNREACH)."), "{told}");
        let near = Near { frontend: "10.96.0.1:81".parse().unwrap(), service: "web".to_owned() };
        let other = Explanation { walk: None, closest: vec![near], notes: Vec::new(), ..none };
        let told = text(&Explanation { left_out: Vec::new(), ..other }, look(false));
        let expected = "10.96.0.1:80/tcp is no frontend: a connect there is left alone.\n\
                        Did you mean 10.96.0.1:81/tcp, of web?\n";
        assert_eq!(told, expected);
    }
}
