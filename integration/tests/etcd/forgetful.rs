//! Stores that forget: compacted, wiped, set back. What is missing from them afterwards may be a
//! mishap, so it serves on for a while and is shown as such.

use crate::keeping::Kept;
use crate::mirror::one as settings_of;
use crate::scene::{
    BOUND, GRACE, MOVED, NEW, OLD, Scene, addr, backend, backend_key, behind_a_wire, frontends,
    one, say, service_key, vip, who,
};
use integration::agent::Agent;
use integration::etcd::Etcd;
use integration::lab;
use integration::server::Backends;
use integration::traffic::{Traffic, Way};
use integration::wait::{eventually, let_pass, wait_for, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant, SystemTime};

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

/// While the store hangs nobody can renew a lease, so it ends those of the living as well when it
/// goes on; they have their keys again a moment later.
#[test]
fn leases_of_the_living_end_after_an_outage() {
    lab::run("fault-leases", |lab| {
        let (etcd, settings) = one(lab);
        let servers = Backends::tcp("127.0.0.1", ["alive", "dead"]);
        let (web, key, to) = ("web", backend_key("web", "alive"), "10.96.0.10:80");
        let ttl = Duration::from_secs(2);
        etcd.put(&service_key(web), frontends(&[to]));
        let value = backend(servers.tagged("alive"));
        let kept = Kept::spawn(settings_of(&etcd), ttl, &[(&key, &value)]);
        kept.until_registered();
        lab.set_settings(&settings);
        let agent = Agent::start(lab, "services: []\n");
        let source = || agent.status().sources.into_iter().find(|s| s.name.starts_with("etcd:"));
        let mut traffic = Traffic::default();
        traffic.joins(addr(to), "alive");
        (0..4).for_each(|_| traffic.dial(Way::Tcp, addr(to)));
        traffic.goes_on(20);
        for round in 0..2 {
            let lease = etcd.lease_of(&key);
            let stopped = Instant::now();
            etcd.stop_signal();
            eventually("the agent to notice", NOTICE, || {
                source().is_some_and(|source| source.error.is_some())
            });
            let_pass(Duration::from_secs(6).saturating_sub(stopped.elapsed()));
            etcd.cont();
            let new = wait_for("another lease", NOTICE, || {
                etcd.lease_of(&key).filter(|new| Some(*new) != lease)
            });
            say(&format!("round {round}: lease {lease:?}, then {new}, {:.2?}", stopped.elapsed()));
            kept.until_registered();
            let_pass(GRACE);
            traffic.goes_on(50);
            eventually("nothing to be held", BOUND, || {
                source().is_some_and(|source| source.held.is_empty() && source.error.is_none())
            });
        }
        // One that is dead goes late, but goes.
        let dead = backend_key(web, "dead");
        traffic.joins(addr(to), "dead");
        etcd.put_leased(&dead, backend(servers.tagged("dead")), ttl);
        eventually("both", BOUND, || (0..16).any(|_| who(to).as_deref() == Ok("dead")));
        eventually("the dead one to go", ttl + GRACE + BOUND, || {
            agent.service(web).backends.len() == 1
        });
        traffic.goes_on(50);
    });
}

/// What is missing when the store goes away again can't be put again until it is back.
#[test]
fn away_while_removals_are_held() {
    lab::run("fault-held", |lab| {
        let (mut etcd, settings) = one(lab);
        let scene = Scene::begin(lab, &etcd, &settings);
        etcd.wipe();
        eventually("the keys to be held", BOUND, || !scene.source().held.is_empty());
        etcd.kill9();
        scene.notices(NOTICE);
        let_pass(GRACE * 2);
        scene.traffic.goes_on(20);
        let held = scene.source().held;
        assert!(!held.is_empty() && held.iter().all(|held| held.until.is_none()), "{held:?}");
        let back = SystemTime::now();
        etcd.restart();
        scene.follows(NOTICE);
        let held = scene.source().held;
        assert!(held.iter().all(|held| held.until >= Some(back + GRACE)), "{held:?}");
        scene.refill(&etcd);
        eventually("nothing to be held", BOUND, || scene.source().held.is_empty());
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
