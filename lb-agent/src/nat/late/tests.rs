use super::*;
use crate::claims::Claims;
use crate::nat::Family;
use crate::source::spec;

fn contents(services: &str) -> Contents {
    let claims = Claims { ranges: None, host_addresses: Vec::new(), strict: false, exec: false };
    let read = spec::translate("x", &format!("services: [{services}]"), &claims, true).unwrap();
    assert!(read.rejections.is_empty(), "{:?}", read.rejections);
    let mut contents = Contents::new(Family::V4);
    contents.update(&read.snapshot.services);
    contents
}

/// What is in a table that held `before`, once only `now` was heard of.
fn brought(before: &str, now: &str) -> HashMap<Key, Value> {
    let mut held: HashMap<Key, Value> = contents(before).all().into_iter().collect();
    let now = contents(now);
    let mut change = now.difference(&held);
    keep(&mut change, &now, &held);
    for (key, value) in change.removed {
        assert_eq!(held.remove(&key), Some(value));
    }
    for (key, value) in change.added {
        assert_eq!(held.insert(key, value), None);
    }
    held
}

fn service(name: &str, number: u8, more: &str) -> String {
    format!("{{name: {name}, expose: true, frontends: ['10.96.0.{number}:80'], {more}}}")
}

#[test]
fn what_was_heard_of_is_as_it_should_be_and_the_rest_stays() {
    let other = service("other", 2, "affinity: {}, backends: ['10.1.0.9:80']");
    let states = [
        "backends: ['10.1.0.1:80', '10.1.0.2:80']",
        "backends: ['10.1.0.3:80']",
        "backends: []",
        "no_backend: unreachable, backends: []",
        "affinity: {}, backends: ['10.1.0.1:80', '10.1.0.2:80', '10.1.0.3:80']",
        "affinity: {}, backends: ['10.1.0.2:80']",
        "affinity: {timeout: 5s}, backends: ['10.1.0.4:80']",
    ];
    // Of these it can't be told whose they are; what leads to them is gone.
    let shared = [Set::Targets, Set::Hairpin, Set::Stays, Set::Members];
    for before in states {
        for now in states {
            let (before, now) = (service("web", 1, before), service("web", 1, now));
            let both = |web: &str| format!("{web}, {other}");
            let expected: HashMap<_, _> = contents(&both(&now)).all().into_iter().collect();
            let sticky = [&before, &now].iter().all(|service| service.contains("affinity"));
            let brought = brought(&both(&before), &now);
            for (key, value) in &expected {
                assert_eq!(brought.get(key), Some(value), "{before} -> {now}: {key:?}");
            }
            for key in brought.keys().filter(|key| !expected.contains_key(key)) {
                let may_stay = if sticky { &shared[..2] } else { &shared };
                assert!(may_stay.contains(&key.set), "{before} -> {now}: {key:?} stays");
            }
        }
        let held: HashMap<Key, Value> =
            contents(&service("web", 1, before)).all().into_iter().collect();
        assert_eq!(brought(&service("web", 1, before), ""), held);
    }
}
