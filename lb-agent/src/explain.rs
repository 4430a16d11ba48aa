//! Why a connect goes where it goes: what the kernel's tables say of an address, and what the agent
//! knows of those that the tables leave out. Pure.

use crate::api::closest;
use crate::health::effective::Why;
use crate::model::{AdminState, Affinity, Frontend, NoBackend, Policy, Protocol, Rejection, Scope};
use crate::status::{BackendStatus, CheckStatus, HealthStatus, ServiceStatus};
use lb_common::pick;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Frontends that are named instead of one that there is not.
const NAMED: usize = 3;

/// The answer to "what would a connect to this address do?"
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The address that was asked about.
    pub frontend: Frontend,
    /// Whose frontend it is, where that has a name.
    pub service: Option<String>,
    /// Which source said so.
    pub source: Option<String>,
    /// What a socket meets in the tables; `None`: it is left alone.
    pub walk: Option<Walk>,
    /// Whether unhealthy backends get connections for want of others.
    pub fails_open: bool,
    /// What is known of the health of those in the walk.
    pub health: Vec<(SocketAddr, HealthStatus)>,
    /// The service's backends that this frontend leads nobody to.
    pub left_out: Vec<LeftOut>,
    /// Frontends that may have been meant, if this is none.
    pub closest: Vec<Near>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

/// What a socket meets in the kernel's tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Walk {
    /// The frontend's index.
    pub index: u32,
    /// The row at which its live block begins.
    pub block: u32,
    /// The service's id.
    pub service_id: u32,
    /// How a backend is chosen.
    pub policy: Policy,
    /// What a caller sees where there is no candidate.
    pub no_backend: NoBackend,
    /// Session affinity.
    pub affinity: Option<Affinity>,
    /// Whose sockets it is for.
    pub scope: Scope,
    /// Those that new connections go to.
    pub candidates: Vec<Candidate>,
    /// Those that are listed and get none.
    pub resting: Vec<Candidate>,
}

/// A backend of a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Address and port.
    pub address: SocketAddr,
    /// Its id.
    pub id: u32,
    /// Its weight among the others.
    pub weight: u16,
    /// How likely it is to get the next connection of a client that stays with nobody. By
    /// `least_connections` that depends on the open connections, which are those of this moment.
    pub share_percent: f64,
    /// Open sockets.
    pub active: u64,
    /// Clients that stay with it, where the service has session affinity.
    pub clients: Option<u64>,
}

/// A backend that gets no new connection here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Address and port.
    pub address: SocketAddr,
    /// Why.
    pub reason: Reason,
    /// Whether an operator said so, over its source.
    pub by_operator: bool,
    /// Its zone, where its source says.
    pub zone: Option<String>,
    /// What its worst check says.
    pub check: Option<CheckStatus>,
    /// For how much longer it is ejected.
    #[serde(default, with = "humantime_serde")]
    pub ejected_for: Option<Duration>,
}

/// Why a backend is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It is of the other address family.
    OtherFamily,
    /// It gets no new connections, old ones live.
    Draining,
    /// It is switched off.
    Disabled,
    /// Its checks fail.
    Failing,
    /// Connects to it failed.
    Ejected,
    /// Backends of a lower priority level serve.
    Standby,
    /// Enough backends of this host's zone serve.
    OtherZone,
    /// It has no row: there was no room, or it was refused.
    NotInstalled,
    /// This frontend leads to others, such as those of this node; or a change is on its way.
    NotLedTo,
}

/// A frontend that may have been meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Near {
    /// The frontend.
    pub frontend: Frontend,
    /// Its service.
    pub service: String,
}

/// What is known beside the tables.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The services, counters and health filled in for that of the frontend.
    pub services: &'a [ServiceStatus],
    /// What was refused.
    pub rejections: &'a [Rejection],
    /// All frontends of the tables, with their services' ids.
    pub frontends: &'a [(Frontend, u32)],
}

