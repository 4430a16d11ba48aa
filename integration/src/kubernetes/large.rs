//! A cluster as large as the bounds are given for: objects in memory, or in an API server that an
//! agent follows, and what is measured.

use super::{NEAR, Published, Svc};
use crate::agent::Agent;
use crate::apiserver::ApiServer;
use crate::lab::Lab;
use crate::large::{EACH, SERVICES, Seen, seen};
use crate::netns;
use crate::server::{Backends, Kind};
use crate::wait::{let_pass, wait_for};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_agent::config::TableSizes;
use lb_agent::dataplane::exclude::Excluded;
use lb_agent::dataplane::{Dataplane as _, Kernel, Settings, preflight};
use lb_agent::desired::{Input, Merger};
use lb_agent::model::Scope;
use lb_agent::plan::{Limits, Planner};
use lb_agent::source::kubernetes::cluster::{
    Change, Cluster, NodePortAddresses, NodePorts, Pods, Settings as ClusterSettings,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant, SystemTime};

/// The service that is changed, beside the many, and where its endpoints are.
const PROBE: &str = "probe";
const SERVERS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const PORT: u16 = 8080;
/// From one change to the next, where each is to be published by itself.
const PACE: Duration = Duration::from_millis(25);
const DEADLINE: Duration = Duration::from_secs(20);

/// An API server with many services, each with a slice of endpoints.
pub struct Large<'a> {
    lab: &'a Lab,
    services: u32,
    api: ApiServer,
    _servers: Backends,
}

/// How long it took from objects in memory to the kernel's tables.
#[derive(Clone, Copy, Debug)]
pub struct FromMemory {
    /// To understand the objects and make services of them.
    pub translating: Duration,
    /// All of it.
    pub whole: Duration,
}

// === impl Large ===

impl<'a> Large<'a> {
    /// Starts an API server and fills it. To be called within [`crate::lab::run`].
    #[track_caller]
    pub fn fill(lab: &'a Lab) -> Self {
        Self::fill_with(lab, SERVICES)
    }

    /// [`fill`](Self::fill) with this number of services beside the one that is changed.
    #[track_caller]
    pub fn fill_with(lab: &'a Lab, services: u32) -> Self {
        let servers = serve();
        let api = ApiServer::start();
        api.put(node());
        api.put_all((0..services).map(service));
        api.put_all((0..services).map(slice));
        api.put_all([probe(services), probe_slice(0)]);
        Self { lab, services, api, _servers: servers }
    }

    /// From now on, lists come in pages, as from servers that can't stream them.
    pub fn list_in_pages(&self) {
        self.api.forbid_streaming_lists();
    }

    /// Starts an agent on the API server, and returns how long it took to be ready: to start at all,
    /// to read the objects, to publish the tables and to attach the programs.
    #[track_caller]
    pub fn start_agent(&self) -> (Agent<'a>, Duration) {
        self.start_agent_with("")
    }

    /// [`start_agent`](Self::start_agent) with further top-level settings.
    #[track_caller]
    pub fn start_agent_with(&self, top: &str) -> (Agent<'a>, Duration) {
        self.lab.set_settings(&format!(
            "{top}\nsources:\n  - kubernetes: {{server: \"{}\", node: {}}}\n",
            self.api.url(),
            NEAR.0,
        ));
        Agent::start_large(self.lab, "")
    }

    /// Moves the probe's only endpoint to the other server, and waits until connects go there.
    #[track_caller]
    pub fn change(&self, turn: usize) -> Seen {
        let asked = self.move_to(turn % 2);
        seen(asked, Instant::now(), self.probe(), turn % 2)
    }

    /// Moves the probe's only endpoint to this server, 0 or 1; when that was asked for.
    pub fn move_to(&self, server: usize) -> Instant {
        let change = probe_slice(server);
        let asked = Instant::now();
        self.api.put(change);
        asked
    }

    /// The address of the service that is changed, the last one.
    pub fn probe(&self) -> SocketAddr {
        vip(self.services)
    }

    /// Changes the probe's endpoint so often, an even number of times, and returns what the agent says of how
    /// long each took from the last byte of its event to the kernel's tables. Nobody connects meanwhile.
    #[track_caller]
    pub fn publish(&self, agent: &Agent<'_>, changes: usize) -> Published {
        let before = Published::so_far();
        for turn in 1..=changes {
            self.api.put(probe_slice(turn % 2));
            let_pass(PACE);
        }
        seen(Instant::now(), Instant::now(), self.probe(), changes % 2);
        let last = agent.revision();
        let all = wait_for("the metrics of all changes", DEADLINE, || {
            Some(Published::so_far()).filter(|now| now.revisions >= last)
        });
        all.since(&before)
    }
}

/// Serves the probe's endpoints, which call themselves 0 and 1.
pub fn serve() -> Backends {
    SERVERS.iter().for_each(|server| netns::add_address(server));
    Backends::start(Kind::Tcp, [0, 1].map(|index| (address_of(index), index.to_string())))
}

