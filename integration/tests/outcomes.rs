//! What became of connects: what counts as a success, what as a failure, and what not at all.
//! `unanswered.rs` and `given_up.rs` have what takes longer.

use aya::sys::{Stats, enable_stats};
use integration::client::{Call, begin, dial, ended, stream};
use integration::dataplane::{Dataplane, Failures};
use integration::host;
use integration::lab;
use integration::netns;
use integration::server::{Backends, Kind, any_port, closed};
use integration::sys;
use integration::wait::{eventually, patience, repetitions};
use lb_agent::config::TableSizes;
use lb_agent::dataplane::{Dataplane as _, FailureKind, monotonic_now};
use lb_agent::plan::Action;
use lb_common::rows::BackendOutcomes;
use socket2::{Protocol, SockAddr, Socket};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

const VIP: &str = "10.96.0.10:80";
const VIP6: &str = "[fd00:96::10]:80";
const MAPPED: &str = "[::ffff:10.96.0.10]:80";
const OTHER: &str = "10.96.0.20:80";

/// What is dialled, and the address of its backend.
const FAMILIES: [(&str, &str); 3] = [(VIP, "127.0.0.1"), (VIP6, "::1"), (MAPPED, "127.0.0.1")];

const MOMENT: Duration = Duration::from_secs(5);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Established, refused, unanswered, abandoned, failures in succession.
fn counts(row: BackendOutcomes) -> [u64; 5] {
    [row.established, row.refused, row.unanswered, row.abandoned, row.consecutive]
}

type Way = fn(SocketAddr) -> io::Result<Socket>;

/// The ways to connect. Each returns what became of it.
const WAYS: [(&str, Way); 5] = [
    ("blocking", |to| {
        let socket = stream(to, Protocol::TCP);
        socket.connect(&to.into()).map(|()| socket)
    }),
    ("non-blocking", |to| {
        let socket = begin(to, Protocol::TCP);
        ended(&socket)?;
        Ok(socket)
    }),
    ("io_uring", |to| {
        let socket = stream(to, Protocol::TCP);
        sys::io_uring_connect(&socket, to).map(|()| socket)
    }),
    ("fast open", |to| {
        let socket = stream(to, Protocol::TCP);
        let flags = libc::MSG_FASTOPEN;
        socket.send_to_with_flags(b"", &SockAddr::from(to), flags).map(|_| socket)
    }),
    ("MPTCP", |to| {
        let socket = stream(to, Protocol::MPTCP);
        socket.connect(&to.into()).map(|()| socket)
    }),
];

/// Lets the namespace connect in all ways; returns those that this kernel has.
fn prepare() -> Vec<(&'static str, Way)> {
    netns::sysctl("ipv4/tcp_fastopen", "3");
    let mptcp = host::allows_mptcp();
    WAYS.into_iter().filter(|(way, _)| mptcp || *way != "MPTCP").collect()
}

