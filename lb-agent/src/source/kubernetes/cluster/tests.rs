mod facts;
mod incremental;
mod large;

use super::*;
use crate::model::{self, AdminState, NoBackend, Reach, Scope};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// A node that hears of objects.
pub(in super::super) struct Lab {
    pub(in super::super) cluster: Cluster,
}

/// Everything was listed, and there was nothing.
pub(in super::super) fn listed(settings: Settings) -> Lab {
    let mut lab = Lab { cluster: Cluster::new(settings, started()) };
    lab.list(&[]);
    lab
}

pub(in super::super) fn settings() -> Settings {
    Settings {
        source: "kubernetes".into(),
        node: "here".to_owned(),
        node_ports: NodePorts { addresses: NodePortAddresses::All, localhost: true },
        scope: Scope::Everywhere,
        pods: Pods::Ranges(vec!["10.0.0.0/8".parse().unwrap()]),
        masquerade_all: false,
    }
}

pub(in super::super) fn started() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

pub(in super::super) fn object<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

impl Lab {
    pub(in super::super) fn new() -> Self {
        listed(settings())
    }

    /// Says something about an object, whichever kind it is of.
    fn say(&mut self, value: &Value, change: impl FnOnce(Value) -> Change<Value>) {
        let change = change(value.clone());
        let now = started() + Duration::from_secs(60);
        match value["kind"].as_str().unwrap() {
            "Service" => self.cluster.service(change.map(|value| object(&value))),
            "EndpointSlice" => self.cluster.slice(change.map(|value| object(&value)), now),
            "Node" => self.cluster.node(change.map(|value| object(&value))),
            "ServiceCIDR" => self.cluster.service_cidr(change.map(|value| object(&value))),
            other => panic!("{other}"),
        }
    }

    pub(in super::super) fn put(&mut self, value: &Value) -> &mut Self {
        self.say(value, Change::Put);
        self
    }

    pub(in super::super) fn delete(&mut self, value: &Value) -> &mut Self {
        self.say(value, Change::Delete);
        self
    }

    /// A complete list of each kind.
    pub(in super::super) fn list(&mut self, objects: &[Value]) -> &mut Self {
        for kind in [SERVICE, SLICE, NODE, SERVICE_CIDR] {
            let some = json!({ "kind": kind });
            self.say(&some, |_| Change::Begin);
            for value in objects.iter().filter(|value| value["kind"] == kind) {
                self.say(value, Change::Listed);
            }
            self.say(&some, |_| Change::Complete);
        }
        self
    }

    /// What callers find, a frontend a line.
    pub(in super::super) fn found(&mut self) -> Vec<String> {
        self.cluster.snapshot();
        found(self.cluster.versions.now())
    }

    pub(in super::super) fn rejections(&mut self) -> Vec<String> {
        let all = self.cluster.rejections();
        all.iter().map(|r| format!("{}: {}", r.origin, r.reason)).collect()
    }

    fn changed(&mut self) -> bool {
        self.cluster.snapshot().is_some()
    }
}

fn found(snapshot: &Snapshot) -> Vec<String> {
    let services = snapshot.services.iter();
    services.flat_map(|(name, service)| lines(name.as_str(), service)).collect()
}

/// `name 10.96.0.1:80/tcp: 10.0.0.1:80 (10.0.0.2:80)`; in parentheses: no new connections.
fn lines(name: &str, service: &model::Service) -> Vec<String> {
    let line = |(frontend, exposure): (&model::Frontend, &model::Exposure)| {
        let mut line = format!("{name} {frontend}:");
        let mut usable = false;
        for (address, backend) in service.backends_for(frontend) {
            usable |= backend.state == AdminState::Ready;
            match backend.state {
                AdminState::Ready => write!(line, " {address}").unwrap(),
                AdminState::Drain => write!(line, " ({address})").unwrap(),
                AdminState::Disabled => panic!("{service:?}"),
            }
        }
        let verdict = match exposure.reach {
            Reach::Cluster => service.no_backend,
            Reach::Node => service.no_node_backend,
        };
        line.push_str(match verdict {
            _ if usable => "",
            NoBackend::Refuse => " refused",
            NoBackend::Unreachable => " unreachable",
            NoBackend::Pass => " passed",
        });
        line.push_str(if exposure.scope == Scope::Host { " host" } else { "" });
        line
    };
    service.socket_frontends().map(line).collect()
}

