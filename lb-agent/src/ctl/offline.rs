//! Answers without an agent: the pinned tables say which services, frontends and backends are
//! served, the agent's last state file says what they are called and since when. Decides which of
//! the two is believed where they differ: the tables, always.

use crate::dataplane::pinned::Pinned;
use crate::explain::Explanation;
use crate::inspect::explain_from;
use crate::model::{AdminState, Frontend};
use crate::status::{
    BackendStatus, Comes, Counters, FrontendStatus, ServiceStatus, State, TableStatus,
};
use crate::store;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::Path;

/// What an agent left behind.
pub(super) struct Leftovers {
    tables: Pinned,
    saved: Option<State>,
    /// Why names, sources and ages are missing, if they are.
    pub(super) nameless: Option<String>,
}

// === impl Leftovers ===

impl Leftovers {
    /// Opens the pinned tables, and the state file if there is one.
    pub(super) fn open(pin_dir: &Path, state_dir: &Path) -> anyhow::Result<Self> {
        let tables = Pinned::open(pin_dir)?;
        let (saved, nameless) = match read_state(&state_dir.join("state.json")) {
            Ok(saved) => (Some(saved), None),
            Err(error) => (None, Some(format!("without names, sources and ages: {error:#}"))),
        };
        Ok(Self { tables, saved, nameless })
    }

    /// The services that the tables serve, counters filled in.
    pub(super) fn services(&self) -> anyhow::Result<Vec<ServiceStatus>> {
        let pinned = self.tables.services().context("cannot read the pinned tables")?;
        Ok(match &self.saved {
            Some(saved) => merge(pinned, saved),
            None => pinned,
        })
    }

    /// How a socket that dials this address is treated.
    pub(super) fn explain(&self, frontend: Frontend) -> anyhow::Result<Explanation> {
        explain_from(&self.tables, frontend, &self.services()?, &[])
    }

    /// The tables.
    pub(super) fn tables(&self) -> anyhow::Result<Vec<TableStatus>> {
        self.tables.tables()
    }
}

fn read_state(path: &Path) -> anyhow::Result<State> {
    store::load(path)?.with_context(|| format!("there is no state file {}", path.display()))
}

/// What is served (`pinned`), named by what the agent last wrote (`saved`), which may be older: the
/// agent may have died between the two. An id that was given away since names nothing.
fn merge(pinned: Vec<ServiceStatus>, saved: &State) -> Vec<ServiceStatus> {
    let by_id: BTreeMap<u32, &ServiceStatus> =
        saved.services.iter().filter_map(|service| Some((service.id?, &**service))).collect();
    let named = |service: ServiceStatus| {
        let known = service.id.and_then(|id| by_id.get(&id)).copied();
        match known.filter(|known| same_service(&service, known)) {
            Some(known) => name_service(service, known),
            None => service,
        }
    };
    pinned.into_iter().map(named).collect()
}

/// An id alone proves nothing, it may have been reused; with a frontend in common it does.
fn same_service(pinned: &ServiceStatus, saved: &ServiceStatus) -> bool {
    let dialled = |status: &FrontendStatus| {
        saved.frontends.iter().any(|other| other.frontend == status.frontend)
    };
    pinned.frontends.iter().any(dialled)
}

