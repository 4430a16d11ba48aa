//! `lbctl connections`: which sockets are open, whose, and where they went.

use integration::agent::Agent;
use integration::client::{self, dial, stream};
use integration::lab::{self, Lab};
use integration::netns;
use integration::server::{Backends, Kind, any_port};
use integration::spec::{service, services};
use integration::wait::{eventually, wait_for};
use lb_agent::sockets::{Listing, OpenSocket, Transport};
use lb_common::LAYOUT_VERSION;
use socket2::Protocol;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::{Duration, SystemTime};

const WEB: &str = "10.96.0.1:80";
const DNS: &str = "10.96.0.1:53";
const MOMENT: Duration = Duration::from_secs(20);

#[track_caller]
fn listed(lab: &Lab, arguments: &[&str]) -> Listing {
    let arguments = [&["connections", "-o", "json"], arguments].concat();
    let told = lab.lbctl(&arguments);
    assert_eq!(told.code, Some(0), "{told:?}");
    serde_json::from_str(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told:?}"))
}

/// What is listed once it is so many: what was closed may be open in a child of another test for a moment.
#[track_caller]
fn listed_once(lab: &Lab, arguments: &[&str], total: usize) -> Listing {
    wait_for(&format!("{total} to be listed"), MOMENT, || {
        Some(listed(lab, arguments)).filter(|listing| listing.total == total)
    })
}

fn own_netns() -> u64 {
    std::fs::metadata("/proc/thread-self/ns/net").expect("/proc is mounted").ino()
}

#[test]
fn sockets_of_all_kinds_and_namespaces() {
    lab::run("connections-list", |lab| {
        netns::sysctl("mptcp/enabled", "1");
        let server = Backends::start(Kind::Mptcp, [(any_port("127.0.0.1"), "web")]);
        let resolver = Backends::udp("127.0.0.1", ["dns"]);
        let spec = services(&[
            service("web").frontend(WEB).backend(server.at(0)),
            service("dns").udp(DNS).backend(resolver.at(0)),
        ]);
        let agent = Agent::start(lab, &spec);
        assert_eq!((listed(lab, &[]).sockets, listed(lab, &[]).total), (Vec::new(), 0));
        let (web, dns): (SocketAddr, SocketAddr) = (WEB.parse().unwrap(), DNS.parse().unwrap());

        let tcp = dial(web).unwrap();
        let mptcp = stream(web, Protocol::MPTCP);
        mptcp.connect(&web.into()).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect(dns).unwrap();
        // In a namespace of its own; nobody answers there, and for UDP nobody needs to.
        let elsewhere = thread::scope(|scope| {
            let other = scope.spawn(|| {
                netns::enter_new();
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(dns).unwrap();
                let (cookie, netns) = (client::cookie(&socket), own_netns());
                // The namespace lives with its socket, but only a thread leads to it.
                (listed(lab, &["dns"]), cookie, netns)
            });
            other.join().unwrap()
        });
        let (listing, cookie, netns) = elsewhere;
        let find = |listing: &Listing, cookie: u64| -> OpenSocket {
            let found = listing.sockets.iter().find(|socket| socket.cookie == cookie);
            found.unwrap_or_else(|| panic!("{cookie} is not in {listing:#?}")).clone()
        };
        assert_eq!(listing.total, 2, "{listing:#?}");
        let seen = find(&listing, cookie);
        assert_eq!((seen.transport, seen.netns.unwrap().inode), (Some(Transport::Udp), netns));

        let listing = listed_once(lab, &[], 3);
        let of = |transport| -> OpenSocket {
            let fits = |socket: &&OpenSocket| socket.transport == Some(transport);
            let mut found = listing.sockets.iter().filter(fits);
            let first = found.next().unwrap_or_else(|| panic!("no {transport:?} in {listing:#?}"));
            assert_eq!(found.next(), None);
            first.clone()
        };
        for (socket, service, frontend, backend) in [
            (of(Transport::Tcp), "web", web, server.at(0)),
            (of(Transport::Mptcp), "web", web, server.at(0)),
            (of(Transport::Udp), "dns", dns, resolver.at(0)),
        ] {
            assert_eq!(socket.service.as_deref(), Some(service), "{socket:?}");
            assert_eq!((socket.frontend, socket.backend), (frontend, backend), "{socket:?}");
            let netns = socket.netns.expect("a namespace");
            assert_eq!((netns.inode, netns.own), (own_netns(), true), "the agent is in it, too");
            let own = |holder: &lb_agent::sockets::Holder| holder.pid == std::process::id();
            assert!(socket.processes.iter().any(own), "{:?}", socket.processes);
            assert_eq!(socket.uid, Some(nix::unistd::geteuid().as_raw()));
        }
        assert_eq!(of(Transport::Tcp).cookie, client::cookie(&tcp.stream));
        assert_eq!(of(Transport::Udp).cookie, client::cookie(&udp));

        let shown = lab.lbctl(&["connections", "web"]).stdout;
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(shown.contains(&format!("/{}", std::process::id())), "{shown}");
        let wrong = lab.lbctl(&["connections", "wbe"]);
        assert_eq!(wrong.code, Some(1));
        assert!(wrong.stderr.contains("did you mean `web`"), "{wrong:?}");

        drop(mptcp);
        listed_once(lab, &["web"], 1);

        // Without an agent the tables and the kernel say the same.
        let before = listed(lab, &[]);
        agent.kill9();
        let after = listed(lab, &[]);
        assert_eq!(undated(&after), undated(&before));
    });
}

