use super::*;
use crate::etcd::{Settings, Tls, User};
use crate::model::Scope;
use crate::source::etcd::layout::LayoutKind;
use crate::source::kubernetes::cluster::{NodePortAddresses, NodePorts, Pods};
use std::time::Duration;

fn read(text: &str) -> Result<Config, Vec<Rejection>> {
    parse(Path::new("/etc/lb/agent.yaml"), text)
}

#[test]
fn without_settings_the_defaults_hold() {
    let expected = Config { has_services: true, ..Config::default() };
    assert_eq!(read("services: []").unwrap(), expected);
    assert!(!read("sources: [{file: a.yaml}]").unwrap().has_services);
}

#[test]
fn every_setting_is_read_and_paths_are_relative_to_the_file() {
    let config = read(
        r#"
cgroup: /sys/fs/cgroup/unified/x
exclude_cgroups: [mesh.slice, /sys/fs/cgroup/unified/x/y]
pin_dir: /sys/fs/bpf/x
state_dir: state
socket: "run/a.sock"
socket_group: lb
http: "[::1]:80"
metrics: {per_backend: true}
detach_on_exit: true
vip_ranges: [10.96.0.0/12, "127.96.1.0/16", "fd00::/8"]
allow_exec: true
zone: eu-1a
tables: {frontends: 1, services: 2, rows: 3, backends: 4, connections: 8, overflow: 6, affinity: 7}
sources:
  - file: more.yaml
    vip_ranges: []
  - file: /other.yaml
    allow_exec: true
names: {hosts: /etc/hosts}
packet_path: on
self_test: 30s
services: []
"#,
    )
    .unwrap();
    let expected = Config {
        cgroup: Some("/sys/fs/cgroup/unified/x".into()),
        exclude_cgroups: vec!["mesh.slice".into(), "/sys/fs/cgroup/unified/x/y".into()],
        pin_dir: "/sys/fs/bpf/x".into(),
        state_dir: "/etc/lb/state".into(),
        socket: "/etc/lb/run/a.sock".into(),
        socket_group: Some("lb".into()),
        http: Http::At("[::1]:80".parse().unwrap()),
        metrics: Metrics { per_backend: true },
        detach_on_exit: true,
        vip_ranges: Some(
            ["10.96.0.0/12", "127.96.0.0/16", "fd00::/8"].map(|r| r.parse().unwrap()).to_vec(),
        ),
        allow_exec: true,
        zone: Some("eu-1a".into()),
        tables: TableSizes {
            frontends: 1,
            services: 2,
            rows: 3,
            backends: 4,
            connections: 8,
            overflow: 6,
            affinity: 7,
        },
        sources: vec![
            Source::File(FileSource {
                path: "/etc/lb/more.yaml".into(),
                vip_ranges: Some(vec![]),
                allow_exec: false,
            }),
            Source::File(FileSource {
                path: "/other.yaml".into(),
                vip_ranges: None,
                allow_exec: true,
            }),
        ],
        names: Names { hosts: Some("/etc/hosts".into()), ..Names::default() },
        packet_path: PacketPath::On,
        self_test: Duration::from_secs(30),
        has_services: true,
    };
    assert_eq!(config, expected);
    let own = vec!["192.0.2.1".parse().unwrap()];
    assert_eq!(
        config.claims(own.clone()),
        Claims {
            ranges: config.vip_ranges.clone(),
            host_addresses: own,
            strict: false,
            exec: true
        }
    );
}

