//! What served before the agent started, held up for a while when the store turns out to have nothing
//! of the kind.
//!
//! A list that has services is newer than any cache, so what it lacks is gone. A list without any may
//! come from a store that was wiped while no agent looked, whether or not registrars have put their
//! backends again by now. While the store is away nothing is forgotten. Pure.

use super::keys::Now;
use crate::model::{Backend, Frontend, Pool, Service, Snapshot};
use crate::status::Held;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Backends = BTreeMap<SocketAddr, Backend>;

/// A snapshot that is not believed to be gone yet.
#[derive(Clone, Debug)]
pub struct Memory {
    snapshot: Arc<Snapshot>,
    prefix: String,
    grace: Duration,
    /// `None`: the store is away.
    until: Option<Now>,
}

// === impl Memory ===

impl Memory {
    /// Holds a snapshot for `grace`; `None` if there is nothing in it.
    pub fn new(snapshot: Arc<Snapshot>, prefix: &str, grace: Duration, now: Now) -> Option<Self> {
        let something = !snapshot.services.is_empty() || !snapshot.pools.is_empty();
        let mut memory = Self { snapshot, prefix: prefix.to_owned(), grace, until: None };
        memory.up(now);
        something.then_some(memory)
    }

    /// The store is away.
    pub fn down(&mut self) {
        self.until = None;
    }

    /// The store is back: it has the whole time to be filled again.
    pub fn up(&mut self, now: Now) {
        let Now { instant, system } = now;
        self.until = Some(Now { instant: instant + self.grace, system: system + self.grace });
    }

    /// When it is to be forgotten.
    pub fn deadline(&self) -> Option<Instant> {
        self.until.map(|until| until.instant)
    }

    /// How it is shown.
    pub fn held(&self) -> Held {
        let Snapshot { services, pools, overrides: _ } = &*self.snapshot;
        let (services, pools) = (services.len(), pools.len());
        let item = format!(
            "{} (all {services} services and {pools} pools from before the agent started)",
            self.prefix
        );
        Held { item, until: self.until.map(|until| until.system) }
    }

    /// What is served: what the store says by now, and what is remembered beside it.
    pub fn over(&self, now: &Snapshot) -> Snapshot {
        let mut all = now.clone();
        let taken: BTreeSet<Frontend> =
            now.services.values().flat_map(|service| service.frontends.keys().copied()).collect();
        for (name, old) in &self.snapshot.services {
            match all.services.get_mut(name) {
                Some(service) => complete(service, old),
                None => {
                    let mut old = Arc::clone(old);
                    if old.frontends.keys().any(|frontend| taken.contains(frontend)) {
                        let rest = Arc::make_mut(&mut old);
                        rest.frontends.retain(|frontend, _| !taken.contains(frontend));
                        if rest.frontends.is_empty() {
                            continue;
                        }
                    }
                    all.services.insert(name.clone(), old);
                }
            }
        }
        for (name, old) in &self.snapshot.pools {
            let pool: &mut Arc<Pool> = all.pools.entry(Arc::clone(name)).or_default();
            let missing = missing(&old.backends, &pool.backends);
            if !missing.is_empty() {
                Arc::make_mut(pool).backends.extend(missing);
            }
        }
        all
    }
}

/// A service that is written again may not have its backends again yet.
fn complete(service: &mut Arc<Service>, old: &Service) {
    let missing = missing(&old.backends, &service.backends);
    if !missing.is_empty() {
        Arc::make_mut(service).backends.extend(missing);
    }
}

fn missing(old: &Backends, now: &Backends) -> Vec<(SocketAddr, Backend)> {
    let gone = old.iter().filter(|(address, _)| !now.contains_key(*address));
    gone.map(|(address, backend)| (*address, backend.clone())).collect()
}
