//! What is to be served: the states that the model goes through, in any order, and what a connect
//! may come to in each. Every backend belongs to one service only, so that whoever ends up there was
//! that service's.

use super::Bounds;
use super::tables::FRONTENDS;
use crate::desired::{Desired, Entry};
use crate::model::{
    AdminState, Backend, Frontend, NoBackend, Policy, Protocol, Scope, Service, ServiceName,
};
use crate::plan::{Limits, Orphan};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// An outcome of a connect: the address was no frontend. The lower bits are backends.
pub(super) const ABSENT: u8 = 1 << 7;
/// The service had no backend.
pub(super) const REFUSED: u8 = 1 << 6;

/// One connect at a time, and long histories; two at a time, and shorter ones.
const BOUNDS: [Bounds; 2] =
    [Bounds { readers: 1, plans: 6, deaths: 2 }, Bounds { readers: 2, plans: 5, deaths: 1 }];

/// The same for two frontends with three states, of which there are many more histories.
const SHARING: [Bounds; 2] =
    [Bounds { readers: 1, plans: 5, deaths: 2 }, Bounds { readers: 2, plans: 4, deaths: 1 }];

/// The same where another layout's programs are replaced: its sockets and the moment of the replacement
/// come to all else, and the histories that matter are short.
const REPLACING: [Bounds; 2] =
    [Bounds { readers: 1, plans: 4, deaths: 1 }, Bounds { readers: 2, plans: 3, deaths: 1 }];

/// A state that may be desired.
pub(super) struct Wanted {
    /// As the planner is told.
    pub(super) desired: Desired,
    /// The right outcomes for each frontend.
    pub(super) outcomes: [u8; FRONTENDS],
}

/// A service: its frontends, and its backends with whether they are ready.
type Line = (&'static str, &'static [u8], &'static [(u8, bool)]);

/// What is desired in turn, in any order. All of it at once would be too much.
pub(super) struct Scene {
    pub(super) name: &'static str,
    /// Tables so small that what is freed is soon used again.
    pub(super) limits: Limits,
    /// How far it is explored.
    pub(super) bounds: [Bounds; 2],
    states: &'static [&'static [Line]],
    /// What programs of another layout serve at first, for a service with the id 0 and frontend 0: ids,
    /// and the backends they stand for.
    pub(super) others: &'static [(u8, u8)],
}

/// Backends 0 and 1 are a's, 2 is b's.
pub(super) const SCENES: [Scene; 6] = [
    Scene {
        name: "backends come, rest and go",
        limits: Limits { frontends: 1, services: 2, rows: 7, backends: 2 },
        bounds: BOUNDS,
        states: &[
            &[("a", &[0], &[(0, true)])],
            &[("a", &[0], &[(0, false), (1, true)])],
            &[("a", &[0], &[])],
        ],
        others: &[],
    },
    Scene {
        name: "a frontend changes hands",
        limits: Limits { frontends: 1, services: 2, rows: 7, backends: 2 },
        bounds: BOUNDS,
        states: &[&[("a", &[0], &[(0, true)])], &[("b", &[0], &[(2, true)])], &[]],
        others: &[],
    },
    Scene {
        name: "another frontend takes what one has left",
        limits: Limits { frontends: 1, services: 2, rows: 7, backends: 2 },
        bounds: BOUNDS,
        states: &[&[("a", &[0], &[(0, true)])], &[("b", &[1], &[(2, true)])], &[]],
        others: &[],
    },
    Scene {
        name: "two services exchange their frontends",
        limits: Limits { frontends: 2, services: 2, rows: 9, backends: 2 },
        bounds: BOUNDS,
        states: &[
            &[("a", &[0], &[(0, true)]), ("b", &[1], &[(2, true)])],
            &[("a", &[1], &[(0, true)]), ("b", &[0], &[(2, true)])],
        ],
        others: &[],
    },
    Scene {
        name: "frontends share a block",
        limits: Limits { frontends: 2, services: 2, rows: 9, backends: 2 },
        bounds: SHARING,
        states: &[
            &[("a", &[0, 1], &[(0, true)])],
            &[("a", &[0], &[(0, true)]), ("b", &[1], &[(2, true)])],
            &[("a", &[0, 1], &[(0, false), (1, true)])],
        ],
        others: &[],
    },
    Scene {
        name: "programs of another layout are replaced",
        limits: Limits { frontends: 1, services: 2, rows: 7, backends: 2 },
        bounds: REPLACING,
        states: &[&[("a", &[0], &[(0, true)])], &[("b", &[0], &[(2, true)])], &[]],
        others: &[(0, 0), (1, 1)],
    },
];

impl Scene {
    /// What the state says that the other layout's agent has saved.
    pub(super) fn recalled(&self) -> BTreeMap<u32, Orphan> {
        let backend = |(id, backend): &(u8, u8)| (address_of(*backend), u32::from(*id));
        let backends = self.others.iter().map(backend).collect();
        let orphan = Orphan { backends, frontends: [frontend_of(0)].into() };
        if self.others.is_empty() { BTreeMap::new() } else { [(0, orphan)].into() }
    }

    pub(super) fn wanted(&self) -> Vec<Wanted> {
        self.states.iter().copied().map(wanted).collect()
    }
}

fn wanted(services: &[Line]) -> Wanted {
    let mut outcomes = [ABSENT; FRONTENDS];
    for (_, frontends, backends) in services {
        let ready = backends.iter().filter(|(_, ready)| *ready);
        let right = ready.fold(0, |sum, (backend, _)| sum | 1 << backend);
        for frontend in *frontends {
            outcomes[usize::from(*frontend)] = if right == 0 { REFUSED } else { right };
        }
    }
    let services = services.iter().map(service).collect();
    Wanted { desired: Desired { services, complete: true, ..Desired::default() }, outcomes }
}

fn service((name, frontends, backends): &Line) -> (ServiceName, Entry) {
    let backend = |(number, ready): &(u8, bool)| {
        let state = if *ready { AdminState::Ready } else { AdminState::Drain };
        (address_of(*number), Backend { state, ..Backend::default() })
    };
    let frontends = frontends.iter().map(|number| (frontend_of(*number), Scope::Everywhere.into()));
    let service = Service {
        frontends: frontends.collect(),
        backends: backends.iter().map(backend).collect::<BTreeMap<_, _>>(),
        policy: Policy::Random,
        affinity: None,
        no_backend: NoBackend::Refuse,
        no_node_backend: NoBackend::Refuse,
        backends_from: Vec::new(),
        source_ranges: Vec::new(),
        health: Default::default(),
    };
    (name.parse().expect("a name"), Entry::new(Arc::new(service), "model".into()))
}

/// The frontend with this number.
pub(super) fn frontend_of(number: u8) -> Frontend {
    Frontend::new(Ipv4Addr::new(10, 96, 0, number).into(), 80, Protocol::Tcp)
}

/// The number of a frontend or backend.
pub(super) fn number_of(address: &SocketAddr) -> u8 {
    match address {
        SocketAddr::V4(address) => address.ip().octets()[3],
        SocketAddr::V6(address) => panic!("{address} is none of the model's"),
    }
}

fn address_of(number: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 1, 0, number).into(), 80)
}
