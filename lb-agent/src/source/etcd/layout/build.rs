//! Backends that are being put together: of two with one address the first counts, and the other is
//! noted.

use super::notes::{Note, Origin};
use super::tree::Found;
use crate::model::{Backend, Lease};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

/// The backends of a pool or a service.
pub(super) struct Build<'t> {
    source: Arc<str>,
    /// Each with who said so.
    backends: BTreeMap<SocketAddr, (Backend, &'t str)>,
    notes: Vec<(Origin<'t>, Note)>,
}

// === impl Build ===

impl<'t> Build<'t> {
    /// No backends yet.
    pub(super) fn new(source: Arc<str>) -> Self {
        Self { source, backends: BTreeMap::new(), notes: Vec::new() }
    }

    /// Adds the backend of a key, unless one before it has its address.
    pub(super) fn add<T>(&mut self, found: Found<'t, T>, address: SocketAddr, backend: Backend) {
        let (_, leaf, record) = found;
        match self.backends.entry(address) {
            Entry::Vacant(free) => {
                let lease = record.lease.map(|id| Lease { source: Arc::clone(&self.source), id });
                free.insert((Backend { lease, ..backend }, leaf));
            }
            Entry::Occupied(first) => {
                let first = first.get().1;
                let note = Note::refusal(format!(
                    "{address} is registered twice: `{first}` comes first and counts; remove one \
                     of the two"
                ));
                self.note(found, note);
            }
        }
    }

    /// Adds a backend that has no key of its own, unless one before it has its address.
    pub(super) fn add_own(&mut self, address: SocketAddr, backend: Backend, origin: &'t str) {
        self.backends.entry(address).or_insert((backend, origin));
    }

    /// Whether this address is there already.
    pub(super) fn has(&self, address: &SocketAddr) -> bool {
        self.backends.contains_key(address)
    }

    /// Whether there are backends of this family; `None` if there are none at all.
    pub(super) fn has_family(&self, v4: bool) -> Option<bool> {
        self.backends.first_key_value()?;
        Some(self.backends.keys().any(|address| address.is_ipv4() == v4))
    }

    /// Notes something about a key.
    pub(super) fn note<T>(&mut self, (dir, leaf, record): Found<'t, T>, note: Note) {
        self.note_at(Origin { path: [dir, leaf], modified: record.modified }, note);
    }

    /// Notes something about a key.
    pub(super) fn note_at(&mut self, origin: Origin<'t>, note: Note) {
        self.notes.push((origin, note));
    }

    /// The backends, and what is noted.
    pub(super) fn finish(self) -> (BTreeMap<SocketAddr, Backend>, Vec<(Origin<'t>, Note)>) {
        let backends = self.backends.into_iter();
        (backends.map(|(address, (backend, _))| (address, backend)).collect(), self.notes)
    }
}
