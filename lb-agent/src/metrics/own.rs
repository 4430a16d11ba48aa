//! What the agent counts of its own work, where it happens. As with logging, there is one set per
//! process, so that nobody has to be handed it.

use crate::shown::line;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::LazyLock;
use std::time::Duration;

/// Bounds of rounds, in seconds.
const ROUND_BOUNDS: [f64; 8] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.25, 1.0];
/// Bounds of the time from hearing of a change to having published it, in seconds.
const PUBLISH_BOUNDS: [f64; 12] =
    [0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];
/// Bounds of probes, in seconds.
const PROBE_BOUNDS: [f64; 8] = [0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0];

/// Bounds of requests to an API server, in seconds: those of Kubernetes' own clients.
const REQUEST_BOUNDS: [f64; 12] =
    [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

static OWN: LazyLock<Own> = LazyLock::new(Own::default);

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// A change could not be applied.
    Apply,
    /// Sockets to removed backends could not be ended.
    Destroy,
    /// This host could not run a check.
    Probe,
    /// The kernel's tables could not be read.
    Read,
    /// A self-test found something that it could not repair.
    SelfTest,
    /// Something began to be wrong with a source.
    Source,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    level: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    check: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    check: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: String,
    method: String,
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestTimeLabels {
    verb: String,
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabels {
    ip_family: &'static str,
}

#[derive(Debug)]
struct Own {
    errors: Family<ErrorLabels, Counter>,
    messages: Family<MessageLabels, Counter>,
    probes: Family<ProbeLabels, Counter>,
    probe_seconds: Family<CheckLabels, Histogram, ProbeBounds>,
    rounds: Histogram,
    publish_seconds: Family<SourceLabels, Histogram, PublishBounds>,
    ejections: Counter,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RequestTimeLabels, Histogram, RequestBounds>,
    flow_seconds: Family<FamilyLabels, Histogram, FlowBounds>,
    ended_flows: Family<FamilyLabels, Counter>,
    packet_failures: Counter,
}

#[derive(Clone, Debug)]
struct ProbeBounds;

#[derive(Clone, Debug)]
struct RequestBounds;

#[derive(Clone, Debug)]
struct PublishBounds;

#[derive(Clone, Debug)]
struct FlowBounds;

/// Something went wrong.
pub(crate) fn error(kind: ErrorKind) {
    OWN.errors.get_or_create(&ErrorLabels { kind: kind.name() }).inc();
}

/// Something was logged that somebody should read.
pub(crate) fn message(level: &'static str) {
    OWN.messages.get_or_create(&MessageLabels { level }).inc();
}

/// A probe ended.
pub(crate) fn probe(check: &'static str, result: &'static str, took: Duration) {
    OWN.probes.get_or_create(&ProbeLabels { check, result }).inc();
    OWN.probe_seconds.get_or_create(&CheckLabels { check }).observe(took.as_secs_f64());
}

/// A round of the loop ended.
pub(crate) fn round(took: Duration) {
    OWN.rounds.observe(took.as_secs_f64());
}

/// What a source heard so long ago is in the tables now.
pub(crate) fn published(source: &str, took: Duration) {
    let labels = SourceLabels { source: line(source).into_owned() };
    OWN.publish_seconds.get_or_create(&labels).observe(took.as_secs_f64());
}

/// A backend was ejected.
pub(crate) fn ejection() {
    OWN.ejections.inc();
}

/// A request to an API server was answered with this code, or could not be made (`None`). `took`: until
/// the answer began.
pub(crate) fn request(code: Option<u16>, method: &str, host: &str, took: Duration) {
    let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
    let (method, host) = (method.to_owned(), host.to_owned());
    let labels = RequestTimeLabels { verb: method.clone(), host: host.clone() };
    OWN.request_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    OWN.requests.get_or_create(&RequestLabels { code, method, host }).inc();
}

/// The flows of an address family (`IPv4`) were looked through, and so many ended.
pub(crate) fn flows(ip_family: &'static str, took: Duration, ended: u64) {
    let labels = FamilyLabels { ip_family };
    OWN.flow_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    OWN.ended_flows.get_or_create(&labels).inc_by(ended);
}

/// A change of the packet path's tables failed.
pub(crate) fn packets_failed() {
    OWN.packet_failures.inc();
}

/// Registers what the packet path did, under kube-proxy's names for it.
pub(crate) fn register_packets(registry: &mut Registry) {
    let help = "How long it took to look through UDP flows for those that lead nowhere any more";
    let name = "kubeproxy_conntrack_reconciler_sync_duration_seconds";
    registry.register(name, help, OWN.flow_seconds.clone());
    let name = "kubeproxy_conntrack_reconciler_deleted_entries";
    registry.register(name, "UDP flows that were ended for that", OWN.ended_flows.clone());
    let help = "Changes of the packet path's tables that failed, and were tried again";
    registry.register(
        "kubeproxy_sync_proxy_rules_nftables_sync_failures",
        help,
        OWN.packet_failures.clone(),
    );
}

/// Registers what is known of requests to API servers, under the names that Kubernetes' own clients
/// have for it.
pub(crate) fn register_requests(registry: &mut Registry) {
    let help = "Requests to API servers, by code (`<error>` without an answer), method and host";
    registry.register("rest_client_requests", help, OWN.requests.clone());
    let help = "How long answers of API servers took to begin";
    let seconds = OWN.request_seconds.clone();
    registry.register("rest_client_request_duration_seconds", help, seconds);
}

/// Registers all that is about the agent itself.
pub(super) fn register(registry: &mut Registry) {
    // Requests and the packet path are told where Kubernetes' own programs tell of them.
    let Own {
        errors,
        messages,
        probes,
        probe_seconds,
        rounds,
        publish_seconds,
        ejections,
        requests: _,
        request_seconds: _,
        flow_seconds: _,
        ended_flows: _,
        packet_failures: _,
    } = &*OWN;
    // The registry ends each text with a full stop.
    registry.register("lb_errors", "Errors of the agent, by what failed", errors.clone());
    let help = "Warnings and errors in the agent's log";
    registry.register("lb_log_messages", help, messages.clone());
    let help = "Checks of backends that ended, by what they came to";
    registry.register("lb_probes", help, probes.clone());
    let help = "How long checks of backends took";
    registry.register("lb_probe_duration_seconds", help, probe_seconds.clone());
    let help = "How long rounds of the loop took: merging, planning and applying";
    registry.register("lb_round_duration_seconds", help, rounds.clone());
    let help = "From hearing of a change to having published it in the kernel's tables";
    registry.register("lb_source_publish_seconds", help, publish_seconds.clone());
    let help = "Backends that were taken out because connects to them failed";
    registry.register("lb_ejections", help, ejections.clone());
}

// === impl ErrorKind ===

impl ErrorKind {
    const ALL: [Self; 6] =
        [Self::Apply, Self::Destroy, Self::Probe, Self::Read, Self::SelfTest, Self::Source];

    fn name(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Destroy => "destroy",
            Self::Probe => "probe",
            Self::Read => "read",
            Self::SelfTest => "self_test",
            Self::Source => "source",
        }
    }
}

// === impl Own ===

impl Default for Own {
    fn default() -> Self {
        let own = Self {
            errors: Family::default(),
            messages: Family::default(),
            probes: Family::default(),
            probe_seconds: Family::new_with_constructor(ProbeBounds),
            rounds: Histogram::new(ROUND_BOUNDS),
            publish_seconds: Family::new_with_constructor(PublishBounds),
            ejections: Counter::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(RequestBounds),
            flow_seconds: Family::new_with_constructor(FlowBounds),
            ended_flows: Family::default(),
            packet_failures: Counter::default(),
        };
        // What has not happened yet is 0, not absent: a rate needs both ends.
        for kind in ErrorKind::ALL {
            drop(own.errors.get_or_create(&ErrorLabels { kind: kind.name() }));
        }
        for level in ["warn", "error"] {
            drop(own.messages.get_or_create(&MessageLabels { level }));
        }
        for ip_family in ["IPv4", "IPv6"] {
            drop(own.flow_seconds.get_or_create(&FamilyLabels { ip_family }));
            drop(own.ended_flows.get_or_create(&FamilyLabels { ip_family }));
        }
        own
    }
}

// === impl ProbeBounds ===

impl MetricConstructor<Histogram> for ProbeBounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(PROBE_BOUNDS)
    }
}

// === impl RequestBounds ===

impl MetricConstructor<Histogram> for RequestBounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(REQUEST_BOUNDS)
    }
}

// === impl FlowBounds ===

impl MetricConstructor<Histogram> for FlowBounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.001, 2.0, 15))
    }
}

// === impl PublishBounds ===

impl MetricConstructor<Histogram> for PublishBounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(PUBLISH_BOUNDS)
    }
}
