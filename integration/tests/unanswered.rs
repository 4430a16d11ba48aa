//! Connects that nobody answers: known after a second, long before the kernel gives up.

use integration::client::{begin, ended, stream};
use integration::dataplane::{Dataplane, Failures};
use integration::host;
use integration::lab;
use integration::netns;
use integration::router::{Router, no_way, silent};
use integration::server::any_port;
use integration::wait::{eventually, patience, wait_for};
use lb_agent::dataplane::FailureKind;
use lb_common::rows::BackendOutcomes;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const VIP: &str = "10.96.0.10:80";
const VIP6: &str = "[fd00:96::10]:80";
const MAPPED: &str = "[::ffff:10.96.0.10]:80";
const OTHER: &str = "10.96.0.20:80";

const MOMENT: Duration = Duration::from_secs(5);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Established, refused, unanswered, abandoned, failures in succession.
fn counts(row: BackendOutcomes) -> [u64; 5] {
    [row.established, row.refused, row.unanswered, row.abandoned, row.consecutive]
}

/// Whoever repeats the first packet has had no answer; he has so once, however often he repeats it,
/// and also if he gives up in the end.
#[test]
fn unanswered() {
    lab::run("outcomes-unanswered", |lab| {
        let _router = Router::start();
        let services = [(addr(VIP), silent(true)), (addr(VIP6), silent(false))];
        let dataplane = Dataplane::serve(lab, &services);
        let mut failures = Failures::listen(lab);
        let protocols = host::stream_protocols();
        let each = u64::try_from(protocols.len()).unwrap();
        let started = Instant::now();
        let mut sockets = Vec::new();
        for dialled in [VIP, VIP6, MAPPED] {
            for &protocol in &protocols {
                sockets.push(begin(addr(dialled), protocol));
            }
        }
        let heard = wait_for("all of them", MOMENT, || {
            let heard = failures.next(MOMENT)?;
            let total: u64 =
                services.iter().map(|(_, backend)| dataplane.outcomes(*backend).consecutive).sum();
            (total == 3 * each).then_some(heard)
        });
        let span = started.elapsed();
        println!("unanswered after {span:?}");
        assert!(span > Duration::from_millis(900), "{span:?}");
        assert!(span < Duration::from_millis(1500) * patience(), "{span:?}");
        assert!(heard.iter().all(|failure| failure.kind == FailureKind::Unanswered));
        let expected = [[0, 0, 2 * each, 0, 2 * each], [0, 0, each, 0, each]];
        let now = || services.map(|(_, backend)| counts(dataplane.outcomes(backend)));
        assert_eq!(now(), expected);
        // Two more of the first packet: it is sent again every second at first.
        let repeated = || netns::counter("TcpExt", "TCPSynRetrans");
        eventually("the packets to be repeated", MOMENT, || repeated() >= 6 * each);
        assert_eq!(now(), expected);
        drop(sockets);
        // They are given up, which is no further failure.
        let given_up = expected.map(|[_, _, failed, _, series]| [0, 0, failed, failed, series]);
        assert_eq!(now(), given_up);
        while failures.next(Duration::from_millis(20)).is_some() {}

        // One that the kernel gives up, at the time of the first repetition.
        for (dialled, backend) in services {
            let socket = stream(dialled, Protocol::TCP);
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
        let waiting = [VIP, OTHER].map(|to| stream(addr(to), Protocol::TCP));
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
            let repeated = netns::counter("TcpExt", "TCPSynRetrans");
            router.keep_busy();
            let started = Instant::now();
            let error = stream(dialled, Protocol::TCP).connect(&dialled.into()).unwrap_err();
            println!("{backend}: {error} after {:?}", started.elapsed());
            assert_eq!(netns::counter("TcpExt", "TCPSynRetrans"), repeated, "it was repeated");
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
        let socket = stream(addr(VIP), Protocol::TCP);
        let error = socket.connect(&addr(VIP).into()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
        assert_eq!(counts(dataplane.outcomes(no_way(true))), [0, 0, 1, 0, 1]);
    });
}
