//! The texts of `describe` and `status`: labelled lines, then a table per section; a section with
//! nothing in it is left out. Pure.

use super::human::{age, micros, moment, percent, time_of_day};
use super::render::{Look, affinity, checked, health, id, lists, no_backend, policy, since, state};
use super::report::{Description, NoAgent, backend_lines};
use super::table::Table;
use crate::health::effective::Why;
use crate::model::{Reach, Rejection, Scope};
use crate::shown::clean;
use crate::status::{
    AgentStatus, Comes, EarlierTables, HealthStatus, Held, NamesKind, NamesStatus, PacketPathState,
    PacketPathStatus, Repair, SelfTestStatus, ServiceStatus, SourceStatus, WorkStatus,
};
use std::time::SystemTime;

/// How far the content of a section is moved in.
const INDENT: usize = 2;

/// Removals named in the line that tells of them; `-o wide` has them all.
const HELD_SHOWN: usize = 3;

/// `describe`
pub(super) fn service(description: &Description, look: Look) -> String {
    let Description { service, rejections } = description;
    let ServiceStatus { name, id: kernel_id, source, counters, .. } = service;
    let active: u64 = service.backends.iter().map(|backend| backend.active).sum();
    let kept = service.affinity.map_or_else(|| "none".to_owned(), |kept| affinity(kept, " for "));
    let on_node = service.no_node_backend;
    let on_node = on_node.map(|verdict| ("None on node:", no_backend(verdict).to_owned()));
    let head = [
        ("Name:", name.clone()),
        ("Source:", source.clone()),
        ("ID:", id(*kernel_id)),
        ("Policy:", policy(service.policy).to_owned()),
        ("Affinity:", kept),
        ("No backend:", no_backend(service.no_backend).to_owned()),
    ];
    let counts = [
        ("Active:", active.to_string()),
        ("Connects:", counters.connects.to_string()),
        ("Refused:", counters.no_backend.to_string()),
        ("Untracked:", counters.untracked.to_string()),
    ];
    let mut text = labelled(head.into_iter().chain(on_node).chain(counts));

    let by_reach = has_lists(service);
    let by_way = service.frontends.iter().any(|frontend| frontend.comes != Comes::Sockets);
    let usual = ["FRONTEND", "SCOPE", "INSTALLED", "USABLE"];
    let columns = by_reach.then_some("REACH").into_iter().chain(by_way.then_some("BY"));
    let mut frontends = Table::new(usual.into_iter().chain(columns));
    for frontend in &service.frontends {
        let for_sockets = frontend.comes != Comes::Packets;
        let dash = || "-".to_owned();
        let cells = [
            frontend.frontend.to_string(),
            if for_sockets { scope(frontend.scope).to_owned() } else { dash() },
            if for_sockets { yes(frontend.installed) } else { dash() },
            frontend.usable.to_string(),
        ];
        let more = by_reach.then(|| reach(frontend.reach).to_owned()).into_iter();
        let more = more.chain(by_way.then(|| frontend.comes.word().to_owned()));
        frontends.push(cells.into_iter().chain(more));
    }
    section(&mut text, "Frontends", &frontends, look);

    let usual = ["BACKEND", "STATE", "WEIGHT", "SHARE", "ACTIVE", "CONNECTS", "SINCE", "ID"];
    let column: &[_] = if by_reach { &["LISTS"] } else { &[] };
    let mut backends = Table::new(usual.iter().chain(column).copied());
    for line in backend_lines(service) {
        let cells = [
            line.address.to_string(),
            state(line.state).to_owned(),
            line.weight.to_string(),
            percent(line.share_percent),
            line.active.to_string(),
            line.connects.to_string(),
            since(line.since, look),
            id(line.id),
        ];
        backends.push(cells.into_iter().chain(by_reach.then(|| lists(line.lists).to_owned())));
    }
    section(&mut text, "Backends", &backends, look);

    let mut known = Table::new(["BACKEND", "HEALTH", "CHECK", "RESULT", "TRIED"]);
    for line in backend_lines(service) {
        let Some(status) = &line.health else { continue };
        let check = status.check.as_ref();
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        known.push([
            line.address.to_string(),
            health_word(status, look),
            or_none(check.map(|check| check.check.clone())),
            or_none(check.map(|check| checked(check, look))),
            age(check.and_then(|check| check.at), look.now),
        ]);
    }
    section(&mut text, "Health", &known, look);
    if service.fails_open {
        let reason = "too few backends are healthy: unhealthy ones get connections too".to_owned();
        lines(&mut text, "Fails open", &[reason]);
    }
    rejected(&mut text, rejections, look);
    text
}

/// Why a backend gets connections or not, in a word or two.
fn health_word(status: &HealthStatus, look: Look) -> String {
    match status.why {
        Why::Ejected => health(Some(status), look),
        why => why.word().to_owned(),
    }
}