/// Takes in all objects and publishes what they come to in the lab's tables, as the agent does.
#[track_caller]
pub fn publish_from_memory(lab: &Lab) -> FromMemory {
    let services: Vec<Service> = (0..SERVICES).map(|number| typed(service(number))).collect();
    let slices: Vec<EndpointSlice> = (0..SERVICES).map(|number| typed(slice(number))).collect();
    let node: Node = typed(node());
    let host = preflight::check(Some(lab.cgroup().path()), lab.pin_dir()).expect("the host is fit");
    let sizes = TableSizes::default();
    let (features, netns, sk_err) = (host.features, host.netns, host.sk_err);
    let excluded = Excluded::default();
    let settings = Settings { sizes, features, netns, sk_err, excluded };
    let kernel = Kernel::open(lab.pin_dir(), lab.cgroup().path(), &settings);
    let mut kernel = kernel.expect("the tables open");
    let TableSizes { frontends, services: names, rows, backends, .. } = sizes;
    let limits = Limits { frontends, services: names, rows, backends };
    let observed = kernel.observe().expect("the tables can be read");
    let mut planner = Planner::adopt(limits, observed).expect("the tables are sound");

    let (begin, now) = (Instant::now(), SystemTime::now());
    let mut cluster = Cluster::new(cluster_settings(), now);
    list([node], |change| cluster.node(change));
    list(services, |change| cluster.service(change));
    list(slices, |change| cluster.slice(change, now));
    assert!(cluster.is_synced());
    let snapshot = cluster.snapshot();
    let translating = begin.elapsed();
    let mut merger = Merger::default();
    let input = Input { source: "kubernetes".into(), snapshot, synced: true };
    let plan = planner.plan(merger.merge(vec![input]));
    kernel.apply(&plan.actions).expect("the tables can be written");
    let whole = begin.elapsed();

    assert!(plan.rejections.is_empty(), "{:?}", plan.rejections);
    let services = merger.desired().services.values();
    let backends: usize = services.map(|entry| entry.service.backends.len()).sum();
    assert_eq!(backends, (SERVICES * EACH) as usize);
    FromMemory { translating, whole }
}

fn list<T>(objects: impl IntoIterator<Item = T>, mut take: impl FnMut(Change<T>)) {
    take(Change::Begin);
    objects.into_iter().for_each(|object| take(Change::Listed(object)));
    take(Change::Complete);
}

fn cluster_settings() -> ClusterSettings {
    ClusterSettings {
        source: "kubernetes".into(),
        node: NEAR.0.to_owned(),
        node_ports: NodePorts { addresses: NodePortAddresses::All, localhost: true },
        scope: Scope::Everywhere,
        pods: Pods::Unknown,
        masquerade_all: false,
    }
}

fn typed<T: DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("an object of the API")
}

fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NEAR.0}, "spec": {},
        "status": {"addresses": [{"type": "InternalIP", "address": SERVERS[0]}]},
    })
}

/// The address of service `number`.
pub fn vip(number: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0A60_0000 + number), 80).into()
}

/// Where a server of the probe's is, 0 or 1.
pub fn address_of(server: usize) -> SocketAddr {
    SocketAddr::new(SERVERS[server].parse().expect("an address"), PORT)
}

fn service(number: u32) -> Value {
    service_named(&format!("s{number}"), vip(number))
}

fn probe(number: u32) -> Value {
    service_named(PROBE, vip(number))
}

fn service_named(name: &str, vip: SocketAddr) -> Value {
    Svc::new(name, 0)
        .tcp("http", vip.port(), PORT)
        .with("clusterIP", json!(vip.ip()))
        .with("clusterIPs", json!([vip.ip()]))
        .with("ipFamilies", json!(["IPv4"]))
        .with("ipFamilyPolicy", json!("SingleStack"))
        .object()
}

fn slice(number: u32) -> Value {
    slice_of(&format!("s{number}"), endpoints_of(number).map(|endpoint| *endpoint.ip()))
}

/// The endpoints of service `number`, which nobody serves.
pub fn endpoints_of(number: u32) -> impl Iterator<Item = SocketAddrV4> {
    let first = 0xAC10_0000 + number * EACH;
    (first..first + EACH).map(|address| SocketAddrV4::new(address.into(), PORT))
}

fn probe_slice(server: usize) -> Value {
    slice_of(PROBE, [SERVERS[server].parse().expect("an address")])
}

fn slice_of(service: &str, addresses: impl IntoIterator<Item = Ipv4Addr>) -> Value {
    let endpoints = addresses.into_iter().enumerate().map(|(index, address)| {
        json!({
            "addresses": [address], "nodeName": format!("node-{index}"), "zone": "z1",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("{service}-{index}")},
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-x7k2p"), "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}
