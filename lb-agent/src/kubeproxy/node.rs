//! When the own Node says that the agent must begin anew.
//!
//! Pure.

use crate::source::kubernetes::cluster::Facts;

/// Why the agent is to end, if it is. `pod_ranges`: whether a change of the ranges of its pods is a reason.
pub fn reason(facts: &Facts, pod_ranges: bool) -> Option<String> {
    let first = &facts.node_at_first;
    let Some(node) = &facts.node else {
        return is_known(facts).then(|| "the Node object is gone".to_owned());
    };
    changed("addresses", &first.addresses, &node.addresses).or_else(|| {
        let ranges = changed("podCIDRs", &first.pod_ranges, &node.pod_ranges);
        ranges.filter(|_| pod_ranges)
    })
}

/// That something is not what it was first. Before that it was unknown: ranges are given to the Node some time
/// after it has come.
fn changed<T: PartialEq + ToString>(what: &str, first: &[T], now: &[T]) -> Option<String> {
    let reason =
        || format!("the {what} of the Node have changed from {} to {}", list(first), list(now));
    (!first.is_empty() && first != now).then(reason)
}

/// Whether the Node has been seen with an address.
pub fn is_known(facts: &Facts) -> bool {
    !facts.node_at_first.addresses.is_empty()
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

    fn node(addresses: &[&str], pod_ranges: &[&str]) -> NodeFacts {
        NodeFacts {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            pod_ranges: pod_ranges.iter().map(|text| text.parse().unwrap()).collect(),
            ..NodeFacts::default()
        }
    }

    #[test]
    fn what_ends_the_agent() {
        let both: &[&str] = &["10.0.0.1", "fd00::1"];
        for (first, now, told) in [
            (&[][..], None, None),
            (&[], Some(&[][..]), None),
            (both, Some(both), None),
            (both, Some(&["10.0.0.2"]), Some("have changed from 10.0.0.1, fd00::1 to 10.0.0.2")),
            (both, Some(&[]), Some("to none")),
            (both, None, Some("the Node object is gone")),
        ] {
            let (node_at_first, now) = (node(first, &[]), now.map(|now| node(now, &[])));
            let facts = Facts { node: now, node_at_first, ..Facts::default() };
            let said = reason(&facts, true);
            assert_eq!(said.is_some(), told.is_some(), "{said:?}");
            assert!(said.unwrap_or_default().ends_with(told.unwrap_or_default()));
            assert_eq!(is_known(&facts), !first.is_empty());
        }
    }

    #[test]
    fn ranges_of_pods_end_it_where_they_are_watched() {
        let address: &[&str] = &["10.0.0.1"];
        for (first, now, changed) in [
            (&[][..], &[][..], false),
            (&["10.1.0.0/24"], &["10.1.0.0/24"], false),
            (&["10.1.0.0/24"], &[], true),
        ] {
            let (node_at_first, now) = (node(address, first), Some(node(address, now)));
            let facts = Facts { node: now, node_at_first, ..Facts::default() };
            let told = "the podCIDRs of the Node have changed from 10.1.0.0/24 to none";
            assert_eq!(reason(&facts, true), changed.then(|| told.to_owned()));
            assert_eq!(reason(&facts, false), None);
        }
    }
}
