use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn put(key: &str, modified: i64) -> Change {
    Change::Put(kv(key, modified))
}

fn kv(key: &str, modified: i64) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: modified.to_string().into_bytes(),
        created: 1,
        modified,
        lease: None,
    }
}

fn delete(key: &str, modified: i64) -> Change {
    Change::Delete { key: key.to_owned(), modified }
}

fn listing(revision: i64, keys: &[KeyValue]) -> Listing {
    Listing { revision, keys: keys.to_vec() }
}

#[test]
fn a_watch_goes_on_after_the_list() {
    let mut position = Position::after(&listing(7, &[kv("a", 5)]), 1);
    assert_eq!(position.start(), 8);
    assert_eq!(position.absorb(vec![put("a", 5), put("b", 7)]), [], "the list has them");
    let new = vec![put("a", 9), delete("b", 11)];
    assert_eq!(position.absorb(new.clone()), new);
    assert_eq!(position.last(), 11);
}

#[test]
fn the_rest_of_a_transaction_is_not_lost() {
    let mut position = Position::after(&listing(7, &[]), 1);
    assert_eq!(position.absorb(vec![put("a", 8)]).len(), 1);
    assert_eq!(position.start(), 8, "there may be more of it");
    let again = vec![put("a", 8), put("b", 8), put("a", 9)];
    assert_eq!(position.absorb(again), [put("b", 8), put("a", 9)]);
    position.settle();
    assert_eq!(position.start(), 10);
    assert_eq!(position.absorb(vec![put("c", 9)]), []);
}

#[test]
fn the_store_is_known_by_the_key_that_changed_last() {
    let mut position = Position::after(&listing(7, &[kv("a", 5), kv("b", 3)]), 1);
    assert_eq!(position.anchor(), Some(("a", 7)));
    assert!(position.is_held_by(Some(&kv("a", 5)), 1));
    assert!(!position.is_held_by(Some(&kv("a", 5)), 2), "another cluster");
    assert!(!position.is_held_by(None, 1));
    assert!(!position.is_held_by(Some(&kv("a", 6)), 1));
    for other in
        [KeyValue { value: b"x".to_vec(), ..kv("a", 5) }, KeyValue { created: 2, ..kv("a", 5) }]
    {
        assert!(!position.is_held_by(Some(&other), 1), "{other:?}");
    }
    position.absorb(vec![delete("a", 8)]);
    assert_eq!(position.anchor(), Some(("b", 7)), "the rest of 8 may have changed it");
    position.settle();
    assert_eq!(position.anchor(), Some(("b", 8)));
    position.absorb(vec![put("c", 9)]);
    assert_eq!(position.anchor(), Some(("c", 9)));
    position.absorb(vec![delete("c", 10), delete("b", 10)]);
    assert_eq!(position.anchor(), None);
}

#[test]
fn a_list_between_events() {
    let mut position = Position::after(&listing(7, &[]), 1);
    position.absorb(vec![put("a", 8), put("b", 9)]);
    position.cover(&listing(8, &[kv("a", 8)]));
    assert_eq!((position.last(), position.start()), (9, 9), "it does not go back");
    position.cover(&listing(12, &[kv("a", 8), kv("b", 11)]));
    assert_eq!((position.start(), position.anchor()), (13, Some(("b", 12))));
    assert_eq!(position.absorb(vec![put("b", 11), put("b", 13)]), [put("b", 13)]);
}

#[test]
fn lists_advance() {
    let list = listing(8, &[kv("a", 3), kv("b", 8)]);
    let since = vec![put("b", 8), delete("a", 9), put("c", 9), put("c", 10)];
    assert_eq!(advance(list.clone(), since), listing(10, &[kv("b", 8), kv("c", 10)]));
    assert_eq!(advance(list.clone(), vec![put("x", 7)]), list);
}

/// A server: its history, cut into messages at random, and connections that break at random.
#[derive(Clone, Debug)]
struct Link {
    /// Events per message.
    fragments: Vec<usize>,
    /// After how many messages the connection breaks.
    breaks: usize,
    /// Whether a progress report comes behind each whole revision.
    progress: bool,
}

fn history() -> impl Strategy<Value = Vec<Change>> {
    let revision = vec((0..5u8, any::<bool>()), 1..6);
    vec((revision, 1..3i64), 1..8).prop_map(|revisions| {
        let (mut at, mut events) = (1, Vec::new());
        for (changes, step) in revisions {
            at += step;
            let keys: BTreeMap<u8, bool> = changes.into_iter().collect();
            events.extend(keys.into_iter().map(|(key, is_put)| match is_put {
                true => put(&key.to_string(), at),
                false => delete(&key.to_string(), at),
            }));
        }
        events
    })
}

fn link() -> impl Strategy<Value = Link> {
    (vec(1..4usize, 1..12), 0..6usize, any::<bool>())
        .prop_map(|(fragments, breaks, progress)| Link { fragments, breaks, progress })
}

proptest! {
    #[test]
    fn nothing_is_lost_or_doubled(history in history(), links in vec(link(), 0..6)) {
        let mut position = Position::after(&listing(1, &[]), 1);
        let mut seen = Vec::new();
        let whole = Link { fragments: vec![3], breaks: usize::MAX, progress: true };
        for link in links.iter().chain([&whole]) {
            let start = position.start();
            let mut rest: Vec<Change> =
                history.iter().filter(|change| change.modified() >= start).cloned().collect();
            let mut sizes = link.fragments.iter().cycle();
            for _ in 0..link.breaks {
                if rest.is_empty() {
                    break;
                }
                let size = (*sizes.next().unwrap()).min(rest.len());
                let later = rest.split_off(size);
                let message = std::mem::replace(&mut rest, later);
                let last = message.last().unwrap().modified();
                seen.extend(position.absorb(message));
                let is_whole = rest.first().is_none_or(|next| next.modified() > last);
                if link.progress && is_whole {
                    position.settle();
                }
            }
        }
        prop_assert_eq!(seen, history);
    }
}
