//! Which backend: shares follow the weights, load is spread, and affinity keeps a client where it
//! is. Chance decides, so every bound here states how often a right implementation fails it.

use integration::agent::Agent;
use integration::client::{Call, ask, cookie, dial, udp};
use integration::lab::{self, Lab};
use integration::netns;
use integration::server::Backends;
use integration::spec::{Spec, service, services};
use integration::stats::assert_shares;
use integration::wait::{eventually, let_pass};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const VIP: &str = "10.96.0.10:80";
const WEIGHTS: [u32; 5] = [1, 2, 3, 4, 10];
const PICKS: usize = 6000;

fn vip() -> SocketAddr {
    VIP.parse().expect("an address")
}

/// `count` tags.
fn tags(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|index| format!("web/{index}"))
}

/// A service whose backends have [`WEIGHTS`].
fn weighted(backends: &Backends) -> Spec {
    let with_weights = backends.addresses().zip(WEIGHTS);
    with_weights.fold(service("web").frontend(VIP).udp(VIP), |spec, (backend, weight)| {
        spec.backend_with(backend, format!("weight: {weight}"))
    })
}

#[test]
fn tcp_follows_the_weights() {
    lab::run("pick-tcp", |lab| {
        let backends = Backends::tcp("127.0.0.1", tags(WEIGHTS.len()));
        let agent = Agent::start(lab, &services(&[weighted(&backends)]));
        for _ in 0..PICKS {
            dial(vip()).unwrap();
        }
        assert_shares("TCP", &backends.hits(), &WEIGHTS);
        // The kernel's counters say the same.
        let counted = backends.addresses().map(|address| agent.backend("web", address).connects);
        assert_eq!(counted.collect::<Vec<_>>(), backends.hits());
    });
}

#[test]
fn connected_udp_follows_the_weights() {
    lab::run("pick-udp", |lab| {
        let backends = Backends::udp("127.0.0.1", tags(WEIGHTS.len()));
        let agent = Agent::start(lab, &services(&[weighted(&backends)]));
        for _ in 0..PICKS {
            udp("0.0.0.0:0").connect(vip()).unwrap();
        }
        let counted = backends.addresses().map(|address| agent.backend("web", address).connects);
        assert_shares("connected UDP", &counted.collect::<Vec<_>>(), &WEIGHTS);
    });
}

#[test]
fn unconnected_udp_follows_the_weights() {
    lab::run("pick-sendto", |lab| {
        let backends = Backends::udp("127.0.0.1", tags(WEIGHTS.len()));
        let _agent = Agent::start(lab, &services(&[weighted(&backends)]));
        for _ in 0..PICKS {
            ask(&udp("0.0.0.0:0"), vip()).unwrap();
        }
        assert_shares("unconnected UDP", &backends.hits(), &WEIGHTS);
    });
}

/// New weights hold from the next pick on.
#[test]
fn changed_weights() {
    lab::run("pick-changed", |lab| {
        let backends = Backends::tcp("127.0.0.1", tags(2));
        let spec = |weights: [u32; 2]| {
            let with_weights = backends.addresses().zip(weights);
            services(&[with_weights
                .fold(service("web").frontend(VIP), |spec, (backend, weight)| {
                    spec.backend_with(backend, format!("weight: {weight}"))
                })])
        };
        let agent = Agent::start(lab, &spec([1, 1]));
        let mut before = vec![0, 0];
        for weights in [[1, 1], [9, 1], [1, 9]] {
            if weights != [1, 1] {
                agent.reload(&spec(weights));
            }
            for _ in 0..2000 {
                dial(vip()).unwrap();
            }
            let now = backends.hits();
            let counts: Vec<u64> = now.iter().zip(&before).map(|(now, was)| now - was).collect();
            assert_shares("changed weights", &counts, &weights);
            before = now;
        }
    });
}

/// 400 held connections on four backends. Random choice leaves a range of about 18 (standard
/// deviation 8.7 each); two choices leave 2 to 4, and 9 practically never (each further step squares
/// the chance).
#[test]
fn least_connections_spreads_held_connections() {
    lab::run("pick-least", |lab| {
        let backends = Backends::tcp("127.0.0.1", tags(4));
        let web = service("web").frontend(VIP).backends(backends.addresses());
        let web = web.with("policy: least_connections");
        let agent = Agent::start(lab, &services(&[web]));
        let calls: Vec<Call> = (0..400).map(|_| dial(vip()).unwrap()).collect();
        let held = held(&calls);
        let (least, most) = (held.values().min().unwrap(), held.values().max().unwrap());
        assert!(held.len() == 4 && most - least <= 8, "{held:?}");
        agent.expect_active(400);
        drop(calls);
        agent.expect_no_connections();
    });
}

