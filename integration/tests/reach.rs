//! Frontends of one service that lead to different backends: those of the cluster, and those of this
//! node.

use integration::client::{ask_connected, dial, udp};
use integration::dataplane::{self, Dataplane};
use integration::host;
use integration::lab;
use integration::server::Backends;
use lb_agent::model::{Backend, Exposure, Frontend, Lists, NoBackend, Protocol, Reach, Service};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Each leads to the node's backends in the first place, to the cluster's in the second.
const FRONTENDS: [[&str; 2]; 2] =
    [["10.96.0.10:80", "192.0.2.1:30080"], ["[fd00:96::10]:80", "[2001:db8::1]:30080"]];

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn service(protocol: Protocol, backends: &[(SocketAddr, Lists)]) -> Service {
    let reaches = [Reach::Node, Reach::Cluster];
    let frontends = FRONTENDS.iter().flat_map(|pair| pair.iter().zip(reaches));
    let frontends = frontends.map(|(text, reach)| {
        let frontend = Frontend::new(addr(text).ip(), addr(text).port(), protocol);
        (frontend, Exposure { reach, ..Exposure::default() })
    });
    let backends = backends
        .iter()
        .map(|(address, lists)| (*address, Backend { lists: *lists, ..Backend::default() }));
    Service {
        frontends: frontends.collect(),
        no_node_backend: NoBackend::Unreachable,
        ..dataplane::service([], backends)
    }
}

/// Everybody who answers there, or the error.
fn who(frontend: &str) -> Result<BTreeSet<String>, i32> {
    let mut tags = BTreeSet::new();
    for _ in 0..40 {
        let call = dial(addr(frontend)).map_err(|error| error.raw_os_error().unwrap_or(0))?;
        assert_eq!(call.peer(), addr(frontend));
        tags.insert(call.tag);
    }
    Ok(tags)
}

fn tags(tags: &[&str]) -> Result<BTreeSet<String>, i32> {
    Ok(tags.iter().map(|tag| (*tag).to_owned()).collect())
}

#[test]
fn each_list_has_its_backends_and_its_verdict() {
    lab::run("reach-tcp", |lab| {
        let names = ["here", "there", "last"];
        let servers = [Backends::tcp("127.0.0.1", names), Backends::tcp("::1", names)];
        let with = |lists: &[(usize, Lists)]| {
            let backends: Vec<_> = servers
                .iter()
                .flat_map(|family| lists.iter().map(|(index, lists)| (family.at(*index), *lists)))
                .collect();
            service(Protocol::Tcp, &backends)
        };
        let mut dataplane =
            Dataplane::one(lab, with(&[(0, Lists::Both), (1, Lists::Cluster), (2, Lists::Node)]));
        let expect = |node: Result<BTreeSet<String>, i32>,
                      cluster: Result<BTreeSet<String>, i32>| {
            for [own, all] in FRONTENDS {
                assert_eq!(who(own), node, "{own}");
                assert_eq!(who(all), cluster, "{all}");
            }
        };
        expect(tags(&["here", "last"]), tags(&["here", "there"]));
        let left = dataplane.change(with(&[(0, Lists::Cluster), (1, Lists::Cluster)]));
        assert_eq!(left, [servers[0].at(2), servers[1].at(2)], "the others are still led to");
        let unreachable = Err(host::errno(libc::EHOSTUNREACH));
        let refused = Err(host::errno(libc::ECONNREFUSED));
        expect(unreachable.clone(), tags(&["here", "there"]));
        assert_eq!(dataplane.change(with(&[(0, Lists::Node)])).len(), 2);
        expect(tags(&["here"]), refused.clone());
        assert_eq!(dataplane.change(with(&[])).len(), 2);
        expect(unreachable, refused);
    });
}

/// A connected UDP socket outlives that its backend leaves the list by which it was found, as long as
/// another frontend of the service leads there.
#[test]
fn a_backend_that_leaves_one_list_keeps_its_sockets() {
    lab::run("reach-udp", |lab| {
        let servers = [Backends::udp("127.0.0.1", ["here"]), Backends::udp("::1", ["here"])];
        let with = |lists: &[Lists]| {
            let of =
                |family: &Backends| lists.iter().map(|l| (family.at(0), *l)).collect::<Vec<_>>();
            service(Protocol::Udp, &servers.iter().flat_map(of).collect::<Vec<_>>())
        };
        let mut dataplane = Dataplane::one(lab, with(&[Lists::Both]));
        let sockets = FRONTENDS.map(|[own, _]| {
            let socket = udp(if addr(own).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
            socket.connect(addr(own)).unwrap();
            assert_eq!(ask_connected(&socket).unwrap().tag, "here");
            socket
        });
        assert_eq!(dataplane.change(with(&[Lists::Cluster])), []);
        for (socket, [own, all]) in sockets.iter().zip(FRONTENDS) {
            assert_eq!(ask_connected(socket).unwrap().tag, "here");
            assert_eq!(socket.peer_addr().unwrap(), addr(own));
            let fresh = udp(if addr(own).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
            let error = fresh.connect(addr(own)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(host::errno(libc::EHOSTUNREACH)), "{own}");
            fresh.connect(addr(all)).unwrap();
            assert_eq!(ask_connected(&fresh).unwrap().tag, "here");
        }
        assert_eq!(dataplane.change(with(&[])).len(), 2, "now they have left");
    });
}