/// `status`
pub(super) fn agent(agent: &AgentStatus, look: Look) -> String {
    let AgentStatus { version, pid, started, layout, cgroup, pin_dir, ready, pending, .. } = agent;
    let mut text = labelled([
        ("Agent:", if *ready { "serving" } else { "not ready" }.to_owned()),
        ("Version:", version.clone()),
        ("PID:", pid.to_string()),
        ("Started:", when(Some(*started), look)),
        ("Cgroup:", cgroup.display().to_string()),
        ("Pinned in:", format!("{} (layout {layout})", pin_dir.display())),
    ]);
    lines(&mut text, "Pending", pending);

    let mut sources =
        Table::new(["SOURCE", "SYNCED", "REVISION", "DELIVERED", "SERVICES", "REFUSED", "ERROR"]);
    for source in &agent.sources {
        let SourceStatus {
            name,
            synced,
            cached,
            revision,
            applied: _,
            delivered,
            services,
            refused,
            held: _,
            error,
            error_since,
            heard: _,
        } = source;
        sources.push([
            name.clone(),
            if *cached { "cached".to_owned() } else { yes(*synced) },
            revision.to_string(),
            if look.wide { moment(*delivered) } else { age(*delivered, look.now) },
            services.to_string(),
            refused.to_string(),
            error.as_ref().map_or_else(|| "-".to_owned(), |error| dated(error, *error_since, look)),
        ]);
    }
    section(&mut text, "Sources", &sources, look);
    held_back(&mut text, &agent.sources, look);

    let mut hooks = Table::new(["HOOK", "PROGRAM", "LINK"]);
    for hook in &agent.hooks {
        hooks.push([hook.hook.clone(), hook.program_id.to_string(), hook.link_id.to_string()]);
    }
    section(&mut text, "Hooks", &hooks, look);
    self_test(&mut text, &agent.self_test, look);
    named(&mut text, &agent.names, look);
    packets(&mut text, &agent.packet_path, look);
    text.push_str("\nWork:\n");
    text.push_str(&work(&agent.work));
    lines(&mut text, "Warnings", &agent.warnings);
    rejected(&mut text, &agent.rejections, look);
    text
}

/// What is missing from its source and keeps serving: where there is room every item of it.
fn held_back(text: &mut String, sources: &[SourceStatus], look: Look) {
    if look.wide {
        let mut table = Table::new(["SOURCE", "ITEM", "UNTIL"]);
        for SourceStatus { name, held, .. } in sources {
            for Held { item, until } in held {
                table.push([name.clone(), item.clone(), moment(*until)]);
            }
        }
        return section(text, "Held back", &table, look);
    }
    let told = sources.iter().filter_map(|SourceStatus { name, held, .. }| {
        let removals = match held.len() {
            0 => return None,
            1 => "1 removal".to_owned(),
            n => format!("{n} removals"),
        };
        let mut items: Vec<&str> = held.iter().map(|held| held.item.as_str()).collect();
        if items.len() > HELD_SHOWN {
            items.truncate(HELD_SHOWN);
            items.push("...");
        }
        let until = held.iter().filter_map(|held| held.until).min();
        let until = match until {
            None => "while the store is away".to_owned(),
            Some(_) if held.len() == 1 => format!("until {}", time_of_day(until)),
            Some(_) => format!("the first until {}", time_of_day(until)),
        };
        Some(format!("{name}: {removals}, {until}: {}", items.join(", ")))
    });
    lines(text, "Held back", &told.collect::<Vec<_>>());
}

/// An error and how long it has lasted.
fn dated(error: &str, since: Option<SystemTime>, look: Look) -> String {
    match since {
        None => error.to_owned(),
        Some(_) if look.wide => format!("{error} (since {})", moment(since)),
        Some(_) => format!("{error} (for {})", age(since, look.now)),
    }
}

/// Whether the programs are attached and pinned as they should be, and who else is at their hooks.
fn self_test(text: &mut String, test: &SelfTestStatus, look: Look) {
    let SelfTestStatus { at, problems, repairs, last_repair, others, earlier } = test;
    if at.is_none() {
        return;
    }
    let outcome = if problems.is_empty() { "passed" } else { "failed" };
    let tested = if look.wide { moment(*at) } else { format!("{} ago", age(*at, look.now)) };
    let mut told = vec![format!("{outcome} {tested}; repairs: {repairs}")];
    if let Some(Repair { what, at }) = last_repair {
        let when =
            if look.wide { moment(Some(*at)) } else { format!("{} ago", age(Some(*at), look.now)) };
        told.push(format!("last repair ({when}): {what}"));
    }
    lines(text, "Self-test", &told);
    let earlier = earlier.iter().map(|EarlierTables { layout, open }| match open {
        Some(open) => format!("layout {layout}: {open} sockets are open"),
        None => format!("layout {layout}: can't be read; they stay until `lb-agent detach`"),
    });
    lines(text, "Tables of other versions", &earlier.collect::<Vec<_>>());
    lines(text, "Programs of others", &others.iter().map(ToString::to_string).collect::<Vec<_>>());
}

