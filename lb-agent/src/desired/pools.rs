//! Backends that one source names and another keeps.

use super::{Input, rejection};
use crate::model::{Backend, PoolRef, Rejection, Service, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Which services take backends from which pool.
#[derive(Debug, Default)]
pub(super) struct Users {
    pools: BTreeMap<ServiceName, Vec<PoolRef>>,
    /// The same the other way round, by source and pool.
    services: BTreeMap<(Arc<str>, Arc<str>), BTreeSet<ServiceName>>,
}

impl Users {
    /// Notes the pools of a service, in place of those it had.
    pub(super) fn set(&mut self, name: &ServiceName, pools: &[PoolRef]) {
        for PoolRef { source, pool, .. } in self.pools.remove(name).into_iter().flatten() {
            let key = (source, pool);
            if let Some(users) = self.services.get_mut(&key) {
                users.remove(name);
                if users.is_empty() {
                    self.services.remove(&key);
                }
            }
        }
        for PoolRef { source, pool, .. } in pools {
            let key = (Arc::clone(source), Arc::clone(pool));
            self.services.entry(key).or_default().insert(name.clone());
        }
        if !pools.is_empty() {
            self.pools.insert(name.clone(), pools.to_vec());
        }
    }

    /// The services that take backends from a pool.
    pub(super) fn of_pool(
        &self,
        source: &Arc<str>,
        pool: &Arc<str>,
    ) -> impl Iterator<Item = ServiceName> {
        let users = self.services.get(&(Arc::clone(source), Arc::clone(pool)));
        users.into_iter().flatten().cloned()
    }

    /// The services that take backends from any pool of a source.
    pub(super) fn of_source(&self, source: &Arc<str>) -> impl Iterator<Item = ServiceName> {
        let users = self.services.iter().filter(move |((of, _), _)| of == source);
        users.flat_map(|(_, users)| users).cloned()
    }
}

/// The backends of a service of `input`: its own, and those that others keep for it; of two with one
/// address the first. An error while a source that keeps some may only be late.
pub(super) fn backends(
    name: &ServiceName,
    service: &Service,
    input: &Input,
    inputs: &[Input],
    complaints: &mut Vec<Rejection>,
) -> Result<BTreeMap<SocketAddr, Backend>, Rejection> {
    let mut backends = service.backends.clone();
    let mut late = None;
    let mut complain = |reason| complaints.push(rejection(&input.source, name, reason));
    for PoolRef { source, pool, port } in &service.backends_from {
        let Some(keeper) = inputs.iter().find(|input| input.source == *source) else {
            let known: Vec<&str> = inputs.iter().map(|input| &*input.source).collect();
            complain(format!(
                "service `{name}` takes backends from `{source}`, which is no source of this agent \
                 and knows no service `{pool}`; name one of {}",
                known.join(", ")
            ));
            continue;
        };
        let found = keeper.snapshot.as_ref().and_then(|snapshot| snapshot.pools.get(pool));
        let Some(found) = found else {
            if keeper.synced {
                complain(format!(
                    "{source}, where service `{name}` takes backends from, knows no service \
                     `{pool}` yet: no backend until it appears"
                ));
            } else {
                late.get_or_insert_with(|| {
                    let reason = format!(
                        "service `{name}` takes backends from `{pool}` of {source}, which has not \
                         delivered yet: until it has, the kernel keeps what it has of the service"
                    );
                    rejection(&input.source, name, reason)
                });
            }
            continue;
        };
        for (address, backend) in &found.backends {
            let port = match (address.port(), port) {
                (0, None) => {
                    complain(format!(
                        "backend {} of `{pool}` ({source}) comes without a port; say `port` where \
                         service `{name}` refers to it",
                        address.ip()
                    ));
                    continue;
                }
                (0, Some(port)) => *port,
                (port, _) => port,
            };
            let address = SocketAddr::new(address.ip(), port);
            backends.entry(address).or_insert_with(|| backend.clone());
        }
    }
    late.map_or(Ok(backends), Err)
}
