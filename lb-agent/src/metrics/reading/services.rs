//! Services and their backends: what is kept of each, and how it is written.

use crate::health::effective::Why;
use crate::metrics::families::Families;
use crate::metrics::tally::{OUTCOMES, Sums, counts};
use crate::status::{BackendStatus, ServiceCounts, ServiceStatus};
use crate::summary::why;
use std::fmt;
use std::time::Duration;

/// Most backends that have series of their own; of the others there is the number.
const MOST_BACKENDS: usize = 20_000;

/// All services.
#[derive(Debug)]
pub(super) struct Services {
    services: Vec<Service>,
    /// Empty unless asked for. Each with the place of its service.
    backends: Vec<(usize, Backend)>,
    left_out: Option<u64>,
    frontends: Frontends,
}

#[derive(Debug, Default)]
struct Frontends {
    installed: u64,
    missing: u64,
}

#[derive(Debug)]
struct Service {
    name: String,
    counts: ServiceCounts,
    fails_open: bool,
    open_sockets: u64,
    /// Backends by state.
    states: [u64; Why::ALL.len()],
    outcomes: Option<Sums>,
}

#[derive(Debug)]
struct Backend {
    address: String,
    state: Why,
    open_sockets: u64,
    connects: u64,
    outcomes: Option<Sums>,
    handshake: Option<Duration>,
    probe: Option<Duration>,
}

// === impl Services ===

impl Services {
    pub(super) fn new(per_backend: bool) -> Self {
        Self {
            services: Vec::new(),
            backends: Vec::new(),
            left_out: per_backend.then_some(0),
            frontends: Frontends::default(),
        }
    }

    /// Adds a service whose counters were read.
    pub(super) fn add(&mut self, service: ServiceStatus, outcomes: Option<Sums>) {
        // Those of packets are in other tables.
        for frontend in service.socket_frontends() {
            let Frontends { installed, missing } = &mut self.frontends;
            *(if frontend.installed { installed } else { missing }) += 1;
        }
        let mut states = [0; Why::ALL.len()];
        for backend in &service.backends {
            states[why(backend) as usize] += 1;
        }
        if let Some(left_out) = &mut self.left_out {
            let place = self.services.len();
            let room = MOST_BACKENDS.saturating_sub(self.backends.len());
            let shown = service.backends.iter().take(room).map(|b| (place, Backend::new(b)));
            self.backends.extend(shown);
            *left_out += service.backends.len().saturating_sub(room) as u64;
        }
        self.services.push(Service {
            counts: service.counters,
            fails_open: service.fails_open,
            open_sockets: service.backends.iter().map(|backend| backend.active).sum(),
            states,
            outcomes,
            name: service.name,
        });
    }

    pub(super) fn encode(&self, families: &mut Families<'_>) -> fmt::Result {
        self.totals(families)?;
        self.services(families)?;
        if let Some(left_out) = self.left_out {
            self.backends(families)?;
            let help = "Backends without series of their own, for want of room.";
            families.gauge("lb_backends_left_out", help, [([], left_out)])?;
        }
        Ok(())
    }

    fn totals(&self, families: &mut Families<'_>) -> fmt::Result {
        let Frontends { installed, missing } = self.frontends;
        families.gauge("lb_services", "Services.", [([], self.services.len() as u64)])?;
        let help = "Frontends, by whether the kernel has them.";
        let frontends = [([("state", "installed")], installed), ([("state", "missing")], missing)];
        families.gauge("lb_frontends", help, frontends)?;
        let sum = |state| self.services.iter().map(|service| service.states[state as usize]).sum();
        let states = Why::ALL.into_iter().map(|why| ([("state", why.label())], sum(why)));
        let help =
            "Backends, once per service they are in, by why they get new connections or not.";
        families.gauge("lb_backends", help, states)
    }

