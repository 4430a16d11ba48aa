//! The same socket again, and sockets that share a backend: nobody inherits another's translation.

use integration::agent::Agent;
use integration::client::{Call, ask, ask_connected, cookie, dial, udp};
use integration::host;
use integration::lab;
use integration::server::Backends;
use integration::spec::{service, services};
use integration::sys;
use integration::tables::frontend_of;
use integration::wait::patience;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const A: &str = "10.96.0.10:80";
const B: &str = "10.96.0.20:80";
const A6: &str = "[fd00:96::10]:80";
const MAPPED_A: &str = "[::ffff:10.96.0.10]:80";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// The connections that the kernel counts for `service`.
fn active(agent: &Agent<'_>, service: &str) -> u64 {
    agent.service(service).backends.iter().map(|backend| backend.active).sum()
}

#[test]
fn udp_disconnects_and_dials_another_frontend() {
    lab::run("reuse-udp", |lab| {
        let (a, b) = (Backends::udp("127.0.0.1", ["a"]), Backends::udp("127.0.0.1", ["b"]));
        let agent = Agent::start(
            lab,
            &services(&[
                service("a").udp(A).backend(a.at(0)),
                service("b").udp(B).backend(b.at(0)),
            ]),
        );
        let socket = udp("0.0.0.0:0");
        for disconnect in [true, false, true] {
            for (frontend, tag) in [(A, "a"), (B, "b")] {
                if disconnect {
                    sys::disconnect(&socket).unwrap();
                    assert!(socket.peer_addr().is_err());
                }
                socket.connect(addr(frontend)).unwrap();
                assert_eq!(socket.peer_addr().unwrap(), addr(frontend));
                let reply = ask_connected(&socket).unwrap();
                assert_eq!((reply.tag.as_str(), reply.source), (tag, addr(frontend)));
                agent.expect_active(1);
                assert_eq!(active(&agent, tag), 1, "counted for the one it is connected to");
            }
        }
        drop(socket);
        agent.expect_no_connections();
    });
}

#[test]
fn tcp_disconnects_and_dials_another_frontend() {
    lab::run("reuse-tcp", |lab| {
        let (a, b) = (Backends::tcp("127.0.0.1", ["a"]), Backends::tcp("127.0.0.1", ["b"]));
        let agent = Agent::start(
            lab,
            &services(&[
                service("a").frontend(A).backend(a.at(0)),
                service("b").frontend(B).backend(b.at(0)),
            ]),
        );
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let key = cookie(&socket);
        for (frontend, tag) in [(A, "a"), (B, "b"), (A, "a")] {
            socket.connect(&addr(frontend).into()).unwrap();
            assert_eq!(greeting_tag(&socket), tag);
            assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(addr(frontend)));
            let row = agent.tables().connection(key).unwrap();
            assert_eq!(frontend_of(&row), addr(frontend));
            agent.expect_active(1);
            assert_eq!(active(&agent, tag), 1);
            sys::disconnect(&socket).unwrap();
        }
        drop(socket);
        agent.expect_no_connections();
    });
}

