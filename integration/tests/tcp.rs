//! TCP: every way to connect reaches a backend, and the caller sees the frontend it dialled.

use integration::agent::Agent;
use integration::client::{Call, cookie, dial, ended};
use integration::host;
use integration::lab;
use integration::netns;
use integration::server::{Backends, Kind, any_port};
use integration::spec::{service, services};
use integration::sys;
use integration::tables::frontend_of;
use integration::wait::eventually;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::SocketAddr;
use std::time::Duration;

const VIP4: &str = "10.96.0.10:80";
const VIP6: &str = "[fd00:96::10]:80";
const MAPPED: &str = "[::ffff:10.96.0.10]:80";

/// What differs between the families.
struct Case {
    /// What the service lists.
    frontend: &'static str,
    /// What the client dials, and what it must see as its peer.
    dialled: &'static str,
    /// Where the backend is.
    backend_ip: &'static str,
}

const CASES: [Case; 3] = [
    Case { frontend: VIP4, dialled: VIP4, backend_ip: "127.0.0.1" },
    Case { frontend: VIP6, dialled: VIP6, backend_ip: "::1" },
    Case { frontend: VIP4, dialled: MAPPED, backend_ip: "127.0.0.1" },
];

/// Runs `connect`, which is given a fresh socket and the address to dial and returns it connected,
/// against a service of each family, and checks what everybody sees.
#[track_caller]
fn each_family(
    name: &str,
    protocol: Protocol,
    kind: Kind,
    connect: impl Fn(&Socket, SocketAddr) + Sync,
) {
    lab::run(name, |lab| {
        netns::sysctl("ipv4/tcp_fastopen", "3");
        if !host::stream_protocols().contains(&protocol) {
            return;
        }
        let v4 = Backends::start(kind, [(any_port("127.0.0.1"), "web/4")]);
        let v6 = Backends::start(kind, [(any_port("::1"), "web/6")]);
        let web = service("web").frontend(VIP4).frontend(VIP6).backend(v4.at(0)).backend(v6.at(0));
        let agent = Agent::start(lab, &services(&[web]));
        for Case { frontend, dialled, backend_ip } in CASES {
            let to = addr(dialled);
            let backends = if backend_ip == "::1" { &v6 } else { &v4 };
            let tag = if backend_ip == "::1" { "web/6" } else { "web/4" };
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))
                .expect("a socket");
            connect(&socket, to);
            let key = cookie(&socket);
            let mut call = Call::over(socket).expect("a greeting");

            assert_eq!(call.tag, tag, "{dialled}");
            assert_eq!(call.peer(), to, "{dialled}: peer name");
            let local = call.stream.local_addr().expect("a local address");
            assert_eq!(
                call.seen,
                canonical(local),
                "{dialled}: the backend sees the client itself"
            );
            assert_eq!(call.seen.ip().to_string(), backend_ip);
            assert!(call.echoes("through"), "{dialled}");
            agent.expect_active(1);
            assert_eq!(agent.backend("web", backends.at(0)).active, 1, "{dialled}");
            // MPTCP sockets are remembered on the socket itself.
            if protocol == Protocol::TCP {
                let row = agent.tables().connection(key).expect("a row for the socket");
                assert_eq!(frontend_of(&row), addr(frontend), "{dialled}");
                assert_eq!(agent.tables().backend_of(key), Some(backends.at(0)), "{dialled}");
            }
            drop(call);
            agent.expect_no_connections();
        }
        let connects: u64 = agent.service("web").backends.iter().map(|b| b.connects).sum();
        assert_eq!(connects, CASES.len() as u64);
        assert_eq!(agent.service("web").counters.connects, CASES.len() as u64);
    });
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn wait_writable(socket: &Socket) {
    ended(socket).expect("it connects");
}

#[test]
fn blocking() {
    each_family("blocking", Protocol::TCP, Kind::Tcp, |socket, to| {
        socket.connect(&SockAddr::from(to)).unwrap();
    });
}

