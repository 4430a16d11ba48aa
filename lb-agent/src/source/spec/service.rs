//! One service of a document: reads its items and checks each by itself.
//!
//! Whether it is in conflict with other services is left to [`super`].

use super::backends::{read_backends, read_pools};
use super::health;
use super::vip::{Asked, Port, Vip, read_ports, read_vip};
use crate::claims::Claims;
use crate::keys::{AFFINITY, FRONTEND, OF_SERVICE, SERVICE, SERVICE_VALUE};
use crate::model::{
    Affinity, Client, Frontend, HealthPolicy, NoBackend, ParseError, Passage, Policy, Protocol,
    Scope, Service, ServiceName, Way, parse_socket_addr,
};
use crate::yaml::{Item, Place, Reader};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How long affinity lasts after its last use unless the service says otherwise.
const DEFAULT_AFFINITY: Duration = Duration::from_secs(3 * 3600);

/// A service whose items are each good, not yet compared with the other services.
pub(super) struct Draft {
    pub(super) name: ServiceName,
    pub(super) place: Place,
    pub(super) frontends: Vec<(Frontend, Scope, Place)>,
    /// Problems that cost only the item they are about.
    pub(super) doubles: Vec<(Place, String)>,
    /// Everything else; its frontends are settled later.
    pub(super) service: Service,
    /// Who finds its frontends.
    pub(super) way: Way,
    /// Addresses that it asks for.
    pub(super) asked: Asked,
    /// The ports of those.
    pub(super) ports: Vec<Port>,
}

/// The name, if it can be read: a refused service is reported by it.
pub(super) fn name_of(item: Item<'_>) -> Option<ServiceName> {
    item.get("name")?.text()?.parse().ok()
}

/// Reads one service. Problems are in the reader; the draft is good only if there were none.
/// `key` is the name of a service whose value need not repeat it.
pub(super) fn draft(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    claims: &Claims,
    key: Option<&ServiceName>,
) -> Option<Draft> {
    reader.service = key.cloned().or_else(|| name_of(item)).map(|name| name.to_string());
    let before = reader.count();
    let mapping = if key.is_some() { &SERVICE_VALUE } else { &SERVICE };
    let fields = reader.fields(item, "a service (a mapping with `name:`)", mapping);
    let (mut name, mut frontends, mut vip, mut ports) = (key.cloned(), None, None, None);
    let (mut backends, mut pools) = (BTreeMap::new(), Vec::new());
    let mut doubles = Vec::new();
    let (mut policy, mut affinity, mut no_backend) =
        (Policy::default(), None, NoBackend::default());
    let (mut policies, mut exposed) = (HealthPolicy::default(), None);
    for field in fields {
        let (word, item) = (field.key, field.item);
        match word {
            "name" => name = read_name(reader, item, key),
            "frontends" => frontends = Some(read_frontends(reader, item, claims)),
            "vip" => vip = Some((read_vip(reader, item), item.place)),
            "ports" => ports = Some((read_ports(reader, item), item.place)),
            "backends" => backends = read_backends(reader, item, &mut doubles),
            "backends_from" => pools = read_pools(reader, item, &mut doubles),
            "policy" => policy = reader.word(field).unwrap_or_default(),
            "affinity" => affinity = Some(read_affinity(reader, item)),
            "expose" => exposed = reader.flag(item, word).then_some(item.place),
            key if OF_SERVICE.has(key) => health::read(reader, field, claims, &mut policies),
            _ => no_backend = reader.word(field).unwrap_or_default(),
        }
    }
    if item.is_mapping() && item.get("name").is_none() && key.is_none() {
        reader.reject(item.place, "a service needs a `name`");
    }
    if item.is_mapping() && vip.is_none() && frontends.as_ref().is_none_or(Vec::is_empty) {
        // Said only if nothing else was wrong with them.
        if frontends.is_none() || reader.count() == before {
            let place = item.get("frontends").map_or(item.place, |list| list.place);
            reader.reject(
                place,
                "a service needs a frontend, such as `frontends: [\"10.96.0.1:80\"]`",
            );
        }
    }
    if let (Some(_), Some((_, place))) = (&frontends, &vip) {
        reader.reject(*place, "give `frontends`, or `vip` and `ports`, not both");
    }
    let mut frontends = frontends.unwrap_or_default();
    let (asked, ports) = addresses(reader, vip, ports, claims, key.is_some(), &mut frontends);
    if let Some(place) = exposed {
        for address in backends.keys() {
            if let Err(reason) = can_be_exposed(address) {
                reader.reject(place, reason);
            }
        }
    }
    let udp_only = !frontends.iter().any(|(frontend, ..)| frontend.protocol == Protocol::Tcp)
        && !ports.iter().any(|(_, protocol)| *protocol == Protocol::Tcp);
    health::suits(
        reader,
        item,
        &policies,
        udp_only && (!frontends.is_empty() || !ports.is_empty()),
    );
    let service = Service {
        frontends: BTreeMap::new(),
        backends,
        backends_from: pools,
        policy,
        affinity,
        no_backend,
        no_node_backend: Default::default(),
        health: policies,
        source_ranges: Vec::new(),
    };
    let way = if exposed.is_some() { Way::Both(Passage::default()) } else { Way::Sockets };
    Some(Draft { name: name?, place: item.place, frontends, doubles, service, way, asked, ports })
}

