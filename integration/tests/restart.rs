//! The agent may die at any moment: connections go on, and the next agent adopts what it finds.

use integration::agent::Agent;
use integration::client::{Call, dial, udp};
use integration::lab;
use integration::server::Backends;
use integration::spec::{Spec, service, services};
use integration::wait::{eventually, let_pass};
use lb_agent::status::ServiceStatus;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
const DEADLINE: Duration = Duration::from_secs(20);

fn vip() -> SocketAddr {
    VIP.parse().expect("an address")
}

/// Runs `work` while two clients dial the service, and returns its result; any failed connect, and
/// any peer name but the frontend's, fails the test.
fn under_load<T>(work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    let dialled = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let fail = |text: String| failures.lock().expect("no client has panicked").push(text);
    let client = || {
        while !done.load(Ordering::Relaxed) {
            match dial(vip()) {
                Ok(call) if call.peer() == vip() => {}
                Ok(call) => fail(format!("the peer of {} is {}", call.tag, call.peer())),
                Err(error) => fail(error.to_string()),
            }
            dialled.fetch_add(1, Ordering::Relaxed);
        }
    };
    let result = thread::scope(|scope| {
        let _stop = Stop(&done);
        scope.spawn(client);
        scope.spawn(client);
        eventually("load", DEADLINE, || dialled.load(Ordering::Relaxed) > 100);
        let result = work();
        let so_far = dialled.load(Ordering::Relaxed);
        eventually("load afterwards", DEADLINE, || dialled.load(Ordering::Relaxed) > so_far + 100);
        result
    });
    let failures = failures.lock().expect("no client has panicked");
    let some: Vec<&String> = failures.iter().take(10).collect();
    assert!(failures.is_empty(), "{} failures: {some:?}", failures.len());
    result
}

/// Ends the clients when it goes out of scope.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The ids by which the kernel knows services and backends.
fn ids(services: &[ServiceStatus]) -> BTreeMap<String, Option<u32>> {
    let own = services.iter().map(|service| (service.name.clone(), service.id));
    let theirs = services.iter().flat_map(|service| {
        let name = &service.name;
        service.backends.iter().map(move |b| (format!("{name} {}", b.address), b.id))
    });
    own.chain(theirs).collect()
}

/// The service that is dialled, and forty others.
fn crowd(backends: &Backends) -> Vec<Spec> {
    let others = (1..=40).map(|number| {
        service(format!("other-{number}"))
            .frontend(format!("10.97.0.{number}:80"))
            .udp(format!("10.97.0.{number}:53"))
            .backends([format!("10.1.0.{number}:80"), format!("10.1.1.{number}:80")])
    });
    let web = service("web").frontend(VIP).udp(VIP).backends(backends.addresses());
    [web].into_iter().chain(others).collect()
}

#[test]
fn killed_and_restarted_under_load() {
    lab::run("restart-kill", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["0", "1", "2"]);
        let mut crowd = crowd(&backends);
        let agent = Agent::start(lab, &services(&crowd));
        let mut held: Vec<Call> = (0..20).map(|_| dial(vip()).unwrap()).collect();
        let before = (ids(&agent.services()), agent.maps(), agent.status().hooks);
        assert_eq!(before.2.len(), 10, "{:?}", before.2);
        assert!(before.0.values().all(Option::is_some), "{:?}", before.0);
        let agent = under_load(|| {
            agent.kill9();
            let so_far: u64 = backends.hits().iter().sum();
            eventually("connects without an agent", DEADLINE, || {
                backends.hits().iter().sum::<u64>() > so_far + 500
            });
            Agent::adopt(lab)
        });
        // The same tables, ids and links; nothing was published, since nothing differs.
        assert_eq!(ids(&agent.services()), before.0);
        let map_ids = |maps: &[lb_agent::status::TableStatus]| {
            maps.iter().map(|map| (map.name.clone(), map.id)).collect::<Vec<_>>()
        };
        assert_eq!(map_ids(&agent.maps()), map_ids(&before.1));
        let links = |hooks: &[lb_agent::status::HookStatus]| {
            hooks.iter().map(|hook| (hook.hook.clone(), hook.link_id)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(links(&agent.status().hooks), links(&before.2));
        assert_eq!(agent.status().work.publishes, 0, "{:?}", agent.status().work);
        // Connections from before are still known, and counted.
        for call in &mut held {
            assert_eq!(call.peer(), vip());
            assert!(call.echoes("still here"));
        }
        agent.expect_active(20);
        drop(held);
        agent.expect_no_connections();

        // A restart on a file that differs in one service changes that one.
        agent.kill9();
        crowd[7] = crowd[7].clone().backend("10.1.2.7:80");
        lab.write_config(&services(&crowd));
        let agent = under_load(|| Agent::adopt(lab));
        let after = ids(&agent.services());
        let differing: Vec<_> =
            after.iter().filter(|(name, id)| before.0.get(*name) != Some(*id)).collect();
        assert_eq!(differing.len(), 1, "{differing:?}");
        let publishes = agent.status().work.publishes;
        // It has a TCP and a UDP frontend.
        assert!((1..=2).contains(&publishes), "{publishes} publishes for one changed service");
    });
}