/// Reads a greeting without giving the socket away.
fn greeting_tag(socket: &Socket) -> String {
    let patience = Duration::from_secs(5) * patience();
    socket.set_read_timeout(Some(patience)).expect("a socket takes a timeout");
    let mut stream = TcpStream::from(socket.try_clone().expect("a descriptor can be duplicated"));
    let mut buffer = [0; 256];
    let length = stream.read(&mut buffer).expect("a backend greets");
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// After a frontend, the socket dials an address that is none: even if it is the very backend, the
/// peer is what was dialled, and the connection is no longer counted.
#[test]
fn a_direct_address_after_a_frontend() {
    lab::run("reuse-direct", |lab| {
        let v4 = Backends::udp("127.0.0.1", ["a/4"]);
        let v6 = Backends::udp("::1", ["a/6"]);
        let a = service("a").udp(A).udp(A6).backend(v4.at(0)).backend(v6.at(0));
        let agent = Agent::start(lab, &services(&[a]));
        for (frontend, local, backend) in [(A, "0.0.0.0:0", v4.at(0)), (A6, "[::]:0", v6.at(0))] {
            let socket = udp(local);
            for _ in 0..2 {
                socket.connect(addr(frontend)).unwrap();
                assert_eq!(socket.peer_addr().unwrap(), addr(frontend));
                agent.expect_active(1);
                socket.connect(backend).unwrap();
                assert_eq!(socket.peer_addr().unwrap(), backend);
                assert_eq!(ask_connected(&socket).unwrap().source, backend);
                agent.expect_no_connections();
            }
        }
    });
}

/// An unconnected socket that writes to a backend's own address gets its reply from there.
#[test]
fn a_direct_datagram_after_a_frontend() {
    lab::run("reuse-sendto", |lab| {
        let backends = Backends::udp("127.0.0.1", ["a"]);
        let _agent = Agent::start(lab, &services(&[service("a").udp(A).backend(backends.at(0))]));
        for (local, frontend, direct) in [
            ("0.0.0.0:0", addr(A), backends.at(0)),
            ("[::]:0", addr(MAPPED_A), mapped(backends.at(0))),
        ] {
            let socket = udp(local);
            for _ in 0..3 {
                assert_eq!(ask(&socket, frontend).unwrap().source, frontend);
                assert_eq!(ask(&socket, direct).unwrap().source, direct);
            }
        }
    });
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

#[test]
fn a_retry_after_a_refusal() {
    lab::run("reuse-refused", |lab| {
        let tcp = Backends::tcp("127.0.0.1", ["a"]);
        let udp_backend = Backends::udp("127.0.0.1", ["u"]);
        let empty = [service("a").frontend(A), service("u").udp(B)];
        let agent = Agent::start(lab, &services(&empty));
        let stream = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let datagram = udp("0.0.0.0:0");
        for _ in 0..3 {
            let refused = stream.connect(&SockAddr::from(addr(A))).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(host::errno(libc::ECONNREFUSED)));
            let refused = datagram.connect(addr(B)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(host::errno(libc::ECONNREFUSED)));
        }
        let [a, u] = empty;
        agent.reload(&services(&[a.backend(tcp.at(0)), u.backend(udp_backend.at(0))]));
        stream.connect(&SockAddr::from(addr(A))).unwrap();
        datagram.connect(addr(B)).unwrap();
        assert_eq!(stream.peer_addr().unwrap().as_socket(), Some(addr(A)));
        assert_eq!(datagram.peer_addr().unwrap(), addr(B));
        assert_eq!(Call::over(stream).unwrap().tag, "a");
        assert_eq!(ask_connected(&datagram).unwrap().tag, "u");
    });
}

/// Every send() of such a socket runs the hook of unconnected ones, with the backend's address: it
/// must not be taken for a direct datagram that ends the translation.
#[test]
fn connected_v6_socket_with_a_v4_mapped_peer() {
    lab::run("reuse-mapped", |lab| {
        let backends = Backends::udp("127.0.0.1", (0..4).map(|index| format!("a/{index}")));
        let a = service("a").udp(A).backends(backends.addresses());
        let agent = Agent::start(lab, &services(&[a]));
        let socket = udp("[::]:0");
        socket.connect(addr(MAPPED_A)).unwrap();
        let first = ask_connected(&socket).unwrap();
        for _ in 0..40 {
            let reply = ask_connected(&socket).unwrap();
            assert_eq!((&reply.tag, reply.source), (&first.tag, addr(MAPPED_A)));
            assert_eq!(socket.peer_addr().unwrap(), addr(MAPPED_A));
        }
        agent.expect_active(1);
        drop(socket);
        agent.expect_no_connections();
    });
}

/// The peer of a connected socket becomes a frontend later. The socket can receive from its peer
/// only, so its datagrams must go on arriving there.
#[test]
fn a_connected_v6_socket_whose_peer_becomes_a_frontend() {
    lab::run("reuse-becomes", |lab| {
        let own = Backends::udp("127.0.0.1", ["own"]);
        let other = Backends::udp("127.0.0.1", ["other"]);
        let agent = Agent::start(lab, &services(&[]));
        let socket = udp("[::]:0");
        socket.connect(mapped(own.at(0))).unwrap();
        assert_eq!(ask_connected(&socket).unwrap().tag, "own");
        agent.reload(&services(&[service("a").udp(own.at(0)).backend(other.at(0))]));
        for _ in 0..3 {
            let reply = ask_connected(&socket).unwrap();
            assert_eq!((reply.tag.as_str(), reply.source), ("own", mapped(own.at(0))));
        }
        // Who dials it now is translated, if the kernel can tell that this namespace is the agent's: the frontend is
        // the host's only.
        let fresh = udp("0.0.0.0:0");
        let now = if host::has("netns_cookie") { "other" } else { "own" };
        assert_eq!(ask(&fresh, own.at(0)).unwrap().tag, now);
    });
}

#[test]
fn frontends_that_share_a_tcp_backend() {
    lab::run("reuse-shared", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["shared"]);
        let backend = backends.at(0);
        let agent = Agent::start(
            lab,
            &services(&[
                service("a").frontend(A).backend(backend),
                service("b").frontend(B).backend(backend),
            ]),
        );
        // All open at once, in either order; one dials the backend itself.
        let dialled = [addr(A), addr(B), backend, addr(B), addr(A), backend];
        let calls = dialled.map(|to| dial(to).unwrap());
        for (call, to) in calls.iter().zip(dialled) {
            assert_eq!((call.tag.as_str(), call.peer()), ("shared", to));
        }
        assert_eq!((active(&agent, "a"), active(&agent, "b")), (2, 2));
        drop(calls);
        agent.expect_no_connections();
    });
}

