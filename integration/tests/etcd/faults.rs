//! What may happen to a store, with clients dialling all the while: none of them notices, and what
//! has changed is in the kernel soon after the store's return.

use crate::scene::{
    BOUND, GRACE, Scene, addr, backend, backend_key, behind_a_wire, frontends, one, say,
    service_key, source, who,
};
use integration::agent::Agent;
use integration::etcd::{Cluster, Etcd};
use integration::lab;
use integration::server::{Backends, Kind, any_port};
use integration::traffic::Way;
use integration::wait::{eventually, let_pass};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

/// How long the agent may take to notice that a store is away or silent.
const NOTICE: Duration = Duration::from_secs(20);

/// Waits until this long after `since`.
fn until(since: Instant, span: Duration) {
    let_pass((since + span).saturating_duration_since(Instant::now()));
}

/// When the source was last heard to be up to date.
#[track_caller]
fn heard(scene: &Scene<'_>) -> SystemTime {
    scene.source().heard.at().expect("it has been heard once")
}

#[test]
fn killed_and_restarted() {
    lab::run("fault-kill", |lab| {
        let (mut etcd, settings) = one(lab);
        let mut scene = Scene::begin(lab, &etcd, &settings);
        etcd.kill9();
        scene.notices(NOTICE);
        let_pass(Duration::from_secs(3));
        scene.traffic.goes_on(20);
        etcd.restart();
        let round = scene.change(&etcd, 0);
        scene.arrives(round, round.written);
        // Once more, with the change in the store before the agent is back.
        etcd.kill9();
        etcd.restart();
        let round = scene.change(&etcd, 1);
        scene.arrives(round, round.written);
        scene.end();
    });
}

#[test]
fn stopped_and_continued() {
    lab::run("fault-stop", |lab| {
        let (etcd, settings) = one(lab);
        let mut scene = Scene::begin(lab, &etcd, &settings);
        // Heard of all the while, though nothing changes, and not while it stands still.
        let before = heard(&scene);
        eventually("a sign of life", NOTICE, || heard(&scene) > before);
        etcd.stop_signal();
        let (stopped, silent) = (Instant::now(), SystemTime::now());
        let why = scene.notices(NOTICE);
        assert!(stopped.elapsed() < NOTICE, "{why}");
        until(stopped, Duration::from_secs(20));
        scene.traffic.goes_on(20);
        assert!(heard(&scene) < silent + Duration::from_secs(2), "{:?}", scene.source());
        etcd.cont();
        eventually("it to be heard again", NOTICE, || {
            heard(&scene) > silent + Duration::from_secs(20)
        });
        let round = scene.change(&etcd, 0);
        scene.arrives(round, round.written);
        scene.end();
    });
}

#[test]
fn packets_dropped_both_ways() {
    lab::run("fault-drop", |lab| {
        let (far, etcd, settings) = behind_a_wire(lab);
        let mut scene = Scene::begin(lab, &etcd, &settings);
        far.cut();
        let cut = Instant::now();
        let round = scene.change(&etcd, 0);
        scene.notices(NOTICE);
        until(cut, Duration::from_secs(12));
        scene.traffic.goes_on(20);
        far.restore();
        scene.arrives(round, Instant::now());
        scene.end();
    });
}

#[test]
fn one_of_three_killed() {
    lab::run("fault-third", |lab| {
        let mut cluster = Cluster::start(lab.scratch(), 3);
        let settings = source(&cluster.endpoints(), "");
        let mut scene = Scene::begin(lab, cluster.any(), &settings);
        // Each time the one that the agent follows.
        for number in 0..2 {
            let victim = followed(&cluster);
            cluster.member_mut(victim).kill9();
            let killed = Instant::now();
            let round = scene.change(cluster.any(), number);
            scene.arrives(round, round.written);
            println!("member {victim} killed {:.2?} ago", killed.elapsed());
            cluster.member_mut(victim).restart();
        }
        scene.end();
    });
}