/// The wall clock is read each time, so times differ by next to nothing.
fn undated(listing: &Listing) -> Listing {
    let mut listing = listing.clone();
    listing.sockets.iter_mut().for_each(|socket| socket.since = None);
    listing
}

#[track_caller]
fn since(lab: &Lab, cookie: u64) -> Option<SystemTime> {
    let listing = listed(lab, &[]);
    let found = listing.sockets.iter().find(|socket| socket.cookie == cookie);
    found.unwrap_or_else(|| panic!("{cookie} is not in {listing:#?}")).since
}

/// In the direct-mapped table, in its overflow, and on MPTCP sockets.
#[test]
fn sockets_have_ages() {
    /// What the kernel's coarse times and two readings of the wall clock may be apart.
    const COARSE: Duration = Duration::from_millis(400);
    lab::run("connection-ages", |lab| {
        netns::sysctl("mptcp/enabled", "1");
        lab.set_settings("tables: {connections: 2}");
        let server = Backends::start(Kind::Mptcp, [(any_port("127.0.0.1"), "web")]);
        let spec = services(&[
            service("web").frontend(WEB).backend(server.at(0)),
            service("dns").udp(DNS).backend("127.0.0.1:9"),
        ]);
        let agent = Agent::start(lab, &spec);
        let (web, dns): (SocketAddr, SocketAddr) = (WEB.parse().unwrap(), DNS.parse().unwrap());
        let begun = SystemTime::now();
        let tcp = dial(web).unwrap();
        let mptcp = stream(web, Protocol::MPTCP);
        mptcp.connect(&web.into()).unwrap();
        let sockets: Vec<UdpSocket> = (0..6).map(|_| client::udp("127.0.0.1:0")).collect();
        sockets.iter().for_each(|socket| socket.connect(dns).unwrap());
        let ended = SystemTime::now();
        assert!(!agent.tables().overflow().is_empty(), "two rows hold seven sockets");

        let listing = listed(lab, &["--sort", "age"]);
        assert_eq!(listing.total, 8);
        for socket in &listing.sockets {
            let since = socket.since.unwrap_or_else(|| panic!("no time: {socket:?}"));
            assert!(since + COARSE > begun && since < ended + COARSE, "{begun:?} {socket:?}");
        }
        let times: Vec<_> = listing.sockets.iter().map(|socket| socket.since).collect();
        assert!(times.is_sorted(), "{times:?}");

        // A connect is a new beginning, wherever the row is; what else goes on is none.
        let cookies: Vec<u64> = sockets.iter().map(client::cookie).collect();
        let firsts: Vec<_> = cookies.iter().map(|cookie| since(lab, *cookie).unwrap()).collect();
        let still = since(lab, client::cookie(&tcp.stream)).unwrap();
        for ((socket, cookie), first) in sockets.iter().zip(&cookies).zip(&firsts) {
            eventually("a later time", MOMENT, || {
                socket.connect(dns).unwrap();
                since(lab, *cookie).unwrap() > *first + COARSE
            });
        }
        let now = since(lab, client::cookie(&tcp.stream)).unwrap();
        let apart = now.duration_since(still).unwrap_or_else(|error| error.duration());
        assert!(apart < COARSE, "{now:?} {still:?}");
        let shown = lab.lbctl(&["connections", "web"]).stdout;
        assert!(shown.lines().next().unwrap().contains(" AGE "), "{shown}");
        let refused = lab.lbctl(&["connections", "--sort", "size"]);
        assert_eq!(refused.code, Some(64), "{refused:?}");

        // Tables of a version that knew no times.
        agent.kill9();
        let pins = lab.pin_dir().join(LAYOUT_VERSION.to_string());
        for name in ["CONNECTION_TIMES", "OVERFLOW_TIMES"] {
            std::fs::remove_file(pins.join(name)).unwrap();
        }
        let alone = listed(lab, &["dns"]);
        assert_eq!(alone.total, 6);
        assert!(alone.sockets.iter().all(|socket| socket.since.is_none()), "{alone:#?}");
        let _agent = Agent::adopt(lab);
        assert_eq!(since(lab, cookies[0]), None);
        let shown = lab.lbctl(&["connections", "dns"]).stdout;
        assert!(shown.lines().nth(1).unwrap().contains(" - "), "{shown}");
        sockets[0].connect(dns).unwrap();
        assert!(since(lab, cookies[0]).is_some());
        let oldest = listed(lab, &["dns", "--sort", "age"]);
        assert_eq!(oldest.sockets.last().unwrap().cookie, cookies[0], "{oldest:#?}");
    });
}