#[test]
fn frontends_that_share_a_udp_backend() {
    lab::run("reuse-shared-udp", |lab| {
        let backends = Backends::udp("127.0.0.1", ["shared"]);
        let backend = backends.at(0);
        let agent = Agent::start(
            lab,
            &services(&[
                service("a").udp(A).backend(backend),
                service("b").udp(B).backend(backend),
            ]),
        );
        let dialled = [addr(A), addr(B), backend];
        let unconnected = dialled.map(|to| (udp("0.0.0.0:0"), to));
        let connected = dialled.map(|to| (udp("0.0.0.0:0"), to));
        for (socket, to) in &connected {
            socket.connect(to).unwrap();
        }
        for _ in 0..3 {
            for (socket, to) in &unconnected {
                assert_eq!(ask(socket, *to).unwrap().source, *to);
            }
            for (socket, to) in &connected {
                assert_eq!(socket.peer_addr().unwrap(), *to);
                assert_eq!(ask_connected(socket).unwrap().source, *to);
            }
        }
        assert_eq!((active(&agent, "a"), active(&agent, "b")), (1, 1));
    });
}

/// A refused reconnect leaves the socket without its former translation.
#[test]
fn a_refusal_after_a_frontend() {
    lab::run("reuse-refusal", |lab| {
        let backends = Backends::udp("127.0.0.1", ["a"]);
        let agent = Agent::start(
            lab,
            &services(&[service("a").udp(A).backend(backends.at(0)), service("b").udp(B)]),
        );
        let socket = udp("0.0.0.0:0");
        socket.connect(addr(A)).unwrap();
        agent.expect_active(1);
        let refused = socket.connect(addr(B)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(host::errno(libc::ECONNREFUSED)));
        // The kernel has left the socket as it was, connected to the first backend.
        assert_eq!(SockRef::from(&socket).peer_addr().unwrap().as_socket(), Some(addr(A)));
        assert_eq!(ask_connected(&socket).unwrap().source, addr(A));
        agent.expect_active(1);
        drop(socket);
        agent.expect_no_connections();
    });
}
