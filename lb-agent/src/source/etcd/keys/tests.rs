use super::*;
use proptest::prelude::*;

const GRACE: Duration = Duration::from_secs(30);

/// Seconds since some moment.
fn at(second: u64) -> Now {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let begin = *BEGIN.get_or_init(Instant::now);
    let span = Duration::from_secs(second);
    Now { instant: begin + span, system: SystemTime::UNIX_EPOCH + span }
}

fn key(key: &str, modified: i64) -> KeyValue {
    let value = format!("{key} at {modified}").into_bytes();
    KeyValue { key: key.to_owned(), value, created: 1, modified, lease: None }
}

fn delete(key: &str) -> Change {
    Change::Delete { key: key.to_owned(), modified: 99 }
}

/// A keyspace and whoever follows it.
struct Follower {
    keys: Keyspace,
    view: BTreeMap<String, Vec<u8>>,
    /// `+key` and `-key`, since the last look.
    log: Vec<String>,
}

impl Follower {
    fn new(grace: Duration) -> Self {
        Self { keys: Keyspace::new(grace), view: BTreeMap::new(), log: Vec::new() }
    }

    /// A follower that has seen one list.
    fn with(keys: &[&str]) -> Self {
        let mut follower = Self::new(GRACE);
        let keys: Vec<_> = keys.iter().map(|name| key(name, 1)).collect();
        follower.listed(&keys, false, 0);
        follower.log.clear();
        follower
    }

    fn apply(&mut self, act: impl FnOnce(&mut Keyspace, &mut dyn FnMut(&str, Option<&KeyValue>))) {
        let Self { keys, view, log } = self;
        act(keys, &mut |key, value| match value {
            Some(value) => {
                log.push(format!("+{key}"));
                view.insert(key.to_owned(), value.value.clone());
            }
            None => {
                log.push(format!("-{key}"));
                assert!(view.remove(key).is_some(), "{key} goes, and never came");
            }
        });
    }

    fn listed(&mut self, list: &[KeyValue], gap: bool, now: u64) {
        self.apply(|keys, apply| keys.listed(list, gap, at(now), apply));
    }

    fn changed(&mut self, changes: &[Change]) {
        self.apply(|keys, apply| keys.changed(changes, apply));
    }

    fn expire(&mut self, now: u64) {
        self.apply(|keys, apply| {
            keys.expire(at(now).instant, apply);
        });
    }

    fn log(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }

    fn held(&self) -> Vec<(String, u64)> {
        let seconds = |until: SystemTime| until.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        self.keys
            .held()
            .into_iter()
            .map(|held| (held.item, seconds(held.until).as_secs()))
            .collect()
    }
}

#[test]
fn lists_and_changes_report_what_is_new() {
    let mut follower = Follower::new(GRACE);
    follower.listed(&[key("a", 1), key("b", 2)], false, 0);
    assert_eq!(follower.log(), "+a +b");
    follower.changed(&[Change::Put(key("a", 3)), delete("b"), Change::Put(key("c", 4))]);
    assert_eq!(follower.log(), "+a -b +c");
    follower.changed(&[delete("b"), delete("x")]);
    assert_eq!(follower.log(), "", "what is not there can't go");
    follower.listed(&[key("a", 3), key("c", 4)], true, 9);
    assert_eq!(follower.log(), "", "a list that says the same is no news");
    assert_eq!(follower.held(), []);
}

#[test]
fn a_store_that_counts_anew_is_told_by_its_values() {
    let mut follower = Follower::with(&["a"]);
    let other = KeyValue { value: b"other".to_vec(), ..key("a", 1) };
    follower.listed(std::slice::from_ref(&other), true, 1);
    assert_eq!(follower.log(), "+a");
    follower.listed(&[KeyValue { lease: Some(7), ..other }], true, 1);
    assert_eq!(follower.log(), "+a", "another lease");
}

#[test]
fn what_a_list_after_a_gap_lacks_is_held_and_goes_in_time() {
    let mut follower = Follower::with(&["a", "b", "c"]);
    follower.listed(&[key("a", 1)], true, 10);
    assert_eq!(follower.log(), "");
    assert_eq!(follower.held(), [("b".to_owned(), 40), ("c".to_owned(), 40)]);
    assert_eq!(follower.keys.next_deadline(), Some(at(40).instant));
    // A later list keeps the deadline and adds what it lacks itself.
    follower.listed(&[], true, 20);
    let held = [("b".to_owned(), 40), ("c".to_owned(), 40), ("a".to_owned(), 50)];
    assert_eq!(follower.held(), held);
    follower.expire(39);
    assert_eq!(follower.log(), "");
    follower.expire(40);
    assert_eq!(follower.log(), "-b -c");
    assert_eq!(follower.keys.next_deadline(), Some(at(50).instant));
    follower.expire(60);
    assert_eq!(follower.log(), "-a");
    assert!(!follower.keys.holds() && follower.keys.is_empty());
}

