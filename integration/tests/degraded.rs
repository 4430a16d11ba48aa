//! The programs without anything that old kernels lack, on a kernel that has it all: the object
//! without atomic operations, every feature off, or all that Linux 5.10 lacks.

use integration::agent::Agent;
use integration::client::{ask, ask_connected, cookie, dial, udp};
use integration::dataplane::{self, Dataplane};
use integration::host;
use integration::lab::{self, Lab};
use integration::server::Backends;
use integration::tables::{Tables, frontend_of};
use integration::wait::eventually;
use lb_agent::model::{Affinity, Backend, Client, Frontend, Policy, Protocol, Service};
use lb_common::{LAYOUT_VERSION, features};
use std::net::SocketAddr;
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
const VIP6: &str = "[fd00:96::10]:80";
const NOTHING: u32 = 0;
/// What Linux 5.10 has.
const OLD: u32 = features::OUTCOMES;

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn service(backends: &[SocketAddr]) -> Service {
    let frontends = [VIP, VIP6].map(addr).into_iter().flat_map(|at| {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| Frontend::new(at.ip(), at.port(), protocol))
    });
    let backends = backends.iter().map(|address| (*address, Backend::default()));
    Service { policy: Policy::LeastConnections, ..dataplane::service(frontends, backends) }
}

/// Servers of both protocols and families. One backend address serves both protocols.
fn serve() -> (Vec<Backends>, Vec<SocketAddr>) {
    let tcp = [Backends::tcp("127.0.0.1", ["web"]), Backends::tcp("::1", ["web"])];
    let addresses = [tcp[0].at(0), tcp[1].at(0)];
    let datagram = addresses
        .map(|address| Backends::start(integration::server::Kind::Udp, [(address, "web")]));
    (tcp.into_iter().chain(datagram).collect(), addresses.into())
}

/// Every way is translated and shown, and remembered in the overflow table alone. What becomes of
/// connects is counted where that is had.
#[test]
fn all_ways_are_translated() {
    for (name, has) in [("degraded-ways", NOTHING), ("degraded-old", OLD)] {
        lab::run(name, |lab| all_ways(lab, has));
    }
}

fn all_ways(lab: &Lab, has: u32) {
    let (_servers, addresses) = serve();
    let dataplane = Dataplane::lacking(lab, has, service(&addresses));
    let tables = Tables::at(lab.pin_dir().join(LAYOUT_VERSION.to_string()));
    let ways = [VIP, VIP6, "[::ffff:10.96.0.10]:80"].map(addr);
    for to in ways {
        let mut call = dial(to).expect("a backend answers");
        assert_eq!((call.tag.as_str(), call.peer()), ("web", to));
        assert!(call.echoes("through"));
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let connected = udp(any);
        connected.connect(to).expect("a backend");
        assert_eq!(connected.peer_addr().expect("a peer"), to);
        assert_eq!(ask_connected(&connected).expect("an answer").source, to);
        let unconnected = udp(any);
        for _ in 0..3 {
            assert_eq!(ask(&unconnected, to).expect("an answer").source, to);
        }
        let row = tables.connection(cookie(&call.stream)).expect("a row");
        assert_eq!(frontend_of(&row).ip(), to.ip().to_canonical());
        assert_eq!((tables.connections().len(), tables.overflow().len()), (0, 2));
        drop((call, connected));
        eventually("no row", Duration::from_secs(5), || tables.overflow().is_empty());
    }
    let established = addresses.iter().map(|address| dataplane.outcomes(*address).established);
    let expected = if has & OLD != 0 && host::has("outcomes") { ways.len() } else { 0 };
    assert_eq!(established.sum::<u64>(), expected as u64);
}

/// Many threads at once: no row is left, and none is shared.
#[test]
fn rows_come_and_go() {
    lab::run("degraded-rows", |lab| {
        let (_servers, addresses) = serve();
        let _dataplane = Dataplane::lacking(lab, NOTHING, service(&addresses));
        std::thread::scope(|scope| {
            for to in [VIP, VIP6, VIP, VIP6].map(addr) {
                scope.spawn(move || {
                    for _ in 0..200 {
                        assert_eq!(dial(to).unwrap().peer(), to);
                    }
                });
            }
        });
        let tables = Tables::at(lab.pin_dir().join(LAYOUT_VERSION.to_string()));
        eventually("no row", Duration::from_secs(5), || tables.overflow().is_empty());
    });
}

/// A client stays with its backend, and moves when that leaves.
#[test]
fn affinity_holds_and_moves() {
    lab::run("degraded-affinity", |lab| {
        let servers = Backends::tcp("127.0.0.1", ["0", "1", "2", "3"]);
        let addresses: Vec<_> = servers.addresses().collect();
        let with = |addresses: &[SocketAddr]| Service {
            affinity: Some(Affinity { client: Client::Netns, timeout_seconds: 600 }),
            ..service(addresses)
        };
        let mut dataplane = Dataplane::lacking(lab, NOTHING, with(&addresses));
        let first = dial(addr(VIP)).unwrap().tag;
        for _ in 0..20 {
            assert_eq!(dial(addr(VIP)).unwrap().tag, first);
        }
        let gone = servers.tagged(&first);
        let rest: Vec<_> = addresses.into_iter().filter(|address| *address != gone).collect();
        dataplane.change(with(&rest));
        let second = dial(addr(VIP)).unwrap().tag;
        assert_ne!(second, first);
        for _ in 0..20 {
            assert_eq!(dial(addr(VIP)).unwrap().tag, second);
        }
    });
}

/// What the running kernel lacks, an agent says once in its log, and whenever it is asked.
#[test]
fn what_is_lacking_is_said() {
    lab::run("degraded-said", |lab| {
        let agent = Agent::start(lab, "services: []\n");
        let (log, status) = (agent.log(), agent.status().warnings);
        let shown = lab.lbctl(&["status"]).stdout;
        for warning in host::warnings() {
            assert_eq!(log.matches(&warning).count(), 1, "{warning}: {log}");
            assert!(status.contains(&warning), "{warning}: {status:?}");
            assert!(shown.contains(&warning), "{warning}: {shown}");
        }
        assert_eq!(status, host::warnings(), "nothing else is wrong here");
    });
}

/// Without backends, the caller sees that it may not.
#[test]
fn the_verdict_is_eperm() {
    lab::run("degraded-verdict", |lab| {
        let _dataplane = Dataplane::lacking(lab, NOTHING, service(&[]));
        for to in [VIP, VIP6].map(addr) {
            assert_eq!(dial(to).unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
    });
}
