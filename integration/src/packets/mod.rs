//! A cluster in which those ask whose sockets no agent translates: a host outside, a guest of a node
//! (its sockets are not the node's), a process of a node outside the agent's cgroup.
//!
//! client - near (agent, pods) - far (an agent, if wanted; pods). The client sends what is for
//! services to the near node, and forwards nothing.

pub mod chains;
pub mod ipvs;
pub mod measure;
pub mod nft;
pub mod tables;
pub mod tcp;

use crate::agent::Agent;
use crate::http;
use crate::kubernetes::{Endpoint, FAR, NEAR, Svc, World, endpoint, settings_of};
use crate::lab::{self, Lab};
use crate::netns::{self, ip_batch, sysctl};
use crate::pods::{Node, Pair, Pod, Way};
use crate::server::Kind;
use crate::wait::eventually;
use serde_json::{Value, json};
use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// A load balancer's address, and an external one.
pub const BALANCER: Pair =
    Pair { v4: Ipv4Addr::new(198, 51, 100, 7), v6: Ipv6Addr::new(0xfd00, 0x51, 0, 0, 0, 0, 0, 7) };
/// An address that no node has, which leads to the near one.
pub const EXTERNAL: Pair = Pair {
    v4: Ipv4Addr::new(198, 51, 100, 11),
    v6: Ipv6Addr::new(0xfd00, 0x51, 0, 0, 0, 0, 0, 0x11),
};
/// The settings of a source that knows which addresses are pods'.
pub const PODS: &str = "pod_ranges: [10.244.0.0/16, \"fd00:244::/32\"]";

/// What an endpoint serves.
pub const ALL_KINDS: [Kind; 3] = [Kind::Tcp, Kind::Udp, Kind::Sctp];

/// Answers on the near node, for a service that says how far the packet path has got.
const PROBE_PORT: u16 = 9_999;
const DEADLINE: Duration = Duration::from_secs(20);
/// An answer on one machine takes a fraction of it.
const PATIENCE: Duration = Duration::from_millis(200);

/// A service as kube-proxy makes rules of it.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its address.
    pub vip: SocketAddrV4,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// One of which is chosen.
    pub endpoints: Vec<SocketAddrV4>,
}

/// The cluster and who asks.
#[derive(Debug)]
pub struct Scene<'a> {
    /// A process of the near node whose sockets are not translated.
    pub stranger: Pod,
    /// A guest of the near node: of its addresses, but with sockets that are not the node's.
    pub guest: Pod,
    /// A host outside.
    pub client: Node,
    /// The agent of the far node, and a process there whose sockets are not translated.
    far: Option<(Agent<'a>, Pod)>,
    /// The cluster.
    pub world: World<'a>,
    turn: Cell<u16>,
}