/// Every way to connect, in every family.
#[test]
fn refused() {
    lab::run("outcomes-refused", |lab| {
        let ways = prepare();
        let backends = [closed("127.0.0.1"), closed("::1")];
        let dataplane =
            Dataplane::serve(lab, &[(addr(VIP), backends[0]), (addr(VIP6), backends[1])]);
        let mut failures = Failures::listen(lab);
        let mut expected = [0; 2];
        for (dialled, _) in FAMILIES {
            let family = usize::from(dialled == VIP6);
            for (way, connect) in ways.clone() {
                let error = connect(addr(dialled)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{way} {dialled}");
                expected[family] += 1;
                let n = expected[family];
                let row = dataplane.outcomes(backends[family]);
                assert_eq!(counts(row), [0, n, 0, 0, n], "{way} {dialled}");
                let failure = failures.next(MOMENT).expect("word of it")[0];
                assert_eq!(failure.backend, dataplane.id(backends[family]), "{way} {dialled}");
                assert_eq!(
                    (failure.kind, failure.consecutive),
                    (FailureKind::Refused, n),
                    "{way} {dialled}"
                );
                assert_eq!(failure.at, Duration::from_nanos(row.last_failure_ns));
                assert!(monotonic_now() - failure.at < MOMENT * patience());
            }
        }
        failures.expect_none();
        assert_eq!(dataplane.outcomes(backends[0]).last_success_ns, 0);
    });
}

/// From the fifth connect that is refused to whoever may eject the backend.
#[test]
fn the_fifth_refusal_is_known_at_once() {
    lab::run("outcomes-fifth", |lab| {
        let backend = closed("127.0.0.1");
        let dataplane = Dataplane::serve(lab, &[(addr(VIP), backend)]);
        let mut failures = Failures::listen(lab);
        let mut spans = Vec::new();
        for round in 0..10 {
            let client = thread::spawn(|| {
                for _ in 0..4 {
                    dial(addr(VIP)).unwrap_err();
                }
                let fifth = Instant::now();
                dial(addr(VIP)).unwrap_err();
                fifth
            });
            let heard = loop {
                let heard = failures.next(MOMENT).expect("word of the fifth");
                if heard[0].consecutive == round * 5 + 5 {
                    break Instant::now();
                }
            };
            spans.push(heard.saturating_duration_since(client.join().unwrap()));
        }
        spans.sort();
        println!("from the fifth connect's beginning to the agent: {spans:?}");
        // Of more than half: a thread may be kept waiting, but what looks now and then would keep all of them.
        assert!(spans[spans.len() / 2] < Duration::from_millis(50) * patience(), "{spans:?}");
        assert_eq!(counts(dataplane.outcomes(backend)), [0, 50, 0, 0, 50]);
    });
}

/// Every way to connect, in every family, to servers that know MPTCP and others.
#[test]
fn established() {
    lab::run("outcomes-established", |lab| {
        let ways = prepare();
        let serve = |kind, ip| Backends::start(kind, [(any_port(ip), "web")]);
        let v4 = serve(Kind::Tcp, "127.0.0.1");
        let v6 = serve(Kind::Tcp, "::1");
        let has_mptcp = host::allows_mptcp();
        let mptcp = serve(if has_mptcp { Kind::Mptcp } else { Kind::Tcp }, "127.0.0.1");
        let services = [(VIP, &v4), (VIP6, &v6), (OTHER, &mptcp)];
        let dataplane =
            Dataplane::serve(lab, &services.map(|(vip, server)| (addr(vip), server.at(0))));
        let mut failures = Failures::listen(lab);
        for (dialled, server) in services.into_iter().chain([(MAPPED, &v4)]) {
            for (way, connect) in ways.clone() {
                let before = dataplane.outcomes(server.at(0));
                let call = Call::over(connect(addr(dialled)).unwrap()).unwrap();
                assert_eq!(call.peer(), addr(dialled));
                let row = dataplane.outcomes(server.at(0));
                let expected = [before.established + 1, 0, 0, 0, 0];
                assert_eq!(counts(row), expected, "{way} {dialled}");
                let srtt = row.srtt_eighths / 8;
                assert!((1..50_000 * patience()).contains(&srtt), "{srtt} us, {way} {dialled}");
                let age = monotonic_now() - Duration::from_nanos(row.last_success_ns);
                assert!(age < MOMENT * patience(), "{age:?}");
                // Neither what the connection does, nor its end, is of interest.
                drop(call);
                assert_eq!(dataplane.outcomes(server.at(0)), row, "{way} {dialled}");
            }
            println!("{dialled}: {} us", dataplane.outcomes(server.at(0)).srtt_eighths / 8);
        }
        failures.expect_none();
    });
}

/// One success ends a series of failures, whatever came before.
#[test]
fn a_success_ends_the_series() {
    lab::run("outcomes-series", |lab| {
        let backend = closed("127.0.0.1");
        let dataplane = Dataplane::serve(lab, &[(addr(VIP), backend)]);
        let mut failures = Failures::listen(lab);
        for round in 1..=3 {
            for _ in 0..4 {
                dial(addr(VIP)).unwrap_err();
            }
            assert_eq!(counts(dataplane.outcomes(backend)), [round - 1, round * 4, 0, 0, 4]);
            let server = Backends::start(Kind::Tcp, [(backend, "web")]);
            dial(addr(VIP)).unwrap();
            assert_eq!(counts(dataplane.outcomes(backend)), [round, round * 4, 0, 0, 0]);
            drop(server);
            // What came in one go is one, the last.
            let heard = failures.next(MOMENT).unwrap();
            assert_eq!((heard.len(), heard[0].consecutive), (1, 4));
        }
        failures.expect_none();
    });
}

/// A connection that a reset ends has been established.
#[test]
fn a_reset_afterwards_is_no_failure() {
    lab::run("outcomes-reset", |lab| {
        let listener = TcpListener::bind(any_port("127.0.0.1")).unwrap();
        let backend = listener.local_addr().unwrap();
        let dataplane = Dataplane::serve(lab, &[(addr(VIP), backend)]);
        for round in 1..=5 {
            let client = stream(addr(VIP), Protocol::TCP);
            client.connect(&addr(VIP).into()).unwrap();
            let server = Socket::from(listener.accept().unwrap().0);
            server.set_linger(Some(Duration::ZERO)).unwrap();
            drop(server);
            let mut buffer = [std::mem::MaybeUninit::uninit(); 1];
            let error = client.recv(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(counts(dataplane.outcomes(backend)), [round, 0, 0, 0, 0]);
        }
    });
}

/// Who dials a backend by its own name is not translated, whatever he dialled before, and neither is
/// a socket of another cgroup.
#[test]
fn what_is_not_translated_does_not_count() {
    lab::run("outcomes-direct", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let (open, shut) = (server.at(0), closed("127.0.0.1"));
        let dataplane = Dataplane::serve(lab, &[(addr(VIP), open), (addr(OTHER), shut)]);
        let direct = || {
            dial(open).unwrap();
            dial(shut).unwrap_err();
            drop(begin(open, Protocol::TCP));
        };
        direct();
        let outside = lab.cgroup().path().parent().unwrap().join("cgroup.threads");
        thread::scope(|scope| {
            let elsewhere = || {
                std::fs::write(&outside, nix::unistd::gettid().to_string()).unwrap();
                direct();
            };
            scope.spawn(elsewhere).join().unwrap();
        });
        for backend in [open, shut] {
            assert_eq!(dataplane.outcomes(backend), BackendOutcomes::default());
        }
        // First the frontend, then the backend by the same socket.
        let socket = stream(addr(OTHER), Protocol::TCP);
        socket.connect(&addr(OTHER).into()).unwrap_err();
        assert_eq!(counts(dataplane.outcomes(shut)), [0, 1, 0, 0, 1]);
        socket.connect(&shut.into()).unwrap_err();
        assert_eq!(counts(dataplane.outcomes(shut)), [0, 1, 0, 0, 1]);
        socket.connect(&addr(OTHER).into()).unwrap_err();
        assert_eq!(counts(dataplane.outcomes(shut)), [0, 2, 0, 0, 2]);
    });
}

/// A socket that dials itself: both ends send a first packet.
#[test]
fn a_socket_that_meets_itself() {
    lab::run("outcomes-itself", |lab| {
        let backend = closed("127.0.0.1");
        let dataplane = Dataplane::serve(lab, &[(addr(VIP), backend)]);
        let socket = stream(addr(VIP), Protocol::TCP);
        socket.bind(&backend.into()).unwrap();
        socket.connect(&addr(VIP).into()).unwrap();
        assert_eq!(counts(dataplane.outcomes(backend)), [1, 0, 0, 0, 0]);
    });
}

/// Only the subflow that dialled the frontend counts.
#[test]
fn a_further_subflow_does_not_count() {
    lab::run("outcomes-join", |lab| {
        if !host::allows_mptcp() {
            return;
        }
        netns::add_address("10.1.0.1");
        netns::add_address("10.1.0.2");
        netns::mptcp_subflows_from("10.1.0.2");
        let server = Backends::start(Kind::Mptcp, [(any_port("10.1.0.1"), "web")]);
        let dataplane = Dataplane::serve(lab, &[(addr(VIP), server.at(0))]);
        let joined = || netns::counter("MPTcpExt", "MPJoinAckRx");
        let before = joined();
        let socket = stream(addr(VIP), Protocol::MPTCP);
        socket.connect(&addr(VIP).into()).unwrap();
        let mut call = Call::over(socket).unwrap();
        eventually("a second subflow", MOMENT, || joined() > before);
        assert!(call.echoes("through"));
        drop(call);
        assert_eq!(counts(dataplane.outcomes(server.at(0))), [1, 0, 0, 0, 0]);
    });
}

/// Sockets whose row is in the overflow table count like others.
#[test]
fn overflow_rows() {
    lab::run("outcomes-overflow", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let shut = closed("127.0.0.1");
        let sizes = TableSizes { connections: 2, ..TableSizes::default() };
        let services = [(addr(VIP), server.at(0)), (addr(OTHER), shut)];
        let dataplane = Dataplane::sized(lab, lab.cgroup().path(), sizes, &services);
        let calls: Vec<Call> = (0..10).map(|_| dial(addr(VIP)).unwrap()).collect();
        assert_eq!(counts(dataplane.outcomes(server.at(0))), [10, 0, 0, 0, 0]);
        for _ in 0..10 {
            dial(addr(OTHER)).unwrap_err();
        }
        assert_eq!(counts(dataplane.outcomes(shut)), [0, 10, 0, 0, 10]);
        drop(calls);
    });
}

