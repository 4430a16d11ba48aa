//! What is known of every backend's health, and what follows for the services.
//!
//! A state machine: told which services there are, what checks and real connects came to, and what
//! time it is; says what is to be probed, what each service's backends get, and when to ask again.
//! Only services that something is known of are kept here: one without checks costs nothing until
//! connects to it fail.

mod reports;

pub use self::reports::{CheckResult, CheckVerdict, Report, Target, Verdict, Wanted};

use super::effective::{FULL, Health, Member, ramp};
use super::ejection::{Decision, Ejections};
use super::lists::{self, Part};
use super::tracker::Tracker;
use crate::model::check::Check;
use crate::model::{AdminState, Backend, Lists, Override, Overrides, Service, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// What is known of the services' health.
#[derive(Debug, Default)]
pub struct Board {
    /// This host's zone.
    zone: Option<Arc<str>>,
    probes: BTreeMap<Target, Probe>,
    services: BTreeMap<ServiceName, Watched>,
    overrides: Arc<Overrides>,
    /// The services whose overrides have changed since they were last followed.
    overridden: BTreeSet<ServiceName>,
}

/// A target that is probed.
#[derive(Debug)]
struct Probe {
    tracker: Tracker,
    last: Option<Report>,
    users: BTreeSet<ServiceName>,
}

/// A service of which something is known.
#[derive(Debug)]
struct Watched {
    service: Arc<Service>,
    /// What is probed for each backend.
    targets: BTreeMap<SocketAddr, Vec<Target>>,
    ejections: Ejections,
    /// When a backend came back, while its share still grows.
    back: BTreeMap<SocketAddr, Instant>,
    /// What each backend's health was when it was last looked at.
    known: BTreeMap<SocketAddr, Health>,
    effective: Arc<Service>,
    fail_open: bool,
    /// When the shares were last worked out.
    settled: Option<Instant>,
    stale: bool,
}

// === impl Board ===

impl Board {
    /// For a host in this zone.
    pub fn new(zone: Option<Arc<str>>) -> Self {
        Self { zone, ..Self::default() }
    }

    /// Takes in what operators say.
    pub fn set_overrides(&mut self, overrides: Arc<Overrides>) {
        let differs = |name: &&ServiceName| self.overrides.get(*name) != overrides.get(*name);
        let names = self.overrides.keys().chain(overrides.keys()).filter(differs);
        let names: BTreeSet<ServiceName> = names.cloned().collect();
        for name in &names {
            if let Some(watched) = self.services.get_mut(name) {
                watched.stale = true;
            }
        }
        self.overridden.extend(names);
        self.overrides = overrides;
    }

    /// The services that [`Board::follow`] is to be told of because operators have said something new
    /// of them.
    pub fn overridden(&self) -> &BTreeSet<ServiceName> {
        &self.overridden
    }

    /// What an operator says of a backend.
    pub fn override_of(&self, name: &ServiceName, backend: &SocketAddr) -> Override {
        let found = self.overrides.get(name).and_then(|backends| backends.get(backend));
        found.copied().unwrap_or_default()
    }

    /// What operators say of a service's backends.
    pub fn overrides_of(&self, name: &ServiceName) -> BTreeMap<SocketAddr, Override> {
        self.overrides.get(name).cloned().unwrap_or_default()
    }

    /// Whether anything is known of a service.
    pub fn is_watched(&self, name: &ServiceName) -> bool {
        self.services.contains_key(name)
    }

    /// Takes in services as they are now, `None`: gone; the others are as they were. Says what is to
    /// be probed.
    pub fn follow<'a>(
        &mut self,
        services: impl Iterator<Item = (&'a ServiceName, Option<&'a Arc<Service>>)>,
    ) -> Wanted {
        let mut wanted = Wanted::default();
        for (name, service) in services {
            self.overridden.remove(name);
            let known = self.services.get(name);
            let Some(service) = service else {
                if let Some(gone) = self.services.remove(name) {
                    self.release(name, gone.targets.into_values().flatten(), &mut wanted);
                }
                continue;
            };
            if known.is_none() && !is_governed(service) && !self.overrides.contains_key(name) {
                continue;
            }
            if known.is_none_or(|watched| !Arc::ptr_eq(&watched.service, service)) {
                self.watch(name, service, &mut wanted);
            }
        }
        // What one service gives up another may have taken in the same breath.
        let mut stopped: BTreeSet<Target> = wanted.stop.into_iter().collect();
        wanted.start.retain(|target| !stopped.remove(target));
        Wanted { start: wanted.start, stop: stopped.into_iter().collect() }
    }

    fn watch(&mut self, name: &ServiceName, service: &Arc<Service>, wanted: &mut Wanted) {
        let mut targets: BTreeMap<SocketAddr, Vec<Target>> = BTreeMap::new();
        for backend in service.backends.keys() {
            let on = |check: &Arc<Check>| Target {
                address: check.target(*backend),
                backend: *backend,
                check: Arc::clone(check),
            };
            targets.insert(*backend, service.health.checks.iter().map(on).collect());
        }
        for target in targets.values().flatten() {
            let probe = self.probes.entry(target.clone()).or_insert_with(|| {
                wanted.start.push(target.clone());
                let tracker = Tracker::new(target.check.initial);
                Probe { tracker, last: None, users: BTreeSet::new() }
            });
            probe.users.insert(name.clone());
        }
        let fresh = Watched {
            service: Arc::clone(service),
            targets,
            ejections: Ejections::default(),
            back: BTreeMap::new(),
            known: BTreeMap::new(),
            effective: Arc::clone(service),
            fail_open: false,
            settled: None,
            stale: true,
        };
        let Some(before) = self.services.insert(name.clone(), fresh) else { return };
        let mut left = before.targets;
        if let Some(now) = self.services.get_mut(name) {
            let keep = |backend: &SocketAddr| service.backends.contains_key(backend);
            now.ejections = before.ejections;
            now.ejections.retain(keep);
            now.back = before.back;
            now.back.retain(|backend, _| keep(backend));
            now.known = before.known;
            now.known.retain(|backend, _| keep(backend));
            for (backend, old) in &mut left {
                let new = now.targets.get(backend);
                old.retain(|target| new.is_none_or(|new| !new.contains(target)));
            }
        }
        self.release(name, left.into_values().flatten(), wanted);
    }

    fn release(
        &mut self,
        name: &ServiceName,
        targets: impl Iterator<Item = Target>,
        wanted: &mut Wanted,
    ) {
        for target in targets {
            let Some(probe) = self.probes.get_mut(&target) else { continue };
            probe.users.remove(name);
            if probe.users.is_empty() {
                self.probes.remove(&target);
                wanted.stop.push(target);
            }
        }
    }

    /// A try ended. Whether what is shown of a service changes the tables too is told by
    /// [`Board::effective`].
    pub fn record(&mut self, target: &Target, report: Report) {
        let Some(probe) = self.probes.get_mut(target) else { return };
        let passed = report.result != CheckResult::Failing;
        probe.last = Some(report);
        if !probe.tracker.record(passed, &target.check) {
            return;
        }
        for name in &probe.users {
            if let Some(watched) = self.services.get_mut(name) {
                watched.stale = true;
            }
        }
    }

    /// Whether the next try on a target should come soon.
    pub fn in_transition(&self, target: &Target) -> bool {
        self.probes.get(target).is_some_and(|probe| probe.tracker.in_transition())
    }

    /// A connect to a backend failed, the `consecutive`th in a row.
    pub fn failed(
        &mut self,
        name: &ServiceName,
        service: &Arc<Service>,
        backend: SocketAddr,
        consecutive: u64,
        now: Instant,
    ) -> Decision {
        if service.health.ejection.failures == 0 || !service.backends.contains_key(&backend) {
            return Decision::Stays;
        }
        if !self.services.contains_key(name) {
            // Without checks, nothing is to be probed.
            self.watch(name, service, &mut Wanted::default());
        }
        let Some(watched) = self.services.get_mut(name) else { return Decision::Stays };
        let policy = &service.health.ejection;
        let size = service.backends.len();
        let decision = watched.ejections.failed(backend, consecutive, size, policy, now);
        watched.stale |= matches!(decision, Decision::Ejected(_));
        decision
    }

    /// When something changes by itself: an ejection ends, a share grows.
    pub fn next(&self) -> Option<Instant> {
        self.services.values().filter_map(Watched::next).min()
    }

    /// Lets what is due at `now` happen.
    pub fn tick(&mut self, now: Instant) {
        for watched in self.services.values_mut() {
            if watched.next().is_some_and(|at| at <= now) {
                watched.ejections.expire(now);
                watched.stale = true;
            }
        }
    }

    /// Services whose backends' shares may have changed since they were last asked for.
    pub fn stale(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.iter().filter(|(_, watched)| watched.stale).map(|(name, _)| name)
    }

    /// The service as its callers should find it: backends that get no new connections are there
    /// only to be remembered, the others have the weight that they get.
    pub fn effective(
        &mut self,
        name: &ServiceName,
        service: &Arc<Service>,
        now: Instant,
    ) -> Arc<Service> {
        let Self { zone, probes, services, overrides, .. } = self;
        let Some(watched) = services.get_mut(name) else { return Arc::clone(service) };
        if watched.stale {
            watched.settle(&View { zone: zone.as_ref(), probes, said: overrides.get(name) }, now);
        }
        Arc::clone(&watched.effective)
    }

    /// Whether a service of either family sends connections to backends that are not healthy.
    pub fn fails_open(&self, name: &ServiceName) -> bool {
        self.services.get(name).is_some_and(|watched| watched.fail_open)
    }

    /// What each backend gets and why. `None`: nothing is known but what the source says.
    pub fn verdicts(
        &self,
        name: &ServiceName,
        now: Instant,
    ) -> Option<BTreeMap<SocketAddr, Verdict>> {
        let watched = self.services.get(name)?;
        let view =
            View { zone: self.zone.as_ref(), probes: &self.probes, said: self.overrides.get(name) };
        let (shares, _) = watched.shares(&view, now);
        let verdict = |(backend, part): (SocketAddr, Part)| {
            let verdict = Verdict {
                share: part.share,
                check: watched.worst(&backend, &self.probes),
                ejected: watched.ejections.until(&backend),
            };
            (backend, verdict)
        };
        Some(shares.into_iter().map(verdict).collect())
    }
}

