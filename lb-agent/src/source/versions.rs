//! The snapshot in two versions: the one that was given out, and the one before, which is usually
//! nobody's by the time of the next change. That is then brought up to date in the few places where
//! it is behind: copying a map of ten thousand services for every change of one would take longer
//! than all the rest.

use crate::model::{Override, Pool, Service, ServiceName, Snapshot};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Most changes that are caught up with; beyond that a copy is as good.
const MOST: usize = 1000;

/// A snapshot that changes.
#[derive(Debug, Default)]
pub(super) struct Versions {
    now: Arc<Snapshot>,
    /// The version before, if it is worth keeping.
    before: Option<Arc<Snapshot>>,
    /// Where that differs from the present one.
    behind: Vec<Entry>,
}

/// A place in a snapshot.
#[derive(Debug)]
enum Entry {
    Service(ServiceName),
    Pool(Arc<str>),
    /// What operators say of the backends of a service.
    Overrides(ServiceName),
}

// === impl Versions ===

impl Versions {
    /// The present version.
    pub(super) fn now(&self) -> &Arc<Snapshot> {
        &self.now
    }

    /// Replaces a service; `None`: there is none.
    pub(super) fn put_service(&mut self, name: &ServiceName, service: Option<Arc<Service>>) {
        put(&mut self.writable(Entry::Service(name.clone())).services, name, service);
    }

    /// Replaces a pool; `None`: there is none.
    pub(super) fn put_pool(&mut self, name: &Arc<str>, pool: Option<Arc<Pool>>) {
        put(&mut self.writable(Entry::Pool(Arc::clone(name))).pools, name, pool);
    }

    /// Replaces what operators say of a backend; `None`: nothing.
    pub(super) fn put_override(
        &mut self,
        service: ServiceName,
        backend: SocketAddr,
        said: Option<Override>,
    ) {
        let overrides = &mut self.writable(Entry::Overrides(service.clone())).overrides;
        let backends = overrides.entry(service).or_default();
        match said {
            Some(said) => backends.insert(backend, said),
            None => backends.remove(&backend),
        };
        overrides.retain(|_, backends| !backends.is_empty());
    }

    /// The present version, to be changed at this place.
    fn writable(&mut self, entry: Entry) -> &mut Snapshot {
        if Arc::get_mut(&mut self.now).is_none() {
            // It was given out.
            let unused = self.before.take().and_then(|before| Arc::try_unwrap(before).ok());
            let next = match unused {
                Some(mut next) => {
                    for entry in self.behind.drain(..) {
                        catch_up(&mut next, &self.now, &entry);
                    }
                    next
                }
                None => Snapshot::clone(&self.now),
            };
            self.behind.clear();
            self.before = Some(std::mem::replace(&mut self.now, Arc::new(next)));
        }
        if self.behind.len() == MOST {
            self.before = None;
            self.behind.clear();
        }
        if self.before.is_some() {
            self.behind.push(entry);
        }
        // Nobody else's by now, so this copies nothing.
        Arc::make_mut(&mut self.now)
    }
}

fn catch_up(next: &mut Snapshot, now: &Snapshot, entry: &Entry) {
    match entry {
        Entry::Service(name) => {
            put(&mut next.services, name, now.services.get(name).map(Arc::clone));
        }
        Entry::Pool(name) => put(&mut next.pools, name, now.pools.get(name).map(Arc::clone)),
        Entry::Overrides(name) => match now.overrides.get(name) {
            Some(said) => drop(next.overrides.insert(name.clone(), said.clone())),
            None => drop(next.overrides.remove(name)),
        },
    }
}

fn put<K: Ord + Clone, V>(map: &mut BTreeMap<K, Arc<V>>, key: &K, value: Option<Arc<V>>) {
    match (value, map.get_mut(key)) {
        (Some(value), Some(place)) => *place = value,
        (Some(value), None) => drop(map.insert(key.clone(), value)),
        (None, _) => drop(map.remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whoever keeps which version for how long: each stays as it was given out, and the last
        /// one is what was put.
        #[test]
        fn versions_stay_as_they_were(
            changes in proptest::collection::vec((0..6_u16, any::<bool>(), any::<bool>(), 0..4_usize), 0..60),
        ) {
            let mut versions = Versions::default();
            let mut expected = Snapshot::default();
            let mut kept: Vec<(Arc<Snapshot>, Snapshot)> = Vec::new();
            for (number, (name, present, ask, keep)) in (1..).zip(changes) {
                let address = format!("10.0.0.1:{number}").parse().unwrap();
                let pool = Pool { backends: [(address, Default::default())].into() };
                let pool = present.then(|| Arc::new(pool));
                let name: Arc<str> = name.to_string().into();
                versions.put_pool(&name, pool.clone());
                put(&mut expected.pools, &name, pool);
                prop_assert_eq!(&**versions.now(), &expected);
                if ask {
                    kept.push((Arc::clone(versions.now()), expected.clone()));
                }
                kept.drain(..kept.len().saturating_sub(keep));
                for (given, was) in &kept {
                    prop_assert_eq!(&**given, was);
                }
            }
        }
    }

    #[test]
    fn a_version_that_nobody_has_is_used_again() {
        let mut versions = Versions::default();
        let name = |number: usize| Arc::<str>::from(number.to_string());
        for number in 0..100 {
            versions.put_pool(&name(number), Some(Arc::default()));
        }
        let mut given = [(); 3].map(|()| Arc::clone(versions.now()));
        for number in 0..10 {
            given[number % 2] = Arc::clone(versions.now());
            given[2] = Arc::clone(versions.now());
            versions.put_pool(&name(number), Some(Arc::default()));
            // Only what changed since is put into the older one, if nobody has that any more.
            assert_eq!(versions.behind.len(), 1);
        }
        drop(given);
        for number in 0..=MOST {
            versions.put_pool(&name(number % 3), None);
        }
        assert!(versions.before.is_none() && versions.behind.is_empty());
    }
}