/// More failures than the ring holds, and nobody reads: the row knows them all.
#[test]
fn a_flood_of_failures() {
    const FLOOD: u64 = 5000;
    lab::run("outcomes-flood", |lab| {
        let shut = closed("127.0.0.1");
        let mut dataplane = Dataplane::serve(lab, &[(addr(VIP), shut)]);
        let mut failures = Failures::listen(lab);
        for _ in 0..FLOOD {
            dial(addr(VIP)).unwrap_err();
        }
        assert_eq!(counts(dataplane.outcomes(shut)), [0, FLOOD, 0, 0, FLOOD]);
        let heard = failures.next(MOMENT).unwrap();
        println!("heard up to {} of {FLOOD}", heard[0].consecutive);
        assert_eq!(heard.len(), 1);
        assert!(heard[0].consecutive < FLOOD, "the ring has room for all of them");
        // Who comes later begins with the next.
        dial(addr(VIP)).unwrap_err();
        drop(failures);
        let mut failures = Failures::listen(lab);
        failures.expect_none();
        dial(addr(VIP)).unwrap_err();
        assert_eq!(failures.next(MOMENT).unwrap()[0].consecutive, FLOOD + 2);
        // Another backend that gets the id begins at zero.
        let id = dataplane.id(shut);
        dataplane.kernel().apply(&[Action::ResetBackend { id }]).unwrap();
        assert_eq!(dataplane.outcomes(shut), BackendOutcomes::default());
    });
}

/// The program is called a few times for each connection, and not once more while it lives.
#[test]
fn an_established_connection_costs_nothing() {
    lab::run("outcomes-cost", |lab| {
        let server = Backends::tcp("127.0.0.1", ["web"]);
        let dataplane = Dataplane::serve(lab, &[(addr(VIP), server.at(0))]);
        let _statistics = enable_stats(Stats::RunTime).unwrap();
        let runs = || dataplane.runs("sock_ops").1;
        let start = runs();
        let mut call = dial(addr(VIP)).unwrap();
        let established = runs();
        for _ in 0..repetitions(10_000) {
            assert!(call.echoes("round"));
        }
        println!("{} calls to connect, {} after", established - start, runs() - established);
        assert!(established > start);
        assert_eq!(runs(), established);
        drop(call);
        assert_eq!(runs(), established);
    });
}
