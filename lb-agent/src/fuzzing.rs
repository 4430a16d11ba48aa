//! What must hold for any bytes that come from elsewhere: files, stores, clusters, clients, pinned tables. For `fuzz/` and the
//! bounded run in `tests/fuzz.rs`; not part of the library's interface.
//!
//! Each function panics where something does not hold.

mod cluster;
mod dns;
mod documents;
mod kube_proxy_rules;
mod requests;
mod settings;
mod tables;

pub use self::cluster::cluster;
pub use self::dns::dns;
pub use self::documents::documents;
pub use self::kube_proxy_rules::kube_proxy_rules;
pub use self::requests::requests;
pub use self::settings::{credential, kube_proxy, kubeconfig, settings};
pub use self::tables::tables;

use crate::claims::Claims;
use crate::etcd::KeyValue;
use crate::model::{Rejection, Service, ServiceName, Snapshot};
use crate::source::etcd::layout::{Addresses, LayoutKind, Translator};
use crate::source::spec::{self, value};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Most keys of one input: more of them find nothing more.
const MOST_KEYS: usize = 100;

/// One change of a store.
struct Change {
    key: String,
    value: Option<KeyValue>,
}

/// A store that changes. The first line is a layout and a prefix; each further line is a key, a
/// space and its new value, or a key alone, which is deleted.
pub fn layouts(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let (word, prefix) = first.split_once(' ').unwrap_or((&first, ""));
    let Ok(kind) = word.parse::<LayoutKind>() else { return };
    let prefix = format!("{}/", prefix.trim_end_matches('/'));
    let changes: Vec<Change> = (1..).zip(lines.take(MOST_KEYS)).map(change).collect();
    let start = || Translator::new(kind, "etcd:fuzz".into(), prefix.clone(), claims());

    let mut translator = start();
    let Some(mut last) = translator.snapshot() else { panic!("there is no first snapshot") };
    for Change { key, value } in &changes {
        let refused = translator.refused();
        translator.set(key, value.as_ref());
        if let Some(now) = translator.snapshot() {
            assert_ne!(*last, *now, "a snapshot without a change");
            if let Some(path) = key.strip_prefix(&prefix) {
                check_reach(kind, path, &last, &now);
            }
            last = now;
        }
        check_rejections(&translator.rejections());
        assert!(translator.refused() >= refused, "the count of refusals went back");
        let refused = translator.refused();
        translator.set(key, value.as_ref());
        assert!(translator.snapshot().is_none(), "news without a change");
        assert_eq!(translator.refused(), refused, "the same value was counted twice");
    }
    check_snapshot(kind, &last);

    // The end alone gives the same, apart from good values that a service has had before.
    let mut fresh = start();
    let mut end = BTreeMap::new();
    for Change { key, value } in &changes {
        if key.strip_prefix(&prefix).is_some_and(|path| path.starts_with("services/")) {
            fresh.set(key, value.as_ref());
        } else {
            end.insert(key, value.as_ref());
        }
    }
    for (key, value) in end.into_iter().rev() {
        fresh.set(key, value);
    }
    assert_eq!(fresh.snapshot().as_deref(), Some(&*last), "the way there made a difference");
    assert_eq!(fresh.rejections(), translator.rejections(), "the way there made a difference");
    assert_eq!(fresh.addresses().map(without_count), translator.addresses().map(without_count));
}

/// A file of services, and the same bytes as values of their own.
pub fn services_document(data: &[u8]) {
    let claims = claims();
    let name: ServiceName = match "web".parse() {
        Ok(name) => name,
        Err(error) => panic!("{error}"),
    };
    let service = value::service(&name, data, &claims);
    assert_eq!(service.value.is_none(), !service.problems.is_empty());
    let allowed = |service: &Service| service.frontends.keys().all(|f| claims.check(f).is_ok());
    if let Some(value) = &service.value {
        assert!(allowed(&value.service), "a frontend that may not be");
    }
    let backend = value::backend(data);
    assert_eq!(backend.value.is_none(), !backend.problems.is_empty());
    if let Some((address, backend)) = backend.value {
        assert!(backend.weight > 0 && address.port() > 0);
    }
    let text = String::from_utf8_lossy(data);
    for main in [false, true] {
        let Ok(mut translation) = spec::translate("f.yaml", &text, &claims, main) else { continue };
        let snapshot = translation.snapshot.clone();
        let mut seen = BTreeSet::new();
        for service in snapshot.services.values() {
            assert!(!service.frontends.is_empty(), "a service without a frontend");
            assert!(allowed(service), "a frontend that may not be");
            assert!(service.frontends.keys().all(|frontend| seen.insert(*frontend)), "twice");
            check_backends(service.backends.iter().map(|(a, b)| (a, b.weight)), false);
        }
        // With itself as the last good one nothing that is good changes.
        spec::keep_last_good(&mut translation, &snapshot, &claims);
        assert_eq!(translation.snapshot, snapshot);
    }
}

