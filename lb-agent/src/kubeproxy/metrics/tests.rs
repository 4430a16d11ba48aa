//! The text, as a scraper reads it.

use super::*;
use std::collections::BTreeMap;

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
    let text = metrics.text(changes).unwrap();
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
        ("kubeproxy_conntrack_reconciler_sync_duration_seconds", "histogram"),
        ("kubeproxy_conntrack_reconciler_deleted_entries_total", "counter"),
        ("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "counter"),
        ("kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total", "counter"),
        ("kubeproxy_sync_proxy_rules_iptables_total", "gauge"),
        ("kubeproxy_sync_proxy_rules_iptables_last", "gauge"),
        ("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "counter"),
        ("kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total", "counter"),
        ("kubeproxy_iptables_localhost_nodeports_accepted_packets_total", "counter"),
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
        let text = metrics.text(Changes { services, ..Changes::default() }).unwrap();
        let (values, _) = scrape(&text);
        assert_eq!(values["kubeproxy_sync_proxy_rules_service_changes_total"], total);
    }
}

#[test]
fn ports_without_local_endpoints_are_told_by_family_and_policy() {
    let lacking = Lacking { internal: [2, 3], external: [4, 0] };
    let text = Metrics::default().text(Changes { lacking, ..Changes::default() }).unwrap();
    for (family, policy, count) in [
        ("IPv4", "internal", 2),
        ("IPv6", "internal", 3),
        ("IPv4", "external", 4),
        ("IPv6", "external", 0),
    ] {
        let line = format!(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{{ip_family=\"{family}\",traffic_policy=\"{policy}\"}} {count}"
        );
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[test]
fn checks_are_told_once_they_were_asked_for() {
    let metrics = Metrics::default();
    assert!(!metrics.checks().unwrap().contains("name="));
    metrics.answered_ping();
    metrics.answered_livez(true);
    metrics.answered_livez(true);
    metrics.answered_livez(false);
    let text = metrics.checks().unwrap();
    for line in [
        "# TYPE kubernetes_healthcheck gauge",
        "# TYPE kubernetes_healthchecks_total counter",
        r#"kubernetes_healthcheck{name="ping",type="healthz"} 1"#,
        r#"kubernetes_healthcheck{name="proxy",type="livez"} 0"#,
        r#"kubernetes_healthchecks_total{name="proxy",type="livez",status="success"} 2"#,
        r#"kubernetes_healthchecks_total{name="proxy",type="livez",status="error"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn requests_have_the_names_of_kubernetes_own_clients() {
    own::request(Some(200), "GET", "192.0.2.77:6443", Duration::from_millis(30));
    own::request(None, "GET", "192.0.2.77:6443", Duration::from_millis(3));
    let text = Metrics::default().text(Changes::default()).unwrap();
    let (values, types) = scrape(&text);
    assert_eq!(types["rest_client_requests_total"], "counter");
    assert_eq!(types["rest_client_request_duration_seconds"], "histogram");
    let host = "host=\"192.0.2.77:6443\"";
    for (name, value) in [
        (format!("requests_total{{code=\"200\",method=\"GET\",{host}}}"), 1.0),
        (format!("requests_total{{code=\"<error>\",method=\"GET\",{host}}}"), 1.0),
        (format!("request_duration_seconds_count{{verb=\"GET\",{host}}}"), 2.0),
        (format!("request_duration_seconds_bucket{{verb=\"GET\",{host},le=\"0.025\"}}"), 1.0),
    ] {
        assert_eq!(values.get(&format!("rest_client_{name}")), Some(&value), "{name}\n{text}");
    }
}

/// Others in this process may count there, too.
#[test]
fn what_the_packet_path_did_has_kube_proxys_names() {
    let look = || scrape(&Metrics::default().text(Changes::default()).unwrap()).0;
    let names = [
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv6\"}",
        "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv6\"}",
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
    ];
    let before = look();
    own::flows("IPv6", Duration::from_millis(3), 2);
    own::packets_failed();
    let after = look();
    for (name, least) in names.into_iter().zip([1.0, 2.0, 1.0]) {
        assert!(after[name] - before[name] >= least, "{name}: {before:?} {after:?}");
    }
    let none = "kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv4\",table=\"nat\"}";
    assert_eq!(after[none], 0.0);
}