/// Puts together what the tables and the agent say.
pub fn explain(frontend: Frontend, walk: Option<Walk>, known: Known<'_>) -> Explanation {
    let led_to = walk.as_ref().map(|walk| walk.service_id);
    let asks = |service: &&ServiceStatus| {
        service.socket_frontends().any(|status| status.frontend == frontend)
    };
    let by_id = known.services.iter().find(|service| led_to.is_some() && service.id == led_to);
    let service = by_id.or_else(|| known.services.iter().find(asks));
    let mut notes = Vec::new();
    // Also of others that ask for this address.
    let about = |rejection: &&Rejection| {
        let own = service.is_some_and(|own| rejection.service.as_deref() == Some(&own.name));
        own || names_address(&rejection.reason, frontend.address)
    };
    for Rejection { origin, service, reason } in known.rejections.iter().filter(about) {
        let service = service.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        notes.push(format!("refused: {origin}: {service}{reason}"));
    }
    if walk.is_none() {
        let backend_of = known.services.iter().find(|service| {
            service.backends.iter().any(|backend| backend.address == frontend.address)
        });
        if let Some(service) = service {
            notes.push(format!(
                "{} asks for it, and the kernel does not have it: see `lbctl describe {}`",
                service.name, service.name
            ));
        }
        let ip = frontend.address.ip();
        let first = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), frontend.address.port());
        let has_first = |(other, _): &(Frontend, u32)| {
            other.address == first && other.protocol == frontend.protocol
        };
        if ip.is_ipv4() && ip.is_loopback() && known.frontends.iter().any(has_first) {
            notes.push(format!(
                "addresses are served one by one: {first} is a frontend, the rest of 127.0.0.0/8 is not"
            ));
        }
        if let Some(service) = backend_of {
            notes.push(format!(
                "it is a backend's own address, of {}: who dials it gets there",
                service.name
            ));
        }
    }
    let candidates = walk.as_ref().map(|walk| walk.candidates.as_slice()).unwrap_or_default();
    let chosen = |address| candidates.iter().any(|candidate| candidate.address == address);
    let backends = service.map(|service| service.backends.as_slice()).unwrap_or_default();
    let is_v4 = frontend.address.is_ipv4();
    let (inside, outside): (Vec<&BackendStatus>, Vec<_>) =
        backends.iter().partition(|backend| chosen(backend.address));
    let health = |b: &&BackendStatus| b.health.as_deref().map(|health| (b.address, health.clone()));
    let mut left_out: Vec<LeftOut> = outside.iter().map(|b| left_out(b, is_v4)).collect();
    // Without names, the tables know whom they keep.
    let resting = walk.as_ref().map(|walk| walk.resting.as_slice()).unwrap_or_default();
    for candidate in resting {
        if !backends.iter().any(|backend| backend.address == candidate.address) {
            left_out.push(LeftOut {
                address: candidate.address,
                reason: Reason::Draining,
                by_operator: false,
                zone: None,
                check: None,
                ejected_for: None,
            });
        }
    }
    Explanation {
        frontend,
        service: service.map(|service| service.name.clone()),
        source: service.map(|service| service.source.clone()),
        fails_open: service.is_some_and(|service| service.fails_open),
        health: inside.iter().filter_map(health).collect(),
        left_out,
        closest: if walk.is_none() { nearest(frontend, known) } else { Vec::new() },
        walk,
        notes,
    }
}

/// Whether a text speaks of an address: not of one that only begins like it.
fn names_address(text: &str, address: SocketAddr) -> bool {
    let wanted = address.to_string();
    let part = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == ':';
    text.match_indices(&wanted).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + wanted.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(|c| c.is_ascii_digit())
    })
}

