//! However the cluster came to be what it is, the same comes of it.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// What can be said of few objects, so that sequences of it come across each other.
#[derive(Clone, Debug)]
enum Step {
    Put(Value),
    Delete(Value),
    /// The watch breaks off: what happened meanwhile is in the next list only.
    Gap(Vec<(bool, Value)>),
    /// A list that breaks off after so many objects.
    Broken(usize),
    Addresses(usize),
    Ask,
}

fn services() -> impl Strategy<Value = Value> {
    let specs = select(vec![
        json!({}),
        json!({ "clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"] }),
        json!({ "clusterIP": "None", "clusterIPs": ["None"] }),
        json!({ "type": "ExternalName" }),
        json!({
            "clusterIPs": ["10.96.0.1", "fd00:96::1"], "ipFamilies": ["IPv4", "IPv6"],
            "ports": [
                { "name": "x", "port": 80, "nodePort": 30080 },
                { "name": "y", "port": 53, "protocol": "UDP" },
                { "name": "z", "port": 0 },
            ],
        }),
        json!({ "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP" }),
        json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 32000, "externalIPs": ["192.0.2.77", "x", "fd00::7"],
            "ports": [{ "port": 80, "nodePort": 30080 }],
        }),
    ]);
    let labels = select(vec![
        json!({}),
        json!({}),
        json!({ "service.kubernetes.io/service-proxy-name": "x" }),
    ]);
    (select(vec!["a", "b"]), specs, labels).prop_map(|(name, spec, labels)| {
        let mut service = service(name, spec);
        service["metadata"]["labels"] = labels;
        service
    })
}

fn slices() -> impl Strategy<Value = Value> {
    let endpoints = select(vec![
        "",
        "10.0.0.1",
        "10.0.0.1@here 10.0.0.2",
        "10.0.0.1=011 10.0.0.3@here=011",
        "10.0.0.2=010 10.0.0.010",
        "fd00::1@here fd00::2",
        "10.0.0.1 fd00::2",
    ]);
    let name = (select(vec!["a", "b"]), select(vec!["1", "2", "3"]));
    let hint = select(vec!["", "za", "zb"]);
    let port = select(vec!["", "x", "y"]);
    (name, endpoints, hint, port, prop::bool::weighted(0.1)).prop_map(
        |((of, name), endpoints, hint, port, headless)| {
            let mut slice = slice(of, name, endpoints);
            slice["ports"][0]["name"] = json!(port);
            slice["ports"][0]["protocol"] = json!(if port == "y" { "UDP" } else { "TCP" });
            if headless {
                slice["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
            }
            for endpoint in slice["endpoints"].as_array_mut().unwrap() {
                if !hint.is_empty() {
                    endpoint["hints"] = json!({ "forZones": [{ "name": hint }] });
                }
            }
            slice
        },
    )
}

fn objects() -> impl Strategy<Value = Value> {
    let nodes = (select(vec!["here", "there"]), select(vec!["za", "zb"]))
        .prop_map(|(name, zone)| node(name, zone, &["192.0.2.1"]));
    let cidrs = select(vec!["10.96.0.0/12", "x"]).prop_map(|range| {
        json!({ "kind": "ServiceCIDR", "metadata": { "name": "c" }, "spec": { "cidrs": [range] } })
    });
    prop_oneof![4 => services(), 6 => slices(), 1 => nodes, 1 => cidrs]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => objects().prop_map(Step::Put),
        3 => objects().prop_map(Step::Delete),
        1 => vec((any::<bool>(), objects()), 0..4).prop_map(Step::Gap),
        1 => (0..5_usize).prop_map(Step::Broken),
        1 => (0..3_usize).prop_map(Step::Addresses),
        2 => Just(Step::Ask),
    ]
}

fn addresses(number: usize) -> Arc<BTreeSet<IpAddr>> {
    let all = [vec!["192.0.2.1"], vec!["192.0.2.1", "fd00::1"], vec![]];
    Arc::new(all[number].iter().map(|text| text.parse().unwrap()).collect())
}

/// What an API server would have.
fn apply(stored: &mut BTreeMap<String, Value>, put: bool, value: &Value) {
    let key = format!("{} {}", value["kind"], value["metadata"]["name"]);
    if put {
        stored.insert(key, value.clone());
    } else {
        stored.remove(&key);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn only_the_end_counts(steps in vec(steps(), 0..24)) {
        let mut lab = Lab::new();
        let mut stored = BTreeMap::new();
        let mut own = addresses(2);
        let mut last = lab.cluster.snapshot();
        for step in steps {
            match step {
                Step::Put(value) => {
                    apply(&mut stored, true, &value);
                    lab.put(&value);
                }
                Step::Delete(value) => {
                    apply(&mut stored, false, &value);
                    lab.delete(&value);
                }
                Step::Gap(changes) => {
                    changes.iter().for_each(|(put, value)| apply(&mut stored, *put, value));
                    let all: Vec<_> = stored.values().cloned().collect();
                    lab.list(&all);
                }
                Step::Broken(count) => {
                    last = lab.cluster.snapshot().or(last);
                    for kind in [SERVICE, SLICE, NODE, SERVICE_CIDR] {
                        lab.say(&json!({ "kind": kind }), |_| Change::Begin);
                    }
                    for value in stored.values().take(count) {
                        lab.say(value, Change::Listed);
                    }
                    prop_assert!(lab.cluster.snapshot().is_none());
                }
                Step::Addresses(number) => {
                    own = addresses(number);
                    lab.cluster.set_addresses(Arc::clone(&own));
                }
                Step::Ask => last = lab.cluster.snapshot().or(last),
            }
        }
        let all: Vec<_> = stored.values().cloned().collect();
        let mut fresh = Lab { cluster: Cluster::new(settings(), started()) };
        fresh.cluster.set_addresses(own);
        fresh.list(&all);
        prop_assert_eq!(lab.cluster.snapshot().or(last), fresh.cluster.snapshot());
        // What was first is history.
        let facts = |lab: &mut Lab| {
            Facts { node_at_first: NodeFacts::default(), ..Facts::clone(&lab.cluster.facts()) }
        };
        prop_assert_eq!(facts(&mut lab), facts(&mut fresh));
        prop_assert_eq!(lab.rejections(), fresh.rejections());
        prop_assert!(lab.cluster.refused() >= fresh.cluster.refused());
        // What is listed again is nothing new.
        lab.list(&all);
        prop_assert!(lab.cluster.snapshot().is_none());
        // Nothing of what is gone is kept.
        lab.list(&[]).cluster.snapshot();
        prop_assert!(lab.cluster.units.is_empty() && lab.cluster.homes.is_empty());
    }
}
