use super::*;

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
pin_dir: /sys/fs/bpf/x
state_dir: state
socket: "run/a.sock"
detach_on_exit: true
vip_ranges: [10.96.0.0/12, "127.96.1.0/16", "fd00::/8"]
tables: {frontends: 1, services: 2, rows: 3, backends: 4, connections: 8, overflow: 6, affinity: 7}
sources:
  - file: more.yaml
    vip_ranges: []
  - file: /other.yaml
services: []
"#,
    )
    .unwrap();
    let expected = Config {
        cgroup: Some("/sys/fs/cgroup/unified/x".into()),
        pin_dir: "/sys/fs/bpf/x".into(),
        state_dir: "/etc/lb/state".into(),
        socket: "/etc/lb/run/a.sock".into(),
        detach_on_exit: true,
        vip_ranges: Some(
            ["10.96.0.0/12", "127.96.0.0/16", "fd00::/8"].map(|r| r.parse().unwrap()).to_vec(),
        ),
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
            FileSource { path: "/etc/lb/more.yaml".into(), vip_ranges: Some(vec![]) },
            FileSource { path: "/other.yaml".into(), vip_ranges: None },
        ],
        has_services: true,
    };
    assert_eq!(config, expected);
    let own = vec!["192.0.2.1".parse().unwrap()];
    assert_eq!(
        config.claims(own.clone()),
        Claims { ranges: config.vip_ranges.clone(), host_addresses: own }
    );
}

#[test]
fn bad_settings_name_line_and_remedy() {
    let long = format!("socket: /{}", "x".repeat(107));
    for (line, at, part) in [
        ("", "", "nothing to serve: add `services:`"),
        ("pindir: /x", "1:1", "unknown field `pindir`; use `cgroup`, `pin_dir`"),
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
        ("sources: [{etcd: x}]", "1:12", "unknown field `etcd`; use `file` or `vip_ranges`"),
        ("sources: [{vip_ranges: []}]", "1:12", "a source needs a `file`"),
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
