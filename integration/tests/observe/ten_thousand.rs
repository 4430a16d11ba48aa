//! All that people look at, with 10,000 services of 10 backends: quick enough, and within bounds of
//! memory, also where clients are slow. The times count where the programs are optimised.

use super::metrics::{ask_metrics, scrape};
use super::page;
use integration::agent::Agent;
use integration::http::ask;
use integration::lab::{self, Lab};
use integration::large::{EACH, Large, SERVICES};
use integration::process::{Memory, binary};
use integration::wait::{eventually, let_pass};
use socket2::{Domain, Socket, Type};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);
/// How long `/metrics` may take.
const METRICS: Duration = Duration::from_millis(200);
/// How long `lbctl backends` may take, from its start to its end.
const BACKENDS: Duration = Duration::from_millis(100);
/// Clients that take their answers slowly: as many as are served at a time over HTTP.
const SLOW: usize = 64;
/// Those of the table, which has to be drawn for each.
const SLOW_TABLES: usize = 12;
/// Kilobytes that the agent may grow by for them. An answer of `/v1/services` for each would be ten
/// times as much.
const FOR_SLOW: u64 = 160 * 1024;
/// Bytes that a slow client's kernel takes for it.
const TAKEN: usize = 4096;

/// Where the agent listens if nothing is said.
fn address() -> SocketAddr {
    ([127, 0, 0, 1], 9777).into()
}

#[test]
fn what_people_look_at() {
    lab::run("ten-thousand", |lab| {
        let mut large = Large::fill(lab);
        let (agent, _) = large.start_agent();
        metrics_are_quick();
        backends_are_quick(lab);
        slow_clients_take_little_memory(lab, &agent);
        page::ten_thousand_services(lab, SERVICES + 1, || {
            large.add(0);
        });
    });
}

#[track_caller]
fn metrics_are_quick() {
    let metrics = scrape();
    assert_eq!(metrics.value("lb_services", &[]), Some(f64::from(SERVICES + 1)));
    let all = f64::from(SERVICES * EACH + 1);
    assert_eq!(metrics.value("lb_backends", &[("state", "serving")]), Some(all));
    let mut size = 0;
    let times = times(|| {
        // An answer is given again for a moment.
        let_pass(Duration::from_millis(600));
        let begin = Instant::now();
        size = ask_metrics("").body.len();
        begin.elapsed()
    });
    expect_quick(&format!("/metrics, {size} bytes"), times, METRICS);
}

#[track_caller]
fn backends_are_quick(lab: &Lab) {
    let path = lab.scratch().join("backends");
    let show = |arguments: &[&str]| {
        let file = File::create(&path).expect("the scratch directory is writable");
        let mut command = Command::new(binary("lbctl"));
        command.arg("--socket").arg(lab.socket()).args(arguments);
        let begin = Instant::now();
        let status = command.stdin(Stdio::null()).stdout(file).status();
        let took = begin.elapsed();
        assert!(status.expect("lbctl can be started").success(), "{arguments:?}");
        took
    };
    let rows = || {
        let text = fs::read_to_string(&path).expect("lbctl has written it");
        let rows = text.lines().filter(|line| line.contains("172.16.")).count();
        (rows, text.len())
    };
    // Not optimised, the agent draws for longer than `lbctl` waits.
    if !cfg!(debug_assertions) {
        let all = times(|| show(&["backends"]));
        let (shown, size) = rows();
        // The other addresses begin with 172.17.
        assert_eq!(shown, 65_536, "of {}", SERVICES * EACH);
        expect_quick(&format!("lbctl backends, {size} bytes"), all, BACKENDS);
    }
    let one = times(|| show(&["backends", "s17"]));
    assert_eq!(rows().0, EACH as usize);
    expect_quick("lbctl backends SERVICE", one, BACKENDS / 2);
}

/// Whoever is slow gets their answer in pieces, or is asked to come again: nobody's waits as a whole.
#[track_caller]
fn slow_clients_take_little_memory(lab: &Lab, agent: &Agent<'_>) {
    let grown = |before: Memory| Memory::of(agent.pid()).now.saturating_sub(before.now);
    for path in ["/v1/services", "/metrics"] {
        let before = Memory::of(agent.pid());
        let clients = slow(path, SLOW, connect);
        let grown = grown(before);
        report(&format!("{SLOW} slow clients of {path}: {grown} kB"));
        assert!(grown < FOR_SLOW, "{path}: {grown} kB");
        drop(clients);
        eventually("room for others", DEADLINE, || {
            ask(address(), "GET /metrics", "").is_ok_and(|answer| answer.code == 200)
        });
    }
    for (path, count) in [("/v1/services", SLOW), ("/v1/backends", SLOW_TABLES)] {
        let before = Memory::of(agent.pid());
        let connect = || UnixStream::connect(lab.socket()).expect("the agent listens");
        let clients = slow(path, count, connect);
        let grown = grown(before);
        report(&format!("{count} slow clients of {path} on the socket: {grown} kB"));
        assert!(grown < FOR_SLOW, "{path}: {grown} kB");
        drop(clients);
        eventually("room for others", DEADLINE, || lab.lbctl(&["backends", "s17"]).code == Some(0));
    }
    // Somebody who is merely slow gets the whole.
    let mut stream = TcpStream::connect(address()).expect("the agent listens");
    stream.write_all(b"GET /v1/services HTTP/1.0\r\n\r\n").expect("a short request");
    let mut answer = Vec::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let read = stream.read(&mut piece).expect("the answer goes on");
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..read]);
        let_pass(Duration::from_millis(2));
    }
    let text = String::from_utf8(answer).expect("JSON is text");
    let (_, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(body.starts_with("[{") && body.ends_with("}]"), "it is not whole");
    let told = body.matches("{\"name\":").count();
    assert_eq!(told, SERVICES as usize + 1);
}

fn connect() -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
    socket.set_recv_buffer_size(TAKEN).expect("it may be small");
    socket.connect(&address().into()).expect("the agent listens");
    socket.into()
}

/// Clients that have the beginning of an answer and take no more of it for now.
#[track_caller]
fn slow<S: Read + Write>(path: &str, count: usize, connect: impl Fn() -> S) -> Vec<S> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let ask = |_| {
        let mut stream = connect();
        stream.write_all(request.as_bytes()).expect("a short request");
        stream
    };
    let mut clients: Vec<S> = (0..count).map(ask).collect();
    let mut refused = 0;
    for client in &mut clients {
        let mut head = [0; 12];
        client.read_exact(&mut head).expect("an answer begins");
        match &head {
            b"HTTP/1.1 200" => {}
            b"HTTP/1.1 503" => refused += 1,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert!(refused < count, "nobody got {path}");
    clients
}

/// How often a thing is measured: the least counts, since others want the processors, too.
fn times(mut measure: impl FnMut() -> Duration) -> Vec<Duration> {
    (0..if cfg!(debug_assertions) { 1 } else { 7 }).map(|_| measure()).collect()
}

#[track_caller]
fn expect_quick(what: &str, times: Vec<Duration>, bound: Duration) {
    let best = times.iter().min().copied().unwrap_or_default();
    report(&format!("{what}: at best {best:.0?} of {times:.0?}"));
    if !cfg!(debug_assertions) {
        assert!(best < bound, "{what}: at best {best:?} of {times:?}, not {bound:?}");
    }
}

#[expect(clippy::print_stdout, reason = "the numbers are for whoever runs the test to read")]
pub(super) fn report(text: &str) {
    println!("10,000 services: {text}");
}
