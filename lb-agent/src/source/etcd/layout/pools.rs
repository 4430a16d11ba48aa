//! Pools out of keys, for layouts that know no service addresses: keeps what is good, notes what
//! is not, and builds again the pools that a change belongs to. What keys and values mean is for
//! each layout to say.

use super::notes::{Note, Origin};
use super::shared::Shared;
use super::{KeyValue, Layout};
use crate::model::{Backend, Lease, Pool};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;

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

/// A good value.
#[derive(Debug)]
pub(super) struct Record<T> {
    /// The revision of the value.
    pub(super) modified: i64,
    /// The lease the key hangs on.
    pub(super) lease: Option<i64>,
    /// What the value means.
    pub(super) item: T,
}

/// A good value with the two parts of its key: the directory and the name.
pub(super) type Found<'t, T> = (&'t str, &'t str, &'t Record<T>);

/// The good values under their keys; each directory is kept once.
#[derive(Debug)]
pub(super) struct Tree<T> {
    /// By directory, then by name.
    pub(super) dirs: BTreeMap<Box<str>, BTreeMap<Box<str>, Record<T>>>,
}

/// A pool that is being put together.
pub(super) struct Build<'t> {
    source: Arc<str>,
    backends: BTreeMap<SocketAddr, (Backend, &'t str)>,
    notes: Vec<(Origin<'t>, Note)>,
}

/// The pools of a prefix.
pub(super) struct Pools<R: Reading> {
    reading: R,
    tree: Tree<R::Item>,
    dirty: BTreeSet<String>,
}

// === impl Tree ===

impl<T> Tree<T> {
    /// The items directly in a directory.
    pub(super) fn dir<'t>(&'t self, dir: &str) -> impl Iterator<Item = Found<'t, T>> + use<'t, T> {
        let found = self.dirs.get_key_value(dir);
        found.into_iter().flat_map(|(dir, records)| {
            records.iter().map(move |(leaf, record)| (&**dir, &**leaf, record))
        })
    }

    /// One item.
    pub(super) fn get(&self, dir: &str, leaf: &str) -> Option<Found<'_, T>> {
        let (dir, records) = self.dirs.get_key_value(dir)?;
        let (leaf, record) = records.get_key_value(leaf)?;
        Some((dir, leaf, record))
    }

    /// The items in all directories below a directory.
    pub(super) fn below<'t>(
        &'t self,
        dir: &str,
    ) -> impl Iterator<Item = Found<'t, T>> + use<'t, T> {
        // `0` comes next after `/`.
        let (from, to) = (format!("{dir}/"), format!("{dir}0"));
        let range = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
        self.dirs.range::<str, _>(range).flat_map(|(dir, records)| {
            records.iter().map(move |(leaf, record)| (&**dir, &**leaf, record))
        })
    }

    fn replace(
        &mut self,
        (dir, leaf): (&str, &str),
        record: Option<Record<T>>,
    ) -> Option<Record<T>> {
        let Some(record) = record else {
            let records = self.dirs.get_mut(dir)?;
            let before = records.remove(leaf);
            if records.is_empty() {
                self.dirs.remove(dir);
            }
            return before;
        };
        if !self.dirs.contains_key(dir) {
            self.dirs.insert(dir.into(), BTreeMap::new());
        }
        let records = self.dirs.get_mut(dir)?;
        match records.get_mut(leaf) {
            Some(place) => Some(std::mem::replace(place, record)),
            None => records.insert(leaf.into(), record),
        }
    }
}

// === impl Build ===

impl<'t> Build<'t> {
    /// Adds a backend, unless a key before this one has its address.
    pub(super) fn add<T>(
        &mut self,
        (dir, leaf, record): Found<'t, T>,
        address: SocketAddr,
        mut backend: Backend,
    ) {
        backend.lease = record.lease.map(|id| Lease { source: Arc::clone(&self.source), id });
        match self.backends.entry(address) {
            Entry::Vacant(free) => {
                free.insert((backend, leaf));
            }
            Entry::Occupied(first) => {
                let first = first.get().1;
                let note = Note::refusal(format!(
                    "{address} is registered twice: `{first}` comes first and counts; remove one \
                     of the two keys"
                ));
                self.note((dir, leaf, record), note);
            }
        }
    }

    /// Whether this address is there already.
    pub(super) fn has(&self, address: &SocketAddr) -> bool {
        self.backends.contains_key(address)
    }

    /// Notes something about a key.
    pub(super) fn note<T>(&mut self, (dir, leaf, record): Found<'t, T>, note: Note) {
        self.notes.push((Origin { path: [dir, leaf], modified: record.modified }, note));
    }
}

// === impl Pools ===

impl<R: Reading> Pools<R> {
    /// No pools yet.
    pub(super) fn new(reading: R) -> Self {
        Self { reading, tree: Tree { dirs: BTreeMap::new() }, dirty: BTreeSet::new() }
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
            let mut build =
                Build { source: shared.source(), backends: BTreeMap::new(), notes: Vec::new() };
            let exists = self.reading.build(&self.tree, &name, &mut build);
            let Build { backends, notes, .. } = build;
            let backends = backends.into_iter().map(|(address, (backend, _))| (address, backend));
            let pool = exists.then(|| Pool { backends: backends.collect() });
            shared.put_pool(&name, pool);
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
