//! A router that leads nowhere: a network namespace behind the test's own, with networks whose hosts
//! never answer, and others that it says it knows no way to.

use crate::netns::{self, ip, sysctl, tc};
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

/// Hosts that never answer.
pub const SILENT: [&str; 2] = ["203.0.113.1:80", "[fd00:5::1]:80"];
/// Hosts that the router knows no way to, and says so by ICMP.
pub const NO_WAY: [&str; 2] = ["198.51.100.1:80", "[fd00:6::1]:80"];

/// Bits that the line carries: slow, but no test sends much by it.
const RATE: &str = "400kbit";

/// The router, until it is dropped.
#[derive(Debug)]
pub struct Router {
    // Closing it is the signal to stop.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A silent host of the family.
pub fn silent(v4: bool) -> SocketAddr {
    SILENT[usize::from(!v4)].parse().expect("an address")
}

/// A host of the family that there is no way to.
pub fn no_way(v4: bool) -> SocketAddr {
    NO_WAY[usize::from(!v4)].parse().expect("an address")
}

impl Router {
    /// Puts a router before the calling thread's namespace.
    pub fn start() -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        let client = nix::unistd::gettid().to_string();
        let thread = thread::spawn(move || {
            netns::enter_new();
            ip(&["link", "add", "in", "type", "veth", "peer", "name", "out", "netns", &client]);
            ip(&["address", "add", "192.0.2.1/24", "dev", "in"]);
            ip(&["address", "add", "fd00:7::1/64", "dev", "in", "nodad"]);
            ip(&["link", "set", "in", "up"]);
            sysctl("ipv4/ip_forward", "1");
            sysctl("ipv6/conf/all/forwarding", "1");
            for (kind, v4, v6) in [
                ("blackhole", "203.0.113.0/24", "fd00:5::/64"),
                ("unreachable", "198.51.100.0/24", "fd00:6::/64"),
            ] {
                ip(&["route", "add", kind, v4]);
                ip(&["-6", "route", "add", kind, v6]);
            }
            ready.send(()).expect("the test waits");
            while stopped.recv().is_ok() {}
        });
        is_ready.recv().expect("the router can be made");
        ip(&["address", "add", "192.0.2.2/24", "dev", "out"]);
        ip(&["address", "add", "fd00:7::2/64", "dev", "out", "nodad"]);
        ip(&["link", "set", "out", "up"]);
        for (v4, v6) in [("203.0.113.0/24", "fd00:5::/64"), ("198.51.100.0/24", "fd00:6::/64")] {
            ip(&["route", "add", v4, "via", "192.0.2.1"]);
            ip(&["-6", "route", "add", v6, "via", "fd00:7::1"]);
        }
        tc(&[
            "qdisc", "add", "dev", "out", "root", "tbf", "rate", RATE, "burst", "1600", "limit",
            "1m",
        ]);
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// Keeps the line busy, so that what is sent next arrives some tenths of a second later, yet before it is sent
    /// again. Without that, it arrives while the system call still runs that sends it.
    pub fn keep_busy(&self) {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a UDP socket can be bound");
        for _ in 0..16 {
            socket.send_to(&[0; 1200], silent(true)).expect("the line takes a packet");
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop = None;
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) && !thread::panicking() {
            panic!("the router panicked");
        }
    }
}
