//! What became of connects: what counts as a success, what as a failure, and what not at all.
//! Giving up has a file of its own, `given_up.rs`.

use aya::sys::{Stats, enable_stats};
use integration::client::{Call, dial};
use integration::dataplane::{Dataplane, Failures};
use integration::lab;
use integration::netns;
use integration::router::{Router, no_way, silent};
use integration::server::{Backends, Kind, any_port};
use integration::sys;
use integration::wait::{eventually, wait_for};
use lb_agent::config::TableSizes;
use lb_agent::dataplane::{Dataplane as _, FailureKind, monotonic_now};
use lb_agent::plan::Action;
use lb_common::rows::BackendOutcomes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
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

fn socket(to: SocketAddr, protocol: Protocol) -> Socket {
    Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol)).expect("a socket")
}

/// The ways to connect. Each returns what became of it.
const WAYS: [(&str, fn(SocketAddr) -> io::Result<Socket>); 5] = [
    ("blocking", |to| {
        let socket = socket(to, Protocol::TCP);
        socket.connect(&to.into()).map(|()| socket)
    }),
    ("non-blocking", |to| {
        let socket = begin(to, Protocol::TCP);
        ended(&socket)?;
        Ok(socket)
    }),
    ("io_uring", |to| {
        let socket = socket(to, Protocol::TCP);
        sys::io_uring_connect(&socket, to).map(|()| socket)
    }),
    ("fast open", |to| {
        let socket = socket(to, Protocol::TCP);
        let flags = libc::MSG_FASTOPEN;
        socket.send_to_with_flags(b"", &SockAddr::from(to), flags).map(|_| socket)
    }),
    ("MPTCP", |to| {
        let socket = socket(to, Protocol::MPTCP);
        socket.connect(&to.into()).map(|()| socket)
    }),
];

/// A non-blocking connect that is under way.
fn begin(to: SocketAddr, protocol: Protocol) -> Socket {
    let socket = socket(to, protocol);
    socket.set_nonblocking(true).unwrap();
    let begun = socket.connect(&SockAddr::from(to)).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
    socket
}

/// How a connect ends that is under way.
fn ended(socket: &Socket) -> io::Result<()> {
    let mut watched = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    assert_eq!(poll(&mut watched, PollTimeout::from(10_000u16)), Ok(1), "undecided after 10 s");
    socket.take_error()?.map_or(Ok(()), Err)
}

fn prepare() {
    netns::sysctl("ipv4/tcp_fastopen", "3");
    netns::sysctl("mptcp/enabled", "1");
}

/// An address of the loopback device where nobody listens.
fn closed(ip: &str) -> SocketAddr {
    TcpListener::bind(any_port(ip)).unwrap().local_addr().unwrap()
}

