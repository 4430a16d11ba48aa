use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A store with transactions, as far as addresses need one.
#[derive(Clone, Debug, Default)]
struct Store {
    revision: i64,
    keys: BTreeMap<String, (Vec<u8>, i64)>,
}

impl Store {
    fn put(&mut self, key: &str, value: &str) {
        self.revision += 1;
        self.keys.insert(key.to_owned(), (value.as_bytes().to_vec(), self.revision));
    }

    fn delete(&mut self, key: &str) {
        self.revision += 1;
        self.keys.remove(key);
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(|(value, _)| std::str::from_utf8(value).unwrap())
    }

    /// Whether the transaction happened.
    fn transact(&mut self, step: &Step) -> bool {
        let holds = |condition: &Condition| match condition {
            Condition::Absent(key) => !self.keys.contains_key(key),
            Condition::Unchanged { key, modified } => {
                self.keys.get(key).is_some_and(|(_, at)| at == modified)
            }
            Condition::Equals { key, value } => {
                self.keys.get(key).is_some_and(|(now, _)| now == value)
            }
            Condition::OnLease { .. } => panic!("addresses hang on no lease"),
        };
        if !step.when.iter().all(holds) {
            return false;
        }
        self.revision += 1;
        let mut touched = BTreeSet::new();
        for operation in &step.then {
            let key = match operation {
                Operation::Put { key, value, .. } => {
                    self.keys.insert(key.clone(), (value.clone(), self.revision));
                    key
                }
                Operation::Delete(key) => {
                    self.keys.remove(key);
                    key
                }
            };
            assert!(touched.insert(key.clone()), "etcd refuses {key} twice: {step:?}");
        }
        true
    }

    /// What the layout reads; a service's value is what it asks for.
    fn view(&self) -> Addresses {
        let mut view = Addresses::default();
        for (key, (value, modified)) in &self.keys {
            let (kind, name) = key.strip_prefix("/lb/").unwrap().split_once('/').unwrap();
            let text = std::str::from_utf8(value).unwrap();
            match kind {
                "services" => {
                    let asks = match text {
                        "auto" => Asks::Any,
                        "auto4" => Asks::V4,
                        "auto6" => Asks::V6,
                        "both" => Asks::Both,
                        "broken" => Asks::Unknown,
                        address => {
                            view.named.extend(address.parse::<IpAddr>());
                            Asks::Nothing
                        }
                    };
                    view.services.insert(name.into(), Asking { asks, modified: *modified });
                }
                "vips" => {
                    view.vips.insert(name.parse().unwrap(), text.into());
                }
                _ => {
                    let read: Allocation = serde_json::from_slice(value).unwrap();
                    let has = Allocation { modified: *modified, ..read };
                    view.allocations.insert(name.into(), has);
                }
            }
        }
        view
    }

    /// Everything the hosts would do, until none has anything left to do.
    fn settle(&mut self, pools: &mut [Pool], now: Instant) -> Vec<Rejection> {
        for _ in 0..20 {
            let view = self.view();
            let plans: Vec<Plan> =
                pools.iter_mut().map(|pool| pool.plan(&view, &BTreeSet::new(), now)).collect();
            if plans.iter().all(|plan| plan.steps.is_empty()) {
                return plans.into_iter().next().unwrap().rejections;
            }
            let steps = plans.iter().flat_map(|plan| &plan.steps);
            let happened = steps.map(|step| self.transact(step)).filter(|happened| *happened);
            assert!(happened.count() > 0, "nobody gets anywhere: {plans:?}");
        }
        panic!("the hosts don't come to an end: {self:?}");
    }

    fn allocated(&self, service: &str) -> Option<Allocation> {
        let text = self.text(&format!("/lb/allocations/{service}"))?;
        Some(serde_json::from_str(text).unwrap())
    }

    /// Every address has one service, which knows of it.
    fn check(&self) {
        let view = self.view();
        for (service, has) in &view.allocations {
            for address in [has.v4.map(IpAddr::V4), has.v6.map(IpAddr::V6)].into_iter().flatten() {
                assert_eq!(view.vips.get(&address), Some(service), "{self:?}");
            }
        }
        let count = view.allocations.values();
        let count: usize =
            count.map(|has| usize::from(has.v4.is_some()) + usize::from(has.v6.is_some())).sum();
        assert_eq!(count, view.vips.len(), "{self:?}");
    }
}

