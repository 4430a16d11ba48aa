//! 100,000 backends in 10,000 services, from one file in both spellings of a backend, from a
//! store, and from a cluster: how long the agent takes to load and publish them, how much memory it keeps, and what one
//! changed backend, an unchanged file and doing nothing cost then; and the same of what packets meet. `cargo test --release` judges
//! times; a debug build only prints them.

use integration::agent::Agent;
use integration::client::dial;
use integration::kubernetes::large::{FromMemory, Large as LargeCluster, publish_from_memory};
use integration::lab::{self, Lab};
use integration::large::{Large, Seen, percentile};
use integration::packets::measure::{changed, loaded};
use integration::packets::{outsider, said};
use integration::pods::Node;
use integration::process::Memory;
use integration::server::Backends;
use integration::wait::wait_for;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 100_000;
const EACH: u32 = BACKENDS / SERVICES;
/// What is not optimised takes longer.
const DEADLINE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 180 } else { 20 });

/// From a parsed file to the last frontend in the kernel.
const LOAD_MICROS: u64 = 1_000_000;
/// A round that finds nothing to do.
const IDLE_MICROS: u64 = 10_000;
const MEMORY_KB: u64 = 150_000;

/// From the start of the agent to published tables, the store being full.
const STORE_LOAD: Duration = Duration::from_secs(3);
/// From the store's answer to a put to a new connect that sees it: of many, the one in the middle.
/// `make bench-etcd` shows the slowest of a hundred, which a busy machine decides.
const SEEN: Duration = Duration::from_millis(10);
/// Beside what is served, the agent knows each key of the store.
const STORE_MEMORY_KB: u64 = 180_000;
const CHANGES: usize = 200;
/// How long that has nothing to do is watched.
const IDLE_SECONDS: u32 = 30;
/// Share of a core of an agent that has nothing to do.
const IDLE_CORE: f64 = 0.005;

/// From objects in memory to published tables.
const CLUSTER_LOAD: Duration = Duration::from_millis(500);
/// From the last byte of an event about an endpoint to published tables, for 99 of 100.
const CLUSTER_PUBLISHED: Duration = Duration::from_millis(5);
/// Changes of which the slowest hundredth is looked at, and how often at most: what else runs on the
/// machine decides how long that takes, so one time that is quiet enough will do.
const CLUSTER_CHANGES: usize = 400;
const CLUSTER_ROUNDS: usize = 5;
/// From a changed endpoint in the API server to a new connect that sees it, in the median: what the
/// server of the tests takes to tell it is in there, too.
const CLUSTER_SEEN: Duration = Duration::from_millis(5);
const CLUSTER_MEMORY_KB: u64 = 250_000;

/// From the start of the agent until connections from other hosts are translated.
const PACKETS_LOAD: Duration = Duration::from_secs(5);
/// From a changed endpoint in the API server to a connection from another host that sees it, in the
/// median.
const PACKETS_SEEN: Duration = Duration::from_millis(20);

/// Each of these wants the machine for itself.
static ALONE: Mutex<()> = Mutex::new(());

/// How backends are written.
#[derive(Clone, Copy, Debug)]
enum Spelling {
    Plain,
    Mapping,
}

#[test]
fn backends_as_text() {
    alone("scale-text", |lab| load_and_change(lab, Spelling::Plain));
}

#[test]
fn backends_as_mappings() {
    alone("scale-mappings", |lab| load_and_change(lab, Spelling::Mapping));
}

#[test]
fn backends_in_a_store() {
    alone("scale-store", |lab| {
        let mut large = Large::fill(lab);
        let (agent, ready) = large.start_agent();
        print(&format!("store: start to ready {ready:.0?}"));
        assert_eq!(agent.status().rejections, []);
        assert!(
            agent.services().iter().flat_map(|service| &service.frontends).all(|f| f.installed)
        );

        let idle = large.idle_cost(&agent, IDLE_SECONDS);
        let Memory { now, peak } = idle.memory;
        let (share, busiest) = (idle.core * 100.0, idle.busiest);
        print(&format!("store: idle {share:.3} % of a core, {busiest:?} in the busiest second"));
        print(&format!("store: {now} kB resident, at most {peak} kB so far"));
        assert!(peak < STORE_MEMORY_KB, "at most {peak} kB, not less than {STORE_MEMORY_KB}");

        let seen: Vec<Seen> = (1..=CHANGES).map(|turn| large.change(turn)).collect();
        let seen: Vec<Duration> = seen.iter().map(|seen| seen.since_answered).collect();
        let (median, most) = (percentile(seen.clone(), 0.5), percentile(seen, 0.99));
        print(&format!("store: put to connect, median {median:.2?}, p99 {most:.2?}"));
        let added = large.add(1).since_answered;
        print(&format!("store: added service seen after {added:.2?}"));
        if !cfg!(debug_assertions) {
            assert!(ready < STORE_LOAD, "ready after {ready:?}, not {STORE_LOAD:?}");
            assert!(median < SEEN, "a change is seen after {median:?}, not {SEEN:?}");
            assert!(idle.core < IDLE_CORE, "idle takes {} of a core, not {IDLE_CORE}", idle.core);
        }
    });
}

