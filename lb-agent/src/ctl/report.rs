//! What a verb shows, as data: the JSON of `-o json`, and what a table is made from. Decides the
//! order and what is derived (a backend's share); holds no text. Pure.

use super::service::Stored;
use crate::model::{AdminState, Frontend, Lease, Lists, Rejection};
use crate::status::{
    AgentStatus, BackendStatus, FrontendStatus, HealthStatus, OutcomeCounts, ServiceStatus,
    TableStatus,
};
use crate::summary::shares;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The answer to a verb.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Report {
    /// `services`
    Services(Vec<ServiceStatus>),
    /// `backends`
    Backends(Vec<BackendLine>),
    /// `describe`
    Service(Box<Description>),
    /// `status`
    Status(Box<AgentStatus>),
    /// `status` when no agent answers
    NoAgent(NoAgent),
    /// `maps`
    Maps(Vec<TableStatus>),
    /// `service ls`
    Stored(Vec<Stored>),
}

/// A backend with what is to be known of its service.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct BackendLine {
    /// The service's name.
    pub(super) service: Arc<str>,
    /// The service's frontends of the backend's family and lists: those that can lead to it.
    pub(super) frontends: Arc<[Frontend]>,
    /// Address and port.
    pub(super) address: SocketAddr,
    /// Its id in the kernel tables, if it is there.
    pub(super) id: Option<u32>,
    /// What the operator says.
    pub(super) state: AdminState,
    /// Relative share of new connections.
    pub(super) weight: u16,
    /// Which frontends lead to it.
    #[serde(skip_serializing_if = "Lists::is_cluster")]
    pub(super) lists: Lists,
    /// The part of new connections that it gets, in percent: what its health leaves it where that is
    /// known, else what its weight gives it among those ready. Of two lists, the cluster's counts for
    /// those that are in it.
    pub(super) share_percent: f64,
    /// Open sockets.
    pub(super) active: u64,
    /// Sockets sent to it since it was added.
    pub(super) connects: u64,
    /// What became of TCP connects, where that is followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outcomes: Option<OutcomeCounts>,
    /// What is known of its health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) health: Option<Box<HealthStatus>>,
    /// Which source said so.
    pub(super) source: Arc<str>,
    /// Since when it is in this state.
    #[serde(with = "humantime_serde")]
    pub(super) since: Option<SystemTime>,
    /// The zone it runs in, where its source says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<Arc<str>>,
    /// The lease its registration hangs on, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lease: Option<Lease>,
    /// What is left of the lease, where that was asked for and could be told.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub(super) lease_left: Option<Duration>,
}

/// A service with what was refused of it.
#[derive(Debug, Serialize)]
pub(super) struct Description {
    /// The service.
    #[serde(flatten)]
    pub(super) service: ServiceStatus,
    /// Items of it that were refused.
    pub(super) rejections: Vec<Rejection>,
}

/// What can be said of an agent that does not answer.
#[derive(Debug, Serialize)]
pub(super) struct NoAgent {
    /// Always false: a reader of `status` looks here first.
    pub(super) ready: bool,
    /// Why it is not ready.
    pub(super) pending: Vec<String>,
    /// Where the tables were looked for.
    pub(super) pin_dir: PathBuf,
    /// Services that the pinned tables serve, where they can be read.
    pub(super) pinned_services: Option<usize>,
    /// Why the tables cannot be read, if so.
    pub(super) pinned_error: Option<String>,
}

// === impl Report ===

impl Report {
    /// Services by name, their frontends and backends by address.
    pub(super) fn services(mut services: Vec<ServiceStatus>) -> Self {
        sort(&mut services);
        Self::Services(services)
    }

    /// The backends of these services, by service name and address.
    pub(super) fn backends(mut services: Vec<ServiceStatus>) -> Self {
        sort(&mut services);
        Self::Backends(services.iter().flat_map(backend_lines).collect())
    }

    /// A service, and those of `rejections` that are about it.
    pub(super) fn service(mut service: ServiceStatus, mut rejections: Vec<Rejection>) -> Self {
        sort_parts(&mut service);
        rejections.retain(|rejection| rejection.service.as_deref() == Some(&service.name));
        Self::Service(Box::new(Description { service, rejections }))
    }

    /// Whether what is shown is as it should be.
    pub(super) fn healthy(&self) -> bool {
        match self {
            Self::Status(agent) => agent.ready,
            Self::NoAgent(_) => false,
            Self::Services(_)
            | Self::Backends(_)
            | Self::Service(_)
            | Self::Maps(_)
            | Self::Stored(_) => true,
        }
    }
}

fn sort(services: &mut [ServiceStatus]) {
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services.iter_mut().for_each(sort_parts);
}

pub(crate) fn sort_parts(service: &mut ServiceStatus) {
    service.frontends.sort_by_key(|frontend| frontend.frontend);
    service.backends.sort_by_key(|backend| backend.address);
}

