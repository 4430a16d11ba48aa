//! Which flows lead nowhere any more. A UDP flow goes on for as long as its packets come: one that was
//! translated to a backend that is gone, or that began when there was none, would never end. TCP
//! connections end by themselves, and are ended only where their service says `on_removal: reset`. Pure.

use super::contents::Services;
use crate::model::{AdminState, Backend, Frontend, OnRemoval, Protocol, Service};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

/// Where the flows to each frontend may lead: to whatever serves, however new flows are spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows(HashMap<Frontend, HashSet<SocketAddr>>);

/// A flow, as conntrack has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where its first packet was sent.
    pub destination: SocketAddr,
    /// Where answers come from.
    pub answers: SocketAddr,
}

/// Whether flows of this service may have to be ended.
pub fn is_concerned(service: &Service) -> bool {
    let concerned = |frontend| ends(service, frontend);
    service
        .frontends
        .iter()
        .any(|(frontend, exposure)| exposure.passage().is_some() && concerned(frontend))
}

fn resets(service: &Service) -> bool {
    service.health.on_removal == OnRemoval::Reset
}

fn ends(service: &Service, frontend: &Frontend) -> bool {
    match frontend.protocol {
        Protocol::Udp => true,
        Protocol::Tcp => resets(service),
        Protocol::Sctp => false,
    }
}

impl Flows {
    /// Those of these services, and of TCP frontends that services with `on_removal: reset` have `left`
    /// to nobody.
    pub fn of(services: &Services, left: &BTreeSet<Frontend>) -> Self {
        let mut flows: HashMap<_, HashSet<_>> = HashMap::new();
        let mut taken = HashSet::new();
        for service in services.values() {
            for (frontend, exposure) in &service.frontends {
                if exposure.passage().is_none() {
                    continue;
                }
                taken.insert(frontend);
                if ends(service, frontend) {
                    let serves = |backend: &Backend| {
                        backend.state != AdminState::Disabled || !resets(service)
                    };
                    let all = service.backends.iter().filter(|(_, backend)| serves(backend));
                    let all = all.map(|(address, _)| *address);
                    flows.entry(*frontend).or_default().extend(all);
                }
            }
        }
        for frontend in left {
            if frontend.protocol == Protocol::Tcp && !taken.contains(frontend) {
                flows.entry(*frontend).or_default();
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
        let Flow { protocol, destination, answers } = *flow;
        // Who listens on the frontend itself has nothing to do with the service.
        let own = protocol == Protocol::Tcp && destination == answers;
        let serving = self.0.get(&Frontend { address: destination, protocol });
        !own && serving.is_some_and(|serving| !serving.contains(&answers))
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
             backends: ['10.1.0.1:53', {address: '10.1.0.2:53', state: drain}, \
             {address: '10.1.0.4:53', state: disabled}]}, \
             {name: own, frontends: ['10.96.0.2:53/udp'], backends: []}, \
             {name: reset, expose: true, on_removal: reset, \
             frontends: ['10.96.0.3:53/udp', '10.96.0.3:80'], backends: ['10.1.0.1:53', \
             {address: '10.1.0.2:53', state: drain}, {address: '10.1.0.4:53', state: disabled}]}, \
             {name: ports, expose: true, on_removal: reset, \
             frontends: ['192.0.2.10:80', '192.0.2.10:53/udp'], backends: ['192.0.2.10:8080', \
             {address: '192.0.2.10:8082', state: disabled}]}]";
        let read = spec::translate("x", text, &claims, true).unwrap();
        assert!(read.rejections.is_empty(), "{:?}", read.rejections);
        let left = ["10.96.0.1:80", "10.96.0.4:80", "10.96.0.4:53/udp"];
        let left = left.iter().map(|frontend| frontend.parse().unwrap()).collect();
        let flows = Flows::of(&read.snapshot.services, &left);
        for (destination, answers, stale) in [
            ("10.96.0.1:53/udp", "10.1.0.1:53", false),
            ("10.96.0.1:53/udp", "10.1.0.2:53", false),
            ("10.96.0.1:53/udp", "10.1.0.3:53", true),
            ("10.96.0.1:53/udp", "10.1.0.4:53", false),
            // It began when there was nobody, and was not translated.
            ("10.96.0.1:53/udp", "10.96.0.1:53", true),
            ("10.96.0.1:80", "10.1.0.3:53", false),
            ("10.96.0.2:53/udp", "10.1.0.3:53", false),
            ("10.1.0.3:53/udp", "10.1.0.3:53", false),
            ("10.96.0.3:53/udp", "10.1.0.4:53", true),
            ("10.96.0.3:80", "10.1.0.1:53", false),
            ("10.96.0.3:80", "10.1.0.2:53", false),
            ("10.96.0.3:80", "10.1.0.3:53", true),
            ("10.96.0.3:80", "10.1.0.4:53", true),
            ("10.96.0.3:80", "10.96.0.3:80", false),
            ("10.96.0.4:80", "10.1.0.1:53", true),
            ("10.96.0.4:53/udp", "10.1.0.1:53", false),
            // Of one address, another port is another backend.
            ("10.96.0.1:53/udp", "10.1.0.1:54", true),
            ("10.96.0.3:80", "10.1.0.1:54", true),
            ("192.0.2.10:80", "192.0.2.10:8080", false),
            ("192.0.2.10:80", "192.0.2.10:8081", true),
            ("192.0.2.10:80", "192.0.2.10:8082", true),
            ("192.0.2.10:80", "192.0.2.10:80", false),
            ("192.0.2.10:53/udp", "192.0.2.10:8080", false),
            ("192.0.2.10:53/udp", "192.0.2.10:8081", true),
            ("192.0.2.10:53/udp", "192.0.2.10:53", true),
        ] {
            let Frontend { address, protocol } = destination.parse().unwrap();
            let flow = Flow { protocol, destination: address, answers: answers.parse().unwrap() };
            assert_eq!(flows.is_stale(&flow), stale, "{flow:?}");
        }
    }
}