/// Runs `test` in a cluster whose near node has an agent that sees to packets, with these settings
/// of its source.
#[track_caller]
pub fn run(name: &str, settings: &str, test: impl FnOnce(&mut Scene<'_>) + Send) {
    run_with(name, "packet_path: on", settings, test);
}

/// [`run`], with other top-level settings of the agent.
#[track_caller]
pub fn run_with(name: &str, top: &str, settings: &str, test: impl FnOnce(&mut Scene<'_>) + Send) {
    lab::run(name, |lab| test(&mut Scene::of(World::start(lab, top, settings), None)));
}

/// [`run`], with an agent on the far node, too.
#[track_caller]
pub fn run_both(name: &str, settings: &str, test: impl FnOnce(&mut Scene<'_>) + Send) {
    let far_lab = Lab::another(&format!("{name}-far"));
    lab::run(name, |lab| {
        let node = Node::here(lab, NEAR.0);
        let other = node.beside_in(&far_lab, 2, FAR.0);
        let world = World::of(lab, node, other, "packet_path: on", settings);
        far_lab.set_settings(&settings_of(&world.api, FAR.0, "packet_path: on", settings));
        let agent = world.other.run(|| Agent::start(&far_lab, ""));
        let stranger = world.other.stranger(lab, "far-stranger");
        stranger.serve(Kind::Udp, PROBE_PORT);
        test(&mut Scene::of(world, Some((agent, stranger))));
    });
}

// === impl Scene ===

impl<'a> Scene<'a> {
    fn of(world: World<'a>, far: Option<(Agent<'a>, Pod)>) -> Self {
        let client = outsider(&world.node, world.lab, 9, "client");
        let guest = world.node.guest(world.lab, "guest");
        let stranger = world.node.stranger(world.lab, "stranger");
        stranger.serve(Kind::Udp, PROBE_PORT);
        for node in [&world.node, &world.other] {
            route_by(node, &client);
        }
        // A device may take a second to carry; a packet lost meanwhile would pass for one dropped.
        for from in [&*client, &*guest] {
            for to in stranger.addresses().at(PROBE_PORT) {
                eventually(&format!("{} to have a way to {to}", from.name()), DEADLINE, || {
                    from.ask_within(Way::Unconnected, to, PATIENCE).is_ok()
                });
            }
        }
        Self { stranger, guest, client, far, world, turn: Cell::new(2000) }
    }

    /// What the near node's agent says of its packet path.
    #[track_caller]
    pub fn said(&self) -> Value {
        said(self.world.lab)
    }

    /// Another host outside, with this number (10 or more) in its address.
    pub fn outsider(&self, number: u8, name: &str) -> Node {
        outsider(&self.world.node, self.world.lab, number, name)
    }

    /// Puts a service with the slices of its endpoints, and waits until packets to it are translated
    /// so on the near node.
    #[track_caller]
    pub fn put(&self, service: &Svc, endpoints: &[Endpoint]) {
        self.world.put(service, endpoints);
        self.settle();
    }

    /// Waits until what was put so far is what packets meet on the near node, in both families.
    #[track_caller]
    pub fn settle(&self) {
        self.settle_for(&self.stranger);
    }

    /// [`settle`](Self::settle), on the far node.
    #[track_caller]
    pub fn settle_far(&self) {
        self.settle_for(self.far.as_ref().map(|(_, stranger)| stranger).expect("an agent there"));
    }

    #[track_caller]
    fn settle_for(&self, stranger: &Pod) {
        // Once with what is put behind it, and then alone: behind that, nothing is left to be written.
        for is_alone in [false, true] {
            let turn = self.turn.get() + 1;
            self.turn.set(turn);
            let probe = Svc::new("probe", 251).udp("", turn, PROBE_PORT);
            let own = endpoint(stranger);
            if is_alone {
                self.world.api.put_all([probe.object()].into_iter().chain(probe.slices(&[own])));
            } else {
                self.world.put(&probe, &[own]);
            }
            for to in probe.at(turn) {
                eventually(&format!("packets to {to} to be translated"), DEADLINE, || {
                    stranger.ask_within(Way::Unconnected, to, PATIENCE).is_ok()
                });
            }
        }
    }

    /// A pod of this name on the near node that serves all three protocols on a port.
    pub fn pod(&self, name: &str, port: u16) -> Pod {
        serving(self.world.node.pod(name), port)
    }

    /// A pod of this name on the far node that serves all three protocols on a port.
    pub fn far_pod(&self, name: &str, port: u16) -> Pod {
        serving(self.world.other.pod(name), port)
    }

    /// The service `web`: three protocols on port 80, a NodePort, a load balancer's and an external
    /// address.
    pub fn web() -> Svc {
        let ingress = BALANCER.both().map(|address| json!({"ip": address}));
        Svc::new("web", 10)
            .tcp_and_udp(80, 8080)
            .sctp("sctp", 80, 8080)
            .node_port(NODE_PORT)
            .load_balancer(ingress)
            .with("externalIPs", json!(EXTERNAL.both()))
    }

    /// Where outsiders find `web`: NodePort, load balancer's address, external address.
    pub fn doors(&self) -> Vec<SocketAddr> {
        let node_port = self.world.node.addresses().at(NODE_PORT);
        [node_port, BALANCER.at(80), EXTERNAL.at(80)].concat()
    }
}

/// The NodePort of [`Scene::web`].
pub const NODE_PORT: u16 = 30_080;

/// What the lab's agent says of its packet path.
#[track_caller]
pub fn said(lab: &Lab) -> Value {
    let (code, body) = http::get(&lab.socket(), "/v1/status").expect("the agent answers");
    assert_eq!(code, 200, "{body}");
    let status: Value = serde_json::from_str(&body).expect("JSON");
    status["packet_path"].clone()
}

/// What a node has no other way for goes to this host, which need not answer.
pub fn route_by(node: &Node, host: &Node) {
    let Pair { v4, v6 } = host.addresses();
    node.run(|| ip_batch(&format!("route add default via {v4}\nroute add default via {v6}")));
}

/// A host that sends what is for services to a node, and forwards nothing.
pub fn outsider(node: &Node, lab: &Lab, number: u8, name: &str) -> Node {
    let host = node.beside(lab, number, name);
    let Pair { v4, v6 } = node.addresses();
    host.run(|| {
        sysctl("ipv4/ip_forward", "0");
        sysctl("ipv6/conf/all/forwarding", "0");
        for network in ["10.96.0.0/16", "198.51.100.0/24"] {
            netns::add_route(network, &v4.to_string());
        }
        for network in ["fd00:96::/64", "fd00:51::/64"] {
            netns::add_route(network, &v6.to_string());
        }
    });
    host
}

fn serving(pod: Pod, port: u16) -> Pod {
    ALL_KINDS.into_iter().for_each(|kind| pod.serve(kind, port));
    pod
}
