//! What every layout writes to: the snapshot, of which unchanged parts are shared with the one
//! before, and the notes.

use super::notes::{Note, Notes, Origin};
use crate::claims::Claims;
use crate::model::{Override, Pool, Rejection, Service, ServiceName, Snapshot};
use crate::versions::Versions;
use std::net::SocketAddr;
use std::sync::Arc;

/// What is known of the source, and what came out so far.
pub(super) struct Shared {
    source: Arc<str>,
    prefix: String,
    claims: Claims,
    versions: Versions<Snapshot>,
    /// Whether the snapshot is another one than was last asked for.
    changed: bool,
    notes: Notes,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(source: Arc<str>, prefix: String, claims: Claims) -> Self {
        let (versions, notes) = (Versions::default(), Notes::default());
        Self { source, prefix, claims, versions, changed: true, notes }
    }

    /// What all keys begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What services may claim.
    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The name of the source.
    pub(super) fn source(&self) -> Arc<str> {
        Arc::clone(&self.source)
    }

    /// The snapshot if it changed since the last call.
    pub(super) fn changed_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        std::mem::take(&mut self.changed).then(|| Arc::clone(self.versions.now()))
    }

    /// The snapshot as it is.
    pub(super) fn snapshot(&self) -> &Snapshot {
        self.versions.now()
    }

    /// Replaces a pool; `None`: there is none.
    pub(super) fn put_pool(&mut self, name: &str, pool: Option<Pool>) {
        let last = self.versions.now().pools.get_key_value(name);
        if last.map(|(_, last)| &**last) == pool.as_ref() {
            return;
        }
        self.changed = true;
        let name = last.map_or_else(|| name.into(), |(name, _)| Arc::clone(name));
        self.versions.put_pool(&name, pool.map(Arc::new));
    }

    /// Replaces a service; `None`: there is none.
    pub(super) fn put_service(&mut self, name: &ServiceName, service: Option<Service>) {
        if self.versions.now().services.get(name).map(Arc::as_ref) == service.as_ref() {
            return;
        }
        self.changed = true;
        self.versions.put_service(name, service.map(Arc::new));
    }

    /// Replaces what operators say of a backend; `None`: nothing.
    pub(super) fn put_override(
        &mut self,
        service: ServiceName,
        backend: SocketAddr,
        said: Option<Override>,
    ) {
        let known = self.versions.now().overrides.get(&service);
        if known.and_then(|backends| backends.get(&backend)) == said.as_ref() {
            return;
        }
        self.changed = true;
        self.versions.put_override(service, backend, said);
    }

    /// Replaces what is noted about the value of a key.
    pub(super) fn note_key(
        &mut self,
        path: &str,
        modified: i64,
        service: Option<&str>,
        notes: &[Note],
    ) {
        let origin = Origin { path: ["", path], modified };
        let shown = |note: &Note| (note.rejection(&self.prefix, origin, service), note.refused);
        let shown = notes.iter().map(shown).collect();
        self.notes.of_key(path, shown);
    }

    /// Notes that the value of a key was refused.
    pub(super) fn refuse_key(&mut self, path: &str, modified: i64, reason: String) {
        self.note_key(path, modified, None, &[Note::refusal(reason)]);
    }

    /// Replaces what is noted about what was built under `name`.
    pub(super) fn note_group(&mut self, name: &str, notes: &[(Origin<'_>, Note)]) {
        let shown = |(origin, note): &(Origin<'_>, Note)| {
            (note.rejection(&self.prefix, *origin, Some(name)), note.refused)
        };
        let shown = notes.iter().map(shown).collect();
        self.notes.of_group(name, shown);
    }

    /// The same with keys that are made for it.
    pub(super) fn note_owned(&mut self, name: &str, notes: &[([String; 2], i64, Note)]) {
        let notes: Vec<_> = notes
            .iter()
            .map(|([dir, leaf], modified, note)| {
                (Origin { path: [dir.as_str(), leaf.as_str()], modified: *modified }, note.clone())
            })
            .collect();
        self.note_group(name, &notes);
    }

    /// Whether something is noted about what was built under `name`.
    pub(super) fn has_notes(&self, name: &str) -> bool {
        self.notes.has_group(name)
    }

    /// Everything noted, sorted.
    pub(super) fn rejections(&mut self) -> Arc<Vec<Rejection>> {
        self.notes.all()
    }

    /// Items refused so far.
    pub(super) fn refused(&self) -> u64 {
        self.notes.refused()
    }
}
