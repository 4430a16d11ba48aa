//! Stores that forget: compacted, wiped, set back. What is missing from them afterwards may be a
//! mishap, so it serves on for a while and is shown as such.

use crate::scene::{
    BOUND, GRACE, MOVED, NEW, OLD, Scene, behind_a_wire, one, service_key, vip, who,
};
use integration::etcd::Etcd;
use integration::lab;
use integration::wait::{eventually, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// How long the agent may take to notice that a store is away.
const NOTICE: Duration = Duration::from_secs(20);

/// Raises the store's revision by this many.
fn advance(etcd: &Etcd, revisions: i64) {
    let goal = etcd.revision() + revisions;
    while etcd.put("/elsewhere", "") < goal {}
}

/// What is missing from the list that follows may be a mishap, for all the agent knows.
#[test]
fn compacted_while_the_watcher_is_away() {
    lab::run("fault-compact", |lab| {
        let (far, etcd, settings) = behind_a_wire(lab);
        let mut scene = Scene::begin(lab, &etcd, &settings);
        far.cut();
        scene.notices(NOTICE);
        let round = scene.change(&etcd, 0);
        etcd.compact();
        far.restore();
        let returned = Instant::now();
        scene.comes(round, returned);
        let held = scene.holds(round);
        assert!(held.is_sorted_by_key(|held| held.until), "{held:?}");
        scene.still_serves(round, returned + GRACE);
        scene.goes(round, returned + GRACE + BOUND);
        eventually("nothing to be held", BOUND, || scene.source().held.is_empty());
        scene.end();
    });
}

#[test]
fn wiped_and_refilled() {
    lab::run("fault-wipe", |lab| {
        let (mut etcd, settings) = one(lab);
        let mut scene = Scene::begin(lab, &etcd, &settings);
        // Beyond what the new store will reach at once.
        advance(&etcd, 50);
        let round = scene.intend(0);
        let wiped = Instant::now();
        etcd.wipe();
        let held = scene.holds(round);
        assert!(held.iter().any(|held| held.item == service_key("web")), "{held:?}");
        scene.traffic.goes_on(20);
        scene.refill(&etcd);
        scene.comes(round, Instant::now());
        scene.still_serves(round, wiped + GRACE);
        scene.goes(round, Instant::now() + GRACE + BOUND);
        // And as ever after.
        let round = scene.change(&etcd, 1);
        scene.arrives(round, round.written);
        scene.end();
    });
}

/// While the agent looks away the store is wiped, filled again and grows beyond the revision that
/// the agent has seen: a watch from there would begin without complaint.
#[test]
fn wiped_and_grown_beyond() {
    lab::run("fault-regrown", |lab| {
        let (mut etcd, settings) = one(lab);
        let mut scene = Scene::begin(lab, &etcd, &settings);
        let agent = Pid::from_raw(scene.agent().pid().cast_signed());
        kill(agent, Signal::SIGSTOP).unwrap();
        let (seen, round) = (etcd.revision(), scene.intend(0));
        etcd.wipe();
        // By its own way: whoever replays all writes in their order has the same store again.
        advance(&etcd, 1);
        scene.refill(&etcd);
        advance(&etcd, seen + 50);
        scene.traffic.goes_on(20);
        kill(agent, Signal::SIGCONT).unwrap();
        let returned = Instant::now();
        scene.comes(round, returned);
        scene.still_serves(round, returned + GRACE);
        scene.goes(round, returned + GRACE + BOUND);
        scene.end();
    });
}

/// The store is restored from a backup: what was written since is gone, what was deleted is back.
#[test]
fn restored_from_a_backup() {
    lab::run("fault-restore", |lab| {
        let (mut etcd, settings) = one(lab);
        let mut scene = Scene::begin(lab, &etcd, &settings);
        let backup = lab.scratch().join("backup");
        etcd.snapshot(&backup);
        let round = scene.change(&etcd, 0);
        scene.arrives(round, round.written);
        advance(&etcd, 50);
        // What leaves now may come back, and does.
        for web in scene.webs() {
            scene.traffic.joins(web, "gone-0");
        }
        let begun = Instant::now();
        etcd.restore(&backup);
        let returned = Instant::now();
        eventually("what was deleted", BOUND, || {
            let moved: Vec<_> = (0..8).map(|_| who(&vip(0, MOVED))).collect();
            who(&vip(0, OLD)).as_deref() == Ok("old")
                && moved.iter().all(|tag| tag.as_deref() == Ok("moved-from"))
        });
        let new = || who(&vip(0, NEW));
        while begun.elapsed() < GRACE {
            let tag = new();
            assert!(begun.elapsed() >= GRACE || tag.as_deref() == Ok("new"), "{tag:?}");
        }
        let left = (returned + GRACE + BOUND).saturating_duration_since(Instant::now());
        assert!(within(left, || new().is_err().then_some(())).is_some(), "{:#?}", scene.source());
        scene.end();
    });
}