fn claims() -> Claims {
    let ranges = ["10.96.0.0/12", "fd00::/8"].iter().filter_map(|range| range.parse().ok());
    Claims { ranges: Some(ranges.collect()), ..Claims::default() }
}

fn change((revision, line): (i64, &[u8])) -> Change {
    let mut parts = line.splitn(2, |byte| *byte == b' ');
    let key = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let value = parts.next().map(|value| KeyValue {
        key: key.clone(),
        value: value.to_vec(),
        created: revision,
        modified: revision,
        lease: (revision % 3 == 0).then_some(revision),
    });
    Change { key, value }
}

/// Counting changes is about the way there.
fn without_count(addresses: &Addresses) -> Addresses {
    Addresses { changes: 0, ..addresses.clone() }
}

/// A value is about its own service or pool.
fn check_reach(kind: LayoutKind, path: &str, last: &Snapshot, now: &Snapshot) {
    let parent = path.rsplit_once('/').map(|(parent, _)| parent);
    for name in differing(&last.pools, &now.pools) {
        let near = match (kind, parent) {
            (LayoutKind::Grpc | LayoutKind::Plain, Some(parent)) => &**name == parent,
            (LayoutKind::Kratos, Some(parent)) => {
                name.rsplit_once('/').is_some_and(|(service, _)| service == parent)
            }
            (LayoutKind::Patroni, Some(_)) => {
                name.rsplit_once('/').is_some_and(|(scope, _)| path.starts_with(scope))
            }
            (LayoutKind::Coredns, _) => {
                path.split('/').next().is_some_and(|zone| name.ends_with(zone))
            }
            (LayoutKind::Native, _) => false,
            // Directly under the prefix, whose name is not known here.
            (_, None) => true,
        };
        assert!(near, "`{path}` changed the pool `{name}`");
    }
    if let Some(service) = parent.and_then(|parent| parent.strip_prefix("backends/")) {
        for name in differing(&last.services, &now.services) {
            assert_eq!(name.as_str(), service, "`{path}` changed another service");
        }
    }
}

fn differing<'m, K: Ord, V: PartialEq>(
    last: &'m BTreeMap<K, Arc<V>>,
    now: &'m BTreeMap<K, Arc<V>>,
) -> impl Iterator<Item = &'m K> {
    let gone = last.keys().filter(|name| !now.contains_key(*name));
    let new = now.iter().filter(|(name, value)| last.get(*name) != Some(*value));
    gone.chain(new.map(|(name, _)| name))
}

fn check_rejections(rejections: &[Rejection]) {
    assert!(rejections.is_sorted(), "not in order");
    for Rejection { origin, service, reason } in rejections {
        check_lines([origin, reason].into_iter().chain(service));
        assert!(!reason.is_empty() && origin.contains(" (revision "), "{origin}: {reason}");
    }
}

/// What is told of foreign bytes is a line that any terminal can show, and of bounded length.
fn check_lines<'t>(texts: impl IntoIterator<Item = &'t String>) {
    for text in texts {
        check_shown([text]);
        assert!(text.len() < 1000, "{text}");
    }
}

/// What is told of a file to who wrote it may be as long as what is in the file.
fn check_shown<'t>(texts: impl IntoIterator<Item = &'t String>) {
    for text in texts {
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

fn check_snapshot(kind: LayoutKind, snapshot: &Snapshot) {
    let claims = claims();
    for (name, service) in &snapshot.services {
        assert!(!service.frontends.is_empty(), "{name} has no frontend");
        for frontend in service.frontends.keys() {
            assert!(claims.check(frontend).is_ok(), "{name} has {frontend}, which may not be");
        }
        check_backends(service.backends.iter().map(|(a, b)| (a, b.weight)), false);
    }
    for pool in snapshot.pools.values() {
        let no_port = kind == LayoutKind::Coredns;
        check_backends(pool.backends.iter().map(|(a, b)| (a, b.weight)), no_port);
    }
}

fn check_backends<'b>(backends: impl Iterator<Item = (&'b SocketAddr, u16)>, no_port: bool) {
    for (address, weight) in backends {
        assert!(weight > 0, "{address} has no weight");
        assert!(address.port() > 0 || no_port, "{address} has no port");
        assert_eq!(address.ip().to_canonical(), address.ip(), "{address} is mapped");
    }
}