/// Whether the rule has anything to say about a service before connects to it fail.
fn is_governed(service: &Service) -> bool {
    !service.health.checks.is_empty()
        || service.health.rule.min_zone_healthy.is_some()
        || service.backends.values().any(|backend| backend.priority > 0)
}

/// What a service's backends are looked at with.
struct View<'a> {
    zone: Option<&'a Arc<str>>,
    probes: &'a BTreeMap<Target, Probe>,
    said: Option<&'a BTreeMap<SocketAddr, Override>>,
}

impl View<'_> {
    /// The backend with what operators say of it.
    fn backend(&self, address: &SocketAddr, backend: &Backend) -> Backend {
        let said = self.said.and_then(|said| said.get(address)).copied().unwrap_or_default();
        let (state, weight) = (said.state, said.weight);
        Backend {
            state: state.unwrap_or(backend.state),
            weight: weight.unwrap_or(backend.weight),
            ..backend.clone()
        }
    }
}

// === impl Watched ===

impl Watched {
    fn settle(&mut self, view: &View<'_>, now: Instant) {
        self.stale = false;
        self.settled = Some(now);
        self.note_returns(view.probes, now);
        let (shares, fail_open) = self.shares(view, now);
        self.fail_open = fail_open;
        let mut effective = Service::clone(&self.service);
        for (address, Part { share, lists }) in shares {
            let Some(backend) = effective.backends.get_mut(&address) else { continue };
            *backend = view.backend(&address, backend);
            if share.weight > 0 {
                backend.weight = share.weight;
                backend.lists = lists;
            } else if backend.state == AdminState::Ready {
                backend.state = AdminState::Drain;
            }
        }
        if *self.service == effective {
            self.effective = Arc::clone(&self.service);
        } else if *self.effective != effective {
            self.effective = Arc::new(effective);
        }
    }