#[test]
fn a_cluster() {
    alone("scale-memory", |lab| {
        let FromMemory { translating, whole } = publish_from_memory(lab);
        print(&format!("cluster: from memory {whole:.0?}, {translating:.0?} of it translating"));
        if !cfg!(debug_assertions) {
            assert!(whole < CLUSTER_LOAD, "published after {whole:?}, not {CLUSTER_LOAD:?}");
        }
    });
    alone("scale-cluster", |lab| {
        let large = LargeCluster::fill(lab);
        let (agent, ready) = large.start_agent();
        print(&format!("cluster: start to ready {ready:.0?}"));
        assert_eq!(agent.status().rejections, []);
        let services = agent.services();
        assert!(services.iter().flat_map(|service| &service.frontends).all(|f| f.installed));
        assert_eq!(services.iter().map(|service| service.backends.len()).sum::<usize>(), 100_001);

        // A share of one in a hundred takes many to be told; a debug build judges nothing.
        let (rounds, changes) =
            if cfg!(debug_assertions) { (1, 20) } else { (CLUSTER_ROUNDS, CLUSTER_CHANGES) };
        let mut published = (0..rounds).map(|_| {
            let published = large.publish(&agent, changes);
            let [median, most] = [0.5, 0.99].map(|share| published.percentile(share));
            let count = published.count;
            print(&format!(
                "cluster: {count} events published, median {median:?}, p99 {most:?} at most"
            ));
            // What is taken in together is one.
            (count, most)
        });
        let quick = published.any(|(count, most)| count >= 300 && most <= CLUSTER_PUBLISHED);
        let turns = if cfg!(debug_assertions) { 20 } else { CHANGES };
        let seen: Vec<Duration> = (1..=turns).map(|turn| large.change(turn).since_asked).collect();
        let (median, most) = (percentile(seen.clone(), 0.5), percentile(seen, 0.99));
        print(&format!("cluster: change to connect, median {median:.2?}, p99 {most:.2?}"));
        let Memory { now, peak } = Memory::of(agent.pid());
        print(&format!("cluster: {now} kB resident, at most {peak} kB so far"));
        assert!(peak < CLUSTER_MEMORY_KB, "at most {peak} kB, not less than {CLUSTER_MEMORY_KB}");
        if !cfg!(debug_assertions) {
            assert!(
                quick,
                "p99 of a change is over {CLUSTER_PUBLISHED:?} in each of {rounds} rounds"
            );
            assert!(
                median < CLUSTER_SEEN,
                "a change is seen after {median:?}, not {CLUSTER_SEEN:?}"
            );
        }
    });
}

#[test]
fn a_cluster_in_pages() {
    alone("scale-pages", |lab| {
        let large = LargeCluster::fill(lab);
        large.list_in_pages();
        let (agent, ready) = large.start_agent();
        print(&format!("cluster in pages: start to ready {ready:.0?}"));
        assert_eq!(agent.status().rejections, []);
        let backends = agent.services().iter().map(|service| service.backends.len()).sum::<usize>();
        assert_eq!(backends, 100_001);
        let Memory { now, peak } = Memory::of(agent.pid());
        print(&format!("cluster in pages: {now} kB resident, at most {peak} kB so far"));
        assert!(peak < CLUSTER_MEMORY_KB, "at most {peak} kB, not less than {CLUSTER_MEMORY_KB}");
    });
}

#[test]
fn packets_from_other_hosts() {
    alone("scale-packets", |lab| {
        let node = Node::here(lab, "near");
        let client = outsider(&node, lab, 9, "client");
        let large = LargeCluster::fill(lab);
        let begun = Instant::now();
        let (agent, ready) = large.start_agent_with("packet_path: on");
        let loaded = loaded(&client, begun, large.probe());
        print(&format!("packets: start to ready {ready:.0?}, to packets translated {loaded:.0?}"));
        print(&format!("packets: {}", said(lab)));
        let turns = if cfg!(debug_assertions) { 20 } else { CHANGES };
        let seen: Vec<Duration> = (1..=turns)
            .map(|turn| {
                let asked = large.move_to(turn % 2);
                changed(&client, asked, large.probe(), ["0", "1"][turn % 2])
            })
            .collect();
        let (median, most) = (percentile(seen.clone(), 0.5), percentile(seen, 0.99));
        print(&format!("packets: change to connect, median {median:.2?}, p99 {most:.2?}"));
        let Memory { now, peak } = Memory::of(agent.pid());
        print(&format!("packets: {now} kB resident, at most {peak} kB so far"));
        assert_eq!(said(lab)["repairs"], 0);
        if !cfg!(debug_assertions) {
            assert!(loaded < PACKETS_LOAD, "loaded after {loaded:?}, not {PACKETS_LOAD:?}");
            assert!(
                median < PACKETS_SEEN,
                "a change is seen after {median:?}, not {PACKETS_SEEN:?}"
            );
        }
    });
}

