//! Pools out of keys, for layouts that know no service addresses: keeps what is good, notes what
//! is not, and builds again the pools that a change belongs to. What keys and values mean is for
//! each layout to say.

use super::Layout;
use super::build::Build;
use super::notes::Note;
use super::shared::Shared;
use super::tree::{Record, Tree};
use crate::etcd::KeyValue;
use crate::model::Pool;
use std::collections::BTreeSet;

/// How a layout writes backends.
pub(super) trait Reading {
    /// What a value means; what does not matter for a pool is not part of it.
    type Item: PartialEq;

    /// Where the key at `path` belongs.
    fn place<'k>(&self, path: &'k str) -> Place<'k>;

    /// Reads the value at a place.
    fn read(&self, place: (&str, &str), value: &[u8], notes: &mut Vec<Note>) -> Option<Self::Item>;

    /// The pools that an item can have a part in.
    fn pools(&self, place: (&str, &str), item: &Self::Item, into: &mut Vec<String>);

    /// Puts a pool together; false if there is no such pool.
    fn build<'t>(&'t self, tree: &'t Tree<Self::Item>, pool: &str, build: &mut Build<'t>) -> bool;
}

/// What a key is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'k> {
    /// An item: the directory, without the last `/`, and the name in it.
    At(&'k str, &'k str),
    /// Something that says nothing about backends.
    Ignored,
    /// No key of this layout, and why.
    Outside(String),
}

/// The pools of a prefix.
pub(super) struct Pools<R: Reading> {
    reading: R,
    tree: Tree<R::Item>,
    dirty: BTreeSet<String>,
}

// === impl Pools ===

impl<R: Reading> Pools<R> {
    /// No pools yet.
    pub(super) fn new(reading: R) -> Self {
        Self { reading, tree: Tree::default(), dirty: BTreeSet::new() }
    }
}

impl<R: Reading> Layout for Pools<R> {
    fn set(&mut self, shared: &mut Shared, path: &str, value: Option<&KeyValue>) {
        let mut notes = Vec::new();
        let modified = value.map_or(0, |value| value.modified);
        let place = match self.reading.place(path) {
            Place::At(dir, leaf) => (dir, leaf),
            Place::Ignored => return,
            Place::Outside(reason) => {
                notes.extend(value.map(|_| Note::refusal(reason)));
                shared.note_key(path, modified, None, &notes);
                return;
            }
        };
        let record = value.and_then(|value| {
            let item = self.reading.read(place, &value.value, &mut notes)?;
            Some(Record { modified, lease: value.lease, item })
        });
        shared.note_key(path, modified, None, &notes);
        let mut pools = Vec::new();
        if let Some(record) = &record {
            self.reading.pools(place, &record.item, &mut pools);
        }
        let same = match (self.tree.get(place.0, place.1), &record) {
            (None, None) => return,
            (Some((_, _, before)), Some(now)) => {
                before.item == now.item && before.lease == now.lease
            }
            _ => false,
        };
        let before = self.tree.replace(place, record);
        if same {
            // Notes name the revision.
            pools.retain(|pool| shared.has_notes(pool));
        } else if let Some(before) = before {
            self.reading.pools(place, &before.item, &mut pools);
        }
        self.dirty.extend(pools);
    }

    fn idle(&self) -> bool {
        self.dirty.is_empty()
    }

    fn refresh(&mut self, shared: &mut Shared) {
        for name in std::mem::take(&mut self.dirty) {
            let mut build = Build::new(shared.source());
            let exists = self.reading.build(&self.tree, &name, &mut build);
            let (backends, notes) = build.finish();
            shared.put_pool(&name, exists.then_some(Pool { backends }));
            shared.note_group(&name, &notes);
        }
    }
}

/// The place of `<pool>/<id>`. A key directly under the prefix belongs to the pool that the prefix
/// is called after: `user.rpc/7587869439291912201` under the prefix `user.rpc/`.
pub(super) fn place_of_id(path: &str) -> Place<'_> {
    let (dir, leaf) = path.rsplit_once('/').unwrap_or(("", path));
    let gap = path.split('/').any(str::is_empty);
    if gap {
        let reason = "a part of the key between slashes is empty; write PREFIX/SERVICE/ID";
        return Place::Outside(reason.to_owned());
    }
    Place::At(dir, leaf)
}

/// What the prefix is called.
pub(super) fn name_of_prefix(prefix: &str) -> String {
    let bare = prefix.trim_end_matches('/');
    bare.rsplit('/').next().unwrap_or(bare).to_owned()
}
