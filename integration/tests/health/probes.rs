//! TCP and HTTP checks on real servers, well-behaved ones and others.

use crate::trial::{
    Server, check, flood, hang, hasty, http, nothing_is_left, request, said_of_first, says,
    sockets, tried, tried_often,
};
use integration::etcd::far::Far;
use integration::netns::{add_address, sysctl};
use integration::server::closed;
use integration::{lab, wait};
use lb_agent::health::board::CheckResult::{Failing, Passing};
use lb_agent::model::check::{Check, HttpProbe, Probe};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nall fine\n";
/// Buffers of both ends, and some.
const BUFFERS: usize = 16 << 20;

fn expecting(text: &str) -> Check {
    check(Probe::Http(HttpProbe { body: Some(text.to_owned()), ..http() }))
}

#[test]
fn tcp() {
    lab::run("probe-tcp", |_| {
        let far = Far::create();
        far.cut();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent6 = TcpListener::bind("[::1]:0").unwrap();
        let reports = tried(&[
            (check(Probe::Tcp), silent.local_addr().unwrap()),
            (check(Probe::Tcp), silent6.local_addr().unwrap()),
            (check(Probe::Tcp), closed("127.0.0.1")),
            (hasty(Probe::Tcp), (far.address(), 80).into()),
            (hasty(Probe::Http(http())), (far.address(), 80).into()),
            (check(Probe::Tcp), "203.0.113.1:80".parse().unwrap()),
        ]);
        says(&reports[0], Passing, "L4OK");
        says(&reports[1], Passing, "L4OK");
        says(&reports[2], Failing, "L4CON connection refused");
        says(&reports[3], Failing, "L4TOUT no answer within 300ms");
        says(&reports[4], Failing, "L4TOUT no answer within 300ms");
        says(&reports[5], Failing, "L4CON Network is unreachable*");
        assert!(reports[3].took >= Duration::from_millis(300));
    });
}

#[test]
fn a_socket_connected_to_itself_is_no_server() {
    lab::run("probe-itself", |_| {
        // The only port that the kernel can choose is the one that is dialled.
        sysctl("ipv4/ip_local_port_range", "40001 40001");
        let reports = tried(&[(check(Probe::Tcp), "127.0.0.1:40001".parse().unwrap())]);
        says(&reports[0], Failing, "L4CON connection refused");
    });
}

#[test]
fn without_ports_of_its_own_a_host_says_nothing_of_others() {
    lab::run("probe-ports", |_| {
        add_address("127.0.0.2");
        sysctl("ipv4/ip_local_port_range", "40000 40000");
        let taken = TcpListener::bind("127.0.0.1:50000").unwrap();
        let server = taken.local_addr().unwrap();
        // Takes the only port towards the server.
        let before = std::net::TcpStream::connect(server).unwrap();
        let other = TcpListener::bind("127.0.0.2:50000").unwrap();
        // Nothing is said of the one that can't be dialled while the other is tried.
        let cases = [(check(Probe::Tcp), server), (check(Probe::Tcp), other.local_addr().unwrap())];
        let said = said_of_first(&cases, 5);
        assert!(said.is_empty(), "{said:?}");
        drop(before);
    });
}

#[test]
fn http_answers() {
    lab::run("probe-http", |_| {
        let answer = |line: &str| Server::answering(format!("HTTP/1.1 {line}\r\n\r\n"));
        let good = Server::answering(OK);
        let bad = answer("500 Oh no\r\ncontent-length: 0");
        let elsewhere = answer("302 Found\r\nlocation: /login\r\ncontent-length: 0");
        let missing = answer("404 Not Found\r\ncontent-length: 0");
        let silent = Server::start(|mut stream| hang(&mut stream));
        let slow = Server::start(|mut stream| {
            request(&mut stream);
            wait::let_pass(Duration::from_secs(1));
            let _ = std::io::Write::write_all(&mut stream, OK.as_bytes());
        });
        let gone = Server::start(|mut stream| drop(request(&mut stream)));
        let garbage = Server::answering(*b"\x00\x01\x02 garbage \xff\r\n\r\n");
        let no_names = answer("200 OK\r\n: : :\r\n\x07\x08");
        let only = |low, high| HttpProbe { status: vec![(low, high)], ..http() };
        let plain = || check(Probe::Http(http()));
        let expected = [
            (plain(), &good, Passing, "L7OK 200"),
            (plain(), &bad, Failing, "L7STS 500"),
            (plain(), &elsewhere, Passing, "L7OK 302"),
            (plain(), &missing, Failing, "L7STS 404"),
            (check(Probe::Http(only(404, 404))), &missing, Passing, "L7OK 404"),
            (check(Probe::Http(only(204, 204))), &good, Failing, "L7STS 200"),
            (hasty(Probe::Http(http())), &silent, Failing, "L7TOUT no answer within 300ms"),
            (hasty(Probe::Http(http())), &slow, Failing, "L7TOUT no answer within 300ms"),
            (plain(), &gone, Failing, "L7RSP *"),
            (plain(), &garbage, Failing, "L7RSP *"),
            (plain(), &no_names, Failing, "L7RSP *"),
            (expecting("all fine"), &good, Passing, "L7OK 200"),
            (expecting("ready"), &good, Failing, "L7RSP 200, the body lacks the expected text"),
        ];
        let cases: Vec<_> =
            expected.iter().map(|(c, server, ..)| (c.clone(), server.address)).collect();
        for (report, (_, _, result, text)) in tried(&cases).iter().zip(&expected) {
            says(report, *result, text);
        }
        nothing_is_left();
    });
}

