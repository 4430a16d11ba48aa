//! What is shown of stores: leases, and removals that are held back.

use crate::fixture::Agent;
use lb_agent::model::Lease;
use lb_agent::status::Held;
use std::time::{Duration, SystemTime};

#[test]
fn what_is_left_of_a_lease_and_why_it_is_not_known() {
    let agent = Agent::start();
    agent.change(|_, services| {
        services.remove(0);
        services[0].backends.truncate(1);
        services[0].backends[0].lease = Some(Lease { source: "etcd:registry".into(), id: 7 });
    });
    let why = "lbctl: etcd:registry: no lease times: the agent knows no store of this source\n";
    for arguments in [&["backends", "-o", "wide"] as &[_], &["backends", "web", "-o", "wide"]] {
        let ran = agent.lbctl(arguments);
        assert_eq!((ran.err.as_str(), ran.code), (why, Some(0)));
        assert!(ran.out.lines().next().unwrap().ends_with("   LEASE"), "{}", ran.out);
        assert!(ran.out.ends_with("   ?\n"), "{}", ran.out);
    }
    let ran = agent.lbctl(&["backends", "-o", "json", "--leases"]);
    assert_eq!((ran.err.as_str(), ran.code), (why, Some(0)));
    assert!(!ran.out.contains("lease_left"), "{}", ran.out);
    // Nobody asks unless told to.
    for form in ["json", "table"] {
        assert_eq!(agent.lbctl(&["backends", "-o", form]).err, "");
    }
}

#[test]
fn removals_that_are_held_back() {
    let agent = Agent::start();
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(12 * 3600 + 184);
    let held = |service: &str, id| Held {
        item: format!("/lb/backends/{service}/{id}"),
        until: Some(until + Duration::from_secs(id)),
    };
    agent.change(|status, _| {
        let mut other = status.sources[0].clone();
        other.name = "etcd:b".to_owned();
        other.held = (0..5).map(|id| held("web", id)).collect();
        status.sources[0].held = vec![held("db", 7)];
        status.sources.push(other);
    });
    let section = |arguments: &[&str]| {
        let ran = agent.lbctl(arguments);
        let (_, held) = ran.out.split_once("\nHeld back:\n").unwrap_or_default();
        held.split("\n\n").next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        section(&["status"]),
        "  file:/etc/lb/lb.yaml: 1 removal, until 12:03:11Z: /lb/backends/db/7\n  \
         etcd:b: 5 removals, the first until 12:03:04Z: /lb/backends/web/0, /lb/backends/web/1, \
         /lb/backends/web/2, ..."
    );
    let wide = section(&["status", "-o", "wide"]);
    assert_eq!(wide.lines().count(), 7, "{wide}");
    assert!(
        wide.contains("etcd:b                 /lb/backends/web/4   1970-01-01T12:03:08Z"),
        "{wide}"
    );
    agent.change(|status, _| {
        status.sources.iter_mut().flat_map(|s| &mut s.held).for_each(|held| held.until = None);
    });
    let away = section(&["status"]);
    assert!(away.contains("yaml: 1 removal, while the store is away: /lb/backends/db/7"), "{away}");
}