/// Load is compared by weight: with weights 1 and 3, 400 connections settle near 100 and 300. Both
/// candidates are the heavy backend 9 times in 16, so the light one can always catch up.
#[test]
fn least_connections_regards_weights() {
    lab::run("pick-least-weights", |lab| {
        let backends = Backends::tcp("127.0.0.1", tags(2));
        let web = service("web")
            .frontend(VIP)
            .backend(backends.at(0))
            .backend_with(backends.at(1), "weight: 3")
            .with("policy: least_connections");
        let _agent = Agent::start(lab, &services(&[web]));
        let calls: Vec<Call> = (0..400).map(|_| dial(vip()).unwrap()).collect();
        let held = held(&calls);
        assert!((90..=110).contains(&held["web/0"]), "{held:?}");
    });
}

fn held(calls: &[Call]) -> BTreeMap<&str, usize> {
    calls.iter().fold(BTreeMap::new(), |mut held, call| {
        *held.entry(call.tag.as_str()).or_default() += 1;
        held
    })
}

/// A service with affinity over eight TCP backends.
fn sticky<'a>(lab: &'a Lab, affinity: &str) -> (Backends, Agent<'a>) {
    let backends = Backends::tcp("127.0.0.1", tags(8));
    let web = service("web").frontend(VIP).backends(backends.addresses());
    let agent = Agent::start(lab, &services(&[web.with(format!("affinity: {affinity}"))]));
    (backends, agent)
}

#[test]
fn affinity_holds() {
    lab::run("affinity-holds", |lab| {
        let (_backends, _agent) = sticky(lab, "{}");
        let first = dial(vip()).unwrap().tag;
        for _ in 0..100 {
            assert_eq!(dial(vip()).unwrap().tag, first);
        }
    });
}

/// A client that uses both families stays with one backend in each.
#[test]
fn affinity_holds_in_each_family() {
    lab::run("affinity-families", |lab| {
        let backends = [Backends::tcp("127.0.0.1", tags(8)), Backends::tcp("::1", tags(8))];
        let vips = [VIP, "[fd00:96::10]:80"];
        let all = backends.iter().flat_map(Backends::addresses);
        let web = service("web").frontend(vips[0]).frontend(vips[1]).backends(all);
        let _agent = Agent::start(lab, &services(&[web.with("affinity: {}")]));
        let vips: [SocketAddr; 2] = vips.map(|vip| vip.parse().unwrap());
        let first = vips.map(|vip| dial(vip).unwrap().tag);
        for _ in 0..20 {
            assert_eq!(vips.map(|vip| dial(vip).unwrap().tag), first);
        }
    });
}

/// Frontends of one service are one service to a client, TCP and UDP alike; another service is not.
#[test]
fn affinity_holds_for_udp() {
    lab::run("affinity-udp", |lab| {
        let backends = Backends::udp("127.0.0.1", tags(8));
        let web = service("web").udp(VIP).backends(backends.addresses()).with("affinity: {}");
        let _agent = Agent::start(lab, &services(&[web]));
        let first = ask(&udp("0.0.0.0:0"), vip()).unwrap().tag;
        for _ in 0..50 {
            assert_eq!(ask(&udp("0.0.0.0:0"), vip()).unwrap().tag, first);
            let connected = udp("0.0.0.0:0");
            connected.connect(vip()).unwrap();
            assert_eq!(ask(&connected, vip()).unwrap().tag, first);
        }
    });
}

#[test]
fn affinity_expires() {
    lab::run("affinity-expires", |lab| {
        let timeout = Duration::from_secs(2);
        let (_backends, _agent) = sticky(lab, "{timeout: 2s}");
        let mut tag = dial(vip()).unwrap().tag;
        // Each connection renews the entry: it holds well past the first deadline. That is kept in whole seconds, so
        // that an entry which nobody renews for one may be over.
        let (mut start, mut last) = (Instant::now(), Instant::now());
        eventually("twice the timeout", timeout * 10, || {
            let begun = std::mem::replace(&mut last, Instant::now());
            let next = dial(vip()).unwrap().tag;
            if begun.elapsed() < Duration::from_secs(1) {
                assert_eq!(next, tag, "moved though it was renewed");
            } else {
                (start, tag) = (last, next);
            }
            start.elapsed() > timeout * 2
        });
        // Left alone for longer, the client is picked for anew; one of eight times that changes
        // nothing, and 8 times in a row with probability 8^-8 = 6e-8.
        let moved = (0..8).any(|_| {
            let_pass(timeout + Duration::from_millis(1100));
            let next = dial(vip()).unwrap().tag;
            let moved = next != tag;
            tag = next;
            moved
        });
        assert!(moved, "affinity outlives its timeout");
    });
}

