//! Keys are kept on a lease through everything that happens to a store.

use crate::mirror::{DEADLINE, one, runtime, settings};
use integration::etcd::{Cluster, Etcd, Setup};
use integration::lab;
use integration::wait::{eventually, let_pass};
use lb_agent::etcd::{Keeper, KeeperState, Settings, TakeOver};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::watch::{Sender, channel};

const TTL: Duration = Duration::from_secs(5);

type Wanted = Arc<BTreeMap<String, Vec<u8>>>;

/// A keeper, who wants what of it, and its threads.
pub(crate) struct Kept {
    wanted: Sender<Wanted>,
    keeper: Keeper,
    runtime: Runtime,
}

fn wanted(keys: &[(&str, &str)]) -> Wanted {
    let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
    Arc::new(keys.collect())
}

// === impl Kept ===

impl Kept {
    pub(crate) fn spawn(settings: Settings, ttl: Duration, keys: &[(&str, &str)]) -> Self {
        Self::spawn_all(settings, ttl, wanted(keys), TakeOver::Any)
    }

    /// One that takes over a key only if it was last changed at this revision.
    fn spawn_polite(settings: Settings, keys: &[(&str, &str)], may: &[(&str, i64)]) -> Self {
        let may = may.iter().map(|(key, revision)| ((*key).to_owned(), *revision));
        Self::spawn_all(settings, TTL, wanted(keys), TakeOver::At(may.collect()))
    }

    fn spawn_all(settings: Settings, ttl: Duration, keys: Wanted, take_over: TakeOver) -> Self {
        let runtime = runtime();
        let (wanted, receiver) = channel(keys);
        let keeper = {
            let _inside = runtime.enter();
            Keeper::spawn(Arc::new(settings), ttl, receiver, take_over)
        };
        Self { wanted, keeper, runtime }
    }

    fn want(&self, keys: &[(&str, &str)]) {
        self.wanted.send_replace(wanted(keys));
    }

    fn state(&self) -> KeeperState {
        self.keeper.state().borrow().clone()
    }

    #[track_caller]
    pub(crate) fn until_registered(&self) {
        let good = |state: KeeperState| state.registered && state.error.is_none();
        eventually("the keys to be registered", DEADLINE, || good(self.state()));
    }

    /// Stops wanting and waits for the end; returns how long that took.
    fn end(self) -> Duration {
        let begun = Instant::now();
        drop(self.wanted);
        self.runtime.block_on(self.keeper.ended());
        begun.elapsed()
    }
}

#[test]
fn keys_come_change_and_go() {
    lab::run("etcd-keep", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let kept = Kept::spawn(one(&etcd), TTL, &[("/lb/a", "1"), ("/lb/b", "1")]);
        kept.until_registered();
        assert_eq!(etcd.list("/lb/").len(), 2);
        assert_eq!(etcd.lease_of("/lb/a"), kept.state().lease);
        let revision = etcd.revision();
        kept.want(&[("/lb/b", "2"), ("/lb/c", "1")]);
        let now = [("/lb/b", "2"), ("/lb/c", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        eventually("the change", DEADLINE, || etcd.list("/lb/") == now);
        assert_eq!(etcd.revision(), revision + 2, "one deletes, one puts");
        let_pass(TTL * 2);
        assert_eq!(etcd.list("/lb/"), now, "the lease is kept alive");
        assert_eq!(etcd.revision(), revision + 2, "and nothing is written for that");
        kept.end();
        assert_eq!(etcd.list("/lb/"), []);
        assert!(etcd.etcdctl(&["lease", "list"]).contains("found 0 leases"));
    });
}

#[test]
fn what_others_take_away_is_put_again() {
    lab::run("etcd-keep-again", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        let kept = Kept::spawn(one(&etcd), TTL, &[("/lb/a", "1"), ("/lb/b", "1")]);
        kept.until_registered();
        let there = |what: &str, etcd: &Etcd| {
            let begun = Instant::now();
            eventually(what, DEADLINE, || {
                kept.state().lease.is_some() && etcd.lease_of("/lb/a") == kept.state().lease
            });
            begun.elapsed()
        };
        assert!(etcd.delete("/lb/a"));
        let taken = there("a deleted key", &etcd);
        assert!(taken < 2 * TTL / 3, "{taken:?}");
        etcd.put("/lb/a", "another's");
        there("a key taken over", &etcd);
        assert_eq!(etcd.get("/lb/a").as_deref(), Some("1"));
        etcd.revoke(kept.state().lease.unwrap());
        let taken = there("a revoked lease", &etcd);
        assert!(taken < 2 * TTL / 3, "{taken:?}");
        etcd.wipe();
        let taken = there("a wiped store", &etcd);
        assert!(taken < Duration::from_secs(4), "{taken:?}");
        kept.until_registered();
        // What is another's at the end stays.
        etcd.put("/lb/b", "another's");
        kept.end();
        assert_eq!(etcd.list("/lb/"), [("/lb/b".to_owned(), "another's".to_owned())]);
    });
}

