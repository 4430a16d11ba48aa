//! The same services in several ways: not at all, by our programs, by nftables, by iptables and by IPVS, each
//! in a network namespace of its own with a server at the other end of a wire.

use super::ours::Ours;
use super::station::{Wire, served};
use crate::cgroup::Cgroup;
use crate::dataplane::service;
use crate::lab::Lab;
use crate::packets::{Rule, chains, ipvs, tables};
use anyhow::Context as _;
use lb_agent::config::TableSizes;
use lb_agent::desired::{Desired, Entry};
use lb_agent::model::{Backend, Frontend, Protocol};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

/// Backends of each service but the last, which has one.
pub(super) const EACH: u32 = 2;
/// The port of all services.
const PORT: u16 = 80;
/// The port of all backends.
pub(super) const SERVED: u16 = 8080;

/// A way to reach a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// The server itself is dialled.
    None,
    /// By our programs.
    Ours,
    /// By rules of the shape that kube-proxy's nftables mode has.
    Nftables,
    /// By rules of the shape that kube-proxy's iptables mode has.
    Iptables,
    /// By virtual servers of the shape that kube-proxy's IPVS mode has.
    Ipvs,
}

/// One of the ways, set up.
pub(super) struct Place {
    /// Which.
    pub(super) subject: Subject,
    /// Client and server.
    pub(super) wire: Wire,
    /// What the client dials.
    pub(super) to: SocketAddr,
    // Gone after the threads in it.
    _cgroup: Arc<Cgroup>,
    _ours: Option<Ours>,
}

// === impl Subject ===

impl Subject {
    /// What every kernel has, in the order in which they are told.
    pub(super) const ALL: [Self; 4] = [Self::None, Self::Ours, Self::Nftables, Self::Iptables];

    /// As figures name it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ours => "ours",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
        }
    }
}

// === impl Place ===

impl Place {
    /// Loads this number of services, the last of which leads to the server.
    pub(super) fn set_up(lab: &Lab, subject: Subject, services: u32) -> anyhow::Result<Self> {
        let cgroup = Arc::new(lab.cgroup().child(subject.name()));
        let wire = Wire::join(&cgroup);
        let mut ours = None;
        match subject {
            Subject::None => {}
            Subject::Ours => {
                let desired = desired(services)?;
                let sizes = sizes(services);
                let name = subject.name();
                ours = Some(Ours::load(lab, &cgroup, name, sizes, 0, &desired)?);
            }
            Subject::Nftables => wire.client().run(move || chains::load_all(all(services))),
            Subject::Iptables => wire.client().run(move || tables::load_all(all(services))),
            Subject::Ipvs => wire.client().run(move || ipvs::load_all(all(services))),
        }
        let to = match subject {
            Subject::None => served(SERVED),
            _ => vip(services - 1),
        };
        Ok(Self { subject, wire, to: to.into(), _cgroup: cgroup, _ours: ours })
    }
}

/// One TCP service after the other; before them, the last one's address on UDP.
fn all(services: u32) -> impl Iterator<Item = Rule> {
    let last = services - 1;
    let tcp = (0..services).map(move |number| {
        let endpoints = match number {
            probe if probe == last => vec![served(SERVED)],
            _ => (0..EACH).map(|slot| elsewhere(number * EACH + slot)).collect(),
        };
        Rule { vip: vip(number), protocol: "tcp", endpoints }
    });
    let udp = Rule { vip: vip(last), protocol: "udp", endpoints: vec![served(SERVED)] };
    std::iter::once(udp).chain(tcp)
}

fn vip(number: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(0x0a60_0000 + number), PORT)
}

/// A backend that nobody serves.
fn elsewhere(index: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(0xac10_0000 + index), SERVED)
}

fn desired(services: u32) -> anyhow::Result<Desired> {
    let mut desired = Desired { complete: true, ..Desired::default() };
    for (number, Rule { vip, protocol, endpoints }) in all(services).enumerate() {
        let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let backends = endpoints.into_iter().map(|at| (at.into(), Backend::default()));
        let service =
            service([Frontend::new(vip.ip().to_owned().into(), vip.port(), protocol)], backends);
        let entry = Entry::new(Arc::new(service), "bench".into());
        let name = format!("service{number}").parse().context("a name")?;
        desired.services.insert(name, entry);
    }
    Ok(desired)
}

/// The usual ones, or as large as it takes.
fn sizes(services: u32) -> TableSizes {
    let usual = TableSizes::default();
    let at_least = |usual: u32, wanted: u32| usual.max(wanted.next_power_of_two());
    TableSizes {
        frontends: at_least(usual.frontends, services + 1),
        services: at_least(usual.services, services + 1),
        rows: at_least(usual.rows, (EACH + 2) * services),
        backends: at_least(usual.backends, EACH * services + 1),
        ..usual
    }
}
