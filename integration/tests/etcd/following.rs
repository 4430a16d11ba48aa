//! A prefix is followed through everything that happens to a store.

use crate::mirror::{Mirror, PREFIX, one, settings};
use integration::etcd::far::Far;
use integration::etcd::{Cluster, Etcd, Setup};
use integration::lab;
use integration::wait::let_pass;
use lb_agent::etcd::watch::Timing;
use std::time::{Duration, Instant};

#[test]
fn a_list_then_changes() {
    lab::run("etcd-follow", |lab| {
        let etcd = Etcd::start(lab.scratch());
        etcd.put_many((0..2500).map(|number| (format!("/lb/many/{number:04}"), "x")));
        etcd.put("/lc/other", "x");
        let revision = etcd.put("/lb/a", "1");
        let mut mirror = Mirror::follow(one(&etcd));
        mirror.until("the list", |mirror| mirror.keys.len() == 2501);
        assert_eq!(mirror.revision, revision);
        etcd.put("/lb/a", "2");
        etcd.put("/la/other", "x");
        let lease = etcd.put_leased("/lb/b", "3", Duration::from_secs(60));
        mirror.until_same(&etcd);
        etcd.revoke(lease);
        etcd.delete("/lb/a");
        mirror.until_same(&etcd);
        assert_eq!(mirror.keys.len(), 2500);
        assert_eq!(etcd.delete_prefix(PREFIX), 2500);
        mirror.until_same(&etcd);
        assert_eq!(mirror.told(), ["listed"]);
    });
}

#[test]
fn a_server_that_is_killed_and_comes_back() {
    lab::run("etcd-follow-kill", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        etcd.put("/lb/a", "1");
        let mut mirror = Mirror::follow(one(&etcd));
        mirror.until_same(&etcd);
        etcd.kill9();
        mirror.until_down("connection refused");
        etcd.restart();
        let back = Instant::now();
        etcd.put("/lb/b", "2");
        mirror.until_same(&etcd);
        assert!(back.elapsed() < Duration::from_secs(4), "{:?}", back.elapsed());
        let story = mirror.told();
        assert_eq!(story.last().unwrap(), "up");
        assert!(!story.contains(&"gap".to_owned()), "it goes on without a list: {story:?}");
    });
}

#[test]
fn a_server_that_hangs() {
    lab::run("etcd-follow-hang", |lab| {
        let etcd = Etcd::start(lab.scratch());
        etcd.put("/lb/a", "1");
        let mut mirror = Mirror::follow(one(&etcd));
        mirror.until_same(&etcd);
        etcd.stop_signal();
        let stopped = Instant::now();
        mirror.until_down("no answer within 5s");
        assert!(stopped.elapsed() < Duration::from_secs(8), "{:?}", stopped.elapsed());
        etcd.cont();
        etcd.put("/lb/b", "2");
        mirror.until_same(&etcd);
        let story = mirror.told();
        assert_eq!((story[0].as_str(), story.last().unwrap().as_str()), ("listed", "up"));
        assert!(!story.contains(&"gap".to_owned()), "{story:?}");
    });
}

#[test]
fn a_wire_that_is_cut() {
    lab::run("etcd-follow-wire", |lab| {
        let far = Far::create();
        let etcd = Setup::default().far(&far).start(lab.scratch());
        etcd.put("/lb/a", "1");
        let mut mirror = Mirror::follow(one(&etcd));
        mirror.until_same(&etcd);
        far.cut();
        mirror.until_down("no answer");
        // More than one message may hold, cut anywhere.
        for round in 0..20 {
            let value = format!("{round}").repeat(2500);
            etcd.put_many((0..100).map(|number| (format!("/lb/{number}"), value.clone())));
        }
        far.restore();
        mirror.until_same(&etcd);
        let story = mirror.told();
        assert_eq!(story.last().unwrap(), "up");
        assert!(!story.contains(&"gap".to_owned()), "{story:?}");
        // The same, but the history is gone by then.
        far.cut();
        mirror.until_down("no answer");
        etcd.delete("/lb/1");
        etcd.put("/lb/new", "1");
        etcd.compact();
        far.restore();
        mirror.until_same(&etcd);
        let story = mirror.told();
        assert_eq!(story[story.len() - 2..], ["up", "gap"], "{story:?}");
    });
}

#[test]
fn compaction_under_a_live_watch_is_nothing() {
    lab::run("etcd-follow-compact", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let mut mirror = Mirror::follow(one(&etcd));
        for round in 0..5 {
            etcd.put("/lb/a", round.to_string());
            etcd.compact();
            mirror.until_same(&etcd);
        }
        assert_eq!(mirror.told(), ["listed"]);
    });
}

#[test]
fn a_store_that_is_another_one() {
    lab::run("etcd-follow-wipe", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        etcd.put("/lb/a", "1");
        etcd.put("/lb/b", "1");
        let mut mirror = Mirror::follow(one(&etcd));
        mirror.until_same(&etcd);
        mirror.told();
        let file = lab.scratch().join("snapshot");
        etcd.snapshot(&file);
        etcd.put("/lb/c", "1");
        mirror.until_same(&etcd);
        // Back to what it was before.
        etcd.restore(&file);
        mirror.until_same(&etcd);
        assert_eq!(mirror.keys.len(), 2);
        let story = mirror.told();
        assert_eq!(story.last().unwrap(), "gap", "{story:?}");
        // Empty, and soon beyond the revision that we know: under the same name, nothing but what
        // it holds tells that it is another one.
        etcd.wipe();
        etcd.put_many((0..1000).map(|number| (format!("/lb/new/{number}"), "1")));
        let revision = etcd.put("/lb/a", "1");
        assert!(revision > mirror.revision);
        mirror.until_same(&etcd);
        let story = mirror.told();
        assert!(story.contains(&"gap".to_owned()), "{story:?}");
        etcd.wipe();
        mirror.until_same(&etcd);
        assert_eq!(mirror.keys.len(), 0);
    });
}

