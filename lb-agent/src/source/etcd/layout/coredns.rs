//! Records of SkyDNS and CoreDNS: `local/example/www/x1` is
//! `{"host":"10.0.0.10","port":8080,"priority":10,"weight":100}`, the record `x1.www.example.local`.
//!
//! A name is answered with every record below it, or with its own if there is none. So is a pool,
//! with one difference: a name of less than three labels has only the records directly below it,
//! or every zone would be one big pool. The records of a pool with the lowest priority value come
//! first, as for SRV: the others are for when these are gone.

use super::build::Build;
use super::notes::Note;
use super::pools::{Place, Reading};
use super::text;
use super::tree::{Found, Tree};
use crate::model::Backend;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Labels from which on a name has everything below it.
const DEEP: usize = 3;
/// What a record without a priority has.
const PRIORITY: i64 = 10;
/// The weight of a record without one, beside others that have one.
const WEIGHT: u16 = 100;

/// Reads records.
pub(super) struct Coredns;

/// A record with an address.
#[derive(Debug, PartialEq)]
pub(super) struct Host {
    ip: IpAddr,
    /// 0 if the record has none.
    port: u16,
    priority: i64,
    /// 0 if the record has none.
    weight: u16,
}

/// The value; what else it says is for DNS.
#[derive(Deserialize)]
struct Value {
    #[serde(default)]
    host: Option<String>,
    #[serde(default, deserialize_with = "text::number")]
    port: Option<i64>,
    #[serde(default, deserialize_with = "text::number")]
    priority: Option<i64>,
    #[serde(default, deserialize_with = "text::number")]
    weight: Option<i64>,
    #[serde(default)]
    mail: serde_json::Value,
}

// === impl Coredns ===

impl Reading for Coredns {
    type Item = Host;

    fn place<'k>(&self, path: &'k str) -> Place<'k> {
        // `local/example/` is the name itself, as a record below it.
        let bare = path.strip_suffix('/').unwrap_or(path);
        let labels: Vec<&str> = bare.split('/').collect();
        if labels.iter().any(|label| label.is_empty() || label.contains('.')) {
            let reason = "not a name: write its labels from the last to the first with a slash \
                          after each, and no dots";
            return Place::Outside(reason.to_owned());
        }
        // Name servers of a zone: dns/ns/<id>.
        let zone_of = |tail: usize| labels.len().checked_sub(tail).filter(|zone| *zone > 0);
        if [2, 3].into_iter().filter_map(zone_of).any(|at| labels[at..].starts_with(&["dns", "ns"]))
        {
            return Place::Ignored;
        }
        let (dir, _) = bare.rsplit_once('/').unwrap_or_default();
        let leaf = if dir.is_empty() { path } else { &path[dir.len() + 1..] };
        Place::At(dir, leaf)
    }

    fn read(&self, _: (&str, &str), value: &[u8], notes: &mut Vec<Note>) -> Option<Host> {
        let value: Value = match text::object(value) {
            Ok(value) => value,
            Err(reason) => {
                notes.push(Note::refusal(reason));
                return None;
            }
        };
        // Texts and mail servers are no backends.
        let host = value.host.as_deref().filter(|host| !host.is_empty() && value.mail != true)?;
        host_of(host, &value).map_err(|reason| notes.push(Note::refusal(reason))).ok()
    }

    fn pools(&self, (dir, leaf): (&str, &str), _: &Host, into: &mut Vec<String>) {
        let leaf = leaf.strip_suffix('/').unwrap_or(leaf);
        let mut labels: Vec<&str> = dir.split('/').filter(|label| !label.is_empty()).collect();
        labels.push(leaf);
        let depth = labels.len();
        let deep = DEEP..depth.saturating_sub(1);
        let above = depth.checked_sub(1).filter(|above| *above > 0);
        into.extend([depth].into_iter().chain(above).chain(deep).map(|n| name_of(&labels[..n])));
        // The records of a zone itself; a zone that is deep has them as all others below it.
        let zone = [2, 3]
            .into_iter()
            .filter_map(|tail| depth.checked_sub(tail))
            .find(|zone| (1..DEEP).contains(zone) && labels[*zone..].starts_with(&["dns", "apex"]));
        into.extend(zone.map(|zone| name_of(&labels[..zone])));
    }

    fn build<'t>(&'t self, tree: &'t Tree<Host>, pool: &str, build: &mut Build<'t>) -> bool {
        let labels: Vec<&str> = pool.split('.').rev().collect();
        let path = labels.join("/");
        let found = records(tree, &path, labels.len());
        // Levels count from 0: what the numbers are does not matter, only their order.
        let levels: BTreeSet<i64> = found.iter().map(|(_, _, r)| r.item.priority).collect();
        let weighted = found.iter().any(|(_, _, record)| record.item.weight > 0);
        let exists = !found.is_empty();
        for found in found {
            let Host { ip, port, priority, weight } = found.2.item;
            let level = levels.range(..priority).count();
            let address = SocketAddr::new(ip, port);
            // Two names of one host are no mistake, two records of one name are.
            if build.has(&address) && found.0 != path {
                continue;
            }
            let weight = match weight {
                0 if weighted => WEIGHT,
                weight => weight.max(1),
            };
            let priority = u8::try_from(level).unwrap_or(u8::MAX);
            build.add(found, address, Backend { weight, priority, ..Backend::default() });
        }
        exists
    }
}

/// The records that a name is answered with.
fn records<'t>(tree: &'t Tree<Host>, path: &str, labels: usize) -> Vec<Found<'t, Host>> {
    let (dir, leaf) = path.rsplit_once('/').unwrap_or(("", path));
    let mut found: Vec<_> = tree.get(dir, &format!("{leaf}/")).into_iter().collect();
    found.extend(tree.dir(path));
    if labels >= DEEP {
        found.extend(tree.below(path));
    } else {
        let dns = format!("{path}/dns");
        found.extend(["apex", "apex/"].iter().filter_map(|leaf| tree.get(&dns, leaf)));
        found.extend(tree.dir(&format!("{dns}/apex")));
    }
    if found.is_empty() {
        found.extend(tree.get(dir, leaf));
    }
    found
}

/// `www.example.local` from `local`, `example`, `www`.
fn name_of(labels: &[&str]) -> String {
    let reversed: Vec<&str> = labels.iter().rev().copied().collect();
    reversed.join(".")
}

fn host_of(host: &str, value: &Value) -> Result<Host, String> {
    let ip = text::ip(host).map_err(|reason| {
        format!("{reason}. A record that points to a name, as a CNAME does, gives no backend")
    })?;
    let port = match value.port {
        None | Some(0) => 0,
        Some(port) => text::port(port)?,
    };
    let weight = value.weight.unwrap_or(0);
    let weight = u16::try_from(weight)
        .map_err(|_| format!("weight {weight} is out of range; use 0 to 65535"))?;
    let priority = value.priority.filter(|priority| *priority != 0).unwrap_or(PRIORITY);
    Ok(Host { ip, port, priority, weight })
}

#[cfg(test)]
mod tests;