/// The member that the agent is connected to.
fn followed(cluster: &Cluster) -> usize {
    let connected = |index: &usize| cluster.member(*index).connections() > 0;
    let found = integration::wait::wait_for("a connection", NOTICE, || (0..3).find(connected));
    say(&format!("the agent follows member {found}"));
    found
}

#[test]
fn quorum_lost_and_regained() {
    lab::run("fault-quorum", |lab| {
        let mut cluster = Cluster::start(lab.scratch(), 3);
        let settings = source(&cluster.endpoints(), "");
        let mut scene = Scene::begin(lab, cluster.any(), &settings);
        let kept = followed(&cluster);
        let others: Vec<usize> = (0..3).filter(|index| *index != kept).collect();
        others.iter().for_each(|index| cluster.member_mut(*index).kill9());
        cluster.wait_without_quorum();
        scene.notices(NOTICE);
        let_pass(Duration::from_secs(3));
        scene.traffic.goes_on(20);
        others.iter().for_each(|index| cluster.member_mut(*index).begin());
        cluster.wait_ready();
        let round = scene.change(cluster.any(), 0);
        scene.arrives(round, round.written);
        scene.end();
    });
}

#[test]
fn ten_thousand_backends_changed_within_a_second() {
    const MANY: usize = 10_000;
    lab::run("fault-many", |lab| {
        let (etcd, settings) = one(lab);
        // One server answers at every address of 127.0.0.0/8.
        let servers =
            Backends::start(Kind::Tcp, ["before", "after"].map(|tag| (any_port("0.0.0.0"), tag)));
        let crowd = "10.96.50.1:80";
        let at = |number: usize, tag: &str| {
            let number = u32::try_from(number).expect("a small number");
            let ip = std::net::Ipv4Addr::from_bits(0x7f01_0000 + number);
            backend(SocketAddr::new(ip.into(), servers.tagged(tag).port()))
        };
        let key = |number: usize| backend_key("crowd", &number.to_string());
        etcd.put(&service_key("crowd"), frontends(&[crowd]));
        etcd.put_many((0..MANY).map(|number| (key(number), at(number, "before"))));
        let mut scene = Scene::begin(lab, &etcd, &settings);
        assert_eq!(scene.agent().service("crowd").backends.len(), MANY);
        scene.traffic.joins(addr(crowd), "before");
        scene.traffic.dial(Way::Tcp, addr(crowd));
        scene.traffic.goes_on(5);

        scene.traffic.joins(addr(crowd), "after");
        let begun = Instant::now();
        etcd.put_many((0..MANY).map(|number| (key(number), at(number, "after"))));
        let written = Instant::now();
        println!("10,000 backends changed in {:.2?}", written - begun);
        let round = scene.change(&etcd, 0);
        scene.traffic.leaves(addr(crowd), "before", written + BOUND);
        let port = servers.tagged("after").port();
        // What asks for all of them takes the agent's time from what it has to do.
        let after = BTreeSet::from([Ok("after".to_owned())]);
        eventually("the changed backends", BOUND, || {
            (0..100).map(|_| who(crowd)).collect::<BTreeSet<_>>() == after
        });
        println!("they are in the kernel after {:.2?}", written.elapsed());
        eventually("the API to say so", BOUND, || {
            let backends = scene.agent().service("crowd").backends;
            backends.len() == MANY && backends.iter().all(|b| b.address.port() == port)
        });
        scene.arrives(round, round.written);

        etcd.delete_many((0..MANY / 2).map(key));
        eventually("half of them to go", GRACE + BOUND, || {
            scene.agent().service("crowd").backends.len() == MANY / 2
        });
        scene.end();
    });
}