fn left_out(backend: &BackendStatus, is_v4: bool) -> LeftOut {
    let health = backend.health.as_deref();
    let reason = match (backend.state, health.map(|health| health.why)) {
        _ if backend.address.is_ipv4() != is_v4 => Reason::OtherFamily,
        (AdminState::Disabled, _) => Reason::Disabled,
        (AdminState::Drain, _) => Reason::Draining,
        (_, Some(Why::Failing)) => Reason::Failing,
        (_, Some(Why::Ejected)) => Reason::Ejected,
        (_, Some(Why::Standby)) => Reason::Standby,
        (_, Some(Why::OtherZone)) => Reason::OtherZone,
        (_, Some(Why::Draining)) => Reason::Draining,
        (_, Some(Why::Disabled)) => Reason::Disabled,
        _ if backend.id.is_none() => Reason::NotInstalled,
        _ => Reason::NotLedTo,
    };
    LeftOut {
        address: backend.address,
        reason,
        by_operator: backend.said.is_some_and(|said| said.state.is_some()),
        zone: backend.zone.as_deref().map(str::to_owned),
        check: health.and_then(|health| health.check.clone()),
        ejected_for: health.and_then(|health| health.ejected_for),
    }
}

/// Frontends that this one may have been meant to be, the likeliest kind of slip only.
fn nearest(frontend: Frontend, known: Known<'_>) -> Vec<Near> {
    let Frontend { address, protocol } = frontend;
    let other = match protocol {
        Protocol::Tcp => Protocol::Udp,
        Protocol::Udp | Protocol::Sctp => Protocol::Tcp,
    };
    let name = |id: u32| {
        let named = known.services.iter().find(|service| service.id == Some(id));
        named.map_or_else(|| format!("service-{id}"), |service| service.name.clone())
    };
    let loopback = address.is_ipv4() && address.ip().is_loopback();
    let slips: [&dyn Fn(&Frontend) -> bool; 4] = [
        &|f| {
            loopback
                && f.address.ip() == Ipv4Addr::LOCALHOST
                && f.address.port() == address.port()
                && f.protocol == protocol
        },
        &|f| f.address == address && f.protocol == other,
        &|f| f.address.ip() == address.ip() && f.protocol == protocol,
        &|f| f.address.ip() == address.ip(),
    ];
    for slip in slips {
        let mut found: Vec<_> = known.frontends.iter().filter(|(f, _)| slip(f)).collect();
        found.sort();
        if !found.is_empty() {
            let named = found.into_iter().take(NAMED);
            return named.map(|(f, id)| Near { frontend: *f, service: name(*id) }).collect();
        }
    }
    let texts: Vec<String> = known.frontends.iter().map(|(f, _)| f.to_string()).collect();
    let wanted = frontend.to_string();
    let close = closest(&wanted, texts.iter().map(String::as_str));
    let found = close.and_then(|text| texts.iter().position(|other| other == text));
    let found = found.and_then(|at| known.frontends.get(at));
    found.map(|(f, id)| Near { frontend: *f, service: name(*id) }).into_iter().collect()
}

/// How likely each is to be chosen as the less loaded of two draws; `drawn` says how likely each is
/// to be drawn, `loads` has open connections and weight.
pub fn least_connections_shares(drawn: &[f64], loads: &[(u64, u16)]) -> Vec<f64> {
    // It wins against the more loaded in either order of the draws. Of two that are as loaded, the
    // first drawn wins: one order of two.
    let beats = |a: &(u64, u16), b: &(u64, u16)| pick::first_is_less_loaded(a.0, a.1, b.0, b.1);
    let mut order: Vec<usize> = (0..drawn.len().min(loads.len())).collect();
    order.sort_by(|a, b| match (beats(&loads[*a], &loads[*b]), beats(&loads[*b], &loads[*a])) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Less,
        _ => std::cmp::Ordering::Greater,
    });
    let mut shares = vec![0.0; drawn.len()];
    let mut better = 0.0;
    let mut rest = order.as_slice();
    while let Some(first) = rest.first() {
        let ties = rest.iter().take_while(|at| beats(&loads[**at], &loads[*first])).count();
        let (equal, others) = rest.split_at(ties);
        let together: f64 = equal.iter().map(|at| drawn[*at]).sum();
        let worse = (1.0 - better - together).max(0.0);
        for at in equal {
            shares[*at] = drawn[*at] * (together + 2.0 * worse);
        }
        better += together;
        rest = others;
    }
    shares
}

#[cfg(test)]
mod tests;
