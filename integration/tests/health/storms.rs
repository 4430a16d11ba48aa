//! Many backends fail at once, while clients connect as fast as they can.

use integration::agent::Agent;
use integration::client::dial;
use integration::lab::{self, Lab};
use integration::server::{Backends, Kind};
use integration::spec::{service, services};
use integration::wait::within;
use lb_agent::health::effective::Why;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const VIP: &str = "10.96.0.10:80";
const DEADLINE: Duration = Duration::from_secs(20);

/// Connects from four threads until told to stop.
#[derive(Default)]
struct Storm {
    stop: AtomicBool,
    good: AtomicU64,
    failed: AtomicU64,
}

impl Storm {
    fn rage(&self) {
        let vip: SocketAddr = VIP.parse().expect("an address");
        while !self.stop.load(Ordering::Relaxed) {
            let count = if dial(vip).is_ok() { &self.good } else { &self.failed };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Three of four backends go while clients connect. Returns how many connects failed until the last
/// was noticed, how many after that, and how long it took.
fn three_of_four(lab: &Lab, settings: &[&str]) -> (u64, u64, Duration) {
    let stays = Backends::tcp("127.0.0.1", ["a"]);
    let goes = Backends::tcp("127.0.0.1", ["b", "c", "d"]);
    let addresses: Vec<SocketAddr> = stays.addresses().chain(goes.addresses()).collect();
    let web = addresses.iter().fold(service("web").frontend(VIP), |spec, a| spec.backend(a));
    let agent =
        Agent::start(lab, &services(&[settings.iter().fold(web, |web, line| web.with(*line))]));
    let storm = Storm::default();
    thread::scope(|scope| {
        for _ in 0..4 {
            let storm = &storm;
            scope.spawn(move || storm.rage());
        }
        let warm = within(DEADLINE, || (storm.good.load(Ordering::Relaxed) > 200).then_some(()));
        warm.expect("clients connect");
        assert_eq!(storm.failed(), 0);
        let begin = Instant::now();
        drop(goes);
        let out = || {
            let service = agent.service("web");
            (service.frontends[0].usable == 1).then_some(())
        };
        let noticed = within(DEADLINE, out);
        let took = begin.elapsed();
        let before = storm.failed();
        assert!(noticed.is_some(), "{:#?}", agent.service("web"));
        let good = storm.good.load(Ordering::Relaxed);
        let more =
            within(DEADLINE, || (storm.good.load(Ordering::Relaxed) > good + 500).then_some(()));
        more.expect("clients connect");
        let after = storm.failed() - before;
        storm.stop.store(true, Ordering::Relaxed);
        (before, after, took)
    })
}

#[test]
fn real_connects_eject_what_refuses_them() {
    // Two of three: both CPUs may be busy with other tests.
    let (mut soon, mut late) = (Vec::new(), Vec::new());
    while soon.len() < 2 && late.len() < 2 {
        lab::run("storm-passive", |lab| {
            let ejection = "ejection: {failures: 5, max_ejected: 100%}";
            let (before, after, took) = three_of_four(lab, &[ejection]);
            // Five in a row each at least; how many more depends on how fast four threads are.
            assert!(before >= 15, "{before} connects failed in {took:?}");
            // A connect that was chosen before the last publication may end after it.
            assert!(after <= 4, "{after} connects failed after the ejection");
            let is_soon = took < Duration::from_millis(500);
            if is_soon { &mut soon } else { &mut late }.push(took);
        });
    }
    assert!(soon.len() == 2, "ejected after {late:?}");
}

#[test]
fn checks_take_out_what_does_not_answer() {
    lab::run("storm-active", |lab| {
        let checks = "checks: [{tcp: {interval: 100ms, fast_interval: 50ms}}]";
        let (before, after, took) = three_of_four(lab, &["ejection: off", checks]);
        assert!(before > 0 && took < Duration::from_secs(5), "{before} failed in {took:?}");
        assert!(after <= 4, "{after} connects failed after the checks");
    });
}

#[test]
fn all_down_fails_open_and_back() {
    lab::run("storm-open", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["a", "b"]);
        let addresses: Vec<SocketAddr> = backends.addresses().collect();
        let checks = "checks: [{tcp: {interval: 100ms, fast_interval: 20ms}}]";
        let web = addresses.iter().fold(service("web").frontend(VIP), |spec, a| spec.backend(a));
        let agent = Agent::start(lab, &services(&[web.with(checks)]));
        let why = |expected: Why| {
            let seen = within(DEADLINE, || {
                let service = agent.service("web");
                let all = service.backends.iter().all(|backend| {
                    backend.health.as_ref().is_some_and(|health| health.why == expected)
                });
                let open = service.fails_open == (expected == Why::FailOpen);
                // Health is as of now, and what follows from it as of the last publication.
                (all && open && service.frontends[0].usable == 2).then_some(())
            });
            assert!(seen.is_some(), "not {expected:?}: {:#?}", agent.service("web"));
        };
        why(Why::Serving);
        drop(backends);
        why(Why::FailOpen);
        let back = addresses.iter().copied().zip(["a", "b"]);
        let _backends = Backends::start(Kind::Tcp, back);
        why(Why::Serving);
        dial(VIP.parse().unwrap()).unwrap();
    });
}

/// From the fifth refused connect to tables without the backend. The best of many: both CPUs may
/// be busy with other tests.
#[test]
fn the_fifth_refusal_ejects_at_once() {
    lab::run("storm-fifth", |lab| {
        let good = Backends::tcp("127.0.0.1", ["good"]);
        let refusing = Refusing::new();
        let vip = |n: u8| SocketAddr::from(([10, 96, 1, n], 80));
        let all: Vec<_> = (1..=40)
            .map(|n| {
                let spec = service(format!("web-{n}")).frontend(vip(n));
                spec.backend(good.at(0)).backend(refusing.address)
            })
            .collect();
        let agent = Agent::start(lab, &services(&all));
        let took = |n: u8| {
            let mut refused = 0;
            while refused < 5 {
                refused += u32::from(dial(vip(n)).is_err());
            }
            let begin = Instant::now();
            let out =
                || (agent.service(&format!("web-{n}")).frontends[0].usable == 1).then_some(());
            within(DEADLINE, out).expect("the backend is ejected");
            begin.elapsed()
        };
        let spans: Vec<Duration> = (1..=40).map(took).collect();
        let best = spans.iter().min().expect("some were tried");
        assert!(
            *best < Duration::from_millis(50),
            "from the fifth refusal to the tables: {spans:?}"
        );
    });
}

/// An address that refuses connections, and that nobody else can take.
struct Refusing {
    address: SocketAddr,
    _socket: socket2::Socket,
}

impl Refusing {
    fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).expect("a port");
        let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
        Self { address, _socket: socket }
    }
}