#[test]
fn the_request_says_who_asks_and_for_what() {
    lab::run("probe-request", |_| {
        let (told, hears) = std::sync::mpsc::channel();
        let server = Server::start(move |mut stream| drop(told.send(request(&mut stream))));
        let path = "/healthz?full=1".to_owned();
        let host = Some("web.internal".to_owned());
        let probe = HttpProbe { method: "HEAD".to_owned(), path, host, ..http() };
        tried(&[(check(Probe::Http(probe)), server.address)]);
        let request = hears.recv().unwrap().to_lowercase();
        for part in ["head /healthz?full=1 http/1.1\r\n", "host: web.internal\r\n", "lb-agent/"] {
            assert!(request.contains(part), "{request}");
        }
    });
}

/// A server that writes `head` and then `part` until the client has gone, and the most that one client took.
fn flooding(head: &'static str, part: &'static [u8]) -> (Server, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let server = Server::start(move |mut stream| {
        request(&mut stream);
        let _ = std::io::Write::write_all(&mut stream, head.as_bytes());
        count.fetch_max(flood(&mut stream, part), Ordering::Relaxed);
    });
    (server, written)
}

#[test]
fn answers_without_end() {
    lab::run("probe-flood", |_| {
        let filler: &[u8] = &[b'x'; 65536];
        let chunk: &[u8] = b"8\r\nxxxxxxxx\r\n";
        let gigabyte = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let (long, of_long) = flooding(gigabyte, filler);
        let (endless, of_endless) = flooding("HTTP/1.1 200 OK\r\n\r\n", filler);
        let (bytes, of_bytes) = flooding(chunked, chunk);
        let (one_header, of_one) = flooding("HTTP/1.1 200 OK\r\nx: ", filler);
        let (headers, of_headers) = flooding("HTTP/1.1 200 OK\r\n", b"x: y\r\n");
        let (informal, _) = flooding("", b"HTTP/1.1 103 Early Hints\r\n\r\n");
        let plain = || check(Probe::Http(http()));
        let lacks = "L7RSP 200, the first 64 KiB of the body lack the expected text";
        let expected = [
            (plain(), &long, Passing, "L7OK 200"),
            (expecting("ready"), &long, Failing, lacks),
            (plain(), &endless, Passing, "L7OK 200"),
            (expecting("ready"), &endless, Failing, lacks),
            (expecting("ready"), &bytes, Failing, lacks),
            (plain(), &one_header, Failing, "L7RSP *"),
            (plain(), &headers, Failing, "L7RSP *"),
            (hasty(Probe::Http(http())), &informal, Failing, "L7*"),
        ];
        let cases: Vec<_> =
            expected.iter().map(|(c, server, ..)| (c.clone(), server.address)).collect();
        for (report, (_, _, result, text)) in tried(&cases).iter().zip(&expected) {
            says(report, *result, text);
        }
        nothing_is_left();
        for written in [of_long, of_endless, of_bytes, of_one, of_headers] {
            let written = written.load(Ordering::Relaxed);
            assert!(written < BUFFERS, "{written} bytes were taken");
        }
    });
}

#[test]
fn no_connection_waits_for_its_time() {
    lab::run("probe-traces", |_| {
        // Nobody takes its connections: all that are tried until the slowest of the others is done must have room.
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        silent.bind(&any.into()).unwrap();
        silent.listen(4096).unwrap();
        let silent = TcpListener::from(silent);
        let good = Server::answering(OK);
        // Servers that close first, before the client or at the same time.
        let closes = Server::start(|mut stream| {
            request(&mut stream);
            let _ = std::io::Write::write_all(&mut stream, OK.as_bytes());
        });
        let greets = Server::start(|mut stream| {
            let _ = std::io::Write::write_all(&mut stream, b"220 hello\r\n");
        });
        let quick = |probe| Check {
            interval: Duration::from_millis(20),
            fast_interval: Duration::from_millis(20),
            ..check(probe)
        };
        let all = tried_often(
            &[
                (quick(Probe::Tcp), silent.local_addr().unwrap()),
                (quick(Probe::Tcp), greets.address),
                (quick(Probe::Http(http())), good.address),
                (quick(Probe::Http(http())), closes.address),
                (quick(Probe::Tcp), good.address),
            ],
            50,
        );
        assert!(all.iter().flatten().all(|report| report.result == Passing), "{all:#?}");
        assert_eq!(sockets("06"), 0, "TIME_WAIT");
        drop(silent);
        nothing_is_left();
    });
}
