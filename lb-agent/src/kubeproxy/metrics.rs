//! The metrics of kube-proxy that dashboards rely on, under its names, in the text format that
//! Prometheus scrapes.

mod checks;
mod tools;

use self::checks::Checks;
use super::process::Process;
use crate::metrics::own;
use crate::source::kubernetes::locality::Lacking;
use crate::source::kubernetes::objects::Family as AddressFamily;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
use prometheus_client::registry::{Metric, Registry};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

type Label<const N: usize> = [(&'static str, &'static str); N];
type Histograms = Family<Label<1>, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

/// One loop serves both families: what it does counts for both, as kube-proxy's two do the same.
const FAMILIES: [Label<1>; 2] = [[("ip_family", "IPv4")], [("ip_family", "IPv6")]];

/// All metrics.
pub struct Metrics {
    registry: Registry,
    sync: Histograms,
    full: Histograms,
    partial: Histograms,
    programming: Histograms,
    last: Seconds,
    queued: Seconds,
    endpoints_pending: Gauge,
    endpoints: Counter,
    services_pending: Gauge,
    services: Counter,
    no_local: Family<Label<2>, Gauge>,
    healthz: Family<Label<1>, Counter>,
    livez: Family<Label<1>, Counter>,
    checks: Checks,
}

/// What was heard and is, or is not, in the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes of Services that are not in the tables yet.
    pub services_pending: u64,
    /// Changes of Services since the start.
    pub services: u64,
    /// Changes of EndpointSlices that are not in the tables yet.
    pub endpoints_pending: u64,
    /// Changes of EndpointSlices since the start.
    pub endpoints: u64,
    /// Ports of Services whose policy finds no endpoint on this node.
    pub lacking: Lacking,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let durations: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let family = || Family::new_with_constructor(durations);
        let mut metrics = Self {
            registry: Registry::default(),
            sync: family(),
            full: family(),
            partial: family(),
            programming: Family::new_with_constructor(|| Histogram::new(programming_buckets())),
            last: Gauge::default(),
            queued: Gauge::default(),
            endpoints_pending: Gauge::default(),
            endpoints: Counter::default(),
            services_pending: Gauge::default(),
            services: Counter::default(),
            no_local: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
            checks: Checks::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        for histograms in [&self.sync, &self.full, &self.partial, &self.programming] {
            // Present from the start, so that rates have a zero to begin from.
            FAMILIES.iter().for_each(|label| drop(histograms.get_or_create_owned(label)));
        }
        let registry = &mut self.registry;
        add(
            registry,
            "sync_proxy_rules_duration_seconds",
            "How long it took to bring a change into the tables",
            self.sync.clone(),
        );
        add(
            registry,
            "sync_full_proxy_rules_duration_seconds",
            "The same, where all had to be looked at: at first, and after a failure",
            self.full.clone(),
        );
        add(
            registry,
            "sync_partial_proxy_rules_duration_seconds",
            "The same, where only what changed was looked at",
            self.partial.clone(),
        );
        add(
            registry,
            "network_programming_duration_seconds",
            "From the event that an EndpointSlice tells of to the tables",
            self.programming.clone(),
        );
        add(
            registry,
            "sync_proxy_rules_last_timestamp_seconds",
            "When a change last got into the tables",
            self.last.clone(),
        );
        add(
            registry,
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change was last heard of",
            self.queued.clone(),
        );
        add(
            registry,
            "sync_proxy_rules_endpoint_changes_pending",
            "Changes of EndpointSlices that are not in the tables yet",
            self.endpoints_pending.clone(),
        );
        add(
            registry,
            "sync_proxy_rules_endpoint_changes",
            "Changes of EndpointSlices",
            self.endpoints.clone(),
        );
        add(
            registry,
            "sync_proxy_rules_service_changes_pending",
            "Changes of Services that are not in the tables yet",
            self.services_pending.clone(),
        );
        add(
            registry,
            "sync_proxy_rules_service_changes",
            "Changes of Services",
            self.services.clone(),
        );
        add(
            registry,
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports with a Local traffic policy and endpoints, none of them on this node",
            self.no_local.clone(),
        );
        add(registry, "proxy_healthz", "Answers of /healthz", self.healthz.clone());
        add(registry, "proxy_livez", "Answers of /livez", self.livez.clone());
        let build = Family::<Vec<(&str, String)>, Gauge>::default();
        build.get_or_create(&build_labels()).set(1);
        let help = "The version that runs, always 1";
        self.registry.register("kubernetes_build_info", help, build);
        own::register_requests(&mut self.registry);
        own::register_packets(&mut self.registry);
        tools::register(&mut self.registry);
        self.registry.register_collector(Box::new(Process));
    }

    /// A round of the loop took this long; `full` if it had to look at everything.
    pub fn synced(&self, took: Duration, full: bool) {
        let which = if full { &self.full } else { &self.partial };
        for label in &FAMILIES {
            self.sync.get_or_create(label).observe(took.as_secs_f64());
            which.get_or_create(label).observe(took.as_secs_f64());
        }
    }

    /// What happened at `trigger` to endpoints of this family is in the tables at `now`. A trigger in the
    /// future says nothing.
    pub fn programmed(&self, family: AddressFamily, trigger: SystemTime, now: SystemTime) {
        let Ok(took) = now.duration_since(trigger) else { return };
        let label = [("ip_family", family.word())];
        self.programming.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// A change got into the tables.
    pub fn applied(&self, at: SystemTime) {
        self.last.set(seconds(at));
    }

    /// A change was heard of.
    pub fn queued(&self, at: SystemTime) {
        self.queued.set(seconds(at));
    }

    /// `/healthz` was answered.
    pub fn answered_healthz(&self, good: bool) {
        self.healthz.get_or_create(&code(good)).inc();
        self.checks.note("proxy", "healthz", good);
    }

    /// `/livez` was answered.
    pub fn answered_livez(&self, good: bool) {
        self.livez.get_or_create(&code(good)).inc();
        self.checks.note("proxy", "livez", good);
    }

    /// `/healthz` of the metrics port was answered.
    pub fn answered_ping(&self) {
        self.checks.note("ping", "healthz", true);
    }

    /// The text of `/metrics/slis`: what checks came to.
    ///
    /// # Errors
    ///
    /// None is known: a `String` takes whatever is written to it.
    pub fn checks(&self) -> Result<String, fmt::Error> {
        self.checks.text()
    }

    /// The text, with these changes.
    ///
    /// # Errors
    ///
    /// None is known: a `String` takes whatever is written to it.
    pub fn text(&self, changes: Changes) -> Result<String, fmt::Error> {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.endpoints_pending.set(gauge(changes.endpoints_pending));
        self.services_pending.set(gauge(changes.services_pending));
        for (counter, total) in
            [(&self.endpoints, changes.endpoints), (&self.services, changes.services)]
        {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let Lacking { internal, external } = changes.lacking;
        for (policy, counts) in [("internal", internal), ("external", external)] {
            for (family, count) in AddressFamily::ALL.into_iter().zip(counts) {
                let label = [("ip_family", family.word()), ("traffic_policy", policy)];
                self.no_local.get_or_create(&label).set(gauge(count));
            }
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
    registry.register(format!("kubeproxy_{name}"), help, metric);
}

fn code(good: bool) -> Label<1> {
    [("code", if good { "200" } else { "503" })]
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn programming_buckets() -> impl Iterator<Item = f64> {
    [0.0, 0.25, 0.5]
        .into_iter()
        .chain(linear_buckets(1.0, 1.0, 59))
        .chain(linear_buckets(60.0, 5.0, 12))
        .chain(linear_buckets(120.0, 30.0, 7))
}

fn build_labels() -> Vec<(&'static str, String)> {
    let version = env!("CARGO_PKG_VERSION");
    let mut parts = version.split('.').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    vec![
        ("major", part()),
        ("minor", part()),
        ("git_version", format!("lb-agent-{version}")),
        ("platform", format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)),
    ]
}

#[cfg(test)]
mod tests;
