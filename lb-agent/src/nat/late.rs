//! An agent that starts has not heard of everything yet: what its tables hold besides may only be late
//! to be said again. What of it stays until then. Pure.

use super::contents::{Change, Contents};
use super::rows::{Key, Value};
use super::sets::Set;
use std::collections::{HashMap, HashSet};

/// Of what `change` removes from what was `found`, lets only that be removed which leads elsewhere, or
/// belongs to a frontend or a service of which it is known what it comes to.
pub(super) fn keep(change: &mut Change, contents: &Contents, found: &HashMap<Key, Value>) {
    let replaced: HashSet<&Key> = change.added.iter().map(|(key, _)| key).collect();
    let mut served: HashSet<&[u8]> = HashSet::new();
    let mut services: HashSet<&[u8]> = HashSet::new();
    for (key, value) in contents.iter() {
        match (key.set, value) {
            (Set::Served, _) => drop(served.insert(&key.bytes)),
            (Set::Groups, Value::Bytes(service)) => services.extend(service.get(4..)),
            _ => {}
        }
    }
    let length = Set::Served.key_len(contents.family()) as usize;
    let is_served =
        |key: &Key| key.bytes.get(..length).is_some_and(|frontend| served.contains(frontend));
    let is_known = |key: &Key| key.bytes.get(..8).is_some_and(|id| services.contains(id));
    // Backends are not told by their services, but these lead to them.
    let known = found.iter().filter(|(key, _)| key.set == Set::Stays && is_known(key));
    let members: HashSet<&[u8]> = known
        .filter_map(|(_, value)| match value {
            Value::Bytes(member) => member.get(4..),
            _ => None,
        })
        .collect();
    let goes = |key: &Key| {
        replaced.contains(key)
            || match key.set {
                Set::Stays => is_known(key),
                Set::Members | Set::MembersHere => members.contains(&*key.bytes),
                set => set.is_of_frontends() && is_served(key),
            }
    };
    let removed = std::mem::take(&mut change.removed);
    change.removed = removed.into_iter().filter(|(key, _)| goes(key)).collect();
}

#[cfg(test)]
mod tests;
