use super::held::MOST_SHOWN;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const GRACE: Duration = Duration::from_secs(30);
/// While the store is away.
const NEVER: u64 = u64::MAX;

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

fn leased(name: &str, modified: i64) -> KeyValue {
    KeyValue { lease: Some(7), ..key(name, modified) }
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
        self.changed_at(changes, 0);
    }

    fn changed_at(&mut self, changes: &[Change], now: u64) {
        self.apply(|keys, apply| keys.changed(changes, at(now), apply));
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
            .map(|held| (held.item, held.until.map_or(NEVER, |until| seconds(until).as_secs())))
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
fn a_deletion_that_a_list_knew_first_is_believed_when_it_is_told() {
    let mut follower = Follower::with(&["a", "b"]);
    follower.listed(&[key("b", 1)], true, 0);
    assert_eq!(follower.log(), "");
    follower.changed(&[Change::Delete { key: "a".to_owned(), modified: 1 }]);
    assert_eq!(follower.log(), "-a");
    assert!(!follower.keys.holds());
}

#[test]
fn leases_that_end_soon_after_an_outage_are_doubted() {
    let mut follower = Follower::with(&["hand"]);
    let four = ["a", "b", "c", "d"].map(|name| Change::Put(leased(name, 2)));
    follower.changed(&four);
    follower.log();
    // In quiet times the store is believed.
    follower.changed(&[delete("d")]);
    assert_eq!(follower.log(), "-d");
    follower.keys.down();
    follower.keys.up(at(100));
    follower.changed_at(&[delete("a"), delete("b"), delete("hand")], 110);
    assert_eq!(follower.log(), "-hand", "no lease has ended for that");
    assert_eq!(follower.held(), [("a".to_owned(), 140), ("b".to_owned(), 140)]);
    follower.changed_at(&[Change::Put(leased("a", 2))], 112);
    assert_eq!(follower.log(), "");
    follower.expire(139);
    assert_eq!(follower.log(), "");
    follower.expire(140);
    assert_eq!(follower.log(), "-b");
    follower.changed_at(&[delete("c")], 129);
    assert_eq!(follower.log(), "");
    follower.changed_at(&[Change::Put(leased("c", 2)), delete("a"), delete("c")], 130);
    assert_eq!(follower.log(), "-a -c", "it has settled");
}

#[test]
fn leases_are_doubted_after_a_list_that_lacks_keys_and_never_without_a_grace() {
    let mut follower = Follower::with(&["b"]);
    follower.changed(&[Change::Put(leased("a", 2))]);
    follower.listed(&[key("b", 1), leased("a", 2)], true, 5);
    follower.changed_at(&[delete("a")], 5);
    assert_eq!(follower.log(), "+a -a", "a list that lacks nothing is no alarm");
    follower.changed_at(&[Change::Put(leased("a", 2))], 6);
    follower.listed(&[leased("a", 2)], true, 6);
    follower.changed_at(&[delete("a")], 35);
    assert_eq!(follower.held(), [("b".to_owned(), 36), ("a".to_owned(), 65)]);
    let mut hasty = Follower::new(Duration::ZERO);
    hasty.listed(&[leased("a", 1)], false, 0);
    hasty.keys.down();
    hasty.keys.up(at(1));
    hasty.changed_at(&[delete("a")], 1);
    assert_eq!(hasty.log(), "+a -a");
    // A short grace is no reason to trust sooner.
    let mut short = Follower::new(Duration::from_secs(2));
    short.listed(&[leased("a", 1)], false, 0);
    short.keys.down();
    short.keys.up(at(1));
    short.changed_at(&[delete("a")], 30);
    assert_eq!(short.held(), [("a".to_owned(), 32)]);
}

#[test]
fn nothing_expires_while_the_store_is_away() {
    let mut follower = Follower::with(&["a", "b"]);
    follower.listed(&[], true, 0);
    let changes = follower.keys.changes();
    follower.keys.down();
    assert_ne!(follower.keys.changes(), changes, "it is shown otherwise");
    assert_eq!(follower.keys.next_deadline(), None);
    assert_eq!(follower.held(), [("a".to_owned(), NEVER), ("b".to_owned(), NEVER)]);
    follower.expire(1000);
    assert_eq!(follower.log(), "");
    follower.keys.up(at(1000));
    assert_eq!(follower.held(), [("a".to_owned(), 1030), ("b".to_owned(), 1030)]);
    follower.changed_at(&[Change::Put(key("b", 1))], 1001);
    follower.expire(1029);
    assert_eq!(follower.log(), "");
    follower.expire(1030);
    assert_eq!(follower.log(), "-a");
}

#[test]
fn of_the_crowd_one_missing_key_stands_for_all() {
    let mut follower = Follower::with(&["/b/1", "/b/2", "/b/3", "/a", "/b0", "/c"]);
    follower.listed(&[], true, 0);
    let missing = |crowd| follower.keys.missing(crowd).iter().map(|k| k.to_string()).collect();
    let missing: [Vec<String>; 2] = ["/b/", "/x/"].map(missing);
    assert_eq!(missing[0], ["/a", "/b/1", "/b0", "/c"]);
    assert_eq!(missing[1].len(), 6);
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
    assert_eq!(follower.keys.missing("/crowd/").len(), 250);
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
    /// It goes away, and comes back after a while.
    Away(u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8_u8).prop_map(Step::Put),
        2 => (0..8_u8).prop_map(Step::Delete),
        1 => any::<bool>().prop_map(|gap| Step::List { gap }),
        2 => prop::collection::vec((0..8_u8, any::<bool>()), 0..6).prop_map(Step::Unseen),
        1 => Just(Step::Wiped),
        1 => (0..60_u64).prop_map(Step::Away),
        3 => (0..40_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// The view never has less than the store, never keeps longer than the grace what it lacks
    /// unless the store is away, believes what it is told in quiet times, and in the end is the store.
    /// Even keys hang on leases.
    #[test]
    fn the_view_follows_the_store(steps in prop::collection::vec(step(), 1..60)) {
        let mut follower = Follower::new(GRACE);
        let mut store: BTreeMap<String, KeyValue> = BTreeMap::new();
        // When the store was first seen to lack a key that the view has.
        let mut lacking: BTreeMap<String, u64> = BTreeMap::new();
        let (mut now, mut revision, mut settled) = (0, 1, 0);
        let key = |name: &str, revision| match name.as_bytes().last() {
            Some(last) if last % 2 == 0 => leased(name, revision),
            _ => key(name, revision),
        };
        follower.listed(&[], false, 0);
        for step in steps {
            revision += 1;
            let mut list = None;
            match step {
                Step::Put(number) => {
                    let new = key(&format!("k{number}"), revision);
                    store.insert(new.key.clone(), new.clone());
                    follower.changed_at(&[Change::Put(new)], now);
                }
                Step::Delete(number) => {
                    let name = format!("k{number}");
                    if store.remove(&name).is_some() {
                        follower.changed_at(&[delete(&name)], now);
                        let doubted = number % 2 == 0 && now < settled;
                        prop_assert_eq!(follower.view.contains_key(&name), doubted, "{}", name);
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
                Step::Away(seconds) => {
                    follower.keys.down();
                    let before = follower.view.len();
                    now += seconds;
                    follower.expire(now);
                    prop_assert_eq!(follower.view.len(), before);
                    follower.keys.up(at(now));
                    lacking.values_mut().for_each(|since| *since = now);
                    settled = now + 30;
                }
                Step::Pass(seconds) => now += seconds,
            }
            if let Some(gap) = list {
                let keys: Vec<KeyValue> = store.values().cloned().collect();
                let lacks = |name: &String| !store.contains_key(name) && !lacking.contains_key(name);
                if (gap || keys.is_empty()) && follower.view.keys().any(lacks) {
                    settled = now + 30;
                }
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
            let missing = follower.keys.missing("/crowd/");
            let missing: Vec<&str> = missing.iter().map(|key| &**key).collect();
            prop_assert_eq!(missing, lacking.keys().collect::<Vec<_>>());
            prop_assert_eq!(follower.keys.len(), follower.view.len());
        }
        follower.expire(now + 30);
        prop_assert!(!follower.keys.holds());
        prop_assert!(follower.view.keys().eq(store.keys()));
    }
}