/// Every way to connect, in every family.
#[test]
fn refused() {
    lab::run("outcomes-refused", |lab| {
        prepare();
        let backends = [closed("127.0.0.1"), closed("::1")];
        let dataplane =
            Dataplane::serve(lab, &[(addr(VIP), backends[0]), (addr(VIP6), backends[1])]);
        let mut failures = Failures::listen(lab);
        let mut expected = [0; 2];
        for (dialled, _) in FAMILIES {
            let family = usize::from(dialled == VIP6);
            for (way, connect) in WAYS {
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
                assert!(monotonic_now() - failure.at < MOMENT);
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
        assert!(spans[spans.len() - 1] < Duration::from_millis(50), "{spans:?}");
        assert_eq!(counts(dataplane.outcomes(backend)), [0, 50, 0, 0, 50]);
    });
}

/// Every way to connect, in every family, to servers that know MPTCP and others.
#[test]
fn established() {
    lab::run("outcomes-established", |lab| {
        prepare();
        let serve = |kind, ip| Backends::start(kind, [(any_port(ip), "web")]);
        let v4 = serve(Kind::Tcp, "127.0.0.1");
        let v6 = serve(Kind::Tcp, "::1");
        let mptcp = serve(Kind::Mptcp, "127.0.0.1");
        let services = [(VIP, &v4), (VIP6, &v6), (OTHER, &mptcp)];
        let dataplane =
            Dataplane::serve(lab, &services.map(|(vip, server)| (addr(vip), server.at(0))));
        let mut failures = Failures::listen(lab);
        for (dialled, server) in services.into_iter().chain([(MAPPED, &v4)]) {
            for (way, connect) in WAYS {
                let before = dataplane.outcomes(server.at(0));
                let call = Call::over(connect(addr(dialled)).unwrap()).unwrap();
                assert_eq!(call.peer(), addr(dialled));
                let row = dataplane.outcomes(server.at(0));
                let expected = [before.established + 1, 0, 0, 0, 0];
                assert_eq!(counts(row), expected, "{way} {dialled}");
                let srtt = row.srtt_eighths / 8;
                assert!((1..50_000).contains(&srtt), "{srtt} us, {way} {dialled}");
                let age = monotonic_now() - Duration::from_nanos(row.last_success_ns);
                assert!(age < MOMENT, "{age:?}");
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

/// Whoever repeats the first packet has had no answer; he has so once, however often he repeats it,
/// and also if he gives up in the end.
#[test]
fn unanswered() {
    lab::run("outcomes-unanswered", |lab| {
        prepare();
        let _router = Router::start();
        let services = [(addr(VIP), silent(true)), (addr(VIP6), silent(false))];
        let dataplane = Dataplane::serve(lab, &services);
        let mut failures = Failures::listen(lab);
        let protocols = [Protocol::TCP, Protocol::MPTCP];
        let started = Instant::now();
        let mut sockets = Vec::new();
        for (dialled, _) in FAMILIES {
            for protocol in protocols {
                sockets.push(begin(addr(dialled), protocol));
            }
        }
        let heard = wait_for("all six", MOMENT, || {
            let heard = failures.next(MOMENT)?;
            let total: u64 =
                services.iter().map(|(_, backend)| dataplane.outcomes(*backend).consecutive).sum();
            (total == 6).then_some(heard)
        });
        let span = started.elapsed();
        println!("unanswered after {span:?}");
        assert!(span > Duration::from_millis(900), "{span:?}");
        assert!(span < Duration::from_millis(1500), "{span:?}");
        assert!(heard.iter().all(|failure| failure.kind == FailureKind::Unanswered));
        let expected = [[0, 0, 4, 0, 4], [0, 0, 2, 0, 2]];
        let now = || services.map(|(_, backend)| counts(dataplane.outcomes(backend)));
        assert_eq!(now(), expected);
        // Two more of the first packet: it is sent again every second at first.
        let repeated = || netns::counter("TcpExt", "TCPSynRetrans");
        eventually("the packets to be repeated", MOMENT, || repeated() >= 12);
        assert_eq!(now(), expected);
        drop(sockets);
        // They are given up, which is no further failure.
        assert_eq!(now(), [[0, 0, 4, 4, 4], [0, 0, 2, 2, 2]]);
        while failures.next(Duration::from_millis(20)).is_some() {}

        // One that the kernel gives up, at the time of the first repetition.
        for (dialled, backend) in services {
            let socket = socket(dialled, Protocol::TCP);
            socket.set_tcp_user_timeout(Some(Duration::from_millis(500))).unwrap();
            let before = counts(dataplane.outcomes(backend));
            let error = socket.connect(&dialled.into()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let [established, refused, unanswered, abandoned, consecutive] = before;
            let expected = [established, refused, unanswered + 1, abandoned, consecutive + 1];
            assert_eq!(counts(dataplane.outcomes(backend)), expected);
            drop(socket);
            assert_eq!(counts(dataplane.outcomes(backend)), expected);
        }
    });
}

/// A listener that accepts nobody does not answer any more when its queue is full; when it goes, the
/// repeated packet is refused; if it accepts in the end, that is a success.
#[test]
fn unanswered_then_decided() {
    lab::run("outcomes-backlog", |lab| {
        let listeners = [(); 2].map(|()| {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            listener.bind(&any_port("127.0.0.1").into()).unwrap();
            listener.listen(0).unwrap();
            listener
        });
        let at = |listener: &Socket| listener.local_addr().unwrap().as_socket().unwrap();
        let [a, b] = [at(&listeners[0]), at(&listeners[1])];
        let dataplane = Dataplane::serve(lab, &[(addr(VIP), a), (addr(OTHER), b)]);
        let waiting = [VIP, OTHER].map(|to| socket(addr(to), Protocol::TCP));
        for (socket, to) in waiting.iter().zip([VIP, OTHER]) {
            socket.connect(&addr(to).into()).unwrap();
        }
        let dialling = [VIP, OTHER].map(|to| begin(addr(to), Protocol::TCP));
        for backend in [a, b] {
            eventually("no answer", MOMENT, || dataplane.outcomes(backend).unanswered == 1);
            assert_eq!(counts(dataplane.outcomes(backend)), [1, 0, 1, 0, 1]);
        }
        let [first, second] = listeners;
        drop(first);
        second.accept().unwrap();
        let refused = ended(&dialling[0]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(counts(dataplane.outcomes(a)), [1, 1, 1, 0, 1], "an attempt fails once");
        ended(&dialling[1]).unwrap();
        assert_eq!(counts(dataplane.outcomes(b)), [2, 0, 1, 0, 0]);
    });
}

/// A router that knows no way says so before anything is repeated.
#[test]
fn no_way_there() {
    lab::run("outcomes-no-way", |lab| {
        let router = Router::start();
        let services = [(addr(VIP), no_way(true)), (addr(VIP6), no_way(false))];
        let dataplane = Dataplane::serve(lab, &services);
        let mut failures = Failures::listen(lab);
        for (dialled, backend) in services {
            router.keep_busy();
            let started = Instant::now();
            let error = socket(dialled, Protocol::TCP).connect(&dialled.into()).unwrap_err();
            println!("{backend}: {error} after {:?}", started.elapsed());
            assert!(started.elapsed() < Duration::from_millis(900), "it was repeated");
            assert_eq!(counts(dataplane.outcomes(backend)), [0, 0, 1, 0, 1], "{error}");
            let heard = failures.next(MOMENT).unwrap();
            assert_eq!(heard[0].kind, FailureKind::Unanswered);
            assert_eq!(heard[0].backend, dataplane.id(backend));
        }
    });
}

/// It says so while connect(2) is still about to return, and the kernel takes note only; but when
/// there is no answer either, that is the error, of an attempt that has been counted.
#[test]
fn no_way_there_at_once() {
    lab::run("outcomes-no-way-soft", |lab| {
        let _router = Router::start();
        let dataplane = Dataplane::serve(lab, &[(addr(VIP), no_way(true))]);
        let socket = socket(addr(VIP), Protocol::TCP);
        let error = socket.connect(&addr(VIP).into()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
        assert_eq!(counts(dataplane.outcomes(no_way(true))), [0, 0, 1, 0, 1]);
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
            let client = socket(addr(VIP), Protocol::TCP);
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
        let socket = socket(addr(OTHER), Protocol::TCP);
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
        let socket = socket(addr(VIP), Protocol::TCP);
        socket.bind(&backend.into()).unwrap();
        socket.connect(&addr(VIP).into()).unwrap();
        assert_eq!(counts(dataplane.outcomes(backend)), [1, 0, 0, 0, 0]);
    });
}

/// Only the subflow that dialled the frontend counts.
#[test]
fn a_further_subflow_does_not_count() {
    lab::run("outcomes-join", |lab| {
        prepare();
        netns::add_address("10.1.0.1");
        netns::add_address("10.1.0.2");
        netns::mptcp_subflows_from("10.1.0.2");
        let server = Backends::start(Kind::Mptcp, [(any_port("10.1.0.1"), "web")]);
        let dataplane = Dataplane::serve(lab, &[(addr(VIP), server.at(0))]);
        let joined = || netns::counter("MPTcpExt", "MPJoinAckRx");
        let before = joined();
        let socket = socket(addr(VIP), Protocol::MPTCP);
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
        for _ in 0..10_000 {
            assert!(call.echoes("round"));
        }
        println!("{} calls to connect, {} after", established - start, runs() - established);
        assert!(established > start);
        assert_eq!(runs(), established);
        drop(call);
        assert_eq!(runs(), established);
    });
}
