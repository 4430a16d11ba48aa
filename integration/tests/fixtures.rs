//! The fixtures themselves, without an agent: what the other tests take for granted.

use integration::client::{ask, ask_connected, dial, udp};
use integration::server::{Backends, Kind, any_port};
use integration::{cgroup, host, lab, netns, sys};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::fs;
use std::net::SocketAddr;
use std::thread;

/// What the kernel says of the calling thread: its cgroup and its network namespace.
fn whereabouts() -> (String, String) {
    let cgroups = fs::read_to_string("/proc/thread-self/cgroup").expect("/proc is mounted");
    let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::")).expect("cgroup2");
    let netns = fs::read_link("/proc/thread-self/ns/net").expect("/proc is mounted");
    (cgroup.to_owned(), netns.display().to_string())
}

#[test]
fn a_lab_is_a_place_of_its_own() {
    let outside = whereabouts();
    let mut path = None;
    lab::run("fixtures", |lab| {
        let (cgroup, netns) = whereabouts();
        assert!(lab.cgroup().path().ends_with(cgroup.trim_start_matches('/')), "{cgroup}");
        assert_ne!(netns, outside.1);
        // Threads and processes begun here belong here.
        let thread = thread::spawn(whereabouts).join().unwrap();
        assert_eq!(thread, (cgroup.clone(), netns));
        let child = std::process::Command::new("cat").arg("/proc/self/cgroup").output().unwrap();
        let child = String::from_utf8(child.stdout).unwrap();
        assert!(child.lines().any(|line| line == format!("0::{cgroup}")), "{child}");
        path = Some((lab.cgroup().path().to_owned(), lab.scratch().to_owned()));
    });
    assert_eq!(whereabouts(), outside);
    let (cgroup, scratch) = path.unwrap();
    assert!(cgroup.starts_with(cgroup::mount_point()));
    assert!(!cgroup.exists() && !scratch.exists());
}

#[test]
fn a_failing_test_leaves_nothing_and_fails() {
    let mut path = None;
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        lab::run("failing", |lab| {
            path = Some(lab.cgroup().path().to_owned());
            let _backends = Backends::tcp("127.0.0.1", ["a"]);
            panic!("on purpose");
        });
    }));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"on purpose"));
    assert!(!path.unwrap().exists());
}

#[test]
fn tcp_backends_say_who_they_are() {
    lab::run("tcp", |_| {
        netns::add_address("10.1.0.1");
        netns::add_address("fd00:1::1");
        for ip in ["127.0.0.1", "10.1.0.1", "::1", "fd00:1::1"] {
            let backends = Backends::tcp(ip, ["a/0", "b/0"]);
            for (index, tag) in ["a/0", "b/0"].into_iter().enumerate() {
                let mut call = dial(backends.at(index)).unwrap();
                assert_eq!(call.tag, tag);
                assert_eq!(call.seen, call.stream.local_addr().unwrap());
                assert_eq!(call.peer(), backends.at(index));
                assert!(call.echoes("ping") && call.echoes("pong"));
            }
            assert_eq!(backends.hits(), [1, 1]);
        }
    });
}

#[test]
fn udp_backends_say_who_they_are() {
    lab::run("udp", |_| {
        let backends = Backends::udp("127.0.0.1", ["a", "b"]);
        let socket = udp("127.0.0.1:0");
        for (index, tag) in ["a", "b"].into_iter().enumerate() {
            let reply = ask(&socket, backends.at(index)).unwrap();
            assert_eq!((reply.tag.as_str(), reply.text.as_str()), (tag, "hello"));
            assert_eq!(
                (reply.source, reply.seen),
                (backends.at(index), socket.local_addr().unwrap())
            );
        }
        socket.connect(backends.at(1)).unwrap();
        assert_eq!(ask_connected(&socket).unwrap().tag, "b");
    });
}

#[test]
fn other_ways_to_connect_work_here() {
    lab::run("ways", |_| {
        netns::sysctl("ipv4/tcp_fastopen", "3");
        let has_mptcp = host::allows_mptcp();
        let any = any_port("127.0.0.1");
        let plain = Backends::start(Kind::Tcp, [(any, "plain")]);
        let mptcp = has_mptcp.then(|| Backends::start(Kind::Mptcp, [(any, "mptcp")]));
        let stream = |protocol| Socket::new(Domain::IPV4, Type::STREAM, Some(protocol)).unwrap();

        let uring = stream(Protocol::TCP);
        sys::io_uring_connect(&uring, plain.at(0)).unwrap();
        assert_eq!(integration::client::Call::over(uring).unwrap().tag, "plain");

        for backends in mptcp.iter().flat_map(|mptcp| [&plain, mptcp]) {
            let socket = stream(Protocol::MPTCP);
            socket.connect(&SockAddr::from(backends.at(0))).unwrap();
            assert_eq!(socket.protocol().unwrap(), Some(Protocol::MPTCP));
            integration::client::Call::over(socket).unwrap();
        }

        for _ in 0..2 {
            let socket = stream(Protocol::TCP);
            let to = SockAddr::from(plain.at(0));
            socket.send_to_with_flags(b"early", &to, libc::MSG_FASTOPEN).unwrap();
            integration::client::Call::over(socket).unwrap();
        }

        let socket = udp("127.0.0.1:0");
        socket.connect(plain.at(0)).unwrap();
        sys::disconnect(&socket).unwrap();
        let no_peer: Option<SocketAddr> =
            SockRef::from(&socket).peer_addr().ok().and_then(|a| a.as_socket());
        assert_eq!(no_peer, None);
    });
}