    fn services(&self, families: &mut Families<'_>) -> fmt::Result {
        let services = || self.services.iter().map(|service| (service.name.as_str(), service));
        let states = services().flat_map(|(name, service)| {
            let states = Why::ALL.into_iter().zip(service.states);
            // An alert needs the 0 of those that serve; the other zeros would be most of the samples.
            let shown = states.filter(|(why, count)| *why == Why::Serving || *count > 0);
            shown.map(move |(why, count)| ([("service", name), ("state", why.label())], count))
        });
        let help = "Backends of a service, by why they get new connections or not.";
        families.gauge("lb_service_backends", help, states)?;
        let connects = services().flat_map(|(name, service)| {
            let ServiceCounts { connects, no_backend, .. } = service.counts;
            [("translated", connects), ("no_backend", no_backend)]
                .map(|(verdict, count)| ([("service", name), ("verdict", verdict)], count))
        });
        let help = "Connects and datagrams to a service, by what was decided: sent to a backend, or none \
                    was usable. Of UDP, the first datagram counts.";
        families.counter("lb_service_connects", help, connects)?;
        let untracked = services().map(|(n, s)| ([("service", n)], s.counts.untracked));
        let help = "Sockets that were translated but not remembered: the overflow table was full.";
        families.counter("lb_service_untracked_sockets", help, untracked)?;
        let open = services().map(|(name, service)| ([("service", name)], service.open_sockets));
        let help = "Sockets open to the backends of a service.";
        families.gauge("lb_service_open_sockets", help, open)?;
        let fails_open = services().map(|(n, s)| ([("service", n)], u64::from(s.fails_open)));
        let help = "Whether a service sends connections to backends that are not healthy, for want of \
                    others: 1 or 0.";
        families.gauge("lb_service_fails_open", help, fails_open)?;
        let outcomes = services().flat_map(|(name, service)| {
            service.outcomes.into_iter().flat_map(move |sums| {
                let label = move |outcome| [("service", name), ("outcome", outcome)];
                OUTCOMES.into_iter().map(label).zip(sums)
            })
        });
        let help = "What became of TCP connects to a service's backends.";
        families.counter("lb_service_connect_outcomes", help, outcomes)
    }

    fn backends(&self, families: &mut Families<'_>) -> fmt::Result {
        let backends = || {
            self.backends.iter().filter_map(|(place, backend)| {
                let service = self.services.get(*place)?;
                let labels = [("service", service.name.as_str()), ("backend", &*backend.address)];
                Some((labels, backend))
            })
        };
        let states = backends().map(|([service, address], backend)| {
            ([service, address, ("state", backend.state.label())], 1)
        });
        let help = "The state of a backend: the sample with the state is 1.";
        families.gauge("lb_backend_state", help, states)?;
        let open = backends().map(|(labels, backend)| (labels, backend.open_sockets));
        families.gauge("lb_backend_open_sockets", "Sockets open to a backend.", open)?;
        let connects = backends().map(|(labels, backend)| (labels, backend.connects));
        let help = "Sockets that were sent to a backend since it was added.";
        families.counter("lb_backend_connects", help, connects)?;
        let outcomes = backends().flat_map(|([service, address], backend)| {
            backend.outcomes.into_iter().flat_map(move |sums| {
                let label = move |outcome| [service, address, ("outcome", outcome)];
                OUTCOMES.into_iter().map(label).zip(sums)
            })
        });
        let help = "What became of TCP connects to a backend since it was added.";
        families.counter("lb_backend_connect_outcomes", help, outcomes)?;
        let times = |time: fn(&Backend) -> Option<Duration>| {
            backends().filter_map(move |(labels, b)| Some((labels, time(b)?.as_secs_f64())))
        };
        let help = "Round-trip time to a backend, a mean over the last handshakes.";
        families.gauge_f64("lb_backend_handshake_seconds", help, times(|b| b.handshake))?;
        let help = "How long the last check of a backend took.";
        families.gauge_f64("lb_backend_probe_seconds", help, times(|b| b.probe))
    }
}

// === impl Backend ===

impl Backend {
    fn new(backend: &BackendStatus) -> Self {
        let check = backend.health.as_ref().and_then(|health| health.check.as_ref());
        let outcomes = backend.outcomes.as_deref();
        Self {
            address: backend.address.to_string(),
            state: why(backend),
            open_sockets: backend.active,
            connects: backend.connects,
            outcomes: outcomes.map(counts),
            handshake: outcomes.and_then(|outcomes| outcomes.srtt),
            probe: check.and_then(|check| check.took),
        }
    }
}
