//! The services that hooks are measured with.

use crate::dataplane::service;
use lb_agent::desired::{Desired, Entry};
use lb_agent::model::{Affinity, Backend, Client, Frontend, Protocol};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Services, each on TCP and UDP.
pub(super) const SERVICES: u32 = 10_000;
/// Backends of each.
pub(super) const BACKENDS: u32 = 4;
/// The port of every backend.
pub(super) const PORT: u16 = 9;

/// Which addresses are dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// All services of a family.
pub(super) fn all(family: Family, affinity: bool) -> anyhow::Result<Desired> {
    let backends =
        |number| (0..BACKENDS).map(move |slot| (backend(family, number, slot), Backend::default()));
    let mut desired = Desired { complete: true, ..Desired::default() };
    for number in 0..SERVICES {
        let at = frontend(family, number);
        let frontends = [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| Frontend::new(at.ip(), at.port(), protocol));
        let mut service = service(frontends, backends(number));
        service.affinity =
            affinity.then_some(Affinity { client: Client::Netns, timeout_seconds: 3600 });
        let entry = Entry::new(Arc::new(service), "bench".into());
        desired.services.insert(format!("service{number}").parse()?, entry);
    }
    Ok(desired)
}

/// Address of service `number`.
pub(super) fn frontend(family: Family, number: u32) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::from(0x0a60_0000 + number), 80).into(),
        Family::V6 => (Ipv6Addr::from(0xfd00_0096_u128 << 96 | u128::from(number)), 80).into(),
    }
}

/// Address of a backend of service `number`.
pub(super) fn backend(family: Family, number: u32, slot: u32) -> SocketAddr {
    let index = number * BACKENDS + slot;
    match family {
        Family::V4 => (Ipv4Addr::from(0x7f10_0000 + index), PORT).into(),
        Family::V6 => (Ipv6Addr::from(0xfd00_0016_u128 << 96 | u128::from(index)), PORT).into(),
    }
}
