//! Good values under their keys, each directory kept once: keys are long, and there are many.

use std::collections::BTreeMap;
use std::ops::Bound;

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
    dirs: BTreeMap<Box<str>, BTreeMap<Box<str>, Record<T>>>,
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

    /// Puts a record in the place of the one before; `None`: there is none now.
    pub(super) fn replace(
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

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self { dirs: BTreeMap::new() }
    }
}