#[test]
fn what_is_put_again_has_never_been_away() {
    let mut follower = Follower::with(&["a", "b", "c"]);
    follower.listed(&[], true, 0);
    follower.changed(&[Change::Put(key("a", 1)), Change::Put(key("b", 7))]);
    assert_eq!(follower.log(), "+b", "a is as it was");
    follower.listed(&[key("a", 1), key("b", 7), key("c", 1)], true, 5);
    assert_eq!(follower.held(), []);
    follower.expire(1000);
    assert_eq!(follower.log(), "");
    assert_eq!(follower.keys.len(), 3);
}

#[test]
fn what_the_store_says_is_deleted_goes_at_once() {
    let mut follower = Follower::with(&["a", "b"]);
    follower.listed(&[key("b", 1)], true, 0);
    follower.changed(&[delete("a"), delete("b")]);
    assert_eq!(follower.log(), "-a -b");
    assert_eq!(follower.held(), []);
}

#[test]
fn only_an_empty_list_is_doubtful_without_a_gap() {
    let mut follower = Follower::with(&["a", "b"]);
    follower.listed(&[key("a", 1)], false, 0);
    assert_eq!(follower.log(), "-b");
    follower.listed(&[], false, 0);
    assert_eq!(follower.log(), "");
    assert_eq!(follower.held(), [("a".to_owned(), 30)]);
    let mut hasty = Follower::new(Duration::ZERO);
    hasty.listed(&[key("a", 1)], false, 0);
    hasty.listed(&[], true, 0);
    assert_eq!(hasty.log(), "+a -a", "without a grace everything is believed");
}

#[test]
fn of_very_many_held_keys_some_are_named() {
    let names: Vec<String> = (0..250).map(|number| format!("k{number:03}")).collect();
    let mut follower = Follower::with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    follower.listed(&[], true, 0);
    let held = follower.held();
    assert_eq!(held.len(), MOST_SHOWN + 1);
    assert_eq!((&*held[0].0, &*held[MOST_SHOWN].0), ("k000", "150 more keys"));
    assert_eq!(follower.keys.missing().len(), 250);
}

/// What happens to a store and to who follows it.
#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    /// A list of what there is now.
    List {
        gap: bool,
    },
    /// The store changes unseen, and is listed afterwards.
    Unseen(Vec<(u8, bool)>),
    /// The store starts from nothing, unseen, and is listed afterwards.
    Wiped,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8_u8).prop_map(Step::Put),
        2 => (0..8_u8).prop_map(Step::Delete),
        1 => any::<bool>().prop_map(|gap| Step::List { gap }),
        2 => prop::collection::vec((0..8_u8, any::<bool>()), 0..6).prop_map(Step::Unseen),
        1 => Just(Step::Wiped),
        3 => (0..40_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// The view never has less than the store, never keeps longer than the grace what it lacks, and
    /// in the end is the store.
    #[test]
    fn the_view_follows_the_store(steps in prop::collection::vec(step(), 1..60)) {
        let mut follower = Follower::new(GRACE);
        let mut store: BTreeMap<String, KeyValue> = BTreeMap::new();
        // When the store was first seen to lack a key that the view has.
        let mut lacking: BTreeMap<String, u64> = BTreeMap::new();
        let (mut now, mut revision) = (0, 1);
        follower.listed(&[], false, 0);
        for step in steps {
            revision += 1;
            let mut list = None;
            match step {
                Step::Put(number) => {
                    let new = key(&format!("k{number}"), revision);
                    store.insert(new.key.clone(), new.clone());
                    follower.changed(&[Change::Put(new)]);
                }
                Step::Delete(number) => {
                    let name = format!("k{number}");
                    if store.remove(&name).is_some() {
                        follower.changed(&[delete(&name)]);
                    }
                }
                Step::List { gap } => list = Some(gap),
                Step::Unseen(changes) => {
                    for (number, put) in changes {
                        revision += 1;
                        let name = format!("k{number}");
                        if put {
                            store.insert(name.clone(), key(&name, revision));
                        } else {
                            store.remove(&name);
                        }
                    }
                    list = Some(true);
                }
                Step::Wiped => {
                    store.clear();
                    revision = 1;
                    list = Some(true);
                }
                Step::Pass(seconds) => now += seconds,
            }
            if let Some(gap) = list {
                let keys: Vec<KeyValue> = store.values().cloned().collect();
                follower.listed(&keys, gap, now);
            }
            follower.expire(now);
            for (name, value) in &store {
                prop_assert_eq!(follower.view.get(name), Some(&value.value), "{}", name);
            }
            lacking.retain(|name, _| !store.contains_key(name) && follower.view.contains_key(name));
            for name in follower.view.keys().filter(|name| !store.contains_key(*name)) {
                let since = *lacking.entry(name.clone()).or_insert(now);
                prop_assert!(now < since + 30, "{name} is kept since {since}, at {now}");
            }
            let missing: Vec<String> = lacking.keys().cloned().collect();
            prop_assert_eq!(follower.keys.missing().into_iter().collect::<Vec<_>>(), missing);
            prop_assert_eq!(follower.keys.len(), follower.view.len());
        }
        follower.expire(now + 30);
        prop_assert!(!follower.keys.holds());
        prop_assert!(follower.view.keys().eq(store.keys()));
    }
}
