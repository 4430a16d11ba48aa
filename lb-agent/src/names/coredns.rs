//! Names for CoreDNS: SkyDNS records in etcd, which its `etcd` plugin answers from.
//!
//! `/skydns/internal/lb/web/<id>` is a record of web.lb.internal. Every agent writes records of its
//! own, so that a name is there as long as one of them is: CoreDNS gives each address once, however
//! many records have it. (An answer to SRV has one line per record, since each is a target of its
//! own.) They hang on a lease, which ends soon after the agent does. What is not written: PTR, for
//! which CoreDNS reads one key only, so that agents would take it from each other.

use super::records::{Records, dashed};
use super::{Facts, Report};
use crate::config;
use crate::etcd::{Keeper, KeeperState, TakeOver};
use serde::Serialize;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::JoinSet;

/// Keys and values, as the keeper wants them.
type Wanted = Arc<BTreeMap<String, Vec<u8>>>;

/// Letters of the host's name in an id: with the rest of it, a label's length.
const HOST_LETTERS: usize = 10;

/// Writes records as long as the agent runs.
#[derive(Debug)]
pub(super) struct Writer {
    wanted: Arc<Sender<Wanted>>,
    keeper: Keeper,
}

/// A record's value.
#[derive(Serialize)]
struct Record {
    host: IpAddr,
    port: u16,
    ttl: u64,
}

// === impl Writer ===

impl Writer {
    /// Begins to write. `agent` tells this agent from others on the same host.
    pub(super) fn spawn(
        tasks: &mut JoinSet<()>,
        settings: config::Coredns,
        agent: &Path,
        facts: Receiver<Option<Arc<Facts>>>,
        report: Report,
    ) -> Self {
        let wanted = Arc::new(Sender::new(Wanted::default()));
        let cluster = Arc::clone(&settings.settings);
        let keeper = {
            // The names are this agent's alone; what is there, the one before has left.
            let wanted = wanted.subscribe();
            Keeper::spawn(cluster, settings.ttl, wanted, TakeOver::Any)
        };
        let id = host_id(agent);
        tasks.spawn(translate(settings, id, facts, Arc::clone(&wanted), keeper.state(), report));
        Self { wanted, keeper }
    }

    /// Ends writing. With `remove` the records are deleted; otherwise they stay until their lease
    /// ends, in which time the next agent takes them over.
    pub(super) async fn stop(self, remove: bool) {
        let Self { wanted, keeper } = self;
        if remove {
            drop(wanted);
            keeper.ended().await;
        } else {
            // Dropped, it would make the keeper delete them. The process is about to end.
            std::mem::forget(wanted);
        }
    }
}

/// Turns facts into records, and the keeper's state into ours.
async fn translate(
    settings: config::Coredns,
    id: String,
    mut facts: Receiver<Option<Arc<Facts>>>,
    wanted: Arc<Sender<Wanted>>,
    mut keeper: Receiver<KeeperState>,
    report: Report,
) {
    let mut last: Option<Arc<Facts>> = None;
    loop {
        let now = facts.borrow_and_update().clone();
        if let Some(now) = now.filter(|now| last.as_ref().is_none_or(|l| !Arc::ptr_eq(l, now))) {
            wanted.send_replace(Arc::new(records_of(&settings, &id, &now.records)));
            report.update(|status| status.problems = entangled(&now.records));
            last = Some(now);
        }
        let KeeperState { registered, error, .. } = keeper.borrow_and_update().clone();
        report.update(|status| {
            if let Some(last) = last.as_ref().filter(|_| registered) {
                status.records = last.records.len();
            }
            status.error = error;
        });
        let changed = tokio::select! {
            changed = facts.changed() => changed,
            changed = keeper.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// The records of all names.
fn records_of(
    settings: &config::Coredns,
    id: &str,
    records: &Records,
) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let ttl = settings.ttl.as_secs();
    for (name, entry) in records.names() {
        let labels: Vec<&str> = name.rsplit('.').collect();
        let path = format!("{}{}", settings.prefix, labels.join("/"));
        for port in &entry.ports {
            let (host, port) = (port.address, port.number);
            let value = serde_json::to_vec(&Record { host, port, ttl });
            // Addresses and numbers can always be written.
            let value = value.unwrap_or_default();
            all.insert(format!("{path}/{id}-{}-{port}", dashed(host)), value);
        }
    }
    all
}

/// Names that CoreDNS gives the addresses of others: those of everything below them.
fn entangled(records: &Records) -> Vec<String> {
    let names: BTreeSet<&str> = records.names().map(|(name, _)| name).collect();
    let above = |name: &&str| {
        let mut rest = *name;
        while let Some((_, above)) = rest.split_once('.') {
            if names.contains(above) {
                return Some(format!(
                    "CoreDNS gives {above} the addresses of {name} too, which is below it; rename \
                     one of the services"
                ));
            }
            rest = above;
        }
        None
    };
    names.iter().filter_map(above).collect()
}

/// What begins the ids of this agent's records: the same after a restart, so that the next agent
/// takes over what it finds, and another one for every other agent.
fn host_id(agent: &Path) -> String {
    let read = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| {
            tracing::warn!(%error, path, "records for CoreDNS are told apart without it");
            String::new()
        });
        text.trim().to_owned()
    };
    let host = read("/proc/sys/kernel/hostname");
    let mut hasher = DefaultHasher::new();
    // Copies of a machine have one host name and one machine id, but each boots by itself.
    (&host, read("/proc/sys/kernel/random/boot_id"), agent).hash(&mut hasher);
    id_of(&host, hasher.finish())
}

