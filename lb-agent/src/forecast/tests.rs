use super::manifests::Objects;
use super::*;
use crate::model::{AdminState, Frontend};
use crate::source::kubernetes::topology::Rule;
use std::collections::BTreeSet;

const CLUSTER: &str = include_str!("../../tests/ctl/manifests/cluster.yaml");

fn view(node: &str, zone: Option<&str>) -> View {
    let mut objects = Objects::default();
    objects.add("cluster.yaml", CLUSTER).unwrap();
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).into();
    View::new(objects, Place { node: node.to_owned(), zone: zone.map(str::to_owned), addresses })
}

/// What is explained is what the tables get: the same endpoints, and an error where there are none.
#[test]
fn the_explanation_is_what_the_tables_say() {
    let mut seen = BTreeSet::new();
    for node in ["n1", "n2", "n3", "n9"] {
        for zone in [None, Some("a"), Some("b"), Some("c")] {
            let mut view = view(node, zone);
            let desired = view.desired().clone();
            for entry in desired.services.values() {
                for (frontend, _) in entry.service.socket_frontends() {
                    let answer = view.explain(*frontend, Caller::Node);
                    let led_to = entry.service.backends_for(frontend);
                    let ready: Vec<_> = led_to
                        .filter(|(_, backend)| backend.state == AdminState::Ready)
                        .map(|(address, _)| *address)
                        .collect();
                    let told: Vec<_> = answer.endpoints.iter().map(|used| used.address).collect();
                    assert_eq!(told, ready, "{frontend} on {node} in {zone:?}");
                    let connects = answer.verdict == Verdict::Connects;
                    assert_eq!(connects, !ready.is_empty(), "{frontend} on {node} in {zone:?}");
                    assert!(!answer.by_packet, "{frontend}");
                    seen.insert(format!("{:?}", answer.verdict));
                }
            }
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["Connects", "Refused", "Unreachable"]);
}

/// Every endpoint of a Service is either used or left out, by a rule.
#[test]
fn nobody_is_forgotten() {
    let mut view = view("n1", None);
    let to: Frontend = "10.96.0.10:80".parse().unwrap();
    for from in [Caller::Pod, Caller::Node, Caller::Outside] {
        let answer = view.explain(to, from);
        let all: BTreeSet<_> = answer
            .endpoints
            .iter()
            .chain(answer.left_out.iter().map(|left| &left.endpoint))
            .map(|endpoint| endpoint.address.ip().to_string())
            .collect();
        let expected = [
            "10.1.0.1",
            "10.1.0.2",
            "10.1.0.9",
            "10.1.1.1",
            "10.1.1.2",
            "10.1.1.3",
            "10.1.1.4",
            "fd00:1::1",
        ];
        assert_eq!(all.into_iter().collect::<Vec<_>>(), expected, "{from:?}");
    }
}

#[test]
fn zones_and_nodes() {
    let to: Frontend = "10.96.0.10:80".parse().unwrap();
    for (zone, rule, used) in [
        (None, Rule::SameZone, "10.1.0.1:8080 10.1.0.2:8080"),
        (Some("b"), Rule::SameZone, "10.1.1.1:8080"),
        (Some("c"), Rule::Ready, "10.1.0.1:8080 10.1.0.2:8080 10.1.1.1:8080"),
    ] {
        let answer = view("n1", zone).explain(to, Caller::Pod);
        let told: Vec<_> = answer.endpoints.iter().map(|used| used.address.to_string()).collect();
        assert_eq!(
            (answer.service.unwrap().rule, told.join(" ").as_str()),
            (rule, used),
            "{zone:?}"
        );
    }
    // A node that the manifests don't have.
    let answer = view("n9", None).explain(to, Caller::Pod);
    assert!(answer.notes.iter().any(|note| note.contains("no Node n9")), "{:?}", answer.notes);
    assert!(view("n9", Some("a")).explain(to, Caller::Pod).notes.is_empty());
}

#[test]
fn two_services_with_one_address() {
    let mut objects = Objects::default();
    let service = |name: &str, last: u8| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.{last}, \
             externalIPs: [198.51.100.9], ports: [{{port: 80}}]}}\n---\n"
        )
    };
    objects.add("two.yaml", &(service("b", 2) + &service("a", 1))).unwrap();
    let place = Place { node: "n".to_owned(), zone: Some("z".to_owned()), addresses: [].into() };
    let answer = View::new(objects, place).explain("198.51.100.9:80".parse().unwrap(), Caller::Pod);
    assert_eq!(&*answer.service.unwrap().name, "default/a");
    assert_eq!(answer.notes, ["default/b claims 198.51.100.9:80/tcp too, and does not get it"]);
}
