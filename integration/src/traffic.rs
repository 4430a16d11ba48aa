//! Clients that dial services all the time, and know who may answer. Every failed connect is kept
//! with its time, and so is every answer by a backend that belonged to the service at no time
//! between the connect's start and its end. With a complaint comes what the kernel has counted meanwhile.

mod counters;

use self::counters::Counters;
use crate::client::{Ports, ask, ask_connected, dial, udp};
use crate::wait::{eventually, let_pass};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two connects of one client: many tests share two CPUs.
const PAUSE: Duration = Duration::from_millis(10);
/// How many complaints are kept in full.
const KEPT: usize = 20;
const DEADLINE: Duration = Duration::from_secs(20);

/// How a client reaches its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A TCP connection each time.
    Tcp,
    /// A connected UDP socket each time.
    Connected,
    /// An unconnected UDP socket each time.
    Unconnected,
    /// One unconnected UDP socket for ever, which keeps its backend while that is a member.
    Kept,
}

/// Clients of some services; they end when this is dropped.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<Client>,
    counters: Vec<Counters>,
}

#[derive(Debug)]
struct Client {
    line: Arc<Line>,
    thread: Option<JoinHandle<()>>,
}

/// What a client does, and how far it has got.
#[derive(Debug)]
struct Line {
    way: Way,
    to: SocketAddr,
    answers: AtomicU64,
    /// How often a socket was ended because its backend left.
    ended: AtomicU64,
    ports: Ports,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    stop: AtomicBool,
    members: Mutex<BTreeMap<SocketAddr, Vec<Member>>>,
    complaints: Mutex<Vec<String>>,
    complained: AtomicU64,
}

/// A backend that may answer for a service during a time.
#[derive(Debug)]
struct Member {
    tag: String,
    from: Instant,
    until: Option<Instant>,
    /// Whether it may be leaving: what is connected to it may be ended.
    leaving: bool,
}

/// An answer: who gave it, and who the client's socket says it came from.
struct Answer {
    tag: String,
    source: SocketAddr,
}

// === impl Traffic ===

impl Default for Traffic {
    fn default() -> Self {
        let shared = Shared {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            members: Mutex::default(),
            complaints: Mutex::default(),
            complained: AtomicU64::new(0),
        };
        let counters = vec![Counters::of("here".to_owned())];
        Self { shared: Arc::new(shared), clients: Vec::new(), counters }
    }
}

impl Traffic {
    /// From now on the backend with this tag may answer for the service at `to`. Said before the
    /// backend is published.
    pub fn joins(&self, to: SocketAddr, tag: impl Into<String>) {
        let member = Member { tag: tag.into(), from: Instant::now(), until: None, leaving: false };
        self.shared.members(|members| members.entry(to).or_default().push(member));
    }

    /// From now on the backend with this tag may leave the service at `to`, which ends UDP sockets that are
    /// connected to it. Said before it does.
    #[track_caller]
    pub fn may_leave(&self, to: SocketAddr, tag: &str) {
        self.member(to, tag, |member| member.leaving = true);
    }

    /// The backend with this tag may answer for the service at `to` until then, and no longer.
    #[track_caller]
    pub fn leaves(&self, to: SocketAddr, tag: &str, until: Instant) {
        self.member(to, tag, |member| member.until = Some(until));
    }

    #[track_caller]
    fn member(&self, to: SocketAddr, tag: &str, with: impl FnOnce(&mut Member)) {
        let known = self.shared.members(|members| {
            let mut all = members.get_mut(&to).into_iter().flatten();
            let member = all.find(|member| member.tag == tag && member.until.is_none())?;
            with(member);
            Some(())
        });
        assert!(known.is_some(), "{tag} is no backend at {to}");
    }

    /// A complaint is to tell what was counted from now on in the calling thread's network namespace, by this
    /// name. That of who made this and those of clients are told of anyway.
    pub fn watch(&mut self, name: impl Into<String>) {
        if !self.counters.iter().any(Counters::are_here) {
            self.counters.push(Counters::of(name.into()));
        }
    }

    /// Begins to dial; the client has the calling thread's namespace and cgroup.
    pub fn dial(&mut self, way: Way, to: SocketAddr) {
        self.watch(format!("who dials {to}"));
        // Those who ask the same service in other ways have other ports.
        let ports = Ports::after(u16::try_from(self.clients.len() * 1000).unwrap_or_default());
        let line =
            Arc::new(Line { way, to, answers: AtomicU64::new(0), ended: AtomicU64::new(0), ports });
        let (shared, own) = (Arc::clone(&self.shared), Arc::clone(&line));
        let thread = thread::spawn(move || shared.run(&own));
        self.clients.push(Client { line, thread: Some(thread) });
    }