/// Whether a backend can serve others: the reason why not is one line.
pub(crate) fn can_be_exposed(backend: &SocketAddr) -> Result<(), String> {
    if backend.ip().is_loopback() {
        return Err(format!(
            "backend {backend} of a service with `expose`: packets of others can't be sent to \
             loopback; give an address of this host"
        ));
    }
    Ok(())
}

fn read_name(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    key: Option<&ServiceName>,
) -> Option<ServiceName> {
    let name = reader.parse(item, "a service name", str::parse::<ServiceName>)?;
    if let Some(key) = key.filter(|key| **key != name) {
        let reason =
            format!("`name` is `{name}`, but the key says `{key}`; leave it out or correct it");
        reader.reject(item.place, reason);
    }
    Some(name)
}

/// Adds the frontends that a service address and its ports are. What remains is an address that
/// somebody must find, if the key of this service is a place to ask for one (`allocates`).
fn addresses(
    reader: &mut Reader<'_>,
    vip: Option<(Vip, Place)>,
    ports: Option<(Vec<Port>, Place)>,
    claims: &Claims,
    allocates: bool,
    frontends: &mut Vec<(Frontend, Scope, Place)>,
) -> (Asked, Vec<Port>) {
    let (vip, place, ports) = match (vip, ports) {
        (None, None) => return (Asked::default(), Vec::new()),
        (Some((_, place)), None) => {
            reader.reject(place, "`vip` needs `ports`, such as `ports: [80, \"53/udp\"]`");
            return (Asked::default(), Vec::new());
        }
        (None, Some((_, place))) => {
            reader.reject(place, "`ports` needs a `vip`, such as `vip: 10.96.0.10`");
            return (Asked::default(), Vec::new());
        }
        (Some((vip, place)), Some((ports, _))) => (vip, place, ports),
    };
    if vip.asked != Asked::default() && !allocates {
        reader.reject(
            place,
            "only services in etcd are given an address; write the one to use for `vip`",
        );
    }
    for address in vip.given {
        for (port, protocol) in &ports {
            let frontend = Frontend::new(address, *port, *protocol);
            match claims.check(&frontend) {
                Ok(()) => frontends.push((frontend, frontend.scope(Scope::default()), place)),
                Err(reason) => reader.reject(place, reason),
            }
        }
    }
    (vip.asked, ports)
}

fn read_frontends(
    reader: &mut Reader<'_>,
    list: Item<'_>,
    claims: &Claims,
) -> Vec<(Frontend, Scope, Place)> {
    let mut frontends = Vec::new();
    for item in reader.list(list, "a list for `frontends`") {
        let Some((frontend, scope)) = read_frontend(reader, item) else {
            continue;
        };
        match claims.check(&frontend) {
            Ok(()) => frontends.push((frontend, frontend.scope(scope), item.place)),
            Err(reason) => reader.reject(item.place, reason),
        }
    }
    frontends
}

fn read_frontend(reader: &mut Reader<'_>, item: Item<'_>) -> Option<(Frontend, Scope)> {
    let what = "a frontend such as `10.96.0.1:80` or `10.96.0.1:53/udp`";
    if !item.is_mapping() {
        let frontend = reader.parse(item, what, parse_frontend)?;
        return Some((frontend, Scope::default()));
    }
    let (mut address, mut protocol, mut scope) = (None, Protocol::Tcp, Scope::default());
    for field in reader.fields(item, what, &FRONTEND) {
        let (key, item) = (field.key, field.item);
        match key {
            "address" => address = reader.parse(item, "an address and port", parse_socket_addr),
            "protocol" => protocol = reader.word(field).unwrap_or(Protocol::Tcp),
            _ => scope = reader.word(field).unwrap_or_default(),
        }
    }
    if item.get("address").is_none() {
        reader.reject(item.place, "a frontend needs an `address`");
    }
    address.map(|a| (Frontend::new(a.ip(), a.port(), protocol), scope))
}

fn parse_frontend(text: &str) -> Result<Frontend, String> {
    let frontend: Frontend = text.parse().map_err(|error: ParseError| error.to_string())?;
    match frontend.protocol {
        Protocol::Tcp | Protocol::Udp => Ok(frontend),
        Protocol::Sctp => {
            Err(format!("`{text}`: protocol `sctp` is not supported; use /tcp or /udp"))
        }
    }
}

fn read_affinity(reader: &mut Reader<'_>, item: Item<'_>) -> Affinity {
    let (mut client, mut timeout) = (Client::default(), DEFAULT_AFFINITY);
    let what = "a mapping for `affinity`; write `affinity: {}` for the defaults";
    for field in reader.fields(item, what, &AFFINITY) {
        let (key, item) = (field.key, field.item);
        if key == "client" {
            client = reader.word(field).unwrap_or_default();
        } else if let Some(time) = reader.parse(item, "a time such as `3h` or `90s`", parse_timeout)
        {
            timeout = time;
        }
    }
    Affinity { client, timeout_seconds: u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX) }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("`{text}` is no time such as `3h` or `90s`: {error}"))?;
    if time < Duration::from_secs(1) || time.as_secs() > u64::from(u32::MAX) {
        return Err(format!("affinity timeout `{text}` is out of range; use 1s to 136y"));
    }
    if time.subsec_nanos() > 0 {
        return Err(format!("affinity timeout `{text}` is not in whole seconds; round it"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests;
