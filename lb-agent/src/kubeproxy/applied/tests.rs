//! From what the loop publishes to what the servers say.

use super::*;
use crate::source::kubernetes::cluster::{NodeFacts, Work};
use crate::source::kubernetes::locality::Lacking;
use crate::source::kubernetes::objects::Family;
use crate::source::kubernetes::progress::Queued;
use crate::status::{AgentStatus, SourceStatus, State, WorkStatus};

/// Something to follow, with its two inputs.
pub(in crate::kubeproxy) fn applied() -> (Arc<Applied>, Arc<Progress>, watch::Sender<Arc<Facts>>) {
    applied_within(Duration::from_secs(60))
}

/// With what is to be waited for at most.
pub(in crate::kubeproxy) fn applied_within(
    patience: Duration,
) -> (Arc<Applied>, Arc<Progress>, watch::Sender<Arc<Facts>>) {
    let progress = Arc::new(Progress::default());
    let node = Some(NodeFacts::default());
    let (sender, facts) = watch::channel(Arc::new(Facts { node, ..Facts::default() }));
    let applied = Applied::new("kubernetes".into(), Arc::clone(&progress), facts, patience);
    (Arc::new(applied), progress, sender)
}

/// What the loop publishes after `rounds` rounds, with this revision of the source in the tables
/// whole; later ones are known.
pub(in crate::kubeproxy) fn published(
    rounds: u64,
    revision: u64,
    error: Option<&str>,
) -> Published {
    let source = SourceStatus {
        name: "kubernetes".to_owned(),
        synced: true,
        cached: false,
        revision: revision.max(9),
        applied: revision,
        delivered: None,
        services: 0,
        refused: 0,
        held: Vec::new(),
        error: None,
        error_since: None,
        heard: Default::default(),
    };
    let last_error = error.map(str::to_owned);
    let agent = AgentStatus {
        version: String::new(),
        pid: 0,
        started: SystemTime::UNIX_EPOCH,
        layout: 0,
        cgroup: "/".into(),
        pin_dir: "/".into(),
        ready: true,
        pending: Vec::new(),
        hooks: Vec::new(),
        self_test: Default::default(),
        sources: vec![source],
        names: Vec::new(),
        packet_path: Default::default(),
        work: WorkStatus { rounds, last_round_micros: 1500, last_error, ..WorkStatus::default() },
        warnings: Vec::new(),
        rejections: Vec::new(),
    };
    Published { agent, state: Arc::new(State::default()) }
}

fn queued(
    revision: u64,
    (heard, since): (SystemTime, Instant),
    trigger: Option<SystemTime>,
) -> Queued {
    let triggers = trigger.map(|at| (Family::V6, at)).into_iter().collect();
    let work = Work { services: 1, slices: 2, triggers };
    Queued { revision, heard, since, work }
}

#[test]
fn an_update_waits_until_its_revision_is_in_the_tables() {
    let (applied, progress, _facts) = applied();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    assert!(applied.standing(at(0), start).is_healthy());
    progress.note(queued(1, (at(100), start), Some(at(99))));
    progress.note(queued(2, (at(101), after(1)), None));
    let waiting = Changes {
        services_pending: 2,
        services: 2,
        endpoints_pending: 4,
        endpoints: 4,
        lacking: Lacking::default(),
    };
    assert_eq!(applied.changes(), waiting);
    // However the wall clock jumps.
    for wall in [0, 159, 9999] {
        assert!(applied.standing(at(wall), after(59)).is_healthy());
        assert!(!applied.standing(at(wall), after(60)).is_healthy());
    }
    applied.look(&published(1, 2, Some("the kernel refused")), at(170));
    assert_eq!(applied.changes(), waiting, "a failed round applies nothing");
    applied.look(&published(2, 1, None), at(171));
    let one = Changes { services_pending: 1, endpoints_pending: 2, ..waiting };
    assert_eq!(applied.changes(), one);
    assert_eq!(applied.standing(at(171), after(71)).updated, Some(at(171)));
    applied.look(&published(3, 2, None), at(172));
    let none = Changes { services_pending: 0, endpoints_pending: 0, ..waiting };
    assert_eq!(applied.changes(), none);
    assert!(applied.standing(at(9999), after(9999)).is_healthy());
    let text = applied.metrics().text(applied.changes()).unwrap();
    for line in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 3",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
        "kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv6\"} 72",
        "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 0",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds 172",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds 101",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn another_source_and_no_node_are_not_ours() {
    let (applied, progress, facts) = applied();
    progress.note(queued(1, (SystemTime::UNIX_EPOCH, Instant::now()), None));
    let mut other = published(1, 9, None);
    other.agent.sources[0].name = "file:x".to_owned();
    applied.look(&other, SystemTime::now());
    assert_eq!(applied.changes().services_pending, 1);
    let eligible = || applied.standing(SystemTime::now(), Instant::now()).eligible;
    assert!(eligible());
    let leaving = NodeFacts { leaving: true, ..NodeFacts::default() };
    let lacking = Lacking { internal: [0, 1], external: [2, 3] };
    for node in [None, Some(leaving)] {
        facts.send_replace(Arc::new(Facts { node, lacking, ..Facts::default() }));
        assert!(!eligible());
    }
    assert_eq!(applied.changes().lacking, lacking);
}

#[test]
fn a_node_that_cannot_be_read_is_eligible_while_the_cache_serves() {
    let (applied, _progress, facts) = applied();
    facts.send_replace(Arc::default());
    let eligible = || applied.standing(SystemTime::now(), Instant::now()).eligible;
    assert!(!eligible(), "nothing is known");
    let mut now = published(1, 0, None);
    (now.agent.sources[0].synced, now.agent.sources[0].cached) = (false, true);
    applied.look(&now, SystemTime::now());
    assert!(eligible());
    let leaving = NodeFacts { leaving: true, ..NodeFacts::default() };
    facts.send_replace(Arc::new(Facts { node: Some(leaving), ..Facts::default() }));
    assert!(!eligible(), "what the cluster says counts");
    facts.send_replace(Arc::default());
    applied.look(&published(2, 1, None), SystemTime::now());
    assert!(!eligible(), "the cluster has been read, and has no such node");
}