/// A Service in namespace `ns` with one address, 10.96.0.1, and port 80 with no name; `spec` is laid
/// over that.
pub(in super::super) fn service(name: &str, spec: Value) -> Value {
    let mut all = json!({
        "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
        "ipFamilies": ["IPv4"], "ports": [{ "port": 80, "protocol": "TCP" }],
    });
    let all_fields = all.as_object_mut().unwrap();
    all_fields.extend(spec.as_object().unwrap().clone());
    json!({ "kind": "Service", "metadata": { "namespace": "ns", "name": name }, "spec": all })
}

/// A slice with port 8080 for the port with no name. An endpoint is `ADDRESS[@NODE][=CONDITIONS]`,
/// the conditions being ready, serving and terminating as 0 or 1: `10.0.0.1@here=011`.
pub(in super::super) fn slice(service: &str, name: &str, endpoints: &str) -> Value {
    let v6 = endpoints.contains("::");
    let endpoints = endpoints.split_whitespace().map(|text| {
        let (text, conditions) = text.split_once('=').unwrap_or((text, "110"));
        let is = |at: usize| conditions.as_bytes()[at] == b'1';
        let (address, node) = text.split_once('@').unwrap_or((text, "there"));
        json!({
            "addresses": [address], "nodeName": node,
            "conditions": { "ready": is(0), "serving": is(1), "terminating": is(2) },
        })
    });
    json!({
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "ns", "name": name, "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

pub(in super::super) fn node(name: &str, zone: &str, addresses: &[&str]) -> Value {
    let addresses = addresses.iter().map(|a| json!({ "type": "InternalIP", "address": a }));
    json!({
        "kind": "Node",
        "metadata": {
            "name": name, "uid": "1-2-3", "labels": { "topology.kubernetes.io/zone": zone },
        },
        "status": { "addresses": addresses.collect::<Vec<_>>() },
    })
}

impl<T> Change<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Begin => Change::Begin,
            Self::Listed(object) => Change::Listed(f(object)),
            Self::Complete => Change::Complete,
            Self::Put(object) => Change::Put(f(object)),
            Self::Delete(object) => Change::Delete(f(object)),
        }
    }
}

#[test]
fn nothing_is_served_before_everything_was_listed() {
    let kinds = ["Service", "EndpointSlice", "Node"];
    for last in kinds {
        let mut lab = Lab { cluster: Cluster::new(settings(), started()) };
        for kind in kinds.into_iter().filter(|kind| *kind != last).chain([last]) {
            assert!(!lab.cluster.is_synced());
            assert!(!lab.changed());
            let some = json!({ "kind": kind });
            lab.say(&some, |_| Change::Begin);
            if kind == "Service" {
                lab.say(&service("a", json!({})), Change::Listed);
            }
            assert!(!lab.changed());
            lab.say(&some, |_| Change::Complete);
        }
        assert!(lab.cluster.is_synced());
        assert!(lab.changed());
        assert!(!lab.changed());
        assert_eq!(lab.found(), ["ns/a 10.96.0.1:80/tcp: refused"]);
    }
    let mut lab = Lab { cluster: Cluster::new(settings(), started()) };
    for kind in ["Service", "EndpointSlice"] {
        lab.say(&json!({ "kind": kind }), |_| Change::Complete);
    }
    assert!(!lab.cluster.is_synced());
    lab.cluster.without_node();
    assert!(lab.cluster.is_synced() && lab.changed());
}

