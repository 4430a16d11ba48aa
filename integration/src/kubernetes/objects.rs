//! Services, EndpointSlices and Nodes as the API has them, in both families.

use crate::pods::{Node, Pair, Place};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A Service of both families in the namespace `default`.
#[derive(Clone, Debug)]
pub struct Svc {
    name: String,
    addresses: Pair,
    ports: Vec<Port>,
    spec: Value,
    ingress: Vec<Value>,
}

#[derive(Clone, Debug)]
struct Port {
    name: String,
    port: u16,
    target: u16,
    protocol: &'static str,
    node_port: Option<u16>,
}

/// An endpoint as in an EndpointSlice, with an address of each family.
#[derive(Clone, Debug)]
pub struct Endpoint {
    addresses: [String; 2],
    rest: Value,
}

// === impl Svc ===

impl Svc {
    /// A service at `10.96.0.HOST` and `fd00:96::HOST` (decimal and hexadecimal), without ports.
    pub fn new(name: &str, host: u8) -> Self {
        let v6 = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, host.into());
        let addresses = Pair { v4: Ipv4Addr::new(10, 96, 0, host), v6 };
        let name = name.to_owned();
        Self { name, addresses, ports: Vec::new(), spec: json!({}), ingress: Vec::new() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a TCP port, whose endpoints listen on `target`.
    pub fn tcp(self, name: &str, port: u16, target: u16) -> Self {
        self.port(name, port, target, "TCP")
    }

    /// Adds a UDP port.
    pub fn udp(self, name: &str, port: u16, target: u16) -> Self {
        self.port(name, port, target, "UDP")
    }

    /// Adds an SCTP port.
    pub fn sctp(self, name: &str, port: u16, target: u16) -> Self {
        self.port(name, port, target, "SCTP")
    }

    /// A port for each protocol under the same number.
    pub fn tcp_and_udp(self, port: u16, target: u16) -> Self {
        self.tcp("tcp", port, target).udp("udp", port, target)
    }

    fn port(mut self, name: &str, port: u16, target: u16, protocol: &'static str) -> Self {
        let name = name.to_owned();
        self.ports.push(Port { name, port, target, protocol, node_port: None });
        self
    }

    /// Takes all ports away.
    pub fn without_ports(mut self) -> Self {
        self.ports.clear();
        self
    }

    /// Makes it a NodePort service; all ports get this number.
    pub fn node_port(mut self, number: u16) -> Self {
        self.ports.iter_mut().for_each(|port| port.node_port = Some(number));
        self.with("type", json!("NodePort"))
    }

    /// Makes it a load balancer's, with ingress entries as in the API: `{"ip": "..."}`.
    pub fn load_balancer(mut self, ingress: impl IntoIterator<Item = Value>) -> Self {
        self.ingress = ingress.into_iter().collect();
        self.with("type", json!("LoadBalancer"))
    }

    /// Sets a field of the spec.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    /// Session affinity with this timeout, in seconds.
    pub fn sticky(self, timeout: u32) -> Self {
        self.with("sessionAffinity", json!("ClientIP"))
            .with("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": timeout}}))
    }

    /// Its cluster addresses.
    pub fn addresses(&self) -> Pair {
        self.addresses
    }

    /// Its cluster addresses with a port.
    pub fn at(&self, port: u16) -> [SocketAddr; 2] {
        self.addresses.at(port)
    }

    /// The Service as an object.
    pub fn object(&self) -> Value {
        let ports = self.ports.iter().map(|port| {
            let mut value = json!({
                "name": port.name, "port": port.port, "targetPort": port.target,
                "protocol": port.protocol,
            });
            if let Some(number) = port.node_port {
                value["nodePort"] = json!(number);
            }
            value
        });
        let Pair { v4, v6 } = self.addresses;
        let mut spec = json!({
            "type": "ClusterIP", "clusterIP": v4, "clusterIPs": [v4, v6],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": ports.collect::<Vec<_>>(), "selector": {"app": self.name},
        });
        for (field, value) in self.spec.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name, "namespace": "default"}, "spec": spec,
            "status": {"loadBalancer": {"ingress": self.ingress}},
        })
    }

    /// Its EndpointSlices, one for each family: `NAME-ipv4`, `NAME-ipv6`.
    pub fn slices(&self, endpoints: &[Endpoint]) -> [Value; 2] {
        self.slices_named("", endpoints)
    }

    /// Further slices: `NAME-PARTipv4`, ...
    pub fn slices_named(&self, part: &str, endpoints: &[Endpoint]) -> [Value; 2] {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| json!({"name": port.name, "port": port.target, "protocol": port.protocol}))
            .collect();
        [("IPv4", 0), ("IPv6", 1)].map(|(family, index)| {
            let endpoints = endpoints.iter().map(|endpoint| {
                let mut value = endpoint.rest.clone();
                value["addresses"] = json!([endpoint.addresses[index]]);
                value
            });
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{}-{part}{}", self.name, family.to_lowercase()),
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": self.name},
                },
                "addressType": family, "ports": ports,
                "endpoints": endpoints.collect::<Vec<_>>(),
            })
        })
    }
}

/// The endpoint that a pod is; ready.
pub fn endpoint(pod: &Place) -> Endpoint {
    Endpoint::at(pod.addresses().both(), pod.node())
}

// === impl Endpoint ===

impl Endpoint {
    /// A ready endpoint at an IPv4 and an IPv6 address, on a node.
    pub fn at<A: ToString>(addresses: [A; 2], node: &str) -> Self {
        let rest = json!({"nodeName": node, "conditions": {}});
        let addresses = addresses.map(|address| address.to_string());
        Self { addresses, rest }.conditions(true, true, false)
    }

    /// Its conditions: ready, serving, terminating.
    pub fn conditions(mut self, ready: bool, serving: bool, terminating: bool) -> Self {
        self.rest["conditions"] =
            json!({"ready": ready, "serving": serving, "terminating": terminating});
        self
    }

    /// Neither ready nor serving.
    pub fn unready(self) -> Self {
        self.conditions(false, false, false)
    }

    /// Terminating, but still serving.
    pub fn terminating(self) -> Self {
        self.conditions(false, true, true)
    }

    /// Which zones it is meant for.
    pub fn for_zones(self, zones: &[&str]) -> Self {
        self.hint("forZones", zones)
    }

    /// Which nodes it is meant for.
    pub fn for_nodes(self, nodes: &[&str]) -> Self {
        self.hint("forNodes", nodes)
    }

    fn hint(mut self, field: &str, names: &[&str]) -> Self {
        self.rest["hints"][field] = names.iter().map(|name| json!({"name": name})).collect();
        self
    }
}

/// A Node, in a zone, with its addresses of both families.
pub fn node_in(node: &Node, zone: &str) -> Value {
    let addresses = node.addresses().both();
    let addresses = addresses
        .map(|address: IpAddr| json!({"type": "InternalIP", "address": address.to_string()}));
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": node.name(), "uid": format!("uid-{}", node.name()),
            "labels": {"topology.kubernetes.io/zone": zone},
        },
        "spec": {"podCIDRs": node.pod_ranges()},
        "status": {"addresses": addresses},
    })
}
