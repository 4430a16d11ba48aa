//! What the layouts' tests share, and what holds for all of them.

use super::*;
use crate::model::{AdminState, Backend};
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
        let Backend { weight, state, zone, lease, priority: _ } = backend;
        write!(text, " {address}").unwrap();
        if *weight != 1 {
            write!(text, "*{weight}").unwrap();
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
