//! UDP: connected and unconnected sockets reach a backend, and replies come from the frontend.

use integration::agent::Agent;
use integration::client::{Reply, ask, ask_connected, cookie, reply, udp};
use integration::lab;
use integration::netns;
use integration::server::Backends;
use integration::spec::{service, services};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use std::collections::BTreeSet;
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

const DNS4: &str = "10.96.0.10:53";
const LOG4: &str = "10.96.0.20:514";
const DNS6: &str = "[fd00:96::10]:53";
const MAPPED: &str = "[::ffff:10.96.0.10]:53";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Four backends of each family; their tags begin with the service's name.
struct Farm {
    v4: Backends,
    v6: Backends,
}

impl Farm {
    fn new(name: &str) -> Self {
        let tags = |family| (0..4).map(move |index| format!("{name}/{family}.{index}"));
        Self { v4: Backends::udp("127.0.0.1", tags(4)), v6: Backends::udp("::1", tags(6)) }
    }

    fn all(&self) -> impl Iterator<Item = SocketAddr> {
        self.v4.addresses().chain(self.v6.addresses())
    }
}

/// Who is asked, from where, and where the backend is.
const CASES: [(&str, &str, &str); 3] =
    [(DNS4, "0.0.0.0:0", "dns/4."), (DNS6, "[::]:0", "dns/6."), (MAPPED, "[::]:0", "dns/4.")];

#[test]
fn connected() {
    lab::run("udp-connected", |lab| {
        let farm = Farm::new("dns");
        let dns = service("dns").udp(DNS4).udp(DNS6).backends(farm.all());
        let agent = Agent::start(lab, &services(&[dns]));
        for (dialled, local, prefix) in CASES {
            let socket = udp(local);
            socket.connect(addr(dialled)).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), addr(dialled), "{dialled}: peer name");
            let Reply { tag, seen, source, .. } = ask_connected(&socket).unwrap();
            assert!(tag.starts_with(prefix), "{dialled}: {tag}");
            let own = socket.local_addr().unwrap();
            assert_eq!((seen.ip(), seen.port()), (own.ip().to_canonical(), own.port()));
            assert_eq!(source, addr(dialled), "{dialled}: source of the reply");
            agent.expect_active(1);
            let backends = if prefix == "dns/6." { &farm.v6 } else { &farm.v4 };
            let backend = agent.tables().backend_of(cookie(&socket));
            assert_eq!(backend, Some(backends.tagged(&tag)), "{dialled}");
            drop(socket);
            agent.expect_no_connections();
        }
    });
}

/// Such a datagram must not wander to another backend, nor break the connection.
#[test]
fn connected_and_then_sendto_the_frontend() {
    lab::run("udp-both", |lab| {
        let farm = Farm::new("dns");
        let dns = service("dns").udp(DNS4).udp(DNS6).backends(farm.all());
        let agent = Agent::start(lab, &services(&[dns]));
        for (dialled, local, _) in CASES {
            let socket = udp(local);
            socket.connect(addr(dialled)).unwrap();
            let first = ask_connected(&socket).unwrap();
            for _ in 0..40 {
                let again = ask(&socket, addr(dialled)).unwrap();
                assert_eq!(again.tag, first.tag, "{dialled}: sendto left the backend");
                assert_eq!(again.source, addr(dialled));
                assert_eq!(ask_connected(&socket).unwrap().tag, first.tag);
            }
            assert_eq!(socket.peer_addr().unwrap(), addr(dialled));
            agent.expect_active(1);
            drop(socket);
            agent.expect_no_connections();
        }
    });
}

#[test]
fn unconnected_is_sticky_and_replies_come_from_the_frontend() {
    lab::run("udp-unconnected", |lab| {
        let farm = Farm::new("dns");
        let dns = service("dns").udp(DNS4).udp(DNS6).backends(farm.all());
        let _agent = Agent::start(lab, &services(&[dns]));
        for (dialled, local, prefix) in CASES {
            let mut used = BTreeSet::new();
            // Four backends: all sockets choosing the same one by chance: 4^-39.
            for _ in 0..40 {
                let socket = udp(local);
                let first = ask(&socket, addr(dialled)).unwrap();
                assert!(first.tag.starts_with(prefix), "{dialled}: {}", first.tag);
                assert_eq!(first.source, addr(dialled));
                for _ in 0..10 {
                    let again = ask(&socket, addr(dialled)).unwrap();
                    assert_eq!((again.tag, again.source), (first.tag.clone(), first.source));
                }
                used.insert(first.tag);
            }
            assert!(used.len() > 1, "{dialled}: every socket went to {used:?}");
        }
    });
}

/// musl asks all name servers from one unconnected socket and throws away every answer whose source
/// is none of them. (Which of the two it is can't be told when both were sent to one backend.)
#[test]
fn a_resolver_that_checks_the_source() {
    lab::run("udp-resolver", |lab| {
        let farm = Farm::new("dns");
        let second = "10.96.0.11:53";
        let dns = service("dns").udp(DNS4).udp(second).backends(farm.v4.addresses());
        let _agent = Agent::start(lab, &services(&[dns]));
        let servers = [addr(DNS4), addr(second)];
        for _ in 0..20 {
            let socket = udp("0.0.0.0:0");
            for server in servers {
                socket.send_to(b"A example.org", server).unwrap();
            }
            for _ in servers {
                let answer = reply(&socket).unwrap();
                assert!(servers.contains(&answer.source), "an answer from {}", answer.source);
            }
        }
    });
}