#[test]
fn bad_settings_name_line_and_remedy() {
    let long = format!("socket: /{}", "x".repeat(107));
    for (line, at, part) in [
        ("", "", "nothing to serve: add `services:`"),
        ("pindir: /x", "1:1", "unknown field `pindir`; use `cgroup`, `exclude_cgroups`, `pin_dir`"),
        ("pin_dir: [1]", "1:1", "expected a path for `pin_dir`, found a list"),
        ("pin_dir:", "1:1", "expected a path for `pin_dir`, found nothing"),
        ("cgroup: ''", "1:1", "expected a path for `cgroup`"),
        (&long, "1:9", "the socket's path has 108 bytes; the kernel takes 107"),
        (
            "detach_on_exit: maybe",
            "1:17",
            "expected true or false for `detach_on_exit`, found `maybe`",
        ),
        ("vip_ranges: 10.0.0.0/8", "1:13", "expected a list for `vip_ranges`"),
        ("vip_ranges: [10.0.0.1]", "1:14", "is an address, not a range; write 10.0.0.1/32"),
        ("vip_ranges: [all]", "1:14", "`all` is not a range"),
        ("vip_ranges: [10.0.0.0/33]", "1:14", "`10.0.0.0/33` is not a range"),
        ("vip_ranges: ['::ffff:10.0.0.0/104']", "1:14", "IPv4 in IPv6 clothes"),
        ("http: 9777", "1:7", "`9777` is not an address and a port"),
        ("http: 127.0.0.1:0", "1:7", "use 1 to 65535, or `off`"),
        ("self_test: 2h", "1:12", "`2h` is not a `self_test` from 1s to 1h; write 1m"),
        ("http: []", "1:1", "expected an address for `http`, such as 127.0.0.1:9777, or `off`"),
        ("metrics: true", "1:10", "expected a mapping for `metrics`"),
        ("metrics: {per_pod: true}", "1:11", "unknown field `per_pod`; use `per_backend`"),
        ("metrics: {per_backend: 2}", "1:24", "expected true or false for `per_backend`"),
        ("tables: 5", "1:9", "expected a mapping for `tables`, found `5`"),
        (
            "tables: {rows: 0}",
            "1:16",
            "expected a whole number from 1 to 67108864 for `rows`, found `0`",
        ),
        ("tables: {rows: 67108865}", "1:16", "found `67108865`"),
        ("tables: {connections: 1}", "1:23", "a whole number from 2 to"),
        ("tables: {connections: 1000}", "1:23", "must be a power of two, not 1000; use 1024"),
        ("tables: {conns: 1}", "1:10", "unknown field `conns`; use `frontends`"),
        ("sources: a.yaml", "1:10", "expected a list for `sources`"),
        ("sources: [a.yaml]", "1:11", "expected a source such as `file: more.yaml`"),
        (
            "sources: [{kafka: x}]",
            "1:12",
            "unknown field `kafka`; use `file`, `etcd`, `kubernetes`, `vip_ranges`",
        ),
        ("sources: [{vip_ranges: []}]", "1:12", "a source needs a `file`, `etcd` or `kubernetes`"),
        ("sources: [{file: a}, {file: a}]", "1:1", "source `/etc/lb/a` stands twice"),
        ("sources: [{file: agent.yaml}]", "1:1", "stands twice, or is this file"),
        ("socket: a\nsocket: b", "2:1", "key `socket` stands twice, first on line 1"),
        ("a: [", "2:1", "not valid YAML"),
    ] {
        let extra = if line.is_empty() || line == "a: [" { "" } else { "\nservices: []" };
        let problems = read(&format!("{line}{extra}\n")).unwrap_err();
        let first = problems.first().unwrap();
        assert_eq!(
            first.origin,
            format!("/etc/lb/agent.yaml:{at}").trim_end_matches(':'),
            "{line}: {}",
            first.reason
        );
        assert!(first.reason.contains(part), "{line}: {}", first.reason);
    }
}

