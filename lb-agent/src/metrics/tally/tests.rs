use super::{Sums, Tally};
use crate::status::ServiceStatus;
use serde_json::json;

/// A service whose backends have these ids, ports and counts of established and refused.
fn service(name: &str, backends: &[(u32, u16, u64, u64)]) -> ServiceStatus {
    let backend = |&(id, port, established, refused): &(u32, u16, u64, u64)| {
        json!({
            "address": format!("10.0.0.1:{port}"), "id": id, "state": "ready", "weight": 1,
            "since": null, "active": 0, "connects": 0,
            "outcomes": {
                "established": established, "refused": refused, "unanswered": 0, "abandoned": 0,
                "consecutive": 0
            },
        })
    };
    let service = json!({
        "name": name, "id": null, "source": "", "frontends": [], "policy": "random",
        "affinity": null, "no_backend": "refuse",
        "backends": backends.iter().map(backend).collect::<Vec<_>>(),
        "counters": {"connects": 0, "no_backend": 0, "untracked": 0},
    });
    serde_json::from_value(service).unwrap()
}

fn take(tally: &mut Tally, services: &[ServiceStatus]) -> Vec<Option<Sums>> {
    tally.begin();
    let sums = services.iter().map(|service| tally.take(service)).collect();
    tally.end();
    sums
}

#[test]
fn sums_never_shrink() {
    let mut tally = Tally::default();
    for (backends, established, refused, why) in [
        (&[][..], None, 0, "nobody follows a service without backends"),
        (&[(1, 80, 5, 0), (2, 81, 7, 1)], Some(12), 1, "what was there before counts"),
        (&[(1, 80, 5, 0), (2, 81, 7, 1)], Some(12), 1, "what did not change is not counted again"),
        (&[(1, 80, 6, 2), (2, 81, 7, 1)], Some(13), 3, "one grew"),
        (&[(1, 80, 6, 2)], Some(13), 3, "one went"),
        (&[(1, 80, 6, 2), (2, 81, 9, 0)], Some(22), 3, "it came back: its count began at 0"),
        (&[(1, 80, 6, 2), (2, 99, 10, 0)], Some(32), 3, "its id is another's now"),
        (&[(1, 80, 1, 0), (2, 99, 10, 0)], Some(33), 3, "a row was cleared"),
        (&[], Some(33), 3, "all went"),
    ] {
        let sums = take(&mut tally, &[service("a", backends)]);
        let expected = established.map(|established| [established, refused, 0, 0]);
        assert_eq!(sums, [expected], "{why}");
    }
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut tally = Tally::default();
    let services = [service("a", &[(1, 80, 5, 0)]), service("b", &[(2, 80, 3, 0)])];
    assert_eq!(take(&mut tally, &services), [Some([5, 0, 0, 0]), Some([3, 0, 0, 0])]);
    assert_eq!(take(&mut tally, &services[..1]), [Some([5, 0, 0, 0])]);
    assert_eq!((tally.services.len(), tally.rows.len()), (1, 1));
    assert_eq!(take(&mut tally, &services), [Some([5, 0, 0, 0]), Some([3, 0, 0, 0])]);
}
