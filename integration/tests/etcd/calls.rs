//! Single calls to the store.

use crate::mirror::{one, runtime, settings};
use integration::etcd::{Cluster, Etcd};
use integration::lab;
use lb_agent::etcd::{Client, Condition, EtcdError, Operation};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Less than a call that nobody answers is given.
const CALL: Duration = Duration::from_millis(2_900);

fn put(key: &str, value: &str) -> Operation {
    Operation::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), lease: None }
}

#[test]
fn reads_and_writes() {
    lab::run("etcd-calls", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let mut client = Client::new(Arc::new(one(&etcd)));
        runtime().block_on(async {
            let first = client.put("/lb/a", b"1".to_vec(), None).await.unwrap();
            let modified = client.put("/lb/a", b"2".to_vec(), None).await.unwrap();
            let found = client.get("/lb/a").await.unwrap().unwrap();
            assert_eq!((found.created, found.modified, found.lease), (first, modified, None));
            assert_eq!((found.key.as_str(), found.value.as_slice()), ("/lb/a", &b"2"[..]));
            assert!(client.delete("/lb/a").await.unwrap());
            assert!(!client.delete("/lb/a").await.unwrap());
            assert_eq!(client.get("/lb/a").await.unwrap(), None);
            let line = client.put("/lb/a", vec![0; 2 << 20], None).await.unwrap_err();
            assert!(matches!(line, EtcdError::TooLarge(_)), "{line}");
            assert!(client.list("/lb/").await.unwrap().keys.is_empty());
        });
    });
}

#[test]
fn transactions() {
    lab::run("etcd-transact", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let mut client = Client::new(Arc::new(one(&etcd)));
        runtime().block_on(async {
            let absent = Condition::Absent("/lb/a".to_owned());
            let both = [put("/lb/a", "1"), put("/lb/b", "1")];
            assert!(client.transact(std::slice::from_ref(&absent), &both).await.unwrap());
            assert!(!client.transact(&[absent], &both).await.unwrap());
            let modified = client.get("/lb/a").await.unwrap().unwrap().modified;
            assert_eq!(client.get("/lb/b").await.unwrap().unwrap().modified, modified);
            let key = || "/lb/a".to_owned();
            let unchanged = Condition::Unchanged { key: key(), modified };
            let equals = Condition::Equals { key: key(), value: b"1".to_vec() };
            let change = [put("/lb/a", "2"), Operation::Delete("/lb/b".to_owned())];
            let when = [unchanged.clone(), equals.clone()];
            assert!(client.transact(&when, &change).await.unwrap());
            assert!(!client.transact(&[unchanged], &change).await.unwrap());
            assert!(!client.transact(&[equals], &change).await.unwrap());
            assert_eq!(client.get("/lb/b").await.unwrap(), None);
        });
    });
}

#[test]
fn leases() {
    lab::run("etcd-leases", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let mut client = Client::new(Arc::new(one(&etcd)));
        runtime().block_on(async {
            let lease = client.grant(Duration::from_secs(60)).await.unwrap();
            client.put("/lb/a", Vec::new(), Some(lease)).await.unwrap();
            assert_eq!(client.get("/lb/a").await.unwrap().unwrap().lease, Some(lease));
            let left = client.lease_left(lease).await.unwrap().unwrap();
            assert!((55..=60).contains(&left.as_secs()), "{left:?}");
            client.revoke(lease).await.unwrap();
            client.revoke(lease).await.unwrap();
            assert_eq!(client.lease_left(lease).await.unwrap(), None);
            assert_eq!(client.get("/lb/a").await.unwrap(), None);
            let gone = client.put("/lb/a", Vec::new(), Some(lease)).await.unwrap_err();
            assert!(matches!(gone, EtcdError::LeaseGone(_)), "{gone}");
        });
    });
}

#[test]
fn lists_of_large_values() {
    lab::run("etcd-large", |lab| {
        let etcd = Etcd::start(lab.scratch());
        // More than one message may hold by the default limits, and than we take at once.
        for number in 0..70 {
            etcd.put(&format!("/lb/{number:02}"), vec![b'x'; 1 << 20]);
        }
        let mut client = Client::new(Arc::new(one(&etcd)));
        let listing = runtime().block_on(client.list("/lb/")).unwrap();
        assert_eq!(listing.keys.len(), 70);
        assert!(listing.keys.is_sorted_by(|one, other| one.key < other.key));
    });
}

#[test]
fn members_that_are_dead_or_hang() {
    lab::run("etcd-calls-three", |lab| {
        let mut cluster = Cluster::start(lab.scratch(), 3);
        cluster.any().put("/lb/a", "1");
        let runtime = runtime();
        let mut client = Client::new(Arc::new(settings(cluster.endpoints())));
        let mut ask = || {
            let begun = Instant::now();
            let found = runtime.block_on(client.get("/lb/a")).unwrap();
            assert!(found.is_some());
            begun.elapsed()
        };
        for index in 0..3 {
            ask();
            cluster.member_mut(index).kill9();
            cluster.any();
            // Not one call of many is lost, or waits for a member that does not live, once another is found.
            ask();
            assert!((0..50).all(|_| ask() < CALL));
            cluster.member_mut(index).restart();
            cluster.member(index).stop_signal();
            cluster.member((index + 1) % 3).wait_ready();
            assert!(ask() < Duration::from_secs(8));
            assert!((0..50).all(|_| ask() < CALL));
            cluster.member(index).cont();
            cluster.wait_ready();
        }
    });
}
