//! What was refused of the objects, kept by object, so that a change replaces exactly the notes it
//! is about.
//!
//! Pure.

use crate::model::Rejection;
use crate::shown::clean;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest name of an object that is shown.
const SHOWN_KEY: usize = 300;
/// Longest reason that is shown.
const SHOWN_REASON: usize = 600;
/// Most items of one object that are shown one by one.
const MOST: usize = 10;

/// What an object is called whose name can't be read.
const NAMELESS: &str = "(its name can't be read)";

/// All notes.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By kind and key.
    objects: BTreeMap<(&'static str, Arc<str>), Vec<String>>,
    /// Objects that could not be read, and whether that was told since a list of their kind began.
    unreadable: BTreeMap<(&'static str, Arc<str>), bool>,
    refused: u64,
    all: Arc<Vec<Rejection>>,
    stale: bool,
}

// === impl Notes ===

impl Notes {
    /// Replaces what was refused of an object. Only what is new is counted.
    pub(super) fn put(&mut self, kind: &'static str, key: &Arc<str>, problems: Vec<String>) {
        if problems.is_empty() {
            // Nearly always, so this makes no key unless there is something to remove.
            if !self.objects.is_empty() {
                self.stale |= self.objects.remove(&(kind, Arc::clone(key))).is_some();
            }
            return;
        }
        let before = self.objects.entry((kind, Arc::clone(key))).or_default();
        if *before != problems {
            let new = problems.iter().filter(|problem| !before.contains(problem)).count();
            self.refused += new as u64;
            self.stale = true;
            *before = problems;
        }
    }

    /// An object can't be read at all. Told until it is read, or a list of its kind is without it; counted
    /// each time.
    pub(super) fn unreadable(&mut self, kind: &'static str, key: Option<&str>, reason: String) {
        let key: Arc<str> = key.unwrap_or(NAMELESS).into();
        let refused = self.refused + 1;
        self.put(kind, &key, vec![reason]);
        self.refused = refused;
        self.unreadable.insert((kind, key), true);
    }

    /// An object is gone, or can be read: what was told of it is over.
    pub(super) fn readable(&mut self, kind: &'static str, key: impl FnOnce() -> Arc<str>) {
        if self.unreadable.is_empty() {
            return;
        }
        let object = (kind, key());
        if self.unreadable.remove(&object).is_some() {
            self.stale |= self.objects.remove(&object).is_some();
        }
    }

    /// A list of a kind begins: what can't be read of it is told before it is complete. Until then what was
    /// told before stays, so that what has not changed is not told again.
    pub(super) fn list_begins(&mut self, kind: &'static str) {
        self.unreadable
            .iter_mut()
            .filter(|((of, _), _)| *of == kind)
            .for_each(|(_, new)| *new = false);
    }

    /// The list is complete.
    pub(super) fn listed(&mut self, kind: &'static str) {
        for (object, _) in self.unreadable.extract_if(.., |(of, _), new| *of == kind && !*new) {
            self.stale |= self.objects.remove(&object).is_some();
        }
    }

    /// Items refused so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Everything noted, in the order of the objects.
    pub(super) fn all(&mut self) -> Arc<Vec<Rejection>> {
        if std::mem::take(&mut self.stale) {
            self.all = Arc::new(self.objects.iter().flat_map(rejections).collect());
        }
        Arc::clone(&self.all)
    }
}

fn rejections(
    ((kind, key), problems): (&(&'static str, Arc<str>), &Vec<String>),
) -> Vec<Rejection> {
    let key = clean(key, SHOWN_KEY);
    let named = *kind == super::cluster::SERVICE && key != NAMELESS;
    let service = named.then(|| key.clone());
    let rejection = |reason: &str| Rejection {
        origin: format!("{kind} {key}"),
        service: service.clone(),
        reason: clean(reason, SHOWN_REASON),
    };
    let mut shown: Vec<_> = problems.iter().take(MOST).map(|problem| rejection(problem)).collect();
    if problems.len() > MOST {
        shown.push(rejection(&format!("and {} more of the kind", problems.len() - MOST)));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_counted_and_what_is_corrected_is_gone() {
        let mut notes = Notes::default();
        let (a, b): (Arc<str>, Arc<str>) = ("ns/a".into(), "ns/b".into());
        let text = |notes: &mut Notes| -> Vec<String> {
            let all = notes.all();
            all.iter().map(|r| format!("{}: {}", r.origin, r.reason)).collect()
        };
        notes.put("Service", &b, vec!["1".to_owned()]);
        notes.put("Service", &a, vec!["2\n".to_owned(), "3".to_owned()]);
        assert_eq!(text(&mut notes), ["Service ns/a: 2\\n", "Service ns/a: 3", "Service ns/b: 1"]);
        assert_eq!(notes.refused(), 3);
        let before = notes.all();
        notes.put("Service", &b, vec!["1".to_owned()]);
        assert!(Arc::ptr_eq(&before, &notes.all()));
        notes.put("Service", &a, vec!["3".to_owned(), "4".to_owned()]);
        assert_eq!(notes.refused(), 4);
        notes.put("Service", &a, vec![]);
        assert_eq!(text(&mut notes), ["Service ns/b: 1"]);
        notes.put("Service", &b, (0..1000).map(|number| number.to_string()).collect());
        let all = text(&mut notes);
        assert_eq!(all.len(), 11);
        assert_eq!(all[10], "Service ns/b: and 990 more of the kind");
        assert_eq!(notes.refused(), 1003);
    }

    #[test]
    fn what_cannot_be_read_is_told_until_it_is_read_or_listed_anew() {
        let mut notes = Notes::default();
        let told = |notes: &mut Notes| -> Vec<String> {
            notes.all().iter().map(|r| format!("{}: {}", r.origin, r.reason)).collect()
        };
        notes.put("Service", &"ns/c".into(), vec!["3".to_owned()]);
        notes.unreadable("Service", None, "1".to_owned());
        notes.unreadable("Service", Some("ns/a"), "2".to_owned());
        notes.unreadable("Node", Some("n"), "4".to_owned());
        let nameless = "Service (its name can't be read): 1";
        assert_eq!(told(&mut notes), ["Node n: 4", nameless, "Service ns/a: 2", "Service ns/c: 3"]);
        assert_eq!(notes.refused(), 4);
        notes.put("Service", &"ns/a".into(), vec![]);
        assert_eq!(told(&mut notes), ["Node n: 4", nameless, "Service ns/c: 3"]);
        notes.unreadable("Service", Some("ns/b"), "5".to_owned());
        notes.readable("Service", || "ns/c".into());
        notes.readable("Node", || "ns/b".into());
        assert_eq!(told(&mut notes).len(), 4, "it was told of other reasons");
        notes.readable("Service", || "ns/b".into());
        assert_eq!(told(&mut notes), ["Node n: 4", nameless, "Service ns/c: 3"]);
        // A list has one of two; both are told as before until it is complete.
        notes.unreadable("Service", Some("ns/b"), "5".to_owned());
        let before = notes.all();
        notes.list_begins("Service");
        notes.unreadable("Service", Some("ns/b"), "5".to_owned());
        assert!(Arc::ptr_eq(&before, &notes.all()));
        notes.listed("Service");
        assert_eq!(told(&mut notes), ["Node n: 4", "Service ns/b: 5", "Service ns/c: 3"]);
        notes.unreadable("Service", Some("ns/b"), "6".to_owned());
        assert_eq!(told(&mut notes), ["Node n: 4", "Service ns/b: 6", "Service ns/c: 3"]);
        assert_eq!(notes.refused(), 8, "each time");
    }
}
