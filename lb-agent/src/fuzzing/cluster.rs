//! Objects of a cluster.

use super::{MOST_KEYS, check_backends, check_lines, check_shown};
use crate::forecast::manifests::Objects;
use crate::forecast::{Caller, Place, View};
use crate::model::{Rejection, Scope, Snapshot};
use crate::source::kubernetes::cluster::{
    Change, Cluster, NodePortAddresses, NodePorts, Pods, Settings,
};
use crate::source::kubernetes::objects::key;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

const NODE: &str = "n1";

/// A cluster that changes: each line is an object as JSON, which is deleted if a `-` stands before it. The lines
/// are also manifests.
pub fn cluster(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut cluster = fresh();
    list(&mut cluster, Objects::default());
    let mut there = BTreeMap::new();
    for line in text.lines().take(MOST_KEYS) {
        let (line, gone) = line.strip_prefix('-').map_or((line, false), |line| (line, true));
        let mut objects = Objects::default();
        if let Err(problem) = objects.add("f", line) {
            check_problem(&problem);
            continue;
        }
        put(&mut cluster, &objects, gone);
        remember(&mut there, objects, gone);
    }
    let last = cluster.snapshot();
    for Rejection { origin, service, reason } in cluster.rejections().iter() {
        check_lines([origin, reason].into_iter().chain(service));
        assert!(!reason.is_empty(), "{origin}");
    }
    let mut end = Objects::default();
    there.into_values().for_each(|objects| add(&mut end, objects));
    // A list of what is there at the end says the same.
    let mut other = fresh();
    list(&mut other, end.clone());
    let listed = other.snapshot();
    let services = |snapshot: &Option<Arc<Snapshot>>| {
        snapshot.as_ref().map(|snapshot| snapshot.services.clone()).unwrap_or_default()
    };
    let (last, listed) = (services(&last), services(&listed));
    assert_eq!(last, listed, "the way there made a difference");
    assert_eq!(cluster.facts().node, other.facts().node, "the way there made a difference");
    for service in last.values() {
        check_backends(service.backends.iter().map(|(a, b)| (a, b.weight)), false);
    }

    let mut all = Objects::default();
    if let Err(problem) = all.add("f", &text) {
        check_problem(&problem);
        all = end;
    }
    let place = Place {
        node: NODE.to_owned(),
        zone: None,
        addresses: Vec::new(),
        node_ports: node_ports(),
        scope: Scope::Everywhere,
    };
    let mut view = View::new(all, place);
    for frontend in last.values().flat_map(|service| service.frontends.keys()).take(20) {
        for from in [Caller::Pod, Caller::Node, Caller::Outside] {
            drop(view.explain(*frontend, from));
        }
    }
}

fn fresh() -> Cluster {
    let settings = Settings {
        source: "kubernetes".into(),
        node: NODE.to_owned(),
        node_ports: node_ports(),
        scope: Scope::Everywhere,
        pods: Pods::OfNode,
        masquerade_all: false,
    };
    Cluster::new(settings, SystemTime::UNIX_EPOCH)
}

fn node_ports() -> NodePorts {
    NodePorts { addresses: NodePortAddresses::All, localhost: true }
}

/// The message is one line, which begins with where in the file that is.
fn check_problem(problem: &String) {
    assert!(problem.starts_with('f'), "{problem}");
    check_shown([problem]);
}

fn put(cluster: &mut Cluster, objects: &Objects, gone: bool) {
    fn change<T: Clone>(object: &T, gone: bool) -> Change<T> {
        if gone { Change::Delete(object.clone()) } else { Change::Put(object.clone()) }
    }
    let Objects { services, slices, nodes, service_cidrs } = objects;
    services.iter().for_each(|object| cluster.service(change(object, gone)));
    slices.iter().for_each(|object| cluster.slice(change(object, gone), SystemTime::UNIX_EPOCH));
    nodes.iter().for_each(|object| cluster.node(change(object, gone)));
    service_cidrs.iter().for_each(|object| cluster.service_cidr(change(object, gone)));
}

/// What is there, by kind and name, each by itself.
fn remember(there: &mut BTreeMap<(u8, String), Objects>, objects: Objects, gone: bool) {
    let Objects { services, slices, nodes, service_cidrs } = objects;
    let mut note = |kind, name: String, one: Objects| {
        if gone {
            there.remove(&(kind, name));
        } else {
            there.insert((kind, name), one);
        }
    };
    for one in services {
        note(0, name(&one), Objects { services: vec![one], ..Objects::default() });
    }
    for one in slices {
        note(1, name(&one), Objects { slices: vec![one], ..Objects::default() });
    }
    for one in nodes {
        note(2, name(&one), Objects { nodes: vec![one], ..Objects::default() });
    }
    for one in service_cidrs {
        note(3, name(&one), Objects { service_cidrs: vec![one], ..Objects::default() });
    }
}

fn name(object: &impl Metadata<Ty = ObjectMeta>) -> String {
    key(object.metadata()).to_string()
}

fn add(all: &mut Objects, more: Objects) {
    let Objects { services, slices, nodes, service_cidrs } = more;
    all.services.extend(services);
    all.slices.extend(slices);
    all.nodes.extend(nodes);
    all.service_cidrs.extend(service_cidrs);
}

fn list(cluster: &mut Cluster, objects: Objects) {
    fn each<T>(objects: Vec<T>, mut tell: impl FnMut(Change<T>)) {
        tell(Change::Begin);
        objects.into_iter().for_each(|object| tell(Change::Listed(object)));
        tell(Change::Complete);
    }
    let Objects { services, slices, nodes, service_cidrs } = objects;
    each(services, |change| cluster.service(change));
    each(slices, |change| cluster.slice(change, SystemTime::UNIX_EPOCH));
    each(nodes, |change| cluster.node(change));
    each(service_cidrs, |change| cluster.service_cidr(change));
}
