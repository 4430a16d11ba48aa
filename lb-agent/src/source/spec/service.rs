//! One service of a document: reads its items and checks each by itself.
//!
//! Whether it is in conflict with other services is left to [`super`].

use super::health;
use crate::claims::Claims;
use crate::model::{
    AdminState, Affinity, Backend, Client, Frontend, HealthPolicy, NoBackend, Policy, Protocol,
    Scope, Service, ServiceName, parse_socket_addr,
};
use crate::yaml::{Item, Place, Reader};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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
}

/// The name, if it can be read: a refused service is reported by it.
pub(super) fn name_of(item: Item<'_>) -> Option<ServiceName> {
    item.get("name")?.text()?.parse().ok()
}

/// Reads one service. Problems are in the reader; the draft is good only if there were none.
pub(super) fn draft(reader: &mut Reader<'_>, item: Item<'_>, claims: &Claims) -> Option<Draft> {
    reader.service = name_of(item).map(|name| name.to_string());
    let own = ["name", "frontends", "backends", "policy", "affinity", "no_backend"];
    let allowed: Vec<&str> = own.into_iter().chain(health::KEYS).collect();
    let before = reader.count();
    let fields = reader.fields(item, "a service (a mapping with `name:`)", &allowed);
    let (mut name, mut frontends, mut backends) = (None, None, BTreeMap::new());
    let mut doubles = Vec::new();
    let (mut policy, mut affinity, mut no_backend) =
        (Policy::default(), None, NoBackend::default());
    let mut policies = HealthPolicy::default();
    for field in fields {
        let (key, item) = (field.key, field.item);
        match key {
            "name" => name = reader.parse(item, "a service name", str::parse::<ServiceName>),
            "frontends" => frontends = Some(read_frontends(reader, item, claims)),
            "backends" => backends = read_backends(reader, item, &mut doubles),
            "policy" => {
                policy =
                    reader.word(item, key, &["random", "least_connections"]).unwrap_or_default()
            }
            "affinity" => affinity = Some(read_affinity(reader, item)),
            key if health::KEYS.contains(&key) => {
                health::read(reader, key, item, claims, &mut policies);
            }
            _ => {
                no_backend =
                    reader.word(item, key, &["refuse", "unreachable", "pass"]).unwrap_or_default()
            }
        }
    }
    if item.is_mapping() && item.get("name").is_none() {
        reader.reject(item.place, "a service needs a `name`");
    }
    if item.is_mapping() && frontends.as_ref().is_none_or(Vec::is_empty) {
        // Said only if nothing else was wrong with them.
        if frontends.is_none() || reader.count() == before {
            let place = item.get("frontends").map_or(item.place, |list| list.place);
            reader.reject(
                place,
                "a service needs a frontend, such as `frontends: [\"10.96.0.1:80\"]`",
            );
        }
    }
    let frontends = frontends.unwrap_or_default();
    let udp_only = !frontends.iter().any(|(frontend, ..)| frontend.protocol == Protocol::Tcp);
    health::suits(reader, item, &policies, udp_only && !frontends.is_empty());
    let service = Service {
        frontends: BTreeMap::new(),
        backends,
        policy,
        affinity,
        no_backend,
        backends_from: Vec::new(),
        health: policies,
    };
    Some(Draft { name: name?, place: item.place, frontends, doubles, service })
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
        let frontend = reader.parse(item, what, str::parse)?;
        return Some((frontend, Scope::default()));
    }
    let (mut address, mut protocol, mut scope) = (None, Protocol::Tcp, Scope::default());
    for field in reader.fields(item, what, &["address", "protocol", "scope"]) {
        let (key, item) = (field.key, field.item);
        match key {
            "address" => address = reader.parse(item, "an address and port", parse_socket_addr),
            "protocol" => {
                protocol = reader.word(item, key, &["tcp", "udp"]).unwrap_or(Protocol::Tcp);
            }
            _ => scope = reader.word(item, key, &["everywhere", "host"]).unwrap_or_default(),
        }
    }
    if item.get("address").is_none() {
        reader.reject(item.place, "a frontend needs an `address`");
    }
    address.map(|a| (Frontend::new(a.ip(), a.port(), protocol), scope))
}

fn read_backends(
    reader: &mut Reader<'_>,
    list: Item<'_>,
    doubles: &mut Vec<(Place, String)>,
) -> BTreeMap<SocketAddr, Backend> {
    let mut backends = BTreeMap::new();
    for item in reader.list(list, "a list for `backends`; write `backends: []` for none") {
        let Some((address, backend)) = read_backend(reader, item) else {
            continue;
        };
        match backends.entry(address) {
            Entry::Vacant(free) => {
                free.insert((backend, item.place.line));
            }
            Entry::Occupied(first) => {
                let line = first.get().1;
                doubles.push((
                    item.place,
                    format!(
                        "backend {address} stands twice, first on line {line}; remove one \
                         (`weight` gives it a larger share)"
                    ),
                ));
            }
        }
    }
    backends.into_iter().map(|(address, (backend, _))| (address, backend)).collect()
}

fn read_backend(reader: &mut Reader<'_>, item: Item<'_>) -> Option<(SocketAddr, Backend)> {
    let what = "a backend such as `10.0.0.5:8080`";
    let (mut weight, mut state, mut priority) = (1, AdminState::default(), 0);
    if !item.is_mapping() {
        let address = reader.parse(item, what, parse_socket_addr)?;
        return Some((address, Backend { weight, state, priority, ..Backend::default() }));
    }
    let mut address = None;
    for field in reader.fields(item, what, &["address", "weight", "state", "priority"]) {
        let (key, item) = (field.key, field.item);
        match key {
            "address" => address = reader.parse(item, "an address and port", parse_socket_addr),
            "weight" if item.text() == Some("0") => {
                reader.reject(
                    item.place,
                    "weight 0 is not a share; use `state: drain` for no new connections",
                );
            }
            "priority" => {
                let number = reader.number(item, key, 0..=u32::from(u8::MAX));
                priority = u8::try_from(number).unwrap_or(u8::MAX);
            }
            "weight" => {
                let number = reader.number(item, key, 1..=u32::from(u16::MAX));
                weight = u16::try_from(number).unwrap_or(u16::MAX);
            }
            _ => {
                state = reader.word(item, key, &["ready", "drain", "disabled"]).unwrap_or_default()
            }
        }
    }
    if item.get("address").is_none() {
        reader.reject(item.place, "a backend needs an `address`");
    }
    address.map(|address| (address, Backend { weight, state, priority, ..Backend::default() }))
}

fn read_affinity(reader: &mut Reader<'_>, item: Item<'_>) -> Affinity {
    let (mut client, mut timeout) = (Client::default(), DEFAULT_AFFINITY);
    let what = "a mapping for `affinity`; write `affinity: {}` for the defaults";
    for field in reader.fields(item, what, &["client", "timeout"]) {
        let (key, item) = (field.key, field.item);
        if key == "client" {
            client =
                reader.word(item, key, &["netns", "uid", "cgroup", "process"]).unwrap_or_default();
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