/// The backends of a service, each with its share.
pub(crate) fn backend_lines(service: &ServiceStatus) -> impl Iterator<Item = BackendLine> {
    let name: Arc<str> = service.name.as_str().into();
    let source: Arc<str> = service.source.as_str().into();
    // Backends of one family and list have the same frontends.
    type Leading = ((bool, Lists), Arc<[Frontend]>);
    let mut known: Vec<Leading> = Vec::new();
    let mut frontends = move |backend: &BackendStatus| {
        let v4 = backend.address.is_ipv4();
        let of = (v4, backend.lists);
        if let Some((_, frontends)) = known.iter().find(|(known, _)| *known == of) {
            return Arc::clone(frontends);
        }
        let leads = |status: &&FrontendStatus| {
            status.frontend.address.is_ipv4() == v4 && backend.lists.contains(status.reach)
        };
        let leading = service.frontends.iter().filter(leads).map(|status| status.frontend);
        let leading: Arc<[Frontend]> = leading.collect();
        known.push((of, Arc::clone(&leading)));
        leading
    };
    let line = move |(backend, share_percent): (&BackendStatus, f64)| BackendLine {
        service: Arc::clone(&name),
        frontends: frontends(backend),
        address: backend.address,
        id: backend.id,
        state: backend.state,
        weight: backend.weight,
        lists: backend.lists,
        share_percent,
        active: backend.active,
        connects: backend.connects,
        outcomes: backend.outcomes.as_deref().copied(),
        health: backend.health.clone(),
        source: Arc::clone(&source),
        since: backend.since,
        zone: backend.zone.clone(),
        lease: backend.lease.clone(),
        lease_left: backend.lease_left,
    };
    service.backends.iter().zip(shares(service)).map(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NoBackend, Policy, Reach, Scope};
    use crate::status::ServiceCounts;
    use proptest::prelude::*;

    fn service(frontends: &[&str], backends: &[(String, AdminState, u16)]) -> ServiceStatus {
        let frontends = frontends.iter().map(|text| FrontendStatus {
            frontend: text.parse().unwrap(),
            scope: Scope::Everywhere,
            reach: Reach::default(),
            comes: Default::default(),
            installed: true,
            usable: 0,
        });
        let backends = backends.iter().map(|(address, state, weight)| BackendStatus {
            address: address.parse().unwrap(),
            id: None,
            state: *state,
            weight: *weight,
            lists: Lists::default(),
            since: None,
            active: 0,
            connects: 0,
            outcomes: None,
            zone: None,
            lease: None,
            lease_left: None,
            health: None,
            said: None,
        });
        ServiceStatus {
            name: "web".to_owned(),
            id: None,
            source: "file:x".to_owned(),
            frontends: frontends.collect(),
            policy: Policy::Random,
            affinity: None,
            no_backend: NoBackend::Refuse,
            no_node_backend: None,
            fails_open: false,
            backends: backends.collect(),
            counters: ServiceCounts::default(),
        }
    }

    #[test]
    fn shares_and_frontends_are_of_the_backends_family() {
        let backends = [
            ("10.0.0.1:80".to_owned(), AdminState::Ready, 1),
            ("10.0.0.2:80".to_owned(), AdminState::Ready, 3),
            ("10.0.0.3:80".to_owned(), AdminState::Drain, 9),
            ("[fd00::1]:80".to_owned(), AdminState::Ready, 7),
            ("[fd00::2]:80".to_owned(), AdminState::Disabled, 7),
        ];
        let service = service(&["10.96.0.1:80", "[fd00::96]:80"], &backends);
        let lines: Vec<_> = backend_lines(&service).collect();
        let shares: Vec<f64> = lines.iter().map(|line| line.share_percent).collect();
        assert_eq!(shares, [25.0, 75.0, 0.0, 100.0, 0.0]);
        for line in lines {
            let [frontend] = &*line.frontends else { panic!("{line:?}") };
            assert_eq!(frontend.address.is_ipv4(), line.address.is_ipv4());
        }
    }

    #[test]
    fn the_order_is_by_name_then_address() {
        let backends = ["10.0.0.10:80", "10.0.0.9:80", "10.0.0.9:8"];
        let backends = backends.map(|a| (a.to_owned(), AdminState::Ready, 1));
        let web = service(&["10.96.0.1:81", "10.96.0.1:80/udp", "10.96.0.1:80"], &backends);
        let dns = ServiceStatus { name: "dns".to_owned(), ..web.clone() };
        let Report::Services(services) = Report::services(vec![web, dns]) else { panic!() };
        let seen: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(seen, ["dns", "web"]);
        for service in services {
            let seen: Vec<_> = service.frontends.iter().map(|f| f.frontend.to_string()).collect();
            assert_eq!(seen, ["10.96.0.1:80/tcp", "10.96.0.1:80/udp", "10.96.0.1:81/tcp"]);
            let seen: Vec<_> = service.backends.iter().map(|b| b.address.to_string()).collect();
            assert_eq!(seen, ["10.0.0.9:8", "10.0.0.9:80", "10.0.0.10:80"]);
        }
    }

    proptest! {
        #[test]
        fn shares_add_up(weights in proptest::collection::vec((any::<bool>(), 1u16..), 1..20)) {
            let backends: Vec<_> = weights
                .iter()
                .enumerate()
                .map(|(i, (ready, weight))| {
                    let state = if *ready { AdminState::Ready } else { AdminState::Drain };
                    (format!("10.0.0.{i}:80"), state, *weight)
                })
                .collect();
            let service = service(&[], &backends);
            let sum: f64 = backend_lines(&service).map(|line| line.share_percent).sum();
            let expected = if weights.iter().any(|(ready, _)| *ready) { 100.0 } else { 0.0 };
            prop_assert!((sum - expected).abs() < 1e-9, "{}", sum);
        }
    }
}
