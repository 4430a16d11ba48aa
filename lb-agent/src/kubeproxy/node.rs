//! When the own Node says that the agent must begin anew.
//!
//! Pure.

use crate::source::kubernetes::cluster::Facts;
use std::net::IpAddr;

/// What was known of the Node.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    addresses: Vec<IpAddr>,
}

// === impl Watched ===

impl Watched {
    /// Whether the Node has been seen with an address.
    pub fn is_known(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Takes in what the cluster says. `Some` is a reason to end.
    pub fn look(&mut self, facts: &Facts) -> Option<String> {
        let now = facts.node.as_ref().map(|node| node.addresses.as_slice());
        match now {
            _ if !self.is_known() => {
                self.addresses = now.unwrap_or_default().to_vec();
                None
            }
            None => Some("the Node object is gone".to_owned()),
            Some(now) if now == self.addresses => None,
            Some(now) => {
                let (before, now) = (list(&self.addresses), list(now));
                Some(format!("the addresses of the Node have changed from {before} to {now}"))
            }
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "none".to_owned();
    }
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
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
        let mut watched = Watched::default();
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
}