#[test]
fn two_frontends_from_one_socket() {
    lab::run("udp-two", |lab| {
        let (dns, log) = (Farm::new("dns"), Farm::new("log"));
        let _agent = Agent::start(
            lab,
            &services(&[
                service("dns").udp(DNS4).backends(dns.v4.addresses()),
                service("log").udp(LOG4).backends(log.v4.addresses()),
            ]),
        );
        let socket = udp("0.0.0.0:0");
        let first = [DNS4, LOG4].map(|to| ask(&socket, addr(to)).unwrap());
        for _ in 0..20 {
            // Both datagrams are on their way before the first reply is read.
            socket.send_to(b"1", addr(DNS4)).unwrap();
            socket.send_to(b"2", addr(LOG4)).unwrap();
            for _ in 0..2 {
                let Reply { tag, text, source, .. } = reply(&socket).unwrap();
                let expected = if text == "1" { &first[0] } else { &first[1] };
                assert_eq!((tag.as_str(), source), (expected.tag.as_str(), expected.source));
            }
        }
    });
}

/// More frontends than a socket remembers: each still answers, in turn.
#[test]
fn many_frontends_from_one_socket() {
    lab::run("udp-many", |lab| {
        let farm = Farm::new("dns");
        let frontends: Vec<String> = (1..=12).map(|host| format!("10.96.0.{host}:53")).collect();
        let dns = service("dns").backends(farm.v4.addresses());
        let dns = frontends.iter().fold(dns, |dns, frontend| dns.udp(frontend));
        let _agent = Agent::start(lab, &services(&[dns]));
        let socket = udp("0.0.0.0:0");
        for frontend in frontends.iter().cycle().take(36) {
            assert_eq!(ask(&socket, addr(frontend)).unwrap().source, addr(frontend));
        }
    });
}

#[test]
fn sendmmsg_to_two_frontends() {
    lab::run("udp-sendmmsg", |lab| {
        let (dns, log) = (Farm::new("dns"), Farm::new("log"));
        let _agent = Agent::start(
            lab,
            &services(&[
                service("dns").udp(DNS4).backends(dns.v4.addresses()),
                service("log").udp(LOG4).backends(log.v4.addresses()),
            ]),
        );
        let socket = udp("0.0.0.0:0");
        let to: Vec<Option<SockaddrIn>> = [DNS4, LOG4, DNS4, LOG4]
            .map(|to| match addr(to) {
                SocketAddr::V4(v4) => Some(SockaddrIn::from(v4)),
                SocketAddr::V6(_) => None,
            })
            .to_vec();
        let mut headers = MultiHeaders::preallocate(to.len(), None);
        let texts = [b"1", b"2", b"3", b"4"].map(|text| [IoSlice::new(text)]);
        let fd = socket.as_raw_fd();
        let sent = sendmmsg(fd, &mut headers, &texts, &to, [], MsgFlags::empty()).unwrap().count();
        assert_eq!(sent, to.len());
        // The caller's own memory still names the frontends.
        let named = to.iter().flatten().map(|to| SocketAddr::from((to.ip(), to.port())));
        assert!(named.eq([DNS4, LOG4, DNS4, LOG4].map(addr)));
        let mut seen = BTreeSet::new();
        for _ in 0..to.len() {
            let Reply { tag, text, source, .. } = reply(&socket).unwrap();
            let (prefix, frontend) =
                if ["1", "3"].contains(&text.as_str()) { ("dns/", DNS4) } else { ("log/", LOG4) };
            assert!(tag.starts_with(prefix), "{text}: {tag}");
            assert_eq!(source, addr(frontend), "{text}");
            seen.insert(text);
        }
        assert_eq!(seen.len(), to.len());
    });
}

#[test]
fn picks_again_when_the_backend_goes() {
    lab::run("udp-repick", |lab| {
        let farm = Farm::new("dns");
        let dns = || service("dns").udp(DNS4).udp(DNS6);
        let agent = Agent::start(lab, &services(&[dns().backends(farm.all())]));
        let sockets: Vec<(UdpSocket, &str, String)> = CASES
            .into_iter()
            .flat_map(|(dialled, local, _)| (0..10).map(move |_| (dialled, local)))
            .map(|(dialled, local)| {
                let socket = udp(local);
                let tag = ask(&socket, addr(dialled)).unwrap().tag;
                (socket, dialled, tag)
            })
            .collect();
        // One backend of each family goes; sockets of the others stay where they are.
        let gone = ["dns/4.2", "dns/6.1"];
        let left = farm.all().filter(|backend| {
            *backend != farm.v4.tagged(gone[0]) && *backend != farm.v6.tagged(gone[1])
        });
        agent.reload(&services(&[dns().backends(left)]));
        for (socket, dialled, before) in &sockets {
            let after = ask(socket, addr(dialled)).unwrap();
            assert!(!gone.contains(&after.tag.as_str()), "{dialled}: still {}", after.tag);
            if !gone.contains(&before.as_str()) {
                assert_eq!(after.tag, *before, "{dialled}: moved without need");
            }
            assert_eq!(after.source, addr(dialled));
            assert_eq!(ask(socket, addr(dialled)).unwrap().tag, after.tag, "sticky again");
        }
    });
}

/// A datagram that goes to no frontend keeps its address, before and after one that does.
#[test]
fn others_are_left_alone() {
    lab::run("udp-others", |lab| {
        netns::add_address("10.1.0.1");
        let farm = Farm::new("dns");
        let other = Backends::udp("10.1.0.1", ["other"]);
        let dns = service("dns").udp(DNS4).backends(farm.v4.addresses());
        let _agent = Agent::start(lab, &services(&[dns]));
        let socket = udp("0.0.0.0:0");
        for _ in 0..3 {
            let direct = ask(&socket, other.at(0)).unwrap();
            assert_eq!((direct.tag.as_str(), direct.source), ("other", other.at(0)));
            assert_eq!(ask(&socket, addr(DNS4)).unwrap().source, addr(DNS4));
        }
    });
}