fn name_service(pinned: ServiceStatus, saved: &ServiceStatus) -> ServiceStatus {
    let known: BTreeMap<_, _> = saved.backends.iter().map(|b| (b.address, b)).collect();
    let served = pinned.backends.into_iter().map(|backend| {
        // With another id it was removed and came back since.
        match known.get(&backend.address).filter(|known| known.id == backend.id) {
            Some(known) => date_backend(backend, known),
            None => backend,
        }
    });
    // The tables have what each frontend leads to, not by which rule, and nothing of packets.
    let known_frontends: BTreeMap<_, _> = saved.frontends.iter().map(|f| (f.frontend, f)).collect();
    let mut frontends = pinned.frontends;
    for status in &mut frontends {
        let known = known_frontends.get(&status.frontend);
        status.reach = known.map(|known| known.reach).unwrap_or_default();
        status.comes = known.map(|known| known.comes).unwrap_or_default();
    }
    let of_packets = saved.frontends.iter().filter(|f| f.comes == Comes::Packets);
    frontends.extend(of_packets.cloned());
    let by_reach = frontends.iter().any(|status| !status.reach.is_cluster());
    // No frontend leads to these, so no table has them; they are configured all the same.
    let led_to = |backend: &BackendStatus| {
        let v4 = backend.address.is_ipv4();
        let mut same = frontends.iter().filter(|f| f.frontend.address.is_ipv4() == v4);
        same.any(|f| backend.lists.contains(f.reach))
    };
    let unled = saved.backends.iter().filter(|backend| !led_to(backend));
    let unled = unled.map(|backend| BackendStatus { id: None, ..backend.clone() });
    let backends = served.chain(unled).collect();
    ServiceStatus {
        name: saved.name.clone(),
        source: saved.source.clone(),
        // Each list has a verdict of its own, and the tables don't say whose theirs is.
        no_backend: if by_reach { saved.no_backend } else { pinned.no_backend },
        no_node_backend: saved.no_node_backend.filter(|_| by_reach),
        frontends,
        backends,
        ..pinned
    }
}