fn pool(ranges: &[&str]) -> Pool {
    let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
    let claims = Claims {
        ranges: Some(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]),
        host_addresses: vec!["10.0.0.1".parse().unwrap()],
        strict: true,
        exec: false,
    };
    Pool::new("/lb/".to_owned(), &ranges, Duration::ZERO, claims)
}

fn now() -> Instant {
    Instant::now()
}

#[test]
fn every_service_that_asks_gets_an_address_of_its_own() {
    let mut store = Store::default();
    let mut pools = [pool(&["10.96.0.0/24", "fd00::/64"]), pool(&["10.96.0.0/24", "fd00::/64"])];
    for number in 0..100 {
        store.put(&format!("/lb/services/s{number}"), "auto");
    }
    store.put("/lb/services/a/b", "both");
    store.put("/lb/services/six", "auto6");
    assert_eq!(store.settle(&mut pools, now()), []);
    store.check();
    let view = store.view();
    assert_eq!(view.vips.len(), 103);
    let inside = |address: &IpAddr| {
        ["10.96.0.0/24", "fd00::/64"].iter().any(|r| r.parse::<IpNet>().unwrap().contains(address))
    };
    assert!(view.vips.keys().all(inside));
    let both = store.allocated("a/b").unwrap();
    assert!(both.v4.is_some() && both.v6.is_some());
    let six = store.allocated("six").unwrap();
    assert!(six.v4.is_none() && six.v6.is_some());
    let text = store.text("/lb/allocations/six").unwrap();
    assert_eq!(text, format!("{{\"v4\":null,\"v6\":\"{}\"}}", six.v6.unwrap()));
}

#[test]
fn hosts_that_look_at_the_same_moment_want_the_same() {
    let mut store = Store::default();
    store.put("/lb/services/web", "auto");
    let view = store.view();
    let [one, two] = [(); 2].map(|()| pool(&["10.96.0.0/12"]).plan(&view, &BTreeSet::new(), now()));
    assert_eq!(one, two);
    assert_eq!(one.steps.len(), 1);
    assert!(store.transact(&one.steps[0]));
    assert!(!store.transact(&two.steps[0]), "one of the two is late");
    store.check();
}

#[test]
fn an_address_is_kept_until_the_service_is_deleted_or_stops_asking() {
    let mut store = Store::default();
    let mut pools = [pool(&["10.96.0.0/24", "fd00::/64"])];
    store.put("/lb/services/web", "auto");
    store.settle(&mut pools, now());
    let first = store.allocated("web").unwrap().v4.unwrap();
    // Changes, values that can't be read, another agent, another pool: all the same.
    for value in ["broken", "auto", "auto4"] {
        store.put("/lb/services/web", value);
        store.settle(&mut [pool(&["fd00::/64", "10.97.0.0/24"])], now());
        assert_eq!(store.allocated("web").unwrap().v4, Some(first), "{value}");
    }
    store.put("/lb/services/web", "both");
    store.settle(&mut pools, now());
    let both = store.allocated("web").unwrap();
    assert!(both.v4 == Some(first) && both.v6.is_some());
    store.put("/lb/services/web", "auto6");
    store.settle(&mut pools, now());
    assert_eq!(store.allocated("web").unwrap().v6, both.v6);
    assert_eq!(store.view().vips.len(), 1);
    store.put("/lb/services/web", "10.96.0.7");
    store.settle(&mut pools, now());
    assert_eq!((store.allocated("web"), store.view().vips.len()), (None, 0));
    store.put("/lb/services/web", "auto");
    store.settle(&mut pools, now());
    store.delete("/lb/services/web");
    store.settle(&mut pools, now());
    assert_eq!(store.keys, BTreeMap::new());
}