#[test]
fn slices_come_before_their_service_in_halves_and_for_another_one() {
    let mut lab = Lab::new();
    lab.put(&slice("a", "a-1", "10.0.0.1"));
    assert!(lab.changed(), "the first one");
    lab.put(&slice("a", "a-2", "10.0.0.2"));
    assert!(!lab.changed());
    lab.put(&service("a", json!({})));
    assert_eq!(lab.found(), ["ns/a 10.96.0.1:80/tcp: 10.0.0.1:8080 10.0.0.2:8080"]);
    // One half is the other service's from now on.
    lab.put(&service("b", json!({ "clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"] })));
    lab.put(&slice("b", "a-2", "10.0.0.2"));
    let expected = ["ns/a 10.96.0.1:80/tcp: 10.0.0.1:8080", "ns/b 10.96.0.2:80/tcp: 10.0.0.2:8080"];
    assert_eq!(lab.found(), expected);
    // A slice of the same name in another namespace is another one.
    let mut other = slice("a", "a-1", "10.0.0.9");
    other["metadata"]["namespace"] = json!("other");
    lab.put(&other).delete(&other);
    assert_eq!(lab.found(), expected);
    lab.delete(&slice("a", "a-1", "")).delete(&service("b", json!({})));
    assert_eq!(lab.found(), ["ns/a 10.96.0.1:80/tcp: refused"]);
    // The Service comes again and finds what is still there.
    lab.put(&service("b", json!({ "clusterIP": "10.96.0.3", "clusterIPs": ["10.96.0.3"] })));
    assert_eq!(lab.found()[1], "ns/b 10.96.0.3:80/tcp: 10.0.0.2:8080");
    lab.delete(&service("a", json!({}))).delete(&service("b", json!({})));
    lab.delete(&slice("b", "a-2", ""));
    assert_eq!(lab.found(), [""; 0]);
    assert!(lab.cluster.units.is_empty() && lab.cluster.homes.is_empty());
}

#[test]
fn labels_flip_at_run_time() {
    let mut lab = Lab::new();
    let (ours, mut theirs) = (service("a", json!({})), service("a", json!({})));
    theirs["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": "mesh" });
    let (normal, mut headless) = (slice("a", "a-1", "10.0.0.1"), slice("a", "a-1", "10.0.0.1"));
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    let mut labelled = ours.clone();
    labelled["metadata"]["labels"] = json!({ "service.kubernetes.io/headless": "" });
    lab.put(&ours).put(&normal);
    let served = ["ns/a 10.96.0.1:80/tcp: 10.0.0.1:8080"];
    assert_eq!(lab.found(), served);
    assert_eq!(lab.put(&theirs).found(), [""; 0]);
    assert_eq!(lab.put(&ours).found(), served);
    assert_eq!(lab.put(&headless).found(), ["ns/a 10.96.0.1:80/tcp: refused"]);
    assert_eq!(lab.put(&normal).found(), served);
    // On the Service itself that label says nothing: its slices have it, too, when it counts.
    assert_eq!(lab.put(&labelled).found(), served);
    assert_eq!(lab.rejections(), [""; 0]);
}

#[test]
fn a_list_counts_when_it_is_complete() {
    let mut lab = Lab::new();
    let all = [service("a", json!({})), slice("a", "a-1", "10.0.0.1")];
    let served = ["ns/a 10.96.0.1:80/tcp: 10.0.0.1:8080"];
    assert_eq!(lab.list(&all).found(), served);
    assert!(!lab.list(&all).changed(), "nothing new");
    let kinds = [json!({ "kind": "Service" }), json!({ "kind": "EndpointSlice" })];
    let other = service("b", json!({}));
    // It begins, breaks off, begins again; the old state serves all the time.
    for _ in 0..2 {
        for kind in &kinds {
            lab.say(kind, |_| Change::Begin);
        }
        lab.say(&other, Change::Listed);
        assert!(!lab.changed() && lab.cluster.is_synced());
    }
    assert_eq!(lab.found(), served);
    // A change in between is not lost, whichever it is.
    lab.put(&service("c", json!({ "clusterIP": "10.96.0.3", "clusterIPs": ["10.96.0.3"] })));
    assert_eq!(lab.found().len(), 2);
    lab.say(&slice("c", "c-1", "10.0.0.3"), Change::Listed);
    for kind in &kinds {
        lab.say(kind, |_| Change::Complete);
    }
    let expected = ["ns/b 10.96.0.1:80/tcp: refused", "ns/c 10.96.0.3:80/tcp: 10.0.0.3:8080"];
    assert_eq!(lab.found(), expected);
    lab.say(&kinds[0], |_| Change::Begin);
    lab.say(&other, Change::Listed);
    lab.delete(&other);
    lab.say(&kinds[0], |_| Change::Complete);
    assert_eq!(lab.found(), [""; 0]);
}