#[test]
fn a_store_that_grew_beyond_us_before_we_saw_it_again() {
    lab::run("etcd-follow-regrow", |lab| {
        let far = Far::create();
        let mut etcd = Setup::default().far(&far).start(lab.scratch());
        etcd.put("/lb/a", "1");
        etcd.put("/lb/b", "1");
        let mut mirror = Mirror::follow(one(&etcd));
        mirror.until_same(&etcd);
        far.cut();
        mirror.until_down("no answer");
        etcd.wipe();
        for round in 0..20 {
            etcd.put("/lb/a", round.to_string());
        }
        assert!(etcd.revision() > mirror.revision + 10);
        far.restore();
        mirror.until_same(&etcd);
        let story = mirror.told();
        assert_eq!(story[story.len() - 2..], ["up", "gap"], "{story:?}");
    });
}

#[test]
fn one_of_three_members() {
    lab::run("etcd-follow-three", |lab| {
        let mut cluster = Cluster::start(lab.scratch(), 3);
        cluster.any().put("/lb/a", "1");
        let mut mirror = Mirror::follow(settings(cluster.endpoints()));
        mirror.until_same(cluster.any());
        for index in 0..3 {
            cluster.member_mut(index).kill9();
            cluster.any().put("/lb/killed", index.to_string());
            mirror.until_same(cluster.any());
            cluster.member_mut(index).restart();
            cluster.member(index).stop_signal();
            let other = cluster.member((index + 1) % 3);
            other.wait_ready();
            other.put("/lb/stopped", index.to_string());
            mirror.until_same(other);
            cluster.member(index).cont();
            cluster.wait_ready();
        }
        assert_eq!(mirror.told(), ["listed"], "there was always another member");
        cluster.member_mut(0).kill9();
        cluster.member_mut(1).kill9();
        cluster.wait_without_quorum();
        mirror.until_down("no leader");
        cluster.member_mut(0).begin();
        cluster.member_mut(1).begin();
        cluster.wait_ready();
        cluster.any().put("/lb/a", "2");
        mirror.until_same(cluster.any());
        let story = mirror.told();
        assert_eq!(story.last().unwrap(), "up");
        assert!(!story.contains(&"gap".to_owned()), "{story:?}");
    });
}

#[test]
fn lists_for_safety_amid_changes() {
    lab::run("etcd-follow-relist", |lab| {
        let etcd = Etcd::start(lab.scratch());
        etcd.put_many((0..3000).map(|number| (format!("/lb/{number}"), "0")));
        let timing = Timing { relist: Duration::from_millis(50), ..Timing::default() };
        let mut mirror = Mirror::follow_at(one(&etcd), timing);
        mirror.until_same(&etcd);
        let mut story = Vec::new();
        let enough = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            let writer = scope.spawn(|| {
                nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                for round in 0..600 {
                    if round >= 60 && enough.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let keys = (round * 37..round * 37 + 200).map(|number| format!("/lb/{number}"));
                    etcd.put_many(keys.clone().map(|key| (key, round.to_string())));
                    etcd.delete_many(keys.take(50));
                }
            });
            while !writer.is_finished() {
                // Order and existence of what is deleted are asserted on the way.
                mirror.listen(Duration::from_millis(20));
                story.extend(mirror.told());
                enough.store(story.len() > 3, std::sync::atomic::Ordering::Relaxed);
            }
        });
        mirror.until_same(&etcd);
        story.extend(mirror.told());
        assert!(story.len() > 3, "{story:?}");
        assert!(story[1..].iter().all(|line| line == "gap"), "{story:?}");
    });
}

#[test]
fn a_receiver_that_is_slow() {
    lab::run("etcd-follow-slow", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let mut mirror = Mirror::follow(one(&etcd));
        mirror.until_same(&etcd);
        let value = "x".repeat(50_000);
        for round in 0..300 {
            etcd.put(&format!("/lb/{}", round % 7), format!("{round}{value}"));
        }
        // Longer than any patience of the follower.
        let_pass(Duration::from_secs(12));
        mirror.until_same(&etcd);
        assert_eq!(mirror.told(), ["listed"]);
        assert!(mirror.revision >= 300);
    });
}

#[test]
fn members_that_are_not_there() {
    lab::run("etcd-follow-nobody", |lab| {
        let etcd = Etcd::start(lab.scratch());
        etcd.put("/lb/a", "1");
        // Whichever it begins with.
        for _ in 0..8 {
            let dead = "http://127.0.0.1:1";
            let mut mirror = Mirror::follow(settings([dead, &etcd.endpoint(), dead]));
            mirror.until_same(&etcd);
            assert_eq!(mirror.told(), ["listed"]);
        }
        let mut mirror = Mirror::follow(settings(["http://127.0.0.1:1", "http://127.0.0.1:2"]));
        let line = mirror.until_down("127.0.0.1:1: connection refused");
        assert!(line.contains("127.0.0.1:2: connection refused"), "{line}");
        mirror.listen(Duration::from_secs(3));
        assert_eq!(mirror.told().len(), 1, "it is said once");
    });
}
