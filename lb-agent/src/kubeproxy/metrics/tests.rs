//! The text, as a scraper reads it.

use super::*;
use crate::model::{Backend, Exposure, HealthPolicy, Lists, NoBackend, Policy};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Values by name and labels; `# TYPE` by name.
fn scrape(text: &str) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    let (mut values, mut types) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let value = value.replace("+Inf", "inf").parse().unwrap();
            assert!(values.insert(name.to_owned(), value).is_none(), "{name} twice");
        }
    }
    (values, types)
}

#[test]
fn names_kinds_and_values_are_kube_proxys() {
    let metrics = Metrics::default();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    metrics.synced(Duration::from_millis(3), true);
    metrics.synced(Duration::from_millis(1), false);
    metrics.programmed(AddressFamily::V4, at(100), at(102));
    metrics.programmed(AddressFamily::V4, at(103), at(102));
    metrics.applied(at(102));
    metrics.queued(at(101));
    metrics.answered_healthz(true);
    metrics.answered_healthz(false);
    metrics.answered_livez(true);
    let changes = Changes {
        services_pending: 1,
        services: 5,
        endpoints_pending: 2,
        endpoints: 7,
        ..Changes::default()
    };
    let text = metrics.text(changes, Some(&Snapshot::default())).unwrap();
    let (values, types) = scrape(&text);
    for (name, kind) in [
        ("kubeproxy_sync_proxy_rules_duration_seconds", "histogram"),
        ("kubeproxy_sync_full_proxy_rules_duration_seconds", "histogram"),
        ("kubeproxy_sync_partial_proxy_rules_duration_seconds", "histogram"),
        ("kubeproxy_network_programming_duration_seconds", "histogram"),
        ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge"),
        ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "gauge"),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "gauge"),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "counter"),
        ("kubeproxy_sync_proxy_rules_service_changes_pending", "gauge"),
        ("kubeproxy_sync_proxy_rules_service_changes_total", "counter"),
        ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "gauge"),
        ("kubeproxy_proxy_healthz_total", "counter"),
        ("kubeproxy_proxy_livez_total", "counter"),
        ("kubernetes_build_info", "gauge"),
        ("process_cpu_seconds_total", "counter"),
        ("process_start_time_seconds", "gauge"),
        ("process_resident_memory_bytes", "gauge"),
    ] {
        assert_eq!(types.get(name).map(String::as_str), Some(kind), "{name}\n{text}");
    }
    for (name, value) in [
        (r#"sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}"#, 2.0),
        (r#"sync_proxy_rules_duration_seconds_bucket{le="0.002",ip_family="IPv6"}"#, 1.0),
        (r#"sync_proxy_rules_duration_seconds_bucket{le="16.384",ip_family="IPv6"}"#, 2.0),
        (r#"sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"}"#, 1.0),
        (r#"sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}"#, 1.0),
        (r#"network_programming_duration_seconds_count{ip_family="IPv4"}"#, 1.0),
        (r#"network_programming_duration_seconds_count{ip_family="IPv6"}"#, 0.0),
        (r#"network_programming_duration_seconds_bucket{le="0.25",ip_family="IPv4"}"#, 0.0),
        (r#"network_programming_duration_seconds_bucket{le="2",ip_family="IPv4"}"#, 1.0),
        (r#"network_programming_duration_seconds_bucket{le="115",ip_family="IPv4"}"#, 1.0),
        (r#"network_programming_duration_seconds_bucket{le="300",ip_family="IPv4"}"#, 1.0),
        (r#"network_programming_duration_seconds_bucket{le="+Inf",ip_family="IPv4"}"#, 1.0),
        ("sync_proxy_rules_last_timestamp_seconds", 102.0),
        ("sync_proxy_rules_last_queued_timestamp_seconds", 101.0),
        ("sync_proxy_rules_endpoint_changes_pending", 2.0),
        ("sync_proxy_rules_endpoint_changes_total", 7.0),
        ("sync_proxy_rules_service_changes_pending", 1.0),
        ("sync_proxy_rules_service_changes_total", 5.0),
        (r#"proxy_healthz_total{code="200"}"#, 1.0),
        (r#"proxy_healthz_total{code="503"}"#, 1.0),
        (r#"proxy_livez_total{code="200"}"#, 1.0),
    ] {
        let loose = |wanted: &str| {
            let sorted = |name: &str| {
                let mut parts: Vec<_> = name.split(['{', '}', ',']).map(str::to_owned).collect();
                parts.sort();
                parts
            };
            let found = values.iter().find(|(name, _)| sorted(name) == sorted(wanted));
            found.map(|(_, value)| *value)
        };
        assert_eq!(loose(&format!("kubeproxy_{name}")), Some(value), "{name}\n{text}");
    }
    assert_eq!(
        values.keys().filter(|name| name.starts_with("kubeproxy_network_programming_duration_seconds_bucket")).count(),
        2 * (3 + 59 + 12 + 7 + 1)
    );
    assert!(values["process_resident_memory_bytes"] > 1e6);
    let now = seconds(SystemTime::now());
    assert!((now - values["process_start_time_seconds"]).abs() < 3600.0);
}

#[test]
fn totals_never_go_back() {
    let metrics = Metrics::default();
    for (services, total) in [(3, 3.0), (2, 3.0), (9, 9.0)] {
        let text = metrics.text(Changes { services, ..Changes::default() }, None).unwrap();
        let (values, _) = scrape(&text);
        assert_eq!(values["kubeproxy_sync_proxy_rules_service_changes_total"], total);
    }
}

#[test]
fn services_without_local_endpoints_are_counted_by_family() {
    let service = |(lists, state)| {
        let exposure = Exposure { reach: Reach::Node, ..Exposure::default() };
        let frontends = ["10.0.0.1:80", "[fd00::1]:80"];
        let backend = Backend { lists, state, ..Backend::default() };
        Service {
            frontends: frontends.map(|text| (text.parse().unwrap(), exposure)).into(),
            backends: [("10.1.0.1:80".parse().unwrap(), backend)].into(),
            backends_from: Vec::new(),
            policy: Policy::default(),
            affinity: None,
            no_backend: NoBackend::default(),
            no_node_backend: NoBackend::Unreachable,
            source_ranges: Vec::new(),
            health: HealthPolicy::default(),
        }
    };
    let services = [
        ("local", (Lists::Both, AdminState::Ready)),
        ("remote", (Lists::Cluster, AdminState::Ready)),
        ("leaving", (Lists::Both, AdminState::Drain)),
    ];
    let services = services.map(|(name, lists)| (name.parse().unwrap(), Arc::new(service(lists))));
    let snapshot = Snapshot { services: services.into(), ..Snapshot::default() };
    assert_eq!(without_local(&snapshot), [2, 3]);
    let changes = Changes { external_without_local: 4, ..Changes::default() };
    let text = Metrics::default().text(changes, Some(&snapshot)).unwrap();
    for (family, policy, count) in
        [("IPv4", "internal", 2), ("IPv6", "internal", 3), ("IPv6", "external", 4)]
    {
        let line = format!(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{{ip_family=\"{family}\",traffic_policy=\"{policy}\"}} {count}"
        );
        assert!(text.contains(&line), "{line}\n{text}");
    }
}