#[test]
fn the_etcd_sources_of_the_guide_are_good() {
    let guide = include_str!("../../../docs/configuration.md");
    let example = guide.split("### etcd\n\n```yaml\n").nth(1).and_then(|r| r.split("```").next());
    let config = read(example.unwrap()).unwrap();
    let names = config.sources.iter().map(|source| match source {
        Source::Etcd(source) => &*source.name,
        Source::File(_) => "a file",
        Source::Kubernetes(_) => "a cluster",
    });
    assert_eq!(names.collect::<Vec<_>>(), ["etcd:registry", "etcd:greeters"]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let problems = read("pin_dir: []\ncolour: red\ntables: {rows: x}\n").unwrap_err();
    assert_eq!(problems.len(), 4, "{problems:#?}");
}

#[test]
fn changed_settings_are_named_and_services_are_not_settings() {
    let before = read("services: []").unwrap();
    assert_eq!(before.changed_settings(&read("sources: [{file: a}]").unwrap()), ["sources"]);
    let after = read("pin_dir: /x\ntables: {rows: 9}\nservices: [a]").unwrap();
    assert_eq!(before.changed_settings(&after), ["pin_dir", "tables"]);
    assert_eq!(before.changed_settings(&before), [""; 0]);
}

#[test]
fn the_examples_people_copy_are_good() {
    let guide = include_str!("../../../docs/configuration.md");
    let in_guide = guide.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    for text in [include_str!("../../../examples/quickstart.yaml"), in_guide.unwrap()] {
        let config = read(text).unwrap();
        let claims = config.claims(Vec::new());
        let services = crate::source::spec::translate("f", text, &claims, true).unwrap();
        assert_eq!(services.rejections, []);
        assert_eq!(services.snapshot.services.len(), 1);
    }
}

const ETCD: &str = r#"
sources:
  - file: first.yaml
  - etcd:
      name: registry
      endpoints: ["https://10.0.0.1:2379", "https://etcd-2"]
      prefix: /prod/lb
      layout: native
      tls: {ca: ca.pem, cert: /c.pem, key: k.pem, server_name: etcd}
      user: {name: lb, password_file: password}
      removal_grace: 1m 30s
      vip_pool: [10.96.128.0/17]
    vip_ranges: [10.96.0.0/12]
    allow_exec: true
  - etcd: {endpoints: ["10.0.0.2"], layout: grpc, prefix: greeter, removal_grace: 0s}
"#;

#[test]
fn etcd_sources_are_read_in_their_order() {
    let config = read(ETCD).unwrap();
    let [Source::File(first), Source::Etcd(own), Source::Etcd(other)] = &config.sources[..] else {
        panic!("{:#?}", config.sources);
    };
    assert_eq!(first.path, Path::new("/etc/lb/first.yaml"));
    let range = |text: &str| text.parse::<IpNet>().unwrap();
    let expected = EtcdSource {
        name: "etcd:registry".into(),
        settings: Arc::new(Settings {
            endpoints: ["https://10.0.0.1:2379", "https://etcd-2:2379"]
                .map(|endpoint| endpoint.parse().unwrap())
                .to_vec(),
            tls: Tls {
                ca: Some("/etc/lb/ca.pem".into()),
                cert: Some("/c.pem".into()),
                key: Some("/etc/lb/k.pem".into()),
                server_name: Some("etcd".into()),
            },
            user: Some(User { name: "lb".into(), password_file: "/etc/lb/password".into() }),
        }),
        prefix: "/prod/lb/".into(),
        layout: LayoutKind::Native,
        removal_grace: Duration::from_secs(90),
        vip_pool: vec![range("10.96.128.0/17")],
        vip_ranges: vec![range("10.96.0.0/12")],
        allow_exec: true,
    };
    assert_eq!(**own, expected);
    assert!(own.claims(Vec::new()).strict);
    assert_eq!(&*other.name, "etcd:greeter/");
    assert_eq!((other.prefix.as_str(), other.removal_grace), ("greeter/", Duration::ZERO));
    assert_eq!(other.settings.endpoints[0].to_string(), "http://10.0.0.2:2379");
}

#[test]
fn layouts_have_their_usual_prefixes() {
    for (layout, prefix) in [
        ("native", "/lb/"),
        ("coredns", "/skydns/"),
        ("kratos", "/microservices/"),
        ("patroni", "/service/"),
    ] {
        let ranges = if layout == "native" { ", vip_ranges: []" } else { "" };
        let text = format!("sources: [{{etcd: {{endpoints: [a], layout: {layout}}}{ranges}}}]");
        let config = read(&text).unwrap();
        let [Source::Etcd(source)] = &config.sources[..] else {
            panic!("{:#?}", config.sources);
        };
        assert_eq!((&*source.prefix, &*source.name), (prefix, &*format!("etcd:{prefix}")));
    }
}

#[test]
fn mistakes_in_etcd_sources_name_line_and_remedy() {
    let own = "vip_ranges: [10.96.0.0/12]";
    for (etcd, beside, line, part) in [
        ("x", own, 2, "expected a mapping for `etcd` with `endpoints:`, found `x`"),
        ("{prefix: /lb}", own, 2, "`endpoints` is missing; add endpoints: [http://HOST:2379]"),
        ("{endpoints: []}", own, 2, "`endpoints` is empty; name a member"),
        ("{endpoints: a}", own, 2, "expected a list for `endpoints`"),
        ("{endpoints: ['ftp://a']}", own, 2, "`ftp` is no scheme of etcd"),
        ("{endpoints: [a, 'a:2379']}", own, 2, "endpoint http://a:2379 stands twice"),
        ("{endpoints: [a], colour: red}", own, 2, "unknown field `colour`; use `endpoints`, `tls`"),
        (
            "{endpoints: [a], layout: consul}",
            own,
            2,
            "`consul` is no layout; use one of native, grpc",
        ),
        ("{endpoints: [a], name: 'a b'}", own, 2, "`a b` can't name a source"),
        ("{endpoints: [a], prefix: ''}", own, 2, "expected a prefix such as /lb/"),
        ("{endpoints: [a], tls: {ca: x}}", own, 2, "`tls` is for https endpoints, and http://a:"),
        ("{endpoints: ['https://a', b], tls: {ca: x}}", own, 2, "http://b:2379 is not one"),
        ("{endpoints: ['https://a'], tls: {cert: x}}", own, 2, "`cert` needs `key` beside it"),
        ("{endpoints: ['https://a'], tls: {key: x}}", own, 2, "`key` needs `cert` beside it"),
        ("{endpoints: ['https://a'], tls: {psk: x}}", own, 2, "unknown field `psk`; use `ca`"),
        ("{endpoints: [a], user: lb}", own, 2, "expected a mapping for `user`"),
        ("{endpoints: [a], user: {name: lb}}", own, 2, "`user` needs a `password_file`"),
        ("{endpoints: [a], user: {name: lb, password: x}}", own, 2, "unknown field `password`"),
        ("{endpoints: [a], removal_grace: 30}", own, 2, "`30` is not a time from 0s to 1h"),
        ("{endpoints: [a], removal_grace: 61m}", own, 2, "`61m` is not a time from 0s to 1h"),
        ("{endpoints: [a], vip_pool: 10.96.0.0/16}", own, 2, "expected a list for `vip_pool`"),
        ("{endpoints: [a], vip_pool: [10.0.0.0/8]}", own, 2, "10.0.0.0/8 is outside `vip_ranges`"),
        ("{endpoints: [a]}", "", 2, "an etcd source needs `vip_ranges` beside `etcd`"),
        ("{endpoints: [a], layout: grpc}", "", 2, "this layout needs a `prefix`"),
        ("{endpoints: [a], layout: kratos}", own, 3, "claim no address; remove `vip_ranges`"),
        ("{endpoints: [a], layout: kratos, vip_pool: []}", "", 2, "is for the native layout"),
        ("{endpoints: [a]}", "file: a.yaml", 2, "a source is a `file`, `etcd` or `kubernetes`"),
        (
            "{endpoints: [a]}",
            "vip_ranges: []\n  - etcd: {endpoints: [b]}\n    vip_ranges: []",
            4,
            "source `etcd:/lb/` stands twice; give one another `name`",
        ),
    ] {
        let text = format!("sources:\n  - etcd: {etcd}\n    {beside}\n");
        let problems = read(&text).unwrap_err();
        let first = problems.first().unwrap();
        let place = format!("/etc/lb/agent.yaml:{line}:");
        assert!(first.origin.starts_with(&place), "{etcd}: {first:?}");
        assert!(first.reason.contains(part), "{etcd}: {}", first.reason);
    }
}

#[test]
fn a_cluster_is_read() {
    let read = |text: &str| read(&format!("sources: [{{kubernetes: {text}}}]"));
    let sources = |source| vec![Source::Kubernetes(Arc::new(source))];
    let defaults = KubernetesSource::default();
    assert_eq!(read("{}").unwrap().sources, sources(defaults.clone()));
    let ranges = NodePortAddresses::Ranges(vec!["10.0.0.0/16".parse().unwrap()]);
    for (text, expected) in [
        (
            "{name: a, kubeconfig: k.conf, server: \"https://[fd00::1]:6443/\", node: n1.x}",
            KubernetesSource {
                name: "kubernetes:a".into(),
                kubeconfig: Some("/etc/lb/k.conf".into()),
                server: Some("https://[fd00::1]:6443".into()),
                node: Some("n1.x".into()),
                ..defaults.clone()
            },
        ),
        (
            "{node_port_addresses: primary, localhost_node_ports: false, socket_scope: host}",
            KubernetesSource {
                node_ports: NodePorts { addresses: NodePortAddresses::Primary, localhost: false },
                scope: Scope::Host,
                ..defaults.clone()
            },
        ),
        (
            "{node_port_addresses: [10.0.0.1/16]}",
            KubernetesSource {
                node_ports: NodePorts { addresses: ranges, localhost: true },
                ..defaults.clone()
            },
        ),
        (
            "{pod_ranges: [10.244.0.0/16, \"fd00::/48\"], masquerade_all: true}",
            KubernetesSource {
                pods: Pods::Ranges(vec![
                    "10.244.0.0/16".parse().unwrap(),
                    "fd00::/48".parse().unwrap(),
                ]),
                masquerade_all: true,
                ..defaults.clone()
            },
        ),
        ("{pod_ranges: node}", KubernetesSource { pods: Pods::OfNode, ..defaults }),
    ] {
        assert_eq!(read(text).unwrap().sources, sources(expected), "{text}");
    }
    for (text, part) in [
        ("5", "expected a mapping for `kubernetes`"),
        ("{nodes: a}", "unknown field `nodes`; use `name`, `kubeconfig`"),
        ("{server: 10.0.0.1}", "`10.0.0.1` is not a URL; write it as https://10.0.0.1:6443"),
        ("{server: 'https://a:b@10.0.0.1'}", "must not hold a user or a password"),
        ("{node: Node1}", "`Node1` can't name a node; use its name as in `kubectl get nodes`"),
        ("{node_port_addresses: some}", "expected `all`, `primary` or a list of ranges"),
        ("{node_port_addresses: [10.0.0.1]}", "is an address, not a range"),
        ("{socket_scope: pod}", "expected `everywhere` or `host` for `socket_scope`"),
        ("{}, vip_ranges: []", "`vip_ranges` is not for `kubernetes`"),
        ("{}, file: a", "a source is a `file`, `etcd` or `kubernetes`; make two items"),
        ("{}}, {kubernetes: {}", "source `kubernetes` stands twice; give one another `name`"),
    ] {
        let problems = read(text).unwrap_err();
        assert!(problems.iter().any(|p| p.reason.contains(part)), "{text}: {problems:?}");
    }
}
