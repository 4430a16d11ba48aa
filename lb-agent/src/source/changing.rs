//! A snapshot that changes in few places.

use crate::model::{Override, Pool, Service, ServiceName, Snapshot};
use crate::versions::{Places, Versions, put};
use std::net::SocketAddr;
use std::sync::Arc;

/// A place in a snapshot.
#[derive(Debug)]
pub(crate) enum Place {
    Service(ServiceName),
    Pool(Arc<str>),
    /// What operators say of the backends of a service.
    Overrides(ServiceName),
}

impl Places for Snapshot {
    type Place = Place;

    fn catch_up(&mut self, now: &Self, place: &Place) {
        match place {
            Place::Service(name) => {
                put(&mut self.services, name, now.services.get(name).map(Arc::clone));
            }
            Place::Pool(name) => put(&mut self.pools, name, now.pools.get(name).map(Arc::clone)),
            Place::Overrides(name) => {
                put(&mut self.overrides, name, now.overrides.get(name).cloned());
            }
        }
    }
}

impl Versions<Snapshot> {
    /// Replaces a service; `None`: there is none.
    pub(super) fn put_service(&mut self, name: &ServiceName, service: Option<Arc<Service>>) {
        put(&mut self.at(Place::Service(name.clone())).services, name, service);
    }

    /// Replaces a pool; `None`: there is none.
    pub(super) fn put_pool(&mut self, name: &Arc<str>, pool: Option<Arc<Pool>>) {
        put(&mut self.at(Place::Pool(Arc::clone(name))).pools, name, pool);
    }

    /// Replaces what operators say of a backend; `None`: nothing.
    pub(super) fn put_override(
        &mut self,
        service: ServiceName,
        backend: SocketAddr,
        said: Option<Override>,
    ) {
        let overrides = &mut self.at(Place::Overrides(service.clone())).overrides;
        let backends = overrides.entry(service).or_default();
        match said {
            Some(said) => backends.insert(backend, said),
            None => backends.remove(&backend),
        };
        overrides.retain(|_, backends| !backends.is_empty());
    }
}