fn id_of(host: &str, number: u64) -> String {
    let letters = host.chars().filter(char::is_ascii_alphanumeric).take(HOST_LETTERS);
    let letters: String = letters.collect::<String>().to_ascii_lowercase();
    format!("{letters}-{:06x}", number & 0xff_ffff).trim_start_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::records::tests::records;

    fn settings() -> config::Coredns {
        let endpoint = "http://127.0.0.1:1".parse().unwrap();
        let cluster = crate::etcd::Settings {
            endpoints: vec![endpoint],
            tls: crate::etcd::Tls::default(),
            user: None,
        };
        config::Coredns {
            settings: Arc::new(cluster),
            prefix: "/skydns/".to_owned(),
            ttl: std::time::Duration::from_secs(30),
        }
    }

    #[test]
    fn records_are_where_coredns_looks() {
        let records = records(&[
            ("dns", &["10.96.0.53:53", "10.96.0.53:53/udp"]),
            ("team/web", &["10.96.0.10:80", "10.96.0.10:443", "[fd00::10]:80"]),
        ]);
        let all = records_of(&settings(), "node1-abcdef", &records);
        let all: Vec<_> =
            all.iter().map(|(k, v)| (k.as_str(), std::str::from_utf8(v).unwrap())).collect();
        assert_eq!(
            all,
            [
                (
                    "/skydns/internal/lb/dns/node1-abcdef-10-96-0-53-53",
                    r#"{"host":"10.96.0.53","port":53,"ttl":30}"#
                ),
                (
                    "/skydns/internal/lb/team/web/node1-abcdef-10-96-0-10-443",
                    r#"{"host":"10.96.0.10","port":443,"ttl":30}"#
                ),
                (
                    "/skydns/internal/lb/team/web/node1-abcdef-10-96-0-10-80",
                    r#"{"host":"10.96.0.10","port":80,"ttl":30}"#
                ),
                (
                    "/skydns/internal/lb/team/web/node1-abcdef-fd00-0-0-0-0-0-0-10-80",
                    r#"{"host":"fd00::10","port":80,"ttl":30}"#
                ),
            ]
        );
    }

    #[test]
    fn ids_are_labels() {
        let longest = dashed("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap());
        for (host, id) in [
            ("node1", "node1-abcdef"),
            ("Web-01.example.com", "web01examp-abcdef"),
            ("", "abcdef"),
            ("ü", "abcdef"),
        ] {
            assert_eq!(id_of(host, 0x12_3456_78ab_cdef), id);
            assert!(format!("{id}-{longest}-65535").len() <= 63);
        }
        assert_eq!(id_of("x", 1), "x-000001");
        let ids = ["/a", "/b"].map(|agent| host_id(Path::new(agent)));
        assert_ne!(ids[0], ids[1]);
        assert_eq!(host_id(Path::new("/a")), ids[0]);
    }

    #[test]
    fn names_above_others_are_told() {
        let at = ["10.0.0.1:80"].as_slice();
        assert_eq!(entangled(&records(&[("a", at), ("b/c", at), ("d", at)])), [""; 0]);
        let told = entangled(&records(&[("a", at), ("a/b", at), ("a/b.c", at)]));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("CoreDNS gives a.lb.internal the addresses of b.a.lb.internal")
        );
    }
}
