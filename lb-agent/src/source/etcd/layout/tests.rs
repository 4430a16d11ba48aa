//! What the layouts' tests share, and what holds for all of them.

use super::*;
use crate::model::{AdminState, Backend};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// A translator under test; every `put` is a revision.
pub(super) struct Lab {
    pub(super) translator: Translator,
    revision: i64,
}

impl Lab {
    pub(super) fn new(kind: LayoutKind, prefix: &str) -> Self {
        let ranges = ["10.96.0.0/12", "fd00::/8"].map(|range| range.parse().unwrap());
        let claims = Claims { ranges: Some(ranges.to_vec()), ..Claims::default() };
        let translator = Translator::new(kind, "etcd:test".into(), prefix.to_owned(), claims);
        Self { translator, revision: 0 }
    }

    pub(super) fn put(&mut self, key: &str, value: &str) -> &mut Self {
        self.put_leased(key, value, None)
    }

    pub(super) fn put_leased(&mut self, key: &str, value: &str, lease: Option<i64>) -> &mut Self {
        self.revision += 1;
        let value = KeyValue {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            created: self.revision,
            modified: self.revision,
            lease,
        };
        self.translator.set(key, Some(&value));
        self
    }

    pub(super) fn delete(&mut self, key: &str) -> &mut Self {
        self.revision += 1;
        self.translator.set(key, None);
        self
    }

    /// The pools, one a line: `name: 10.0.0.1:80 10.0.0.2:80*3`.
    pub(super) fn pools(&mut self) -> Vec<String> {
        self.translator.snapshot();
        let pools = &self.translator.shared.snapshot().pools;
        pools.iter().map(|(name, pool)| format!("{name}:{}", backends(&pool.backends))).collect()
    }

    /// What is wrong: `origin: reason`.
    pub(super) fn rejections(&mut self) -> Vec<String> {
        let all = self.translator.rejections();
        all.iter().map(|r| format!("{}: {}", r.origin, r.reason)).collect()
    }

    /// Whether there is a new snapshot.
    pub(super) fn changed(&mut self) -> bool {
        self.translator.snapshot().is_some()
    }
}

pub(super) fn backends(backends: &BTreeMap<SocketAddr, Backend>) -> String {
    let mut text = String::new();
    for (address, backend) in backends {
        let Backend { weight, state, zone, priority, lease, lists: _ } = backend;
        write!(text, " {address}").unwrap();
        if *weight != 1 {
            write!(text, "*{weight}").unwrap();
        }
        if *priority > 0 {
            write!(text, " behind {priority}").unwrap();
        }
        if *state != AdminState::Ready {
            write!(text, " {state:?}").unwrap();
        }
        if let Some(zone) = zone {
            write!(text, " in {zone}").unwrap();
        }
        if let Some(lease) = lease {
            write!(text, " until {} {}", lease.source, lease.id).unwrap();
        }
    }
    text
}