    /// Waits until every client has had this many more answers.
    #[track_caller]
    pub fn goes_on(&self, answers: u64) {
        let count = |client: &Client| client.line.answers.load(Ordering::Relaxed);
        let before: Vec<u64> = self.clients.iter().map(count).collect();
        eventually("every client to be answered", DEADLINE, || {
            self.expect_no_complaint();
            self.clients
                .iter()
                .zip(&before)
                .all(|(client, so_far)| count(client) >= so_far + answers)
        });
    }

    /// Panics if any connect has failed or ended up at the wrong backend.
    #[track_caller]
    pub fn expect_no_complaint(&self) {
        let number = self.shared.complained.load(Ordering::Relaxed);
        if number > 0 {
            let complaints = self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner);
            let counted = self.counted();
            panic!(
                "{number} of {self} went wrong: {complaints:#?}; the kernel counted {counted:#?}"
            );
        }
    }

    /// What the kernel has counted since, of packets that came to nothing.
    fn counted(&self) -> Vec<String> {
        self.counters.iter().filter_map(Counters::told).collect()
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Client { line, .. }) in self.clients.iter().enumerate() {
            let answers = line.answers.load(Ordering::Relaxed);
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{answers} {:?} to {}", line.way, line.to)?;
        }
        Ok(())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in &mut self.clients {
            let ended = client.thread.take().map(JoinHandle::join);
            if matches!(ended, Some(Err(_))) && !thread::panicking() {
                panic!("a client panicked");
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    fn run(&self, line: &Line) {
        let kept = line.kept_socket();
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer = line.ask(kept.as_ref());
            self.judge(line, begun, answer);
            let_pass(PAUSE);
        }
    }

    fn judge(&self, line: &Line, begun: Instant, answer: io::Result<Answer>) {
        let ended = Instant::now();
        let wrong = match answer {
            Err(error) if self.is_ended(line, begun, &error) => return,
            Err(error) => error.to_string(),
            Ok(Answer { source, .. }) if source != line.to => format!("the peer is {source}"),
            Ok(Answer { tag, .. }) => match self.misplaced(line.to, &tag, begun, ended) {
                None => {
                    line.answers.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Some(wrong) => wrong,
            },
        };
        self.complained.fetch_add(1, Ordering::Relaxed);
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < KEPT {
            let (way, to) = (line.way, line.to);
            let (from, until) = (begun - self.begun, ended - self.begun);
            complaints.push(format!("{from:.3?}..{until:.3?} {way:?} to {to}: {wrong}"));
        }
    }

    /// Whether a socket was ended because its backend left while it waited for an answer. A client waits for one
    /// answer at a time, so each backend that leaves can end one of its sockets.
    fn is_ended(&self, line: &Line, begun: Instant, error: &io::Error) -> bool {
        if line.way != Way::Connected || error.kind() != io::ErrorKind::ConnectionAborted {
            return false;
        }
        let leaves =
            |member: &Member| member.leaving && member.until.is_none_or(|until| until >= begun);
        self.members(|members| {
            let of_service = members.get(&line.to).into_iter().flatten();
            let leaving: Vec<&Member> = of_service.filter(|member| member.leaving).collect();
            let so_far = line.ended.load(Ordering::Relaxed);
            let may_be = so_far < leaving.len() as u64 && leaving.iter().copied().any(leaves);
            // Only the client itself counts.
            line.ended.store(so_far + u64::from(may_be), Ordering::Relaxed);
            may_be
        })
    }

    /// What is wrong if the backend with this tag answers a connect of this time.
    fn misplaced(
        &self,
        to: SocketAddr,
        tag: &str,
        begun: Instant,
        ended: Instant,
    ) -> Option<String> {
        self.members(|members| {
            let of_service = members.get(&to).into_iter().flatten();
            let known: Vec<&Member> = of_service.filter(|member| member.tag == tag).collect();
            let overlaps = |member: &Member| {
                member.from <= ended && member.until.is_none_or(|until| until >= begun)
            };
            if known.iter().copied().any(overlaps) {
                return None;
            }
            let until = known.iter().filter_map(|member| member.until).max();
            Some(match until {
                Some(until) if until < begun => format!("{tag}, {:.3?} too late", begun - until),
                _ => format!("{tag}, which never was a backend of it"),
            })
        })
    }

    fn members<T>(&self, with: impl FnOnce(&mut BTreeMap<SocketAddr, Vec<Member>>) -> T) -> T {
        with(&mut self.members.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Line ===

impl Line {
    fn kept_socket(&self) -> Option<UdpSocket> {
        (self.way == Way::Kept).then(|| udp(&format!("{}:0", self.any())))
    }

    fn ask(&self, kept: Option<&UdpSocket>) -> io::Result<Answer> {
        let reply = match (self.way, kept) {
            (Way::Tcp, _) => {
                let call = dial(self.to)?;
                let source = call.stream.peer_addr()?;
                return Ok(Answer { tag: call.tag, source });
            }
            (Way::Connected, _) => {
                let socket = self.ports.udp(self.any())?;
                socket.connect(self.to)?;
                ask_connected(&socket)?
            }
            (_, Some(socket)) => ask(socket, self.to)?,
            (_, None) => ask(&self.ports.udp(self.any())?, self.to)?,
        };
        Ok(Answer { tag: reply.tag, source: reply.source })
    }

    fn any(&self) -> &'static str {
        if self.to.is_ipv4() { "0.0.0.0" } else { "[::]" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab;
    use crate::server::{Backends, Kind};

    fn complaint(traffic: &Traffic) -> String {
        traffic.shared.complaints.lock().unwrap().join("\n")
    }

    #[test]
    fn answers_are_judged_by_membership() {
        let servers = Backends::tcp("127.0.0.1", ["a"]);
        let to = servers.at(0);
        let mut traffic = Traffic::default();
        traffic.joins(to, "a");
        traffic.dial(Way::Tcp, to);
        traffic.goes_on(3);
        traffic.leaves(to, "a", Instant::now());
        eventually("a complaint", DEADLINE, || complaint(&traffic).contains("a, "));
        assert!(complaint(&traffic).contains("too late"), "{}", complaint(&traffic));
    }

    #[test]
    fn one_socket_of_each_client_may_end_with_its_backend() {
        let traffic = Traffic::default();
        let to = "127.0.0.1:53".parse().unwrap();
        let line = |way| Line {
            way,
            to,
            answers: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            ports: Ports::after(0),
        };
        let (connected, kept) = (line(Way::Connected), line(Way::Kept));
        let begun = Instant::now();
        let is_ended = |line: &Line, kind: io::ErrorKind| {
            traffic.shared.is_ended(line, begun, &io::Error::from(kind))
        };
        traffic.joins(to, "a");
        traffic.joins(to, "b");
        assert!(!is_ended(&connected, io::ErrorKind::ConnectionAborted), "nobody leaves");
        traffic.may_leave(to, "a");
        assert!(!is_ended(&connected, io::ErrorKind::ConnectionRefused), "by something else");
        assert!(!is_ended(&kept, io::ErrorKind::ConnectionAborted), "it is not connected");
        assert!(is_ended(&connected, io::ErrorKind::ConnectionAborted));
        assert!(!is_ended(&connected, io::ErrorKind::ConnectionAborted), "once");
        traffic.leaves(to, "a", Instant::now());
        traffic.may_leave(to, "b");
        assert!(is_ended(&connected, io::ErrorKind::ConnectionAborted), "and once by another");
    }

    #[test]
    fn strangers_and_failures_are_told() {
        let servers = Backends::start(Kind::Udp, [("127.0.0.1:0".parse().unwrap(), "a")]);
        for way in [Way::Connected, Way::Unconnected, Way::Kept] {
            let mut traffic = Traffic::default();
            traffic.dial(way, servers.at(0));
            eventually("a complaint", DEADLINE, || complaint(&traffic).contains("never was"));
        }
        let closed = Backends::tcp("127.0.0.1", ["gone"]).at(0);
        let mut traffic = Traffic::default();
        traffic.dial(Way::Tcp, closed);
        eventually("a complaint", DEADLINE, || complaint(&traffic).contains("refused"));
    }

    #[test]
    fn what_the_kernel_counts_is_told() {
        lab::run("traffic-counters", |_| {
            let traffic = Traffic::default();
            assert_eq!(traffic.counted(), [""; 0]);
            let socket = udp("127.0.0.1:0");
            socket.send_to(b"x", "127.0.0.1:9").expect("it goes nowhere");
            eventually("it to be counted", DEADLINE, || {
                let counted = traffic.counted();
                counted.len() == 1 && counted[0].contains("Udp NoPorts 1")
            });
        });
    }
}
