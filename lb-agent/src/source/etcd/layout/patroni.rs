//! Patroni's clusters of PostgreSQL: `<scope>/leader` is the name of a member, and
//! `<scope>/members/<name>` says where it is and how it does. With Citus there is a group number
//! after the scope.
//!
//! Each cluster is two pools, `<scope>/primary` and `<scope>/replicas`. Patroni writes its members
//! every few seconds, mostly with nothing new but the position in the log: that is not looked at,
//! so it causes no work.

use super::build::Build;
use super::notes::Note;
use super::pools::{Place, Reading};
use super::text;
use super::tree::{Record, Tree};
use crate::model::Backend;
use serde::Deserialize;
use std::net::SocketAddr;

/// The port of PostgreSQL.
const PORT: &str = "5432";
/// What else Patroni keeps for a cluster.
const OTHERS: [&str; 7] =
    ["config", "failover", "failsafe", "history", "initialize", "status", "sync"];

/// Reads clusters.
pub(super) struct Patroni;

/// What matters of a key.
#[derive(Debug, PartialEq)]
pub(super) enum Item {
    /// The name of the leader.
    Leader(Box<str>),
    /// A member.
    Member(Member),
}

/// A member of a cluster.
#[derive(Debug, PartialEq)]
pub(super) struct Member {
    /// Where it is, unless it says so in a way that is no use.
    address: Option<SocketAddr>,
    role: Role,
    /// Whether it accepts connections.
    running: bool,
    /// Whether it shall get none of the readers.
    no_readers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
    Other,
}

/// The value; what else it says changes all the time or is for Patroni.
#[derive(Deserialize)]
struct Value {
    #[serde(default)]
    conn_url: Option<String>,
    #[serde(default)]
    state: Option<String>,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    tags: serde_json::Value,
}

// === impl Patroni ===

impl Reading for Patroni {
    type Item = Item;

    fn place<'k>(&self, path: &'k str) -> Place<'k> {
        let parts: Vec<&str> = path.split('/').collect();
        let is_group = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let below = match parts.as_slice() {
            _ if parts.contains(&"") => &[],
            [_, group, rest @ ..] if !rest.is_empty() && is_group(group) => rest,
            [_, rest @ ..] => rest,
            [] => &[],
        };
        let (dir, leaf) = path.rsplit_once('/').unwrap_or_default();
        match below {
            ["leader"] | ["members", _] => Place::At(dir, leaf),
            ["optime", "leader"] => Place::Ignored,
            [other] if OTHERS.contains(other) => Place::Ignored,
            _ => {
                let reason = "not a key of Patroni; use a prefix that only Patroni writes to";
                Place::Outside(reason.to_owned())
            }
        }
    }

    fn read(&self, (dir, _): (&str, &str), value: &[u8], notes: &mut Vec<Note>) -> Option<Item> {
        let read = match scope_of_member(dir) {
            None => leader(value).map(Item::Leader),
            Some(_) => member(value, notes).map(Item::Member),
        };
        read.map_err(|reason| notes.push(Note::refusal(reason))).ok()
    }

    fn pools(&self, (dir, _): (&str, &str), _: &Item, into: &mut Vec<String>) {
        let scope = scope_of_member(dir).unwrap_or(dir);
        into.extend(["primary", "replicas"].map(|kind| format!("{scope}/{kind}")));
    }

    fn build<'t>(&'t self, tree: &'t Tree<Item>, pool: &str, build: &mut Build<'t>) -> bool {
        let Some((scope, kind)) = pool.rsplit_once('/') else { return false };
        let leader = tree.get(scope, "leader");
        let name = match leader {
            Some((_, _, Record { item: Item::Leader(name), .. })) => Some(&**name),
            _ => None,
        };
        let mut members = tree.dir(&format!("{scope}/members")).peekable();
        let exists = leader.is_some() || members.peek().is_some();
        let mut primary = None;
        for found in members {
            let Item::Member(member) = &found.2.item else { continue };
            let leads = name == Some(found.1);
            if leads {
                primary = Some(member);
            }
            let Some(address) = member.address.filter(|_| member.running) else { continue };
            let wanted = match kind {
                "primary" => leads && member.role == Role::Primary,
                _ => !leads && member.role == Role::Replica && !member.no_readers,
            };
            if wanted {
                build.add(found, address, Backend::default());
            }
        }
        if let (Some(key), Some(name), "primary") = (leader, name, kind)
            && let Some(reason) = no_primary(name, primary)
        {
            build.note(key, Note::warning(reason));
        }
        exists
    }
}

/// The scope whose members are in `dir`.
fn scope_of_member(dir: &str) -> Option<&str> {
    dir.strip_suffix("/members")
}

fn leader(value: &[u8]) -> Result<Box<str>, String> {
    match std::str::from_utf8(value).map(str::trim) {
        Ok(name) if !name.is_empty() => Ok(name.into()),
        _ => Err("not the name of a member; Patroni writes it anew when it elects".to_owned()),
    }
}

fn member(value: &[u8], notes: &mut Vec<Note>) -> Result<Member, String> {
    let value: Value = text::object(value)?;
    let address = match value.conn_url.as_deref().map(address) {
        Some(Ok(address)) => Some(address),
        Some(Err(reason)) => {
            notes.push(Note::refusal(format!(
                "{reason}; set `postgresql.connect_address` of this member to an IP address"
            )));
            None
        }
        None => None,
    };
    let role = match value.role.as_deref() {
        Some("primary" | "master") => Role::Primary,
        Some("replica") => Role::Replica,
        _ => Role::Other,
    };
    let running = matches!(value.state.as_deref(), Some("running" | "streaming"));
    if running && value.conn_url.is_none() {
        notes.push(Note::refusal("there is no `conn_url`; Patroni writes it with its next round"));
    }
    Ok(Member { address, role, running, no_readers: truth(&value.tags["noloadbalance"]) })
}

/// The address in `postgres://10.0.0.1:5432/postgres`. A name and a password before it are nobody
/// else's business, so they are not shown either.
fn address(url: &str) -> Result<SocketAddr, String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    if let Ok(address) = text::address(host_of(rest)) {
        return Ok(address);
    }
    // The last `@`, before anything else is cut off: a password may have any characters.
    let host = host_of(rest.rsplit_once('@').map_or(rest, |(_, rest)| rest));
    let bare = host.rsplit(']').next().unwrap_or(host);
    if bare.contains(':') {
        return text::address(host).map_err(|reason| format!("conn_url: {reason}"));
    }
    text::address(&format!("{host}:{PORT}")).map_err(|reason| format!("conn_url: {reason}"))
}

fn host_of(rest: &str) -> &str {
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

/// Tags are YAML, so a truth may be written in several ways.
fn truth(tag: &serde_json::Value) -> bool {
    match tag {
        serde_json::Value::Bool(truth) => *truth,
        serde_json::Value::String(word) => {
            ["true", "yes", "on", "1"].iter().any(|truth| word.eq_ignore_ascii_case(truth))
        }
        serde_json::Value::Number(number) => number.as_i64() == Some(1),
        _ => false,
    }
}

/// Why the leader is not the primary.
fn no_primary(name: &str, member: Option<&Member>) -> Option<String> {
    let name = text::clean(name, 80);
    let why = match member {
        None => "has no member key",
        Some(member) if !member.running => "is not running",
        Some(member) if member.role != Role::Primary => "has not the role of a primary",
        Some(member) if member.address.is_none() => "has no address that can be used",
        Some(_) => return None,
    };
    Some(format!("the leader `{name}` {why}; there is no primary until Patroni says otherwise"))
}

#[cfg(test)]
mod tests;