/// The tables know whether a backend gets new connections, the file why it does not and since when.
/// What they disagree on has changed after the file was written.
fn date_backend(pinned: BackendStatus, saved: &BackendStatus) -> BackendStatus {
    let pinned = BackendStatus { lists: saved.lists, ..pinned };
    let ready = |backend: &BackendStatus| backend.state == AdminState::Ready;
    if ready(&pinned) == ready(saved) {
        BackendStatus { state: saved.state, since: saved.since, ..pinned }
    } else {
        pinned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lists, NoBackend, Policy, Reach, Scope};
    use crate::status::ServiceCounts;
    use std::time::SystemTime;

    const LONG_AGO: SystemTime = SystemTime::UNIX_EPOCH;

    fn service(name: &str, id: u32, frontend: &str, backends: Vec<BackendStatus>) -> ServiceStatus {
        let frontend = frontend.parse().unwrap();
        ServiceStatus {
            name: name.to_owned(),
            id: Some(id),
            source: format!("source of {name}"),
            frontends: vec![FrontendStatus {
                frontend,
                scope: Scope::Everywhere,
                reach: Reach::default(),
                comes: Default::default(),
                installed: true,
                usable: 1,
            }],
            policy: Policy::Random,
            affinity: None,
            no_backend: NoBackend::Refuse,
            no_node_backend: None,
            fails_open: false,
            backends,
            counters: ServiceCounts::default(),
        }
    }

    fn backend(address: &str, id: u32, state: AdminState, weight: u16) -> BackendStatus {
        let address = address.parse().unwrap();
        let since = Some(LONG_AGO);
        BackendStatus {
            address,
            id: Some(id),
            state,
            weight,
            lists: Lists::default(),
            zone: None,
            lease: None,
            lease_left: None,
            health: None,
            said: None,
            since,
            active: 0,
            connects: 0,
            outcomes: None,
        }
    }

    /// As the tables alone tell it: in use and counted, of no known age.
    fn pinned(address: &str, id: u32, state: AdminState, weight: u16) -> BackendStatus {
        let active = 100 + u64::from(id);
        BackendStatus { since: None, active, ..backend(address, id, state, weight) }
    }

    #[test]
    fn the_tables_say_what_is_served_and_the_state_file_what_it_is_called() {
        use AdminState::{Disabled, Drain, Ready};
        let saved = vec![
            backend("10.0.0.1:80", 1, Ready, 5),
            backend("10.0.0.2:80", 2, Drain, 6),
            backend("10.0.0.3:80", 3, Disabled, 7),
            backend("10.0.0.4:80", 4, Ready, 8),
            backend("10.0.0.5:80", 5, Ready, 9),
            backend("10.0.0.6:80", 6, Ready, 9),
            backend("[fd00::1]:80", 7, Ready, 1),
        ];
        let served = vec![
            pinned("10.0.0.1:80", 1, Ready, 50),
            pinned("10.0.0.2:80", 2, Ready, 6),
            pinned("10.0.0.3:80", 3, Drain, 7),
            pinned("10.0.0.5:80", 55, Ready, 9),
            pinned("10.0.0.6:80", 6, Drain, 9),
            pinned("10.0.0.9:80", 9, Ready, 1),
        ];
        let saved = State { services: vec![service("web", 7, "10.96.0.1:80", saved).into()] };
        let tables = vec![service("service-7", 7, "10.96.0.1:80", served)];

        let services = merge(tables, &saved);
        let [web] = services.as_slice() else { panic!("{services:?}") };
        assert_eq!((web.name.as_str(), web.source.as_str()), ("web", "source of web"));
        let seen: Vec<_> = web
            .backends
            .iter()
            .map(|b| (b.address.to_string(), b.state, b.weight, b.since.is_some(), b.active))
            .collect();
        let expected = [
            ("10.0.0.1:80", Ready, 50, true, 101),
            // It was undrained after the file was written.
            ("10.0.0.2:80", Ready, 6, false, 102),
            // The tables can't tell disabled from draining.
            ("10.0.0.3:80", Disabled, 7, true, 103),
            // 10.0.0.4 was removed; this one as well, and it came back.
            ("10.0.0.5:80", Ready, 9, false, 155),
            // It was drained after the file was written.
            ("10.0.0.6:80", Drain, 9, false, 106),
            ("10.0.0.9:80", Ready, 1, false, 109),
            // There is no frontend of its family.
            ("[fd00::1]:80", Ready, 1, true, 0),
        ];
        let expected: Vec<_> =
            expected.map(|(a, s, w, dated, n)| (a.to_owned(), s, w, dated, n)).into();
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_state_file_says_which_frontends_lead_where() {
        use AdminState::Ready;
        let of = |address: &str, id: u32, lists: Lists| BackendStatus {
            lists,
            ..backend(address, id, Ready, 1)
        };
        let mut known = service(
            "web",
            7,
            "10.96.0.1:80",
            vec![
                of("10.0.0.1:80", 1, Lists::Both),
                of("10.0.0.2:80", 2, Lists::Node),
                of("10.0.0.3:80", 3, Lists::Cluster),
            ],
        );
        known.frontends[0].reach = Reach::Node;
        known.no_backend = NoBackend::Pass;
        known.no_node_backend = Some(NoBackend::Unreachable);
        let served = vec![pinned("10.0.0.1:80", 1, Ready, 1), pinned("10.0.0.2:80", 2, Ready, 1)];
        let mut tables = service("service-7", 7, "10.96.0.1:80", served);
        tables.no_backend = NoBackend::Unreachable;
        let services = merge(vec![tables], &State { services: vec![known.into()] });
        let [web] = services.as_slice() else { panic!("{services:?}") };
        assert_eq!(web.frontends[0].reach, Reach::Node);
        assert_eq!(web.no_backend, NoBackend::Pass);
        assert_eq!(web.no_node_backend, Some(NoBackend::Unreachable));
        let seen: Vec<_> =
            web.backends.iter().map(|b| (b.address.to_string(), b.lists, b.id)).collect();
        let expected = [
            ("10.0.0.1:80", Lists::Both, Some(1)),
            ("10.0.0.2:80", Lists::Node, Some(2)),
            // No frontend leads there.
            ("10.0.0.3:80", Lists::Cluster, None),
        ];
        assert_eq!(seen, expected.map(|(a, lists, id)| (a.to_owned(), lists, id)));
    }

    #[test]
    fn an_id_that_was_given_away_names_nothing() {
        let saved = State {
            services: vec![
                service("web", 7, "10.96.0.1:80", Vec::new()).into(),
                service("gone", 8, "10.96.0.8:80", Vec::new()).into(),
            ],
        };
        let tables = vec![service("service-7", 7, "10.96.0.2:80", Vec::new())];
        assert_eq!(merge(tables.clone(), &saved), tables);
    }

    #[test]
    fn a_state_file_that_is_no_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for (text, part) in [(None, "there is no state file"), (Some("{"), "is damaged")] {
            text.iter().for_each(|text| std::fs::write(&path, text).unwrap());
            let error = format!("{:#}", read_state(&path).unwrap_err());
            assert!(error.contains(part) && error.contains("state.json"), "{error}");
        }
    }
}
