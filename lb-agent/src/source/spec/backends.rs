//! Backends of a service: those that it names, and the pools of other sources that it refers to.

use crate::keys::{BACKEND, Mapping, POOL};
use crate::model::{AdminState, Backend, Lists, PoolRef, parse_socket_addr};
use crate::yaml::{Item, Place, Reader};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub(super) fn read_backends(
    reader: &mut Reader<'_>,
    list: Item<'_>,
    doubles: &mut Vec<(Place, String)>,
) -> BTreeMap<SocketAddr, Backend> {
    let mut backends = BTreeMap::new();
    for item in reader.list(list, "a list for `backends`; write `backends: []` for none") {
        let Some((address, backend)) = read_backend(reader, item, &BACKEND) else {
            continue;
        };
        match backends.entry(address) {
            Entry::Vacant(free) => {
                free.insert((backend, item.place));
            }
            Entry::Occupied(first) => {
                let first = first.get().1.first();
                doubles.push((
                    item.place,
                    format!(
                        "backend {address} stands twice{first}; remove one \
                         (`weight` gives it a larger share)"
                    ),
                ));
            }
        }
    }
    backends.into_iter().map(|(address, (backend, _))| (address, backend)).collect()
}

/// Reads one backend; `mapping` has the keys that it can have.
pub(super) fn read_backend(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    mapping: &Mapping,
) -> Option<(SocketAddr, Backend)> {
    let what = "a backend such as `10.0.0.5:8080`";
    let (mut weight, mut state, mut zone, mut priority) = (1, AdminState::default(), None, 0);
    if !item.is_mapping() {
        let address = reader.parse(item, what, parse_socket_addr)?;
        return Some((address, Backend::default()));
    }
    let (mut address, mut host, mut port) = (None, None, None);
    for field in reader.fields(item, what, mapping) {
        let (key, item) = (field.key, field.item);
        match key {
            "address" => address = reader.parse(item, "an address and port", parse_socket_addr),
            "host" => host = reader.parse(item, "an IP address", parse_host),
            "port" => {
                let number = reader.number(field);
                port = u16::try_from(number).ok();
            }
            "zone" => zone = reader.parse(item, "the name of a zone", parse_zone),
            "weight" if item.text() == Some("0") => {
                reader.reject(
                    item.place,
                    "weight 0 is not a share; use `state: drain` for no new connections",
                );
            }
            "weight" => {
                let number = reader.number(field);
                weight = u16::try_from(number).unwrap_or(u16::MAX);
            }
            "priority" => {
                let number = reader.number(field);
                priority = u8::try_from(number).unwrap_or(u8::MAX);
            }
            "state" => state = reader.word(field).unwrap_or_default(),
            // For people to read.
            _ => {}
        }
    }
    let has = |key| item.get(key).is_some();
    match (has("address"), mapping.key("host").is_some() && (has("host") || has("port"))) {
        (false, false) => reader.reject(item.place, "a backend needs an `address`"),
        (true, true) => {
            reader.reject(item.place, "give `address`, or `host` and `port`, not both");
        }
        (false, true) if !(has("host") && has("port")) => {
            reader.reject(item.place, "`host` and `port` belong together; give both or `address`");
        }
        _ => {}
    }
    let address = address.or_else(|| Some(SocketAddr::new(host?, port?)))?;
    Some((address, Backend { weight, state, zone, priority, lease: None, lists: Lists::default() }))
}

/// Reads references to backends that another source keeps.
pub(super) fn read_pools(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    doubles: &mut Vec<(Place, String)>,
) -> Vec<PoolRef> {
    let mut pools: Vec<PoolRef> = Vec::new();
    let what = "a mapping such as `{source: etcd:registry, service: web}` for `backends_from`";
    for item in reader.one_or_more(item) {
        let (mut source, mut pool, mut port) = (None, None, None);
        for field in reader.fields(item, what, &POOL) {
            let (key, item) = (field.key, field.item);
            match key {
                "source" => source = reader.parse(item, "the name of a source", parse_word),
                "service" => pool = reader.parse(item, "the name of a service", parse_word),
                _ => {
                    let number = reader.number(field);
                    port = u16::try_from(number).ok();
                }
            }
        }
        if item.is_mapping() && (item.get("source").is_none() || item.get("service").is_none()) {
            reader.reject(item.place, "`backends_from` needs a `source` and its `service`");
        }
        let (Some(source), Some(pool)) = (source, pool) else { continue };
        let same = |other: &PoolRef| other.source == source && other.pool == pool;
        if pools.iter().any(same) {
            let reason = format!("`{pool}` of {source} is named twice; remove one");
            doubles.push((item.place, reason));
            continue;
        }
        pools.push(PoolRef { source, pool, port });
    }
    pools
}

fn parse_word(text: &str) -> Result<Arc<str>, String> {
    if text.len() > 1024 || text.contains(char::is_control) {
        return Err("a name is one line of at most 1024 bytes".to_owned());
    }
    Ok(text.into())
}

pub(crate) fn parse_zone(text: &str) -> Result<Arc<str>, String> {
    if text.len() > 253 || text.contains(char::is_control) {
        return Err("a zone is one line of at most 253 bytes".to_owned());
    }
    Ok(text.into())
}

fn parse_host(text: &str) -> Result<IpAddr, String> {
    let host = text.parse::<IpAddr>().map_err(|_| {
        format!("`{text}` is not an IP address and names are not looked up; write it as 10.0.0.1")
    })?;
    Ok(host.to_canonical())
}