/// An agent that has a password from the start does not mind when it is asked for it.
#[test]
fn authentication_switched_on() {
    lab::run("fault-auth", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        let password = lab.scratch().join("password");
        fs::write(&password, "open-sesame\n").unwrap();
        let user = format!("user: {{name: lb, password_file: {}}}", password.display());
        let mut scene = Scene::begin(lab, &etcd, &source(&[etcd.endpoint()], &user));
        etcd.enable_auth("lb", "open-sesame");
        let round = scene.change(&etcd, 0);
        scene.arrives(round, round.written);
        // Tokens do not outlive the server that gave them.
        etcd.kill9();
        etcd.restart();
        let round = scene.change(&etcd, 1);
        scene.arrives(round, round.written);
        let log = scene.agent().log();
        assert!(!log.contains("open-sesame"), "{log}");
        scene.end();
    });
}

/// An agent without a password is shut out, serves what it knows, says so, and is let in again.
#[test]
fn authentication_switched_on_for_an_agent_without_a_user() {
    lab::run("fault-noauth", |lab| {
        let (mut etcd, settings) = one(lab);
        let mut scene = Scene::begin(lab, &etcd, &settings);
        etcd.enable_auth("lb", "open-sesame");
        // A watch from before would go on unasked.
        etcd.kill9();
        etcd.restart();
        let why = scene.notices(NOTICE);
        eventually("a complaint about the user", NOTICE, || {
            scene.source().error.is_some_and(|error| error.contains("user"))
        });
        assert!(!why.contains('\n'), "{why}");
        let round = scene.change(&etcd, 0);
        scene.traffic.goes_on(20);
        etcd.disable_auth();
        scene.arrives(round, Instant::now());
        scene.end();
    });
}

#[test]
fn wrong_certificate() {
    lab::run("fault-certificate", |lab| {
        let pki = integration::etcd::pki::Pki::create(lab.scratch(), "ours");
        let other = integration::etcd::pki::Pki::create(lab.scratch(), "other");
        let (good, client) = (pki.server(), pki.client());
        let mut etcd = Etcd::with_tls(lab.scratch(), &good, Some(&pki.ca()));
        let tls = format!(
            "tls: {{ca: {}, cert: {}, key: {}}}",
            pki.ca().display(),
            client.cert.display(),
            client.key.display()
        );
        let mut scene = Scene::begin(lab, &etcd, &source(&[etcd.endpoint()], &tls));
        // Each has words of its own: a complaint about the one before is none about this one.
        let bad = [
            (other.server(), "an authority that is not in"),
            (pki.server_named("elsewhere.example"), "is not for"),
            (pki.expired_server(), "has expired"),
        ];
        for (bad, words) in bad {
            etcd.kill9();
            etcd.set_tls(&bad, Some(&pki.ca()));
            etcd.restart();
            eventually(&format!("`{words}`"), NOTICE, || {
                scene.source().error.is_some_and(|error| error.contains(words))
            });
        }
        scene.traffic.goes_on(20);
        let round = scene.change(&etcd, 0);
        etcd.kill9();
        etcd.set_tls(&good, Some(&pki.ca()));
        etcd.restart();
        scene.arrives(round, Instant::now());
        scene.end();
    });
}

/// The agent dies and starts again while the store is away; its tables are there all the time.
#[test]
fn agent_killed_during_an_outage() {
    lab::run("fault-agent", |lab| {
        let (mut etcd, settings) = one(lab);
        let mut scene = Scene::begin(lab, &etcd, &settings);
        etcd.kill9();
        scene.notices(NOTICE);
        scene.restart_agent();
        scene.traffic.goes_on(20);
        assert!(!scene.source().synced);
        etcd.restart();
        let round = scene.change(&etcd, 0);
        scene.arrives(round, round.written);
        scene.end();
    });
}