#[test]
fn what_is_as_it_was_is_the_very_same() {
    let mut lab = Lab::new();
    for number in 0..5 {
        let address = format!("10.96.0.{number}");
        let spec = json!({ "clusterIP": address, "clusterIPs": [address] });
        let name = format!("s{number}");
        lab.put(&service(&name, spec)).put(&slice(&name, &name, "10.0.0.1 10.0.1.1=010"));
    }
    let before = lab.cluster.snapshot().unwrap();
    lab.put(&slice("s3", "s3", "10.0.0.1 10.0.0.2"));
    // Nobody uses an endpoint that is not ready, so this is no news.
    lab.put(&slice("s1", "s1", "10.0.0.1 10.0.1.2=010"));
    let after = lab.cluster.snapshot().unwrap();
    for (name, service) in &after.services {
        let same = Arc::ptr_eq(service, &before.services[name]);
        assert_eq!(same, name.as_str() != "ns/s3", "{name}");
    }
    lab.put(&slice("s1", "s1", "10.0.0.1 10.0.1.3=010"));
    assert!(!lab.changed());
}

#[test]
fn zone_and_addresses_renew_what_they_concern() {
    let mut lab = Lab::new();
    let address = |text: &str| Arc::new(BTreeSet::from([text.parse::<IpAddr>().unwrap()]));
    let mut hinted = slice("zoned", "zoned", "10.0.0.1 10.0.0.2");
    for (at, zone) in ["a", "b"].into_iter().enumerate() {
        hinted["endpoints"][at]["hints"] = json!({ "forZones": [{ "name": zone }] });
        hinted["endpoints"][at]["zone"] = json!(zone);
    }
    let spec = json!({
        "clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"],
        "ports": [{ "port": 80, "nodePort": 30080 }],
    });
    lab.put(&service("zoned", json!({}))).put(&hinted).put(&service("open", spec));
    lab.put(&slice("open", "open", "10.0.0.3"));
    assert_eq!(
        lab.found(),
        [
            "ns/open 10.96.0.2:80/tcp: 10.0.0.3:8080",
            "ns/open 127.0.0.1:30080/tcp: 10.0.0.3:8080 host",
            "ns/zoned 10.96.0.1:80/tcp: 10.0.0.1:8080 10.0.0.2:8080",
        ]
    );
    lab.put(&node("there", "a", &["192.0.2.9"]));
    assert!(!lab.changed());
    lab.put(&node("here", "b", &["192.0.2.1"]));
    assert_eq!(lab.found()[2], "ns/zoned 10.96.0.1:80/tcp: 10.0.0.2:8080");
    let backend = &lab.cluster.versions.now().services[&"ns/zoned".parse().unwrap()].backends;
    assert_eq!(backend.values().next().unwrap().zone.as_deref(), Some("b"));
    lab.cluster.set_addresses(address("192.0.2.1"));
    assert_eq!(lab.found()[2], "ns/open 192.0.2.1:30080/tcp: 10.0.0.3:8080");
    lab.cluster.set_addresses(address("192.0.2.1"));
    assert!(!lab.changed());
    lab.put(&node("here", "c", &["192.0.2.1"]));
    assert_eq!(lab.found()[3], "ns/zoned 10.96.0.1:80/tcp: 10.0.0.1:8080 10.0.0.2:8080");
    let facts = lab.cluster.facts();
    assert_eq!(facts.node.as_ref().unwrap().zone.as_deref(), Some("c"));
    lab.put(&node("here", "a", &["192.0.2.1"])).delete(&node("here", "", &[]));
    assert_eq!(lab.cluster.facts().node, None);
    assert_eq!(lab.found()[3], "ns/zoned 10.96.0.1:80/tcp: 10.0.0.1:8080 10.0.0.2:8080");
}