    /// A backend that was down and is up again starts slowly; at the agent's start nobody does.
    fn note_returns(&mut self, probes: &BTreeMap<Target, Probe>, now: Instant) {
        let slow = self.service.health.slow_start;
        for backend in self.service.backends.keys() {
            let health = self.health(backend, probes);
            let before = self.known.insert(*backend, health);
            let is_back = health == Health::Up && before.is_some_and(|b| b != Health::Up);
            if is_back && !slow.is_zero() {
                self.back.insert(*backend, now);
            }
        }
        self.back.retain(|_, back| now.duration_since(*back) < slow);
    }

    fn health(&self, backend: &SocketAddr, probes: &BTreeMap<Target, Probe>) -> Health {
        let targets = self.targets.get(backend).into_iter().flatten();
        if targets.filter_map(|target| probes.get(target)).any(|probe| !probe.tracker.is_up()) {
            return Health::Down;
        }
        if self.ejections.until(backend).is_some() { Health::Ejected } else { Health::Up }
    }

    fn shares(&self, view: &View<'_>, now: Instant) -> (Vec<(SocketAddr, Part)>, bool) {
        let mut all = Vec::with_capacity(self.service.backends.len());
        let mut fails_open = false;
        for v4 in [true, false] {
            let backends: Vec<(SocketAddr, Backend)> = self
                .service
                .backends
                .iter()
                .filter(|(address, _)| address.is_ipv4() == v4)
                .map(|(address, backend)| (*address, view.backend(address, backend)))
                .collect();
            let members: Vec<(Lists, Member)> = backends
                .iter()
                .map(|(address, backend)| (backend.lists, self.member(address, backend, view, now)))
                .collect();
            let (parts, fail_open) = lists::parts(&members, &self.service);
            fails_open |= fail_open;
            all.extend(backends.iter().map(|(address, _)| *address).zip(parts));
        }
        (all, fails_open)
    }

