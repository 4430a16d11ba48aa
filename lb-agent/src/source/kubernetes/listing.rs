//! Lists and changes of one kind of object, made into puts and removals.
//!
//! Pure. A list counts once it is complete: until then what was known before goes on, and a list
//! that breaks off has changed nothing.

use super::cluster::Change;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The objects of a kind, by key. `P` is what is kept of one.
#[derive(Debug)]
pub(super) struct Listing<P> {
    known: HashSet<Arc<str>>,
    /// The list that is under way.
    list: Option<HashMap<Arc<str>, P>>,
    complete: bool,
}

/// An object that is as it says now; `None`: it is gone, or nothing.
pub(super) type Update<P> = (Arc<str>, Option<P>);

// === impl Listing ===

impl<P> Default for Listing<P> {
    fn default() -> Self {
        Self { known: HashSet::new(), list: None, complete: false }
    }
}

impl<P: Clone> Listing<P> {
    /// Whether there has been a complete list.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes in a change; returns what follows from it. `read` says what an object is known by, and
    /// what is kept of it unless it is nothing.
    pub(super) fn take<T>(
        &mut self,
        change: Change<T>,
        key: impl Fn(&T) -> Arc<str>,
        read: impl FnOnce(&T) -> Option<P>,
    ) -> Vec<Update<P>> {
        match change {
            Change::Begin => {
                self.list = Some(HashMap::new());
                Vec::new()
            }
            Change::Listed(object) => {
                let list = self.list.get_or_insert_default();
                match read(&object) {
                    Some(kept) => drop(list.insert(key(&object), kept)),
                    None => drop(list.remove(&key(&object))),
                }
                Vec::new()
            }
            Change::Complete => {
                self.complete = true;
                let Some(list) = self.list.take() else { return Vec::new() };
                let gone = self.known.iter().filter(|key| !list.contains_key(*key));
                let mut updates: Vec<Update<P>> = gone.map(|key| (Arc::clone(key), None)).collect();
                self.known = list.keys().cloned().collect();
                updates.extend(list.into_iter().map(|(key, kept)| (key, Some(kept))));
                updates
            }
            Change::Put(object) => match read(&object) {
                Some(kept) => {
                    let key = key(&object);
                    self.known.insert(Arc::clone(&key));
                    if let Some(list) = &mut self.list {
                        list.insert(Arc::clone(&key), kept.clone());
                    }
                    vec![(key, Some(kept))]
                }
                None => self.remove(key(&object)),
            },
            Change::Delete(object) => self.remove(key(&object)),
            Change::Forget(key) => self.remove(key),
        }
    }

    fn remove(&mut self, key: Arc<str>) -> Vec<Update<P>> {
        if let Some(list) = &mut self.list {
            list.remove(&key);
        }
        if self.known.remove(&key) { vec![(key, None)] } else { Vec::new() }
    }
}
