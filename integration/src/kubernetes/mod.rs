//! A Kubernetes cluster that a test plays: an API server, a node with an agent and pods, and another
//! node without an agent. There are no controllers: a test writes EndpointSlices as they would.

mod expect;
pub mod large;
mod objects;
mod published;

pub use self::expect::{
    PACKETS, SCTP, TCP, UDP, nobody, reaches, reaches_as, refused, rejected, silent, unreachable,
};
pub use self::objects::{Endpoint, Svc, endpoint, node_in};
pub use self::published::Published;

use crate::agent::Agent;
use crate::apiserver::ApiServer;
use crate::lab::{self, Lab};
use crate::pods::{Node, Pod};
use crate::server::Kind;
use crate::wait::wait_for;
use serde_json::{Value, json};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

/// The node with the agent, and its zone.
pub const NEAR: (&str, &str) = ("near", "z1");
/// The node without one, and its zone.
pub const FAR: (&str, &str) = ("far", "z2");

/// A service that says how far the agent has got.
const LAST: &str = "last";
const DEADLINE: Duration = Duration::from_secs(30);

/// A cluster of two nodes. Pods must end before it.
#[derive(Debug)]
pub struct World<'a> {
    agent: Option<Agent<'a>>,
    /// Its API server.
    pub api: ApiServer,
    /// The node with the agent.
    pub node: Node,
    /// A node without one.
    pub other: Node,
    /// The lab it is in; the first node has its network namespace.
    pub lab: &'a Lab,
    turn: Cell<u16>,
}

/// Runs `test` in a cluster in a lab of its own.
#[track_caller]
pub fn run(name: &str, test: impl FnOnce(&mut World<'_>) + Send) {
    run_with(name, "localhost_node_ports: true", test);
}

/// [`run`] with these settings of the source: `localhost_node_ports: true, ...`. What is not translated
/// when it connects is not translated at all.
#[track_caller]
pub fn run_with(name: &str, settings: &str, test: impl FnOnce(&mut World<'_>) + Send) {
    lab::run(name, |lab| test(&mut World::start(lab, "packet_path: off", settings)));
}

// === impl World ===

impl<'a> World<'a> {
    /// A cluster in this lab, with top-level settings of the agent, and those of its source.
    #[track_caller]
    pub fn start(lab: &'a Lab, top: &str, settings: &str) -> Self {
        let node = Node::here(lab, NEAR.0);
        let other = node.beside(lab, 2, FAR.0);
        Self::of(lab, node, other, top, settings)
    }

    /// A cluster of these two nodes; the agent of the second is the caller's.
    #[track_caller]
    pub fn of(lab: &'a Lab, node: Node, other: Node, top: &str, settings: &str) -> Self {
        let api = ApiServer::start_at(SocketAddr::new(node.addresses().v4.into(), 0));
        for (node, zone) in [(&node, NEAR.1), (&other, FAR.1)] {
            api.put(node_in(node, zone));
        }
        lab.set_settings(&settings_of(&api, NEAR.0, top, settings));
        let agent = Some(Agent::start(lab, ""));
        Self { agent, api, node, other, lab, turn: Cell::new(1000) }
    }

    /// The agent.
    pub fn agent(&self) -> &Agent<'a> {
        self.agent.as_ref().expect("the agent runs")
    }

    /// Takes the agent away, to be stopped.
    pub fn take_agent(&mut self) -> Agent<'a> {
        self.agent.take().expect("the agent runs")
    }

    /// Starts another agent, which adopts what is there.
    pub fn start_agent(&mut self) {
        self.agent = Some(Agent::adopt(self.lab));
    }

    /// Starts another agent and waits until it serves what was known before, whether it can reach the
    /// API server or not.
    #[track_caller]
    pub fn start_agent_on_cache(&mut self) {
        let agent = Agent::spawn(self.lab, &[]);
        wait_for("the agent to serve from its cache", DEADLINE, || {
            agent.try_status().filter(|status| !status.hooks.is_empty())
        });
        self.agent = Some(agent);
    }

    /// Puts a service with the slices of its endpoints, and waits until it is served so.
    #[track_caller]
    pub fn put(&self, service: &Svc, endpoints: &[Endpoint]) {
        let slices = service.slices(endpoints);
        self.apply([service.object()].into_iter().chain(slices));
    }

    /// Puts objects, and waits until they are served.
    #[track_caller]
    pub fn apply(&self, objects: impl IntoIterator<Item = Value>) {
        self.api.put_all(objects);
        self.settle();
    }

    /// Removes a service with its slices, and waits until it is not served any more.
    #[track_caller]
    pub fn remove(&self, service: &Svc) {
        self.api.delete("services", "default", service.name()).expect("the service is there");
        for slice in service.slices(&[]) {
            let name = slice["metadata"]["name"].as_str().expect("a name");
            self.api.delete("endpointslices", "default", name).expect("the slice is there");
        }
        self.settle();
    }

    /// Waits until what the API server has of services and slices is in the kernel. Changes of one
    /// kind arrive in order, so all are there when the last are.
    #[track_caller]
    pub fn settle(&self) {
        let turn = self.turn.get() + 1;
        self.turn.set(turn);
        let last = Svc::new(LAST, 250).tcp("", turn, turn);
        let nowhere = Endpoint::at(["192.0.2.1", "fd00:2::1"], NEAR.0);
        self.api.put_all([last.object()].into_iter().chain(last.slices(&[nowhere])));
        wait_for("the last change to be served", DEADLINE, || {
            let services = self.agent().services();
            let last = services.iter().find(|service| service.name == format!("default/{LAST}"))?;
            let ports = last.frontends.iter().map(|frontend| frontend.frontend.address.port());
            let all = ports.chain(last.backends.iter().map(|backend| backend.address.port()));
            let mut frontends = services.iter().flat_map(|service| &service.frontends);
            let there = (last.frontends.len(), last.backends.len()) == (2, 2);
            let served = frontends.all(|frontend| frontend.installed);
            let failed = self.agent().status().work.last_error;
            (there && served && all.min() == Some(turn) && failed.is_none()).then_some(())
        });
    }

    /// Labels a service, or takes the label away.
    #[track_caller]
    pub fn label(&self, kind: &str, name: &str, label: &str, value: Option<&str>) {
        let mut object = self.api.get(kind, "default", name).expect("the object is there");
        object["metadata"]["labels"][label] = json!(value);
        if value.is_none()
            && let Some(labels) = object["metadata"]["labels"].as_object_mut()
        {
            labels.remove(label);
        }
        self.api.put(object);
    }

    /// A pod of this name on this node that serves TCP and UDP on a port.
    pub fn pod(&self, name: &str, port: u16) -> Pod {
        serving(self.node.pod(name), port)
    }

    /// A pod of this name on the other node that serves TCP and UDP on a port.
    pub fn far_pod(&self, name: &str, port: u16) -> Pod {
        serving(self.other.pod(name), port)
    }
}

/// An agent's settings on a node of this name.
pub fn settings_of(api: &ApiServer, node: &str, top: &str, settings: &str) -> String {
    let comma = if settings.is_empty() { "" } else { ", " };
    let server = api.url();
    format!(
        "{top}\nsources:\n  - kubernetes: {{server: \"{server}\", node: {node}{comma}{settings}}}\n"
    )
}

fn serving(pod: Pod, port: u16) -> Pod {
    pod.serve(Kind::Tcp, port);
    pod.serve(Kind::Udp, port);
    pod
}
