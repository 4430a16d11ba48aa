//! When the own Node says that the agent must begin anew.
//!
//! Pure.

use crate::source::kubernetes::cluster::Facts;
use ipnet::IpNet;
use std::net::IpAddr;

/// What was known of the Node.
#[derive(Clone, Debug)]
pub struct Watched {
    addresses: Vec<IpAddr>,
    /// The ranges of its pods, where these are watched.
    pod_ranges: Option<Vec<IpNet>>,
}

// === impl Watched ===

impl Watched {
    /// Nothing is known yet. `pod_ranges`: whether a change of them is a reason.
    pub fn new(pod_ranges: bool) -> Self {
        Self { addresses: Vec::new(), pod_ranges: pod_ranges.then(Vec::new) }
    }

    /// Whether the Node has been seen with an address.
    pub fn is_known(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Takes in what the cluster says. `Some` is a reason to end.
    pub fn look(&mut self, facts: &Facts) -> Option<String> {
        let Some(node) = &facts.node else {
            return self.is_known().then(|| "the Node object is gone".to_owned());
        };
        if !self.is_known() {
            self.addresses.clone_from(&node.addresses);
        }
        if self.addresses != node.addresses {
            let (before, now) = (list(&self.addresses), list(&node.addresses));
            return Some(format!("the addresses of the Node have changed from {before} to {now}"));
        }
        let known = self.pod_ranges.as_mut()?;
        if known.is_empty() {
            // They are given to the Node some time after it has come.
            known.clone_from(&node.pod_ranges);
        }
        (*known != node.pod_ranges).then(|| {
            let (before, now) = (list(known), list(&node.pod_ranges));
            format!("the podCIDRs of the Node have changed from {before} to {now}")
        })
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kubernetes::cluster::NodeFacts;

    #[test]
    fn what_ends_the_agent() {
        let facts = |addresses: Option<&[&str]>| {
            let node = addresses.map(|addresses| NodeFacts {
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                ..NodeFacts::default()
            });
            Facts { node, ..Facts::default() }
        };
        let mut watched = Watched::new(true);
        let mut look = |addresses| watched.look(&facts(addresses));
        assert_eq!(look(None), None, "not known yet");
        assert_eq!(look(Some(&[])), None, "no address yet");
        assert_eq!(look(None), None);
        assert_eq!(look(Some(&["10.0.0.1", "fd00::1"])), None);
        assert_eq!(look(Some(&["10.0.0.1", "fd00::1"])), None);
        let told = look(Some(&["10.0.0.2"])).unwrap();
        assert_eq!(
            told,
            "the addresses of the Node have changed from 10.0.0.1, fd00::1 to 10.0.0.2"
        );
        assert!(look(Some(&[])).unwrap().ends_with("to none"));
        assert_eq!(look(None).unwrap(), "the Node object is gone");
    }

    #[test]
    fn ranges_of_pods_end_it_where_they_are_watched() {
        let facts = |ranges: &[&str]| {
            let node = NodeFacts {
                addresses: vec!["10.0.0.1".parse().unwrap()],
                pod_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
                ..NodeFacts::default()
            };
            Facts { node: Some(node), ..Facts::default() }
        };
        for watched in [false, true] {
            let mut node = Watched::new(watched);
            let mut look = |ranges| node.look(&facts(ranges));
            assert_eq!(look(&[]), None, "none yet");
            assert_eq!(look(&["10.1.0.0/24"]), None);
            assert_eq!(look(&["10.1.0.0/24"]), None);
            let told = "the podCIDRs of the Node have changed from 10.1.0.0/24 to none";
            assert_eq!(look(&[]), watched.then(|| told.to_owned()));
        }
    }
}