/// A backend whose lease runs out while the store is away; the store gives it its whole time again.
#[test]
fn a_lease_that_runs_out_during_an_outage() {
    lab::run("fault-lease", |lab| {
        let (mut etcd, settings) = one(lab);
        let scene = Scene::begin(lab, &etcd, &settings);
        let servers = Backends::tcp("127.0.0.1", ["leased"]);
        let (name, vip) = ("leased", "10.96.60.1:80");
        // The store must be away before it ends, however long it takes until it is seen.
        let ttl = BOUND + Duration::from_secs(2);
        etcd.put(&service_key(name), frontends(&[vip]));
        let begun = Instant::now();
        etcd.put_leased(&backend_key(name, "0"), backend(servers.at(0)), ttl);
        eventually("the leased backend", BOUND, || who(vip).as_deref() == Ok("leased"));
        etcd.kill9();
        scene.notices(NOTICE);
        until(begun, ttl * 2);
        assert_eq!(who(vip).as_deref(), Ok("leased"), "nobody has said that it is gone");
        etcd.restart();
        eventually("the lease to end", ttl + GRACE + BOUND, || who(vip).is_err());
        eventually("the API to say so", BOUND, || scene.agent().service(name).backends.is_empty());
        scene.end();
    });
}

/// A host boots while the store is away: no tables, only what is on disk.
#[test]
fn boot_during_an_outage() {
    lab::run("fault-boot", |lab| {
        let (mut etcd, settings) = one(lab);
        let servers = Backends::tcp("127.0.0.1", ["a", "b"]);
        let vip = "10.96.0.10:80";
        etcd.put(&service_key("web"), frontends(&[vip]));
        etcd.put(&backend_key("web", "0"), backend(servers.at(0)));
        lab.set_settings(&settings);
        let agent = Agent::start(lab, "services: []\n");
        assert_eq!(who(vip).as_deref(), Ok("a"));
        // Written beside the work, a moment later.
        let cache = lab.state_dir().join("snapshots.json");
        eventually("what is known to be on disk", BOUND, || {
            fs::read_to_string(&cache).is_ok_and(|text| text.contains("web"))
        });
        etcd.kill9();
        agent.kill9();
        let detached = lab.lb_agent_on_config("detach");
        assert_eq!(detached.code, Some(0), "{detached:?}");
        // The kernel frees links a moment after their pins.
        eventually("nothing to translate", BOUND, || who(vip).is_err());
        let agent = Agent::spawn(lab, &[]);
        eventually("what was known to serve", BOUND, || who(vip).is_ok());
        assert_eq!(who(vip).as_deref(), Ok("a"));
        etcd.restart();
        etcd.put(&backend_key("web", "0"), backend(servers.at(1)));
        eventually("the change", BOUND, || who(vip).as_deref() == Ok("b"));
        drop(agent);
    });
}

/// An agent is killed before it has saved what it published, and the store is away: what was saved would
/// lead to who has left.
#[test]
fn killed_before_it_has_saved() {
    lab::run("fault-unsaved", |lab| {
        let (mut etcd, settings) = one(lab);
        let servers = Backends::tcp("127.0.0.1", ["a", "b"]);
        let vip = "10.96.0.10:80";
        let lead_to = |server| etcd.put(&backend_key("web", "0"), backend(servers.at(server)));
        etcd.put(&service_key("web"), frontends(&[vip]));
        lead_to(0);
        lab.set_settings(&settings);
        let mut agent = Agent::start(lab, "services: []\n");
        let behind = lab.state_dir().join("behind");
        let mut turn = 0;
        let newest = loop {
            eventually("all to be saved", NOTICE, || !behind.exists());
            turn += 1;
            let tag = ["a", "b"][turn % 2];
            lead_to(turn % 2);
            eventually("the change", BOUND, || who(vip).as_deref() == Ok(tag));
            agent.kill9();
            // That takes it a second.
            if behind.exists() {
                break tag;
            }
            assert!(turn < 20, "it saves too soon for this test");
            agent = Agent::adopt(lab);
        };
        etcd.kill9();
        let mut agent = Agent::spawn(lab, &[]);
        eventually("the agent to doubt what it reads", NOTICE, || {
            agent.log().contains("the tables hold more than was saved")
        });
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            assert_eq!(who(vip).as_deref(), Ok(newest));
        }
        assert!(behind.exists(), "there is nothing better to save");
        etcd.restart();
        agent.wait_ready();
        assert_eq!(who(vip).as_deref(), Ok(newest));
        eventually("all to be saved", NOTICE, || !behind.exists());
    });
}