#[test]
fn non_blocking() {
    each_family("non-blocking", Protocol::TCP, Kind::Tcp, |socket, to| {
        socket.set_nonblocking(true).unwrap();
        let begun = socket.connect(&SockAddr::from(to));
        assert_eq!(begun.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        wait_writable(socket);
    });
}

/// connect(2) is never called: sendto(2) does it. See also `fast_open_carries_data`.
#[test]
fn fast_open() {
    each_family("fast-open", Protocol::TCP, Kind::Tcp, |socket, to| {
        let sent = socket.send_to_with_flags(b"", &SockAddr::from(to), libc::MSG_FASTOPEN);
        assert_eq!(sent.unwrap(), 0);
    });
}

#[test]
fn io_uring() {
    each_family("io-uring", Protocol::TCP, Kind::Tcp, |socket, to| {
        sys::io_uring_connect(socket, to).unwrap();
    });
}

#[test]
fn mptcp_to_mptcp() {
    each_family("mptcp-mptcp", Protocol::MPTCP, Kind::Mptcp, |socket, to| {
        socket.connect(&SockAddr::from(to)).unwrap();
        assert_eq!(socket.protocol().unwrap(), Some(Protocol::MPTCP));
    });
}

/// The backend knows no MPTCP: the connection falls back to TCP, the socket stays an MPTCP one.
#[test]
fn mptcp_to_tcp() {
    each_family("mptcp-tcp", Protocol::MPTCP, Kind::Tcp, |socket, to| {
        socket.connect(&SockAddr::from(to)).unwrap();
        assert_eq!(socket.protocol().unwrap(), Some(Protocol::MPTCP));
    });
}

/// A second subflow connects by itself, to the backend's own address, and passes the hook like any
/// connect: it must not end what is remembered of the connection.
#[test]
fn a_further_mptcp_subflow() {
    lab::run("mptcp-join", |lab| {
        if !host::allows_mptcp() {
            return;
        }
        netns::add_address("10.1.0.1");
        netns::add_address("10.1.0.2");
        netns::mptcp_subflows_from("10.1.0.2");
        let backends = Backends::start(Kind::Mptcp, [(any_port("10.1.0.1"), "web")]);
        let web = service("web").frontend(VIP4).backend(backends.at(0));
        let agent = Agent::start(lab, &services(&[web]));
        let joined = netns::counter("MPTcpExt", "MPJoinAckRx");
        let to = addr(VIP4);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).unwrap();
        socket.connect(&SockAddr::from(to)).unwrap();
        let mut call = Call::over(socket).unwrap();
        eventually("a second subflow", Duration::from_secs(10), || {
            netns::counter("MPTcpExt", "MPJoinAckRx") > joined
        });
        assert!(call.echoes("through"));
        assert_eq!(call.peer(), to, "peer name after the join");
        agent.expect_active(1);
        drop(call);
        agent.expect_no_connections();
    });
}

/// A service of mixed families: each frontend gets the backends of its own.
#[test]
fn families_stay_apart() {
    lab::run("families", |lab| {
        let v4 = Backends::tcp("127.0.0.1", ["web/4"]);
        let v6 = Backends::tcp("::1", ["web/6"]);
        let web = service("web").frontend(VIP4).frontend(VIP6).backend(v4.at(0)).backend(v6.at(0));
        let _agent = Agent::start(lab, &services(&[web]));
        for _ in 0..50 {
            assert_eq!(dial(addr(VIP4)).unwrap().tag, "web/4");
            assert_eq!(dial(addr(VIP6)).unwrap().tag, "web/6");
        }
    });
}

/// Data in the very first packet reaches the backend, and the socket sees the frontend.
#[test]
fn fast_open_carries_data() {
    lab::run("fast-open-data", |lab| {
        netns::sysctl("ipv4/tcp_fastopen", "3");
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let web = service("web").frontend(VIP4).backend(backends.at(0));
        let _agent = Agent::start(lab, &services(&[web]));
        let to = addr(VIP4);
        for _ in 0..3 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let sent = socket.send_to_with_flags(b"early", &to.into(), libc::MSG_FASTOPEN).unwrap();
            assert_eq!(sent, 5);
            let mut call = Call::over(socket).unwrap();
            assert_eq!((call.tag.as_str(), call.peer()), ("web", to));
            let mut echoed = [0; 5];
            std::io::Read::read_exact(&mut call.stream, &mut echoed).unwrap();
            assert_eq!(&echoed, b"early");
        }
    });
}