/// Few keys and few values, so that sequences of them come across each other.
const KEYS: [(&str, &[&str], &[&str]); 7] = [
    (
        "native /lb/",
        &[
            "services/a",
            "services/b",
            "backends/a/1",
            "backends/a/2",
            "backends/b/1",
            "allocations/a",
            "allocations/b",
            "vips/10.96.1.1",
            "overrides/a/10.0.0.1:80",
            "x",
        ],
        &[
            r#"{"frontends":["10.96.0.1:80"],"backends":["10.0.0.1:80"]}"#,
            r#"{"frontends":["10.96.0.1:80","10.96.0.2:80"]}"#,
            r#"{"vip":["auto","10.96.0.2"],"ports":[80],"x":1}"#,
            r#"{"vip":"auto4","ports":[80,81],"backends":["[fd00::1]:1"]}"#,
            r#"{"address":"10.0.0.1:80"}"#,
            r#"{"address":"10.0.0.2:80","weight":2}"#,
            r#"{"state":"drain","weight":3,"address":"10.0.0.1:80"}"#,
            r#"{"v4":"10.96.1.1"}"#,
            r#"{"v4":"10.96.1.2","v6":"fd00::9"}"#,
            "a",
            "b",
            "{",
        ],
    ),
    (
        "native /lb/",
        &["services/a", "backends/a/1", "backends/a/2"],
        &[
            r#"{"frontends":["10.96.0.1:80"],"backends":["10.0.0.1:80"],"address":"10.0.0.1:80"}"#,
            r#"{"frontends":["10.96.0.1:80"],"backends":[],"address":"10.0.0.2:80"}"#,
        ],
    ),
    (
        "grpc /p/",
        &["a/1", "a/2", "a/b/1", "p/1", "top"],
        &[r#"{"Addr":"10.0.0.1:1"}"#, r#"{"Addr":"10.0.0.2:1"}"#, r#"{"Op":1}"#, "{"],
    ),
    ("plain /p/", &["a/1", "a/2", "a/b/1", "p/1", "top"], &["10.0.0.1:1", "10.0.0.2:1", "x"]),
    (
        "coredns /s/",
        &["l", "l/e", "l/e/", "l/e/w", "l/e/w/1", "l/e/w/r/2", "l/e/dns/apex", "l/e/w/dns/apex/1"],
        &[
            r#"{"host":"10.0.0.1"}"#,
            r#"{"host":"10.0.0.1","weight":2}"#,
            r#"{"host":"10.0.0.2","priority":5}"#,
            r#"{"text":"x"}"#,
            "{",
        ],
    ),
    (
        "kratos /k/",
        &["a/1", "a/2", "a/b/1", "x"],
        &[
            r#"{"endpoints":["grpc://10.0.0.1:1","http://10.0.0.1:2"]}"#,
            r#"{"endpoints":["grpc://10.0.0.1:1","x"]}"#,
            r#"{"name":"a","endpoints":["http://10.0.0.1:2"],"metadata":{"weight":"3"}}"#,
            "{",
        ],
    ),
    (
        "patroni /service/",
        &["s/leader", "s/members/a", "s/members/b", "s/0/leader", "s/0/members/a", "s/config", "s"],
        &[
            "a",
            "b",
            r#"{"conn_url":"postgres://10.0.0.1/","role":"primary","state":"running"}"#,
            r#"{"conn_url":"postgres://10.0.0.2/","role":"replica","state":"running"}"#,
            r#"{"conn_url":"postgres://10.0.0.2/","role":"replica","state":"running","tags":{"noloadbalance":true}}"#,
            r#"{"conn_url":"postgres://x/","role":"master","state":"stopped"}"#,
        ],
    ),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However the keys came to be what they are, the same comes of them; see
    /// [`crate::fuzzing::layouts`] for what else is asserted at every step.
    #[test]
    fn only_the_end_counts(
        layout in 0..KEYS.len(),
        changes in vec((any::<Index>(), 0..10, any::<Index>()), 0..16),
    ) {
        let (head, keys, values) = KEYS[layout];
        let prefix = head.split_once(' ').unwrap().1;
        let mut text = head.to_owned();
        let mut stored = BTreeMap::new();
        for (key, what, value) in changes {
            let key = key.get(keys);
            match what {
                0 => drop(stored.remove(key)),
                // The same again, at a later revision.
                1..4 => {}
                _ => drop(stored.insert(key, value.get(values))),
            }
            write!(text, "\n{prefix}{key}").unwrap();
            if let Some(value) = stored.get(key) {
                write!(text, " {value}").unwrap();
            }
        }
        crate::fuzzing::layouts(text.as_bytes());
    }
}

#[test]
fn words() {
    for kind in LayoutKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
    }
    assert!("zk".parse::<LayoutKind>().unwrap_err().contains("native, grpc, coredns, plain"));
}

#[test]
fn the_first_snapshot_is_one_even_if_there_is_nothing() {
    for kind in LayoutKind::ALL {
        let mut lab = Lab::new(kind, "/p/");
        assert!(lab.changed());
        assert!(!lab.changed());
    }
}

#[test]
fn the_examples_are_good() {
    for (name, text) in [
        ("native/agent", include_str!("../../../../../examples/etcd/native/agent.yaml")),
        ("grpc", include_str!("../../../../../examples/etcd/grpc.yaml")),
        ("plain", include_str!("../../../../../examples/etcd/plain.yaml")),
        ("coredns", include_str!("../../../../../examples/etcd/coredns.yaml")),
        ("kratos", include_str!("../../../../../examples/etcd/kratos.yaml")),
        ("patroni", include_str!("../../../../../examples/etcd/patroni.yaml")),
    ] {
        let config = crate::config::parse(name.as_ref(), text);
        assert!(config.is_ok(), "{name}: {config:#?}");
        if !name.starts_with("native") {
            let translation = spec::translate(name, text, &Claims::default(), true).unwrap();
            assert_eq!(translation.rejections, [], "{name}");
            let services = translation.snapshot.services;
            assert!(services.values().all(|service| !service.backends_from.is_empty()), "{name}");
        }
    }
}
