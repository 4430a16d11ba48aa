//! What was refused of the objects, kept by object, so that a change replaces exactly the notes it
//! is about.
//!
//! Pure.

use crate::model::Rejection;
use crate::source::clean::clean;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest name of an object that is shown.
const SHOWN_KEY: usize = 300;
/// Longest reason that is shown.
const SHOWN_REASON: usize = 600;
/// Most items of one object that are shown one by one.
const MOST: usize = 10;

/// All notes.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By kind and key.
    objects: BTreeMap<(&'static str, Arc<str>), Vec<String>>,
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
    let service = (*kind == super::cluster::SERVICE).then(|| key.clone());
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
}
