//! Which UDP flows lead nowhere any more. A flow goes on for as long as its packets come: one that was
//! translated to a backend that is gone, or that began when there was none, would never end. Pure.

use super::contents::Services;
use crate::model::Protocol;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// Where the flows to each UDP frontend may lead: to whatever serves, however new flows are spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows(HashMap<SocketAddr, HashSet<IpAddr>>);

/// A UDP flow, as conntrack has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where its first packet was sent.
    pub destination: SocketAddr,
    /// Where answers come from.
    pub answers: IpAddr,
}

impl Flows {
    /// Those of these services.
    pub fn of(services: &Services) -> Self {
        let mut flows: HashMap<_, HashSet<_>> = HashMap::new();
        for service in services.values() {
            for (frontend, exposure) in &service.frontends {
                if frontend.protocol == Protocol::Udp && exposure.passage().is_some() {
                    let all = service.backends.keys().map(SocketAddr::ip);
                    flows.entry(frontend.address).or_default().extend(all);
                }
            }
        }
        Self(flows)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a flow leads nowhere.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        self.0.get(&flow.destination).is_some_and(|serving| !serving.contains(&flow.answers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Claims;
    use crate::source::spec;

    #[test]
    fn only_flows_to_ours_that_nobody_serves() {
        let claims = Claims { ranges: None, host_addresses: vec![], strict: false, exec: false };
        let text = "services: [{name: dns, expose: true, frontends: ['10.96.0.1:53/udp', '10.96.0.1:80'], \
             backends: ['10.1.0.1:53', {address: '10.1.0.2:53', state: drain}]}, \
             {name: own, frontends: ['10.96.0.2:53/udp'], backends: []}]";
        let read = spec::translate("x", text, &claims, true).unwrap();
        assert!(read.rejections.is_empty(), "{:?}", read.rejections);
        let flows = Flows::of(&read.snapshot.services);
        for (destination, answers, stale) in [
            ("10.96.0.1:53", "10.1.0.1", false),
            ("10.96.0.1:53", "10.1.0.2", false),
            ("10.96.0.1:53", "10.1.0.3", true),
            // It began when there was nobody, and was not translated.
            ("10.96.0.1:53", "10.96.0.1", true),
            ("10.96.0.1:80", "10.1.0.3", false),
            ("10.96.0.2:53", "10.1.0.3", false),
            ("10.1.0.3:53", "10.1.0.3", false),
        ] {
            let flow = Flow {
                destination: destination.parse().unwrap(),
                answers: answers.parse().unwrap(),
            };
            assert_eq!(flows.is_stale(&flow), stale, "{flow:?}");
        }
    }
}