#[test]
fn what_a_service_may_not_have_is_not_chosen() {
    let mut store = Store::default();
    // The host's own address, and one that a service names itself.
    let mut pools = [pool(&["10.0.0.0/30"])];
    store.put("/lb/services/named", "10.0.0.2");
    for service in ["a", "b"] {
        store.put(&format!("/lb/services/{service}"), "auto");
    }
    assert_eq!(store.settle(&mut pools, now()), []);
    let has: Vec<String> = store.view().vips.keys().map(ToString::to_string).collect();
    assert_eq!(has, ["10.0.0.0", "10.0.0.3"]);
}

#[test]
fn who_gets_nothing_is_told_why() {
    for (ranges, asks, part) in [
        (
            ["10.96.0.0/32"].as_slice(),
            "auto",
            "all IPv4 addresses of `vip_pool` (10.96.0.0/32) are",
        ),
        (&["10.96.0.0/32"], "auto6", "`vip_pool` has no IPv6 range; add one"),
        (&[], "auto", "this agent has no `vip_pool`; add one, or name"),
    ] {
        let mut store = Store::default();
        store.put("/lb/services/a", "auto");
        store.put("/lb/services/b", asks);
        store.put("/lb/services/c", asks);
        let rejections = store.settle(&mut [pool(ranges)], now());
        let last = rejections.last().unwrap();
        assert!(last.reason.contains(part), "{}", last.reason);
        assert_eq!(last.service.as_deref(), Some("c"));
        assert_eq!(last.origin, "/lb/services/c (revision 3)");
        store.check();
    }
    // One family can't be had: the other is.
    let mut store = Store::default();
    store.put("/lb/services/a", "both");
    let rejections = store.settle(&mut [pool(&["10.96.0.0/24"])], now());
    assert_eq!(rejections.len(), 1);
    assert!(store.allocated("a").unwrap().v4.is_some());
}

#[test]
fn a_freed_address_rests_while_there_are_others() {
    let mut store = Store::default();
    let mut pools = [pool(&["10.96.0.0/31"])];
    let begin = now();
    store.put("/lb/services/a", "auto");
    store.settle(&mut pools, begin);
    let first = store.allocated("a").unwrap().v4;
    store.delete("/lb/services/a");
    store.settle(&mut pools, begin);
    store.put("/lb/services/a", "auto");
    store.settle(&mut pools, begin);
    let second = store.allocated("a").unwrap().v4;
    assert_ne!(first, second, "the other one was free");
    store.put("/lb/services/b", "auto");
    assert_eq!(store.settle(&mut pools, begin), [], "there is no other");
    assert_eq!(store.allocated("b").unwrap().v4, first);
    store.delete("/lb/services/a");
    store.delete("/lb/services/b");
    store.settle(&mut pools, begin);
    store.put("/lb/services/a", "auto");
    store.settle(&mut pools, begin + REST);
    assert_eq!(store.allocated("a").unwrap().v4, first, "after a while it is as any other");
}

#[test]
fn a_service_that_returns_soon_has_its_address_still() {
    let mut store = Store::default();
    let mut pools = [Pool { grace: Duration::from_secs(30), ..pool(&["10.96.0.0/24"]) }];
    let begin = now();
    let at = |second| begin + Duration::from_secs(second);
    store.put("/lb/services/web", "auto");
    store.settle(&mut pools, begin);
    let first = store.allocated("web");
    store.delete("/lb/services/web");
    let plan = pools[0].plan(&store.view(), &BTreeSet::new(), begin);
    assert_eq!((plan.steps.len(), plan.again), (0, Some(at(30))));
    store.settle(&mut pools, at(29));
    assert_eq!(store.allocated("web"), first);
    store.put("/lb/services/web", "auto");
    store.settle(&mut pools, at(40));
    store.delete("/lb/services/web");
    store.settle(&mut pools, at(50));
    assert_eq!(store.allocated("web"), first, "counted from the second time");
    store.settle(&mut pools, at(80));
    assert_eq!(store.keys, BTreeMap::new());
}

