//! One reading of everything, and how it is written.

mod services;

use super::Sources;
use super::families::Families;
use super::process::Process;
use super::tally::Tally;
use crate::shown::line;
use crate::status::{
    AgentStatus, Counters, NamesKind, NamesStatus, PacketPathState, PacketPathStatus,
    ServiceStatus, SourceStatus, State, TableStatus,
};
use anyhow::Context as _;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use services::Services;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Services whose counters are read at a time.
const PART: usize = 256;

/// What everything says at one moment.
#[derive(Debug)]
pub(super) struct Reading {
    agent: AgentStatus,
    names: Vec<NamesStatus>,
    packets: PacketPathStatus,
    stuck: bool,
    loop_age: Duration,
    lost_events: Option<u64>,
    tables: Vec<TableStatus>,
    services: Services,
    process: Process,
    now: SystemTime,
    /// How long the reading before this one took.
    took: Duration,
}

// === impl Reading ===

impl Reading {
    pub(super) fn take(
        sources: &Sources,
        per_backend: bool,
        tally: &mut Tally,
        took: Duration,
    ) -> anyhow::Result<Self> {
        let published = Arc::clone(&sources.published.borrow());
        let counters = &*sources.counters;
        let agent = published.agent.clone();
        let (tables, services) = thread::scope(|scope| -> anyhow::Result<_> {
            // Both take their time.
            let tables = thread::Builder::new().spawn_scoped(scope, || counters.tables())?;
            let services = read_services(&published.state, counters, per_backend, tally);
            let tables = tables.join().ok().context("who read the tables has panicked")?;
            Ok((tables?, services?))
        })?;
        Ok(Self {
            names: sources.names.borrow().clone(),
            packets: sources.packets.borrow().clone(),
            stuck: sources.pulse.complaint().is_some(),
            loop_age: sources.pulse.age(),
            lost_events: counters.lost_events()?,
            tables,
            services,
            process: Process::read(agent.started),
            now: SystemTime::now(),
            agent,
            took,
        })
    }

    fn agent(&self, families: &mut Families<'_>) -> fmt::Result {
        let agent = &self.agent;
        let layout = agent.layout.to_string();
        let labels = [("version", agent.version.as_str()), ("layout", &layout)];
        families.info("lb_build", "The agent's version and the table layout it writes.", labels)?;
        let ready = u64::from(agent.ready && !self.stuck);
        for (name, help, value) in [
            ("lb_ready", "Whether the agent is ready: 1 or 0.", ready),
            ("lb_hooks_attached", "Programs that are attached.", agent.hooks.len() as u64),
            (
                "lb_warnings",
                "What this host can't do; see `lbctl status`.",
                agent.warnings.len() as u64,
            ),
            (
                "lb_refused_items",
                "Items that are refused now, by sources, by merging or for want of space.",
                agent.rejections.len() as u64,
            ),
        ] {
            families.gauge(name, help, [([], value)])?;
        }
        let test = &agent.self_test;
        for (name, help, value) in [
            (
                "lb_self_test_problems",
                "What the last self-test found and could not repair; see `lbctl status`.",
                test.problems.len(),
            ),
            ("lb_other_programs", "Programs of others at our hooks.", test.others.len()),
        ] {
            families.gauge(name, help, [([], value as u64)])?;
        }
        let help = "What self-tests have found and put right.";
        families.counter("lb_self_test_repairs", help, [([], test.repairs)])?;
        let help = "How long ago the loop came round; more than 15 seconds: it is stuck.";
        families.gauge_f64("lb_loop_age_seconds", help, [([], self.loop_age.as_secs_f64())])?;
        let help = "How long the answer before this one took to make.";
        families.gauge_f64("lb_metrics_duration_seconds", help, [([], self.took.as_secs_f64())])?;
        let work = &agent.work;
        for (name, help, value) in [
            ("lb_rounds", "Rounds of the loop that changed the tables.", work.rounds),
            ("lb_round_failures", "Rounds that failed and were repeated.", work.failures),
            ("lb_publishes", "Blocks of backends that were made live.", work.publishes),
            ("lb_grace_periods", "Grace periods waited for.", work.grace_periods),
        ] {
            families.counter(name, help, [([], value)])?;
        }
        let help = "Sockets that were ended because their backend was removed.";
        let destroyed = [("udp", work.destroyed_udp), ("tcp", work.destroyed_tcp)];
        let destroyed = destroyed.map(|(protocol, count)| ([("protocol", protocol)], count));
        families.counter("lb_destroyed_sockets", help, destroyed)?;
        let help = "Events that were lost because whoever traces was too slow.";
        families.counter("lb_lost_events", help, self.lost_events.map(|count| ([], count)))
    }