/// Where services can be looked up, and what can't be.
fn named(text: &mut String, names: &[NamesStatus], look: Look) {
    let mut table = Table::new(["KIND", "PLACE", "NAMES", "ERROR"]);
    let mut problems = Vec::new();
    for NamesStatus { kind, place, records, error, problems: own } in names {
        let kind = match kind {
            NamesKind::Zone => "zone",
            NamesKind::Hosts => "hosts",
            NamesKind::Dns => "dns",
            NamesKind::Coredns => "coredns",
        };
        let error = error.clone().unwrap_or_else(|| "-".to_owned());
        table.push([kind.to_owned(), place.clone(), records.to_string(), error]);
        problems.extend(own.iter().map(|problem| format!("{kind}: {problem}")));
    }
    section(text, "Names", &table, look);
    lines(text, "Problems with names", &problems);
}

/// How connections that come as packets fare.
fn packets(text: &mut String, packets: &PacketPathStatus, look: Look) {
    let PacketPathStatus {
        state,
        since,
        elements,
        changes,
        last_change,
        repairs,
        failures,
        ended_flows,
        kept,
        error,
    } = packets;
    let state = match state {
        PacketPathState::Off => "off",
        PacketPathState::Waiting => "waiting for services",
        PacketPathState::On => "on",
        PacketPathState::Unavailable => "unavailable",
        PacketPathState::Failing => "failing",
    };
    let since = since.map_or_else(String::new, |_| {
        if look.wide {
            format!(" since {}", moment(*since))
        } else {
            format!(" for {}", age(*since, look.now))
        }
    });
    let took = last_change.map_or_else(String::new, |took| format!(", the last in {took:.1?}"));
    text.push_str("\nPacket path:\n");
    if matches!(packets.state, PacketPathState::Off) {
        text.push_str("  off\n");
        return;
    }
    text.push_str(&format!(
        "  {state}{since}: {elements} elements; changes: {changes}{took}; repairs: {repairs}; \
         failures: {failures}; flows ended: {ended_flows}\n"
    ));
    for line in kept.iter().chain(error) {
        text.push_str(&format!("  {line}\n"));
    }
}

/// `status` when no agent answers
pub(super) fn no_agent(no_agent: &NoAgent) -> String {
    let NoAgent { ready: _, pending, pin_dir, pinned_services, pinned_error } = no_agent;
    let served = match (pinned_services, pinned_error) {
        (Some(1), _) => format!("1 service, by the tables pinned in {}", pin_dir.display()),
        (Some(n), _) => format!("{n} services, by the tables pinned in {}", pin_dir.display()),
        (None, error) => format!("unknown: {}", error.as_deref().unwrap_or("no tables")),
    };
    let mut text = labelled([("Agent:", "absent".to_owned()), ("Served:", served)]);
    lines(&mut text, "Pending", pending);
    text
}

fn work(work: &WorkStatus) -> String {
    let WorkStatus {
        rounds,
        publishes,
        grace_periods,
        failures,
        destroyed_udp,
        destroyed_tcp,
        last_round_micros,
        longest_round_micros,
        last_error,
    } = work;
    let mut table = Table::new([]);
    for (label, value) in [
        ("Rounds:", rounds.to_string()),
        ("Failed rounds:", failures.to_string()),
        ("Publishes:", publishes.to_string()),
        ("Grace periods:", grace_periods.to_string()),
        ("Ended sockets:", format!("{destroyed_udp} UDP, {destroyed_tcp} TCP")),
        ("Last round:", micros(*last_round_micros)),
        ("Longest round:", micros(*longest_round_micros)),
        ("Last error:", last_error.clone().unwrap_or_else(|| "none".to_owned())),
    ] {
        table.push([label.to_owned(), value]);
    }
    table.text(false, INDENT)
}

/// Whether its frontends lead to different backends.
fn has_lists(service: &ServiceStatus) -> bool {
    service.frontends.iter().any(|frontend| !frontend.reach.is_cluster())
        || service.backends.iter().any(|backend| !backend.lists.is_cluster())
}

pub(super) fn labelled<'l>(pairs: impl IntoIterator<Item = (&'l str, String)>) -> String {
    let mut table = Table::new([]);
    for (label, value) in pairs {
        table.push([label.to_owned(), value]);
    }
    table.text(false, 0)
}

pub(super) fn section(text: &mut String, title: &str, table: &Table, look: Look) {
    if !table.is_empty() {
        text.push_str(&format!("\n{title}:\n{}", table.text(look.headers, INDENT)));
    }
}

pub(super) fn lines(text: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        text.push_str(&format!("\n{title}:\n"));
        lines.iter().for_each(|line| text.push_str(&format!("  {}\n", clean(line, 4096))));
    }
}

fn rejected(text: &mut String, rejections: &[Rejection], look: Look) {
    let mut table = Table::new(["ORIGIN", "SERVICE", "REASON"]);
    for Rejection { origin, service, reason } in rejections {
        let service = service.clone().unwrap_or_else(|| "-".to_owned());
        table.push([origin.clone(), service, reason.clone()]);
    }
    section(text, "Rejected", &table, look);
}

fn when(then: Option<SystemTime>, look: Look) -> String {
    format!("{} ({} ago)", moment(then), age(then, look.now))
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn reach(reach: Reach) -> &'static str {
    match reach {
        Reach::Cluster => "cluster",
        Reach::Node => "node",
    }
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Everywhere => "everywhere",
        Scope::Host => "host",
    }
}