/// Killed at any moment, the middle of a reload included.
#[test]
fn killed_at_random_moments() {
    lab::run("restart-random", |lab| {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let backends = Backends::tcp("127.0.0.1", (0..8).map(|index| index.to_string()));
        let file = |random: &mut StdRng| {
            let chosen: Vec<SocketAddr> =
                backends.addresses().filter(|_| random.random_bool(0.5)).collect();
            let chosen = if chosen.is_empty() { vec![backends.at(0)] } else { chosen };
            let others = (1..=200).filter(|_| random.random_bool(0.5)).map(|number| {
                service(format!("o{number}"))
                    .frontend(format!("10.97.0.{number}:80"))
                    .backends(&chosen)
            });
            let web = service("web").frontend(VIP).backends(&chosen);
            let specs: Vec<Spec> = [web].into_iter().chain(others.collect::<Vec<_>>()).collect();
            (services(&specs), chosen, specs.len())
        };
        let mut agent = Agent::start(lab, &file(&mut random).0);
        let agent = under_load(|| {
            for round in 0..12 {
                let (text, chosen, count) = file(&mut random);
                lab.write_config(&text);
                // Anywhere from before the file is noticed to after all is done.
                let_pass(Duration::from_micros(random.random_range(0..60_000)));
                agent.kill9();
                agent = Agent::adopt(lab);
                let told = agent.services();
                assert_eq!(told.len(), count, "round {round}");
                let mut frontends = told.iter().flat_map(|service| &service.frontends);
                assert!(frontends.all(|frontend| frontend.installed), "round {round}");
                for _ in 0..50 {
                    let address = backends.tagged(&dial(vip()).unwrap().tag);
                    assert!(chosen.contains(&address), "round {round}: {address} has gone");
                }
            }
            agent
        });
        agent.expect_no_connections();
    });
}

/// SIGTERM ends the agent, not the service; so does a stop during a connection.
#[test]
fn a_graceful_stop_leaves_the_programs() {
    lab::run("restart-stop", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let web = services(&[service("web").frontend(VIP).backend(backends.at(0))]);
        let agent = Agent::start(lab, &web);
        let call = dial(vip()).unwrap();
        assert_eq!(agent.stop().code(), Some(0));
        assert!(!lab.socket().exists(), "the socket is left behind");
        assert_eq!((dial(vip()).unwrap().tag.as_str(), call.peer()), ("web", vip()));
        let agent = Agent::adopt(lab);
        assert_eq!(agent.status().work.publishes, 0);
        agent.expect_active(1);
    });
}

/// A source that is away at start serves what it said last.
#[test]
fn a_missing_source_serves_from_the_cache() {
    lab::run("restart-cache", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["more", "main"]);
        lab.set_settings("sources: [{file: more.yaml, vip_ranges: [0.0.0.0/0]}]");
        let more = lab.scratch().join("more.yaml");
        let text = services(&[service("more").frontend(VIP).backend(backends.at(0))]);
        lab.write_by_rename(&more, &text);
        let main = service("main").frontend("10.96.0.20:80").backend(backends.at(1));
        let agent = Agent::start(lab, &services(&[main]));
        // It is written beside the loop.
        let cache = lab.state_dir().join("snapshots.json");
        let saved = || fs::read_to_string(&cache).is_ok_and(|text| text.contains("more.yaml"));
        eventually("the cache", DEADLINE, saved);
        agent.kill9();
        fs::remove_file(&more).unwrap();
        under_load(|| {
            let agent = Agent::spawn(lab, &[]);
            let more = || {
                let sources = agent.try_status()?.sources;
                sources.into_iter().find(|source| source.name.contains("more.yaml"))
            };
            eventually("a complaint", DEADLINE, || more().is_some_and(|more| more.error.is_some()));
            let state = more().unwrap();
            assert!(!state.synced && state.services == 1, "{state:?}");
            assert_eq!(agent.service("more").backends.len(), 1);
            // It comes back with something else.
            let text = services(&[service("more").frontend(VIP).backend(backends.at(1))]);
            lab.write_by_rename(&lab.scratch().join("more.yaml"), &text);
            eventually("the source", DEADLINE, || dial(vip()).unwrap().tag == "main");
            eventually("its status", DEADLINE, || more().is_some_and(|more| more.synced));
        });
    });
}

/// UDP goes on as well, connected sockets and new ones.
#[test]
fn datagrams_go_on_without_an_agent() {
    lab::run("restart-udp", |lab| {
        let backends = Backends::udp("127.0.0.1", ["0", "1", "2"]);
        let dns = service("dns").udp(VIP).backends(backends.addresses());
        let agent = Agent::start(lab, &services(&[dns]));
        let connected = udp("0.0.0.0:0");
        connected.connect(vip()).unwrap();
        let unconnected = udp("0.0.0.0:0");
        let first = integration::client::ask(&unconnected, vip()).unwrap();
        let check = || {
            let reply = integration::client::ask_connected(&connected).unwrap();
            assert_eq!((reply.source, connected.peer_addr().unwrap()), (vip(), vip()));
            let reply = integration::client::ask(&unconnected, vip()).unwrap();
            assert_eq!((reply.source, &reply.tag), (vip(), &first.tag));
            let fresh = udp("0.0.0.0:0");
            assert_eq!(integration::client::ask(&fresh, vip()).unwrap().source, vip());
        };
        agent.kill9();
        check();
        let agent = Agent::adopt(lab);
        check();
        drop(connected);
        agent.expect_no_connections();
    });
}