#[test]
fn what_is_anothers_is_left_alone() {
    lab::run("etcd-keep-polite", |lab| {
        let etcd = Etcd::start(lab.scratch());
        etcd.put("/lb/a", "another's");
        let kept = Kept::spawn_polite(one(&etcd), &[("/lb/a", "1"), ("/lb/b", "1")], &[]);
        let holder = || kept.state().taken.map(|found| found.value);
        let is_taken = || holder().as_deref() == Some(b"another's") && !kept.state().registered;
        eventually("the key to be seen as another's", DEADLINE, is_taken);
        assert_eq!(etcd.get("/lb/b").as_deref(), Some("1"), "the other one is put");
        assert!(kept.state().error.unwrap().starts_with("/lb/a was put by somebody else"));
        let revision = etcd.revision();
        kept.want(&[("/lb/a", "2"), ("/lb/b", "1")]);
        let_pass(TTL);
        assert_eq!(etcd.revision(), revision, "nothing is written meanwhile");
        assert!(etcd.delete("/lb/a"));
        kept.until_registered();
        assert_eq!((holder(), etcd.get("/lb/a").as_deref()), (None, Some("2")));
        // Ours to change, to lose and to get back.
        kept.want(&[("/lb/a", "3"), ("/lb/b", "1")]);
        eventually("the change", DEADLINE, || etcd.get("/lb/a").as_deref() == Some("3"));
        etcd.revoke(kept.state().lease.unwrap());
        eventually("a revoked lease", DEADLINE, || etcd.get("/lb/a").as_deref() == Some("3"));
        // It changes hands between two looks of ours.
        etcd.put("/lb/b", "another's");
        kept.want(&[("/lb/a", "3"), ("/lb/b", "2")]);
        eventually("the key to be seen as another's", DEADLINE, is_taken);
        kept.end();
        assert_eq!(etcd.list("/lb/"), [("/lb/b".to_owned(), "another's".to_owned())]);
    });
}

#[test]
fn what_was_looked_at_is_taken_over_unless_it_has_changed() {
    lab::run("etcd-keep-over", |lab| {
        let etcd = Etcd::start(lab.scratch());
        etcd.put("/lb/a", "another's");
        let seen = etcd.revision();
        etcd.put("/lb/b", "another's");
        let may = [("/lb/a", seen), ("/lb/b", seen)];
        let kept = Kept::spawn_polite(one(&etcd), &[("/lb/a", "1"), ("/lb/b", "1")], &may);
        let taken = || kept.state().taken.is_some_and(|found| found.key == "/lb/b");
        eventually("the other key to be seen as another's", DEADLINE, taken);
        assert_eq!(etcd.get("/lb/a").as_deref(), Some("1"));
        assert_eq!(etcd.get("/lb/b").as_deref(), Some("another's"));
        kept.end();
        assert_eq!(etcd.list("/lb/"), [("/lb/b".to_owned(), "another's".to_owned())]);
    });
}

#[test]
fn an_outage() {
    lab::run("etcd-keep-outage", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        etcd.kill9();
        let ttl = Duration::from_secs(2);
        let kept = Kept::spawn(one(&etcd), ttl, &[("/lb/a", "1")]);
        let down = || kept.state().error.is_some_and(|line| line.contains("connection refused"));
        eventually("the error", DEADLINE, down);
        assert_eq!((kept.state().registered, kept.state().lease), (false, None));
        etcd.restart();
        let back = Instant::now();
        kept.until_registered();
        assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
        etcd.kill9();
        eventually("the error", DEADLINE, down);
        eventually("the lease to be given up for lost", DEADLINE, || !kept.state().registered);
        kept.want(&[("/lb/b", "1")]);
        etcd.restart();
        let back = Instant::now();
        kept.until_registered();
        assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
        let now = [("/lb/b".to_owned(), "1".to_owned())];
        eventually("the change", DEADLINE, || etcd.list("/lb/") == now);
        etcd.stop_signal();
        eventually("the error", DEADLINE, || kept.state().error.is_some());
        etcd.cont();
        kept.until_registered();
        eventually("the key", DEADLINE, || etcd.list("/lb/") == now);
        etcd.kill9();
        let taken = kept.end();
        assert!(taken < Duration::from_secs(4), "the clean-up ends: {taken:?}");
    });
}

#[test]
fn a_member_that_hangs_does_not_cost_the_lease() {
    lab::run("etcd-keep-three", |lab| {
        let cluster = Cluster::start(lab.scratch(), 3);
        let kept = Kept::spawn(settings(cluster.endpoints()), TTL, &[("/lb/a", "1")]);
        kept.until_registered();
        let mut lease = kept.state().lease;
        for index in 0..3 {
            cluster.member(index).stop_signal();
            let_pass(TTL + Duration::from_secs(2));
            let other = cluster.member((index + 1) % 3);
            assert_eq!(other.lease_of("/lb/a"), lease, "without member {index}");
            cluster.member(index).cont();
            cluster.wait_ready();
            // A leader that wakes up may still end leases as if it were one, depending on its version
            // (etcd-io/etcd#15247); they are granted anew.
            let there = || kept.state().registered && other.lease_of("/lb/a") == kept.state().lease;
            eventually("the key on its lease", DEADLINE, there);
            lease = kept.state().lease;
        }
    });
}

#[test]
fn many_keys_and_one_too_large() {
    lab::run("etcd-keep-many", |lab| {
        let etcd = Setup::default().flag("--max-request-bytes=100000").start(lab.scratch());
        let mut keys: BTreeMap<String, Vec<u8>> =
            (0..1000).map(|number| (format!("/lb/{number}"), vec![b'x'; 3_000])).collect();
        keys.insert("/lb/large".to_owned(), vec![b'x'; 200_000]);
        let kept = Kept::spawn_all(one(&etcd), TTL, Arc::new(keys.clone()), TakeOver::Any);
        let line = || kept.state().error.filter(|line| line.contains("write /lb/large"));
        eventually("the others to be written", DEADLINE, || line().is_some());
        assert!(line().unwrap().contains("smaller"));
        assert!(!kept.state().registered);
        assert_eq!(etcd.list("/lb/").len(), 1000);
        keys.remove("/lb/large");
        kept.wanted.send_replace(Arc::new(keys));
        kept.until_registered();
        kept.want(&[]);
        eventually("all to go", DEADLINE, || etcd.list("/lb/").is_empty());
    });
}
