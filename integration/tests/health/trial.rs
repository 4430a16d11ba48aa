//! Trying checks on servers: the prober by itself, and servers that answer what they are told to.

use integration::wait::within;
use lb_agent::health::board::{CheckResult, Report, Target, Wanted};
use lb_agent::health::prober::{self, Settings};
use lb_agent::model::check::{Check, HttpProbe, Probe};
use socket2::SockRef;
use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime;

/// How long results may take, with both CPUs busy.
const DEADLINE: Duration = Duration::from_secs(30);

/// Serves each connection on a thread of its own, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

/// A check that gives a server time and is tried soon.
pub(crate) fn check(probe: Probe) -> Check {
    let (interval, timeout) = (Duration::from_millis(500), Duration::from_secs(8));
    Check { interval, fast_interval: interval, timeout, ..Check::new(probe) }
}

/// A check that soon loses its patience.
pub(crate) fn hasty(probe: Probe) -> Check {
    Check { timeout: Duration::from_millis(300), ..check(probe) }
}

/// A request for `/`.
pub(crate) fn http() -> HttpProbe {
    HttpProbe::default()
}

/// What each of the checks first says of its target, all tried by one prober.
#[track_caller]
pub(crate) fn tried(cases: &[(Check, SocketAddr)]) -> Vec<Report> {
    tried_until(cases, |reports| reports.values().all(|all| !all.is_empty()))
        .into_iter()
        .map(|mut reports| reports.remove(0))
        .collect()
}

/// What each of the checks says of its target again and again, until it was tried this often.
#[track_caller]
pub(crate) fn tried_often(cases: &[(Check, SocketAddr)], times: usize) -> Vec<Vec<Report>> {
    tried_until(cases, |reports| reports.values().all(|all| all.len() >= times))
}

/// What is said of the first target while the last was tried this often.
#[track_caller]
pub(crate) fn said_of_first(cases: &[(Check, SocketAddr)], times: usize) -> Vec<Report> {
    let last = cases.last().expect("there is a case").clone();
    let enough = |reports: &HashMap<Target, Vec<Report>>| {
        let last = reports.iter().find(|(t, _)| (&*t.check, t.address) == (&last.0, last.1));
        last.is_some_and(|(_, all)| all.len() >= times)
    };
    tried_until(cases, enough).remove(0)
}

#[track_caller]
fn tried_until(
    cases: &[(Check, SocketAddr)],
    enough: impl Fn(&HashMap<Target, Vec<Report>>) -> bool,
) -> Vec<Vec<Report>> {
    let target = |(check, address): &(Check, SocketAddr)| {
        let (address, backend) = (*address, *address);
        Target { address, backend, check: Arc::new(check.clone()) }
    };
    let targets: Vec<Target> = cases.iter().map(target).collect();
    let mut reports: HashMap<_, _> = targets.iter().map(|t| (t.clone(), Vec::new())).collect();
    assert_eq!(reports.len(), targets.len(), "two cases are the same");
    // On this thread, so that it is this thread's network that is dialled.
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let trying = async {
        let (wanted, mut results) = prober::spawn(Settings::default());
        let start = targets.clone();
        wanted.send(Wanted { start, stop: Vec::new() }).expect("the prober runs");
        while !enough(&reports) {
            for (target, report) in results.recv().await.expect("the prober runs") {
                reports.get_mut(&*target).expect("it was asked for").push(report);
            }
        }
    };
    let all = runtime.block_on(async { tokio::time::timeout(DEADLINE, trying).await });
    assert!(all.is_ok(), "not all have been tried after {DEADLINE:?}: {reports:#?}");
    targets.iter().map(|target| reports.remove(target).expect("each is its own")).collect()
}

/// That a report says this; `text` may end in `*`.
#[track_caller]
pub(crate) fn says(report: &Report, result: CheckResult, text: &str) {
    let fits = match text.strip_suffix('*') {
        Some(begin) => report.text.starts_with(begin),
        None => &*report.text == text,
    };
    assert!(fits && report.result == result, "not {result:?} `{text}`: {report:?}");
}

/// Sockets of this thread's network namespace that are in a state of `/proc/net/tcp`.
pub(crate) fn sockets(state: &str) -> usize {
    let of = |file: &str| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("/proc");
        text.lines().skip(1).filter(|line| line.split_whitespace().nth(3) == Some(state)).count()
    };
    of("tcp") + of("tcp6")
}

/// Waits until no connection is left, and says that none waits for its time.
#[track_caller]
pub(crate) fn nothing_is_left() {
    assert_eq!(sockets("06"), 0, "TIME_WAIT");
    let gone = within(DEADLINE, || (sockets("01") + sockets("08") == 0).then_some(()));
    assert!(gone.is_some(), "{} connections are left", sockets("01") + sockets("08"));
    assert_eq!(sockets("06"), 0, "TIME_WAIT");
}

/// Reads a request's headers.
pub(crate) fn request(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Waits until the other end has gone.
pub(crate) fn hang(stream: &mut impl Read) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
}

/// Writes until the other end has gone or the time is over; returns how many bytes that were.
pub(crate) fn flood(stream: &mut impl Write, part: &[u8]) -> usize {
    let begin = Instant::now();
    let mut written = 0;
    while begin.elapsed() < DEADLINE && stream.write_all(part).is_ok() {
        written += part.len();
    }
    written
}

// === impl Server ===

impl Server {
    pub(crate) fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let door = listener.try_clone().expect("a socket can be duplicated");
        let serve = Arc::new(serve);
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = door.accept() {
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Self { address, listener, thread: Some(thread) }
    }

    /// Answers each request with this.
    pub(crate) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |mut stream| {
            request(&mut stream);
            // The client may have gone.
            let _ = stream.write_all(&answer);
            hang(&mut stream);
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes who waits for a connection.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
