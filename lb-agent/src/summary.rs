//! What a service comes to: how it does, why, and how its connections are shared out. Pure.

use crate::health::effective::Why;
use crate::model::{AdminState, Lists, Reach};
use crate::status::{BackendStatus, ServiceStatus};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// How a service does, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// All that may serve does.
    Ok,
    /// Somebody is missing; others serve.
    Degraded,
    /// It sends connections to backends that are not healthy, for want of others.
    FailOpen,
    /// A frontend has nobody, or is not in the kernel.
    Down,
}

impl Level {
    /// In a word, for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::FailOpen => "fail-open",
            Self::Down => "down",
        }
    }
}

/// A service on one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// How it does.
    pub level: Level,
    /// Why, in a few words; empty when there is nothing to say.
    pub why: String,
    /// Backends that get new connections.
    pub usable: usize,
    /// Open sockets.
    pub active: u64,
    /// TCP connects that were refused or not answered.
    pub failures: u64,
    /// Mean handshake time of its backends, weighted by what they established; absent before the
    /// first.
    pub srtt: Option<Duration>,
}

/// The summary of a service whose counters and health are filled in.
pub fn summary(service: &ServiceStatus) -> Summary {
    let (level, why) = level(service);
    Summary {
        level,
        why,
        usable: usable(service),
        active: service.backends.iter().map(|backend| backend.active).sum(),
        failures: service.backends.iter().map(failures).sum(),
        srtt: srtt(service),
    }
}

/// TCP connects to a backend that were refused or not answered.
pub fn failures(backend: &BackendStatus) -> u64 {
    backend.outcomes.as_deref().map_or(0, |outcomes| outcomes.refused + outcomes.unanswered)
}

/// Why a backend gets new connections or not, as far as that is known.
pub fn why(backend: &BackendStatus) -> Why {
    match (&backend.health, backend.state) {
        (Some(health), _) => health.why,
        (None, AdminState::Ready) => Why::Serving,
        (None, AdminState::Drain) => Why::Draining,
        (None, AdminState::Disabled) => Why::Disabled,
    }
}

/// The part of new connections that each backend gets, in percent of those of its family and list,
/// in their order: what its health leaves it where that is known, else what its weight gives it among
/// those ready. Of a backend in both lists it is the part in the Cluster list.
pub fn shares(service: &ServiceStatus) -> Vec<f64> {
    let known = service.backends.iter().all(|backend| backend.health.is_some());
    let share = |backend: &BackendStatus| match &backend.health {
        Some(health) if known => u64::from(health.share),
        _ if backend.state == AdminState::Ready => u64::from(backend.weight),
        _ => 0,
    };
    let mut totals: BTreeMap<(bool, Reach), u64> = BTreeMap::new();
    for backend in &service.backends {
        for reach in [Reach::Cluster, Reach::Node] {
            if backend.lists.contains(reach) {
                *totals.entry((backend.address.is_ipv4(), reach)).or_default() += share(backend);
            }
        }
    }
    let percent = |backend: &BackendStatus| {
        let list = match backend.lists {
            Lists::Cluster | Lists::Both => Reach::Cluster,
            Lists::Node => Reach::Node,
        };
        let total = totals.get(&(backend.address.is_ipv4(), list)).copied().unwrap_or_default();
        match share(backend) {
            0 => 0.0,
            share => 100.0 * share as f64 / total as f64,
        }
    };
    service.backends.iter().map(percent).collect()
}

fn level(service: &ServiceStatus) -> (Level, String) {
    let frontends = &service.frontends;
    if let Some(missing) = frontends.iter().find(|frontend| !frontend.installed) {
        return (Level::Down, format!("{} is not in the kernel", missing.frontend));
    }
    let counts = counts(service);
    let with =
        |text: &str| if counts.is_empty() { text.to_owned() } else { format!("{text}: {counts}") };
    let without: Vec<_> = frontends.iter().filter(|frontend| frontend.usable == 0).collect();
    match without.as_slice() {
        [] => {}
        all if all.len() == frontends.len() => return (Level::Down, with("no backend")),
        [first, ..] => return (Level::Down, format!("no backend for {}", first.frontend)),
    }
    if service.fails_open {
        return (Level::FailOpen, "too few healthy backends".to_owned());
    }
    let missing = service.backends.iter().any(|b| matches!(why(b), Why::Failing | Why::Ejected));
    (if missing { Level::Degraded } else { Level::Ok }, counts)
}

/// `2 failing, 1 draining`.
fn counts(service: &ServiceStatus) -> String {
    let told = [Why::Failing, Why::Ejected, Why::FailOpen, Why::Draining, Why::Disabled];
    let counted = told.map(|wanted| {
        let count = service.backends.iter().filter(|backend| why(backend) == wanted).count();
        (count > 0).then(|| format!("{count} {}", wanted.word()))
    });
    counted.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Backends that get new connections: those a frontend leads to, of either family.
pub fn usable(service: &ServiceStatus) -> usize {
    let most = |v4: bool| {
        let family = service.frontends.iter().filter(|f| f.frontend.address.is_ipv4() == v4);
        family.map(|frontend| frontend.usable).max().unwrap_or_default()
    };
    most(true) + most(false)
}

fn srtt(service: &ServiceStatus) -> Option<Duration> {
    let outcomes = service.backends.iter().filter_map(|backend| backend.outcomes.as_deref());
    let measured =
        outcomes.filter_map(|o| Some((o.srtt?.as_secs_f64(), o.established.max(1) as f64)));
    let (sum, weight) = measured
        .fold((0.0, 0.0), |(sum, total), (srtt, weight)| (sum + srtt * weight, total + weight));
    (weight > 0.0).then(|| Duration::from_secs_f64(sum / weight))
}

#[cfg(test)]
pub(crate) mod tests;
