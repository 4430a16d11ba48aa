use super::*;

#[test]
fn frontends_read_and_print() {
    for (text, printed) in [
        ("10.96.0.1:80", "10.96.0.1:80/tcp"),
        ("10.96.0.1:53/udp", "10.96.0.1:53/udp"),
        ("[fd00::1]:443/tcp", "[fd00::1]:443/tcp"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80/tcp"),
    ] {
        let frontend: Frontend = text.parse().unwrap();
        assert_eq!(frontend.to_string(), printed);
        assert_eq!(printed.parse::<Frontend>().unwrap(), frontend);
    }
}

#[test]
fn bad_addresses_say_what_is_wrong() {
    for (text, part) in [
        ("10.0.0.1", "has no port"),
        ("10.0.0.1:0", "port 0 is not a port"),
        ("10.0.0.1:65536", "`65536` is not a port"),
        ("10.0.0.1:-1", "`-1` is not a port"),
        ("fd00::1:80", "has no port"),
        ("fd00::1", "has no port"),
        ("example.com:80", "names are not looked up"),
        ("10.0.0.1:80/dccp", "`dccp` is not supported"),
        ("", "is not an address and a port"),
    ] {
        let error = text.parse::<Frontend>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn loopback_is_the_hosts() {
    let scope = |text: &str| text.parse::<Frontend>().unwrap().scope(Scope::Everywhere);
    assert_eq!(scope("127.0.0.1:80"), Scope::Host);
    assert_eq!(scope("[::1]:80"), Scope::Host);
    assert_eq!(scope("10.0.0.1:80"), Scope::Everywhere);
}

#[test]
fn names() {
    for good in ["web", "default/kubernetes:https", "a.b-c_d"] {
        assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
    }
    for bad in ["", "a b", "ü", &"x".repeat(254)] {
        assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
    }
}

#[test]
fn a_snapshot_survives_json() {
    let service = Service {
        frontends: [("10.0.0.1:53/udp".parse().unwrap(), Scope::Host.into())].into(),
        backends: [(
            "[fd00::1]:53".parse().unwrap(),
            Backend { weight: 3, state: AdminState::Drain, ..Backend::default() },
        )]
        .into(),
        backends_from: vec![PoolRef {
            source: "etcd:a".into(),
            pool: "web".into(),
            port: Some(80),
        }],
        policy: Policy::LeastConnections,
        affinity: Some(Affinity { client: Client::Uid, timeout_seconds: 9 }),
        no_backend: NoBackend::Pass,
        no_node_backend: Default::default(),
        source_ranges: Vec::new(),
        health: HealthPolicy {
            slow_start: std::time::Duration::from_secs(9),
            ..Default::default()
        },
    };
    let pool = Pool { backends: service.backends.clone() };
    let snapshot = Snapshot {
        services: [("dns".parse().unwrap(), Arc::new(service))].into(),
        pools: [("web".into(), Arc::new(pool))].into(),
        overrides: [(
            "dns".parse().unwrap(),
            [("[fd00::1]:53".parse().unwrap(), Override::default())].into(),
        )]
        .into(),
    };
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
}