#[test]
fn while_keys_are_missing_nothing_is_given_back_and_what_was_had_is_written_again() {
    let mut store = Store::default();
    let mut pools = [pool(&["10.96.0.0/24"])];
    for service in ["gone", "kept", "other"] {
        store.put(&format!("/lb/services/{service}"), "auto");
    }
    store.settle(&mut pools, now());
    let kept = store.allocated("kept").unwrap().v4;
    store.delete("/lb/services/gone");
    store.put("/lb/services/other", "10.97.0.1");
    let view = store.view();
    // The store was wiped and has the services again, but none of what hosts wrote.
    let missing: BTreeSet<Arc<str>> = store
        .keys
        .keys()
        .filter(|key| !key.starts_with("/lb/services/"))
        .map(|key| key.as_str().into())
        .collect();
    let mut wiped = store.clone();
    wiped.keys.retain(|key, _| !missing.contains(key.as_str()));
    let plan = pools[0].plan(&view, &missing, now());
    let planned: Vec<_> = plan.steps.iter().map(|step| &*step.service).collect();
    // `other` asks for nothing any more: its address waits for better times.
    assert!(plan.steps.iter().all(|step| step.gives.is_empty()), "{plan:?}");
    assert!(planned.contains(&"kept") && !planned.contains(&"gone"), "{planned:?}");
    for step in &plan.steps {
        assert!(wiped.transact(step), "{step:?}");
    }
    assert_eq!(wiped.allocated("kept").unwrap().v4, kept);
    wiped.settle(&mut pools, now());
    wiped.check();
    // A service whose own key is missing does not ask.
    let missing = BTreeSet::from(["/lb/services/kept".into()]);
    assert_eq!(pools[0].plan(&view, &missing, now()).steps, []);
}

#[test]
fn what_people_wrote_by_hand_is_put_right() {
    let mut store = Store::default();
    let mut pools = [pool(&["10.96.0.0/24"])];
    // Reserved by hand.
    store.put("/lb/vips/10.96.0.77", "web");
    store.put("/lb/services/web", "auto");
    assert_eq!(store.settle(&mut pools, now()), []);
    assert_eq!(store.allocated("web").unwrap().v4, Some(Ipv4Addr::new(10, 96, 0, 77)));
    // Its owner lost the other half.
    store.delete("/lb/vips/10.96.0.77");
    store.settle(&mut pools, now());
    store.check();
    // Two that believe to have the same.
    store.put("/lb/services/dns", "auto");
    store.put("/lb/allocations/dns", r#"{"v4":"10.96.0.77"}"#);
    store.settle(&mut pools, now());
    store.check();
    assert_eq!(store.allocated("web").unwrap().v4, Some(Ipv4Addr::new(10, 96, 0, 77)));
    // Reserved for nobody that exists: left alone.
    store.put("/lb/vips/10.96.0.78", "later");
    store.settle(&mut pools, now());
    assert_eq!(store.text("/lb/vips/10.96.0.78"), Some("later"));
}

proptest! {
    /// Whatever is asked for, changed and deleted, with two hosts at work: addresses are never
    /// shared, and whoever asks has one as long as there are any.
    #[test]
    fn addresses_are_never_shared(
        steps in prop::collection::vec((0..8_u8, 0..7_u8), 1..40),
        size in 29..32_u8,
    ) {
        let mut store = Store::default();
        let range = format!("10.96.0.0/{size}");
        let mut pools = [pool(&[&range, "fd00::/126"]), pool(&[&range, "fd00::/126"])];
        for (service, ask) in steps {
            let key = format!("/lb/services/s{service}");
            match ["auto", "auto4", "auto6", "both", "broken", "10.96.0.1", ""][usize::from(ask)] {
                "" => store.delete(&key),
                ask => store.put(&key, ask),
            }
            let rejections = store.settle(&mut pools, now());
            store.check();
            let view = store.view();
            let v4 = view.vips.keys().filter(|address| address.is_ipv4()).count();
            let named = usize::from(view.named.iter().any(|named| {
                range.parse::<IpNet>().unwrap().contains(named) && !view.vips.contains_key(named)
            }));
            let full = v4 + named == 1 << (32 - size) || view.vips.len() - v4 == 4;
            prop_assert!(rejections.is_empty() || full, "{:?} {:?}", rejections, store);
        }
    }
}