    fn sources(&self, families: &mut Families<'_>) -> fmt::Result {
        let sources = &self.agent.sources;
        let names: Vec<_> = sources.iter().map(|source| line(&source.name)).collect();
        let each = |value: fn(&SourceStatus) -> u64| {
            let of = move |(name, source): (_, _)| ([("source", name)], value(source));
            names.iter().map(|name| &**name).zip(sources).map(of)
        };
        let help = "Whether the source has delivered since the agent started: 1 or 0.";
        families.gauge("lb_source_synced", help, each(|source| source.synced.into()))?;
        let help = "Whether nothing is wrong with the source now: 1 or 0.";
        families.gauge("lb_source_up", help, each(|source| source.error.is_none().into()))?;
        let help = "Services in the snapshot of the source that serves.";
        families.gauge("lb_source_services", help, each(|source| source.services as u64))?;
        let help = "Removals that are not believed yet.";
        families.gauge("lb_source_held_removals", help, each(|source| source.held.len() as u64))?;
        let help = "Snapshots that the source has delivered; its revision.";
        families.counter("lb_source_revisions", help, each(|source| source.revision))?;
        let help = "Items of the source that were refused, each as often as it was.";
        families.counter("lb_source_refused_items", help, each(|source| source.refused))?;
        let seconds = |since: SystemTime| self.now.duration_since(since).unwrap_or_default();
        // Before the first time, since there has been somebody to hear it.
        let lag = sources.iter().map(|s| seconds(s.heard.at().unwrap_or(self.agent.started)));
        let help = "How far what serves may be behind the source: how long ago it was last heard to \
                    be up to date.";
        let lag = names.iter().zip(lag).map(|(n, lag)| ([("source", &**n)], lag.as_secs_f64()));
        families.gauge_f64("lb_source_lag_seconds", help, lag)?;
        let help = "When the source last delivered, in seconds since 1970.";
        let delivered = names.iter().zip(sources).filter_map(|(name, source)| {
            let since = source.delivered?.duration_since(UNIX_EPOCH).ok()?;
            Some(([("source", &**name)], since.as_secs_f64()))
        });
        families.gauge_f64("lb_source_last_delivery_timestamp_seconds", help, delivered)
    }

    fn names(&self, families: &mut Families<'_>) -> fmt::Result {
        let places: Vec<_> = self
            .names
            .iter()
            .filter_map(|names| Some((kind(names.kind)?, line(&names.place), names)))
            .collect();
        let each = |value: fn(&NamesStatus) -> u64| {
            places.iter().map(move |(kind, place, names)| {
                ([("kind", *kind), ("place", &**place)], value(names))
            })
        };
        let help = "Names of services that can be looked up there.";
        families.gauge("lb_names_records", help, each(|names| names.records as u64))?;
        let help = "Whether nothing is wrong with the place: 1 or 0.";
        families.gauge("lb_names_up", help, each(|names| names.error.is_none().into()))
    }

    fn packets(&self, families: &mut Families<'_>) -> fmt::Result {
        let packets = &self.packets;
        let one = |value: u64| [([], value)];
        let help = "Whether connections that come as packets are served: 1 or 0.";
        let on = matches!(packets.state, PacketPathState::On | PacketPathState::Failing);
        families.gauge("lb_packet_path_on", help, one(on.into()))?;
        let help = "Whether nothing is wrong with the packet path: 1 or 0.";
        families.gauge("lb_packet_path_up", help, one(packets.error.is_none().into()))?;
        let help = "Elements in the tables of the packet path.";
        families.gauge("lb_packet_path_elements", help, one(packets.elements as u64))?;
        let help = "Changes of the tables of the packet path.";
        families.counter("lb_packet_path_changes", help, one(packets.changes))?;
        let help = "How often somebody else had changed these tables, and they were put right.";
        families.counter("lb_packet_path_repairs", help, one(packets.repairs))?;
        let help = "Changes of these tables that failed and were tried again.";
        families.counter("lb_packet_path_failures", help, one(packets.failures))?;
        let help = "Flows that were ended because they led nowhere.";
        families.counter("lb_packet_path_ended_flows", help, one(packets.ended_flows))?;
        let help = "How long the last change of these tables took; 0 before there is one.";
        let took = packets.last_change.unwrap_or_default();
        families.gauge_f64("lb_packet_path_last_change_seconds", help, [([], took.as_secs_f64())])
    }

    fn tables(&self, families: &mut Families<'_>) -> fmt::Result {
        let each = |value: fn(&TableStatus) -> Option<u64>| {
            let of = move |table: &'_ TableStatus| value(table);
            self.tables
                .iter()
                .filter_map(move |table| Some(([("table", table.name.as_str())], of(table)?)))
        };
        let help = "Entries in use of a kernel table.";
        families.gauge("lb_table_entries", help, each(|table| table.used))?;
        let help = "Most entries that a kernel table can hold.";
        let most = |table: &TableStatus| Some(table.max_entries.into()).filter(|most| *most > 0);
        families.gauge("lb_table_max_entries", help, each(most))?;
        let help = "Memory that the kernel charges for a table.";
        families.gauge("lb_table_memory_bytes", help, each(|table| table.memory))
    }
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.agent(&mut families)?;
        self.sources(&mut families)?;
        self.names(&mut families)?;
        self.packets(&mut families)?;
        self.tables(&mut families)?;
        self.services.encode(&mut families)?;
        self.process.encode(&mut families)
    }
}

/// Reads the counters of all services, some at a time.
fn read_services(
    state: &State,
    counters: &dyn Counters,
    per_backend: bool,
    tally: &mut Tally,
) -> anyhow::Result<Services> {
    let mut services = Services::new(per_backend);
    tally.begin();
    for part in state.services.chunks(PART) {
        let mut part: Vec<ServiceStatus> =
            part.iter().map(|service| ServiceStatus::clone(service)).collect();
        counters.fill(&mut part)?;
        for service in part {
            let outcomes = tally.take(&service);
            services.add(service, outcomes);
        }
    }
    tally.end();
    Ok(services)
}

/// What the names are kept in; `None` for the zone, which is no place.
fn kind(kind: NamesKind) -> Option<&'static str> {
    match kind {
        NamesKind::Zone => None,
        NamesKind::Hosts => Some("hosts"),
        NamesKind::Dns => Some("dns"),
        NamesKind::Coredns => Some("coredns"),
    }
}