/// Runs a test in a lab while no other of this file runs.
fn alone(name: &str, test: impl FnOnce(&Lab) + Send) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    lab::run(name, test);
}

fn load_and_change(lab: &Lab, spelling: Spelling) {
    let tags: Vec<String> = (0..=EACH).map(|number| number.to_string()).collect();
    let backends = Backends::tcp("127.0.0.1", &tags);
    let live: Vec<SocketAddr> = backends.addresses().collect();
    let (before, after) = live.split_at(EACH as usize);

    let (agent, ready) = Agent::start_large(lab, &file(before, spelling));
    let work = agent.status().work;
    say(
        spelling,
        format_args!("start to ready {ready:.0?}, longest round {} us", work.longest_round_micros),
    );
    check_micros("loading", work.longest_round_micros, LOAD_MICROS);
    check_memory(&agent, spelling, "loaded");
    assert_eq!(agent.status().rejections, []);

    let listed = lab.lbctl(&["backends", "--no-headers"]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert_eq!(listed.stdout.lines().count(), BACKENDS as usize);
    assert!(agent.services().iter().flat_map(|service| &service.frontends).all(|f| f.installed));
    check_memory(&agent, spelling, "listed");
    assert_eq!(answering(), tags[..EACH as usize].iter().cloned().collect());

    // The same services in a file that is not the same.
    let revision = agent.revision();
    lab.write_config(&(file(before, spelling) + "# seen\n"));
    wait_for("the unchanged services", DEADLINE, || (agent.revision() > revision).then_some(()));
    let again = agent.status().work;
    assert_eq!(again.publishes, work.publishes, "nothing changed");
    say(spelling, format_args!("unchanged file: round of {} us", again.last_round_micros));
    check_micros("an unchanged file", again.last_round_micros, IDLE_MICROS);
    check_memory(&agent, spelling, "read again");

    // One backend of one service.
    let mut changed = before.to_vec();
    changed[0] = after[0];
    let text = file(&changed, spelling);
    let begin = Instant::now();
    lab.write_config(&text);
    wait_for("the changed backend", DEADLINE, || {
        (agent.status().work.publishes > again.publishes).then_some(())
    });
    say(spelling, format_args!("one backend changed: in the kernel after {:.0?}", begin.elapsed()));
    assert_eq!(agent.status().work.publishes, again.publishes + 1, "one block was replaced");
    assert_eq!(answering(), tags[1..].iter().cloned().collect());
    check_memory(&agent, spelling, "changed");
}

/// The services as a file; the last one has the `live` backends, the others only have addresses.
fn file(live: &[SocketAddr], spelling: Spelling) -> String {
    let mut text = "services:\n".to_owned();
    for number in 0..SERVICES {
        let backends: Vec<String> = (0..EACH)
            .map(|index| match live.get(index as usize) {
                Some(address) if number == SERVICES - 1 => *address,
                _ => nowhere(number * EACH + index),
            })
            .map(|address| match spelling {
                Spelling::Plain => format!("\"{address}\""),
                Spelling::Mapping => format!("{{address: \"{address}\", weight: 1, state: ready}}"),
            })
            .collect();
        let vip = vip(number);
        let backends = backends.join(", ");
        write!(
            text,
            "  - name: s{number}\n    frontends: [\"{vip}\"]\n    backends: [{backends}]\n"
        )
        .expect("writing to a string succeeds");
    }
    text
}

fn vip(number: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0A60_0000 + number), 80).into()
}

fn nowhere(number: u32) -> SocketAddr {
    (Ipv4Addr::from(0xAC10_0000 + number), 8080).into()
}

/// Who answers at the last service's frontend. Of ten backends each is missed by 200 calls once in
/// a thousand million times.
fn answering() -> BTreeSet<String> {
    let call = |_| dial(vip(SERVICES - 1)).expect("the last service answers").tag;
    (0..200).map(call).collect()
}

#[track_caller]
fn check_micros(what: &str, micros: u64, limit: u64) {
    assert!(micros > 0, "{what} was not measured");
    if !cfg!(debug_assertions) {
        assert!(micros < limit, "{what} took {micros} us, not less than {limit}");
    }
}

#[track_caller]
fn check_memory(agent: &Agent<'_>, spelling: Spelling, when: &str) {
    let Memory { now, peak } = Memory::of(agent.pid());
    say(spelling, format_args!("{when}: {now} kB resident, at most {peak} kB so far"));
    assert!(peak < MEMORY_KB, "{when}: at most {peak} kB, not less than {MEMORY_KB}");
}

fn say(spelling: Spelling, text: std::fmt::Arguments<'_>) {
    print(&format!("{spelling:?}: {text}"));
}

#[expect(clippy::print_stdout, reason = "the numbers are for whoever runs the test to read")]
fn print(text: &str) {
    println!("{text}");
}