#[test]
fn affinity_moves_when_its_backend_goes() {
    lab::run("affinity-moves", |lab| {
        let (backends, agent) = sticky(lab, "{}");
        let mut left: BTreeSet<SocketAddr> = backends.addresses().collect();
        while left.len() > 1 {
            let tag = dial(vip()).unwrap().tag;
            let gone = backends.tagged(&tag);
            assert!(left.remove(&gone), "{tag} had gone already");
            let web = service("web").frontend(VIP).backends(&left).with("affinity: {}");
            agent.reload(&services(&[web]));
            let next = dial(vip()).unwrap().tag;
            assert_ne!(next, tag);
            for _ in 0..20 {
                assert_eq!(dial(vip()).unwrap().tag, next);
            }
        }
    });
}

/// Every namespace is a client of its own. Their choices are read from the connection table, since
/// the backends can't be reached from there. All 16 agreeing by chance: 8^-15 = 3e-14.
#[test]
fn affinity_by_network_namespace() {
    lab::run("affinity-netns", |lab| {
        let backends = Backends::udp("127.0.0.1", tags(8));
        let web = service("web").udp(VIP).backends(backends.addresses()).with("affinity: {}");
        let agent = Agent::start(lab, &services(&[web]));
        let tables = agent.tables();
        let choices: Vec<BTreeSet<SocketAddr>> = (0..16)
            .map(|_| {
                let client = || {
                    netns::enter_new();
                    let sockets = [(); 5].map(|()| udp("0.0.0.0:0"));
                    let chosen = sockets.iter().map(|socket| {
                        socket.connect(vip()).unwrap();
                        tables.backend_of(cookie(socket)).expect("a row for the socket")
                    });
                    chosen.collect()
                };
                thread::scope(|scope| scope.spawn(client).join().unwrap())
            })
            .collect();
        assert!(choices.iter().all(|chosen| chosen.len() == 1), "{choices:?}");
        let distinct: BTreeSet<_> = choices.into_iter().flatten().collect();
        assert!(distinct.len() > 1, "all namespaces share {distinct:?}");
    });
}

/// Dials from a process of its own and returns the tag.
fn dial_from_process(uid: u32) -> String {
    let (ip, port) = VIP.split_once(':').expect("an address and a port");
    let script = format!("exec 3<>/dev/tcp/{ip}/{port} && read -r line <&3 && echo $line");
    let output = Command::new("bash").args(["-c", &script]).uid(uid).output();
    let output = output.unwrap_or_else(|error| panic!("can't run bash: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let line = String::from_utf8_lossy(&output.stdout);
    line.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn affinity_by_user() {
    lab::run("affinity-uid", |lab| {
        let (_backends, _agent) = sticky(lab, "{client: uid}");
        let mut distinct = BTreeSet::new();
        for uid in 3001..3017 {
            let tag = dial_from_process(uid);
            assert_eq!(dial_from_process(uid), tag, "uid {uid}");
            distinct.insert(tag);
        }
        assert!(distinct.len() > 1, "16 users share {distinct:?}");
    });
}

#[test]
fn affinity_by_process() {
    lab::run("affinity-process", |lab| {
        let (_backends, _agent) = sticky(lab, "{client: process}");
        let own = dial(vip()).unwrap().tag;
        // Threads of one process are one client.
        let other_thread = thread::scope(|scope| scope.spawn(dial_tag).join().unwrap());
        assert_eq!((dial_tag(), other_thread), (own.clone(), own));
        let distinct: BTreeSet<String> = (0..16).map(|_| dial_from_process(0)).collect();
        assert!(distinct.len() > 1, "16 processes share {distinct:?}");
    });
}

#[test]
fn affinity_by_cgroup() {
    lab::run("affinity-cgroup", |lab| {
        let (_backends, _agent) = sticky(lab, "{client: cgroup}");
        let mut distinct = BTreeSet::new();
        for number in 0..16 {
            let child = lab.cgroup().child(&format!("child-{number}"));
            let dialled = thread::scope(|scope| {
                let client = || {
                    child.enter();
                    [(); 5].map(|()| dial_tag())
                };
                scope.spawn(client).join().unwrap()
            });
            assert!(dialled.iter().all(|tag| *tag == dialled[0]), "{dialled:?}");
            distinct.extend(dialled);
        }
        assert!(distinct.len() > 1, "16 cgroups share {distinct:?}");
    });
}

fn dial_tag() -> String {
    dial(vip()).expect("the service answers").tag
}
