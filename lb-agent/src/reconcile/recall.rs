//! Whose the ids in the tables are, as the agent before this one has saved it: for tables of another
//! layout, of which only what is counted under the ids can be taken over.

use crate::plan::{Observed, Orphan};
use crate::status::{ServiceStatus, State};
use std::collections::BTreeMap;

/// What is remembered until the programs are attached. From then on the tables say it themselves.
#[derive(Debug, Default)]
pub(crate) struct Recall {
    services: BTreeMap<u32, Orphan>,
    needed: bool,
}

impl Recall {
    /// What a state says that was saved.
    pub(crate) fn of(state: Option<&State>) -> Self {
        let services = state.map(|state| &state.services).into_iter().flatten();
        let services = services.filter_map(|service| orphan(service)).collect();
        Self { services, needed: false }
    }

    /// Adds to what the tables say, where they can't say it.
    pub(crate) fn complete(&mut self, observed: &mut Observed) {
        self.needed = observed.inherited;
        if self.needed {
            observed.recalled.clone_from(&self.services);
        }
    }

    /// Whether programs of the other layout may still send sockets to what the ids stood for.
    pub(crate) fn is_needed(&self) -> bool {
        self.needed
    }

    /// The programs are attached.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }
}

fn orphan(service: &ServiceStatus) -> Option<(u32, Orphan)> {
    let backends = service.backends.iter().filter_map(|b| Some((b.address, b.id?))).collect();
    let frontends = service.socket_frontends().map(|frontend| frontend.frontend).collect();
    Some((service.id?, Orphan { backends, frontends }))
}
