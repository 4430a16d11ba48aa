//! gRPC's naming and endpoints, as etcd's own Go client writes them: `<target>/<id>` is
//! `{"Op":0,"Addr":"10.0.0.1:8080","Metadata":null}`.

use super::build::Build;
use super::notes::Note;
use super::pools::{Place, Reading, name_of_prefix, place_of_id};
use super::text;
use super::tree::Tree;
use crate::model::Backend;
use serde::Deserialize;
use std::net::SocketAddr;

/// Reads endpoints.
pub(super) struct Grpc {
    /// The pool of keys directly under the prefix.
    own: String,
}

/// An update of an endpoint; what else it says is for gRPC.
#[derive(Deserialize)]
struct Update {
    /// 0 adds, 1 deletes.
    #[serde(default, alias = "Op", deserialize_with = "text::number")]
    op: Option<i64>,
    #[serde(default, alias = "Addr")]
    addr: Option<String>,
}

// === impl Grpc ===

impl Grpc {
    pub(super) fn new(prefix: &str) -> Self {
        Self { own: name_of_prefix(prefix) }
    }
}

impl Reading for Grpc {
    type Item = SocketAddr;

    fn place<'k>(&self, path: &'k str) -> Place<'k> {
        place_of_id(path)
    }

    fn read(&self, _: (&str, &str), value: &[u8], notes: &mut Vec<Note>) -> Option<SocketAddr> {
        let update: Update = match text::object(value) {
            Ok(update) => update,
            Err(reason) => {
                notes.push(Note::refusal(reason));
                return None;
            }
        };
        let found = match (update.op.unwrap_or(0), update.addr) {
            (1, _) => return None,
            (0, Some(addr)) => text::address(&addr),
            (0, None) => Err("there is no `Addr`; put the endpoint again".to_owned()),
            (op, _) => Err(format!("`Op` {op} is unknown; 0 adds, 1 deletes")),
        };
        found.map_err(|reason| notes.push(Note::refusal(reason))).ok()
    }

    fn pools(&self, (dir, _): (&str, &str), _: &SocketAddr, into: &mut Vec<String>) {
        into.push(if dir.is_empty() { self.own.clone() } else { dir.to_owned() });
    }

    fn build<'t>(&'t self, tree: &'t Tree<SocketAddr>, pool: &str, build: &mut Build<'t>) -> bool {
        build_dir(tree, &self.own, pool, build)
    }
}

/// Puts a pool together from the addresses in its directory.
pub(super) fn build_dir<'t>(
    tree: &'t Tree<SocketAddr>,
    own: &str,
    pool: &str,
    build: &mut Build<'t>,
) -> bool {
    // The prefix and a directory in it may have the same name.
    let direct = (pool == own).then_some("");
    let mut any = false;
    for dir in [Some(pool), direct].into_iter().flatten() {
        for found in tree.dir(dir) {
            any = true;
            build.add(found, found.2.item, Backend::default());
        }
    }
    any
}

#[cfg(test)]
mod tests;