    fn member(
        &self,
        address: &SocketAddr,
        backend: &Backend,
        View { zone, probes, .. }: &View<'_>,
        now: Instant,
    ) -> Member {
        let slow = self.service.health.slow_start;
        let back = self.back.get(address);
        Member {
            admin: backend.state,
            health: self.health(address, probes),
            weight: backend.weight,
            priority: backend.priority,
            own_zone: zone.is_some() && backend.zone.as_ref() == *zone,
            ramp: back.map_or(FULL, |back| ramp(now.duration_since(*back), slow)),
        }
    }

    /// The check that speaks loudest against a backend.
    fn worst(
        &self,
        backend: &SocketAddr,
        probes: &BTreeMap<Target, Probe>,
    ) -> Option<CheckVerdict> {
        let verdict = |target: &Target| {
            let probe = probes.get(target)?;
            Some(CheckVerdict {
                check: Arc::clone(&target.check),
                up: probe.tracker.is_up(),
                standing: probe.tracker.standing(&target.check),
                last: probe.last.clone(),
            })
        };
        let warns = |v: &CheckVerdict| {
            v.last.as_ref().is_some_and(|report| report.result != CheckResult::Passing)
        };
        let targets = self.targets.get(backend)?.iter();
        targets.filter_map(verdict).min_by_key(|v| (v.up, !warns(v), v.standing.0))
    }

    fn next(&self) -> Option<Instant> {
        // A share grows in steps; settling forgets those that have grown up, so that this ends.
        let step = self.service.health.slow_start / u32::from(FULL);
        let grows = self.settled.filter(|_| !self.back.is_empty()).map(|at| at + step);
        self.ejections.next().into_iter().chain(grows).min()
    }
}

#[cfg(test)]
mod tests;
