//! What the packet path does with packets for an address, in a sentence or two. Pure.

use super::contents::Wanted;
use crate::model::{
    AdminState, Exposure, Frontend, Masquerade, NoBackend, Passage, Reach, Service, ServiceName,
};
use crate::status::{PacketPathState, PacketPathStatus};

/// What is to be said of a frontend; nothing, where packets are left to others.
pub fn said(frontend: &Frontend, wanted: &Wanted, status: &PacketPathStatus) -> Option<String> {
    let find = |(name, service): (&ServiceName, &Service)| {
        let exposure = service.frontends.get(frontend)?;
        Some(sentence(name, service, frontend, exposure, exposure.passage()?))
    };
    let mut services = wanted.services.iter().map(|(name, service)| (name, &**service));
    let said = services.find_map(find)?;
    Some(match status.state {
        PacketPathState::On => said,
        PacketPathState::Off => format!("{said} But the packet path is off."),
        PacketPathState::Waiting | PacketPathState::Unavailable | PacketPathState::Failing => {
            format!("{said} But the packet path does not serve as it should: see `lbctl status`.")
        }
    })
}

fn sentence(
    name: &ServiceName,
    service: &Service,
    frontend: &Frontend,
    exposure: &Exposure,
    passage: Passage,
) -> String {
    let Passage { outside, masquerade, restricted, whole_address: _ } = passage;
    let get = |reach| fate(service, frontend, reach);
    let who = if outside == exposure.reach {
        format!("packets of {name}: {}", get(outside))
    } else {
        format!(
            "packets of {name}: from outside, {}; from pods and this host, {}",
            get(outside),
            get(exposure.reach)
        )
    };
    let sees = match masquerade {
        Masquerade::Never => "backends see the client's own address",
        Masquerade::UnlessPod => "backends see this host's address, unless the client is a pod",
        Masquerade::IfLocal => "backends see the client's own address, or this host's for its own",
        Masquerade::Always => "backends see this host's address",
    };
    let only = if restricted { "; clients in no source range get no answer" } else { "" };
    let alone =
        if exposure.is_for_sockets() { "" } else { "; sockets that connect are left alone" };
    format!("{who}; {sees}{only}{alone}.")
}

fn fate(service: &Service, frontend: &Frontend, reach: Reach) -> String {
    let backends = service.backends_of(frontend.address.is_ipv4(), reach);
    let count = backends.filter(|(_, backend)| backend.state == AdminState::Ready).count();
    let none = match reach {
        Reach::Cluster => service.no_backend,
        Reach::Node => service.no_node_backend,
    };
    match (count, none) {
        (0, NoBackend::Refuse) => "no backend, so they are refused".to_owned(),
        (0, NoBackend::Unreachable) => "no backend here, so they are dropped".to_owned(),
        (0, NoBackend::Pass) => "no backend, so they are left alone".to_owned(),
        (1, _) => "to 1 backend".to_owned(),
        (count, _) => format!("to one of {count} backends"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Claims;
    use crate::source::spec;

    #[test]
    fn what_is_exposed_is_said() {
        let claims = Claims { ranges: None, host_addresses: vec![], strict: false, exec: false };
        let text = "services: [{name: web, expose: true, frontends: ['10.96.0.1:80'], \
                    backends: ['10.1.0.1:80', '10.1.0.2:80']}, \
                    {name: own, frontends: ['10.96.0.2:80'], backends: ['10.1.0.1:80']}]";
        let services = spec::translate("x", text, &claims, true).unwrap().snapshot.services;
        let wanted = Wanted { services, complete: true };
        let on = PacketPathStatus { state: PacketPathState::On, ..PacketPathStatus::default() };
        let web = "packets of web: to one of 2 backends; backends see this host's address.";
        let off_now = PacketPathStatus::default();
        let say = |text: &str, status| said(&text.parse().unwrap(), &wanted, status);
        assert_eq!(say("10.96.0.1:80", &on).as_deref(), Some(web));
        let off = format!("{web} But the packet path is off.");
        assert_eq!(say("10.96.0.1:80", &off_now), Some(off));
        assert_eq!(say("10.96.0.2:80", &on), None);
        assert_eq!(say("10.96.0.1:80/udp", &on), None);
    }
}
