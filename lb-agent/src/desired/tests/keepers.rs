//! Backends that one source names and another keeps.

use super::*;
use crate::model::{AdminState, Pool, PoolRef};

/// A service with backends of its own and references `source pool [port]`.
fn with_pools(own: &[&str], references: &[&str]) -> Arc<Service> {
    let reference = |text: &&str| {
        let mut words = text.split(' ');
        let mut word = || words.next();
        PoolRef {
            source: word().unwrap().into(),
            pool: word().unwrap().into(),
            port: word().map(|port| port.parse().unwrap()),
        }
    };
    let mut service = Service::clone(&service(&["10.96.0.1:80"], own));
    service.backends_from = references.iter().map(reference).collect();
    Arc::new(service)
}

fn pools(pools: &[(&str, &[&str])]) -> Snapshot {
    let drained = Backend { state: AdminState::Drain, ..Backend::default() };
    let pool = |(name, backends): &(&str, &[&str])| {
        let backends = backends.iter().map(|b| (b.parse().unwrap(), drained.clone())).collect();
        ((*name).into(), Arc::new(Pool { backends }))
    };
    Snapshot { pools: pools.iter().map(pool).collect(), ..Snapshot::default() }
}

/// The backends of `web`, its own marked.
fn backends(desired: &Desired) -> Vec<String> {
    let entry = &desired.services[&"web".parse().unwrap()];
    let text = |(address, backend): (&SocketAddr, &Backend)| match backend.state {
        AdminState::Ready => format!("own {address}"),
        _ => address.to_string(),
    };
    entry.service.backends.iter().map(text).collect()
}

#[test]
fn backends_come_from_other_sources() {
    let a: (&str, &[&str]) = ("a", &["10.0.0.1:80", "10.0.0.2:80"]);
    let b: (&str, &[&str]) = ("b", &["10.0.0.2:80", "10.0.0.3:0", "[fd00::1]:0"]);
    let keeper = Some(pools(&[a, b]));
    for (own, references, found, complaint) in [
        (&["10.0.0.1:80"][..], &["s1 a"][..], "own 10.0.0.1:80, 10.0.0.2:80", ""),
        (&[], &["s1 a", "s1 b 90"], "10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:90, [fd00::1]:90", ""),
        (
            &[],
            &["s1 b"],
            "10.0.0.2:80",
            "backend 10.0.0.3 of `b` (s1) comes without a port; say `port` where service `web` \
             refers to it; backend fd00::1 of `b` (s1) comes without a port; say `port` where \
             service `web` refers to it",
        ),
        (
            &["10.0.0.9:80"],
            &["s1 c", "s1 a"],
            "10.0.0.1:80, 10.0.0.2:80, own 10.0.0.9:80",
            "s1, where service `web` takes backends from, knows no service `c` yet: no backend \
             until it appears",
        ),
        (
            &["10.0.0.9:80"],
            &["s2 a"],
            "own 10.0.0.9:80",
            "service `web` takes backends from `s2`, which is no source of this agent and knows no \
             service `a`; name one of s0, s1",
        ),
    ] {
        let web = snapshot(&[("web", with_pools(own, references))]);
        let desired = merge_all(&[Some(web), keeper.clone()]);
        assert_eq!(backends(&desired).join(", "), found, "{own:?} {references:?}");
        let complaints: Vec<_> = reasons(&desired).into_iter().map(|(_, reason)| reason).collect();
        assert_eq!(complaints.join("; "), complaint, "{own:?} {references:?}");
        assert!(desired.rejections.iter().all(|r| r.origin == "s0"));
        assert!(desired.waiting.is_empty());
    }
}

#[test]
fn a_service_waits_for_the_source_that_keeps_its_backends() {
    let web = snapshot(&[("web", with_pools(&["10.0.0.9:80"], &["s1 a"]))]);
    let other = snapshot(&[("other", service(&["10.96.0.1:80"], &[]))]);
    let mut merger = Merger::default();
    let mut said = inputs(&[Some(web), None, Some(other)]);
    let waiting = merger.merge(said.clone()).clone();
    assert_eq!(waiting.services, BTreeMap::new(), "its frontend is nobody else's meanwhile");
    let late = rejection(
        &"s0".into(),
        &"web".parse().unwrap(),
        "service `web` takes backends from `a` of s1, which has not delivered yet: until it has, \
         the kernel keeps what it has of the service"
            .to_owned(),
    );
    assert_eq!(waiting.waiting, [("web".parse().unwrap(), late)].into());
    assert!(!waiting.complete);

    // From the cache: what is there serves, what is missing there may be late.
    said[1].snapshot = Some(Arc::new(pools(&[("b", &["10.0.0.1:80"])])));
    assert_eq!(merger.merge(said.clone()).waiting, waiting.waiting);
    said[1].snapshot = Some(Arc::new(pools(&[("a", &["10.0.0.1:80"])])));
    let cached = merger.merge(said.clone());
    assert_eq!(backends(cached), ["10.0.0.1:80", "own 10.0.0.9:80"]);
    assert!(cached.waiting.is_empty() && !cached.complete);

    // Delivered: what is missing is missing.
    said[1] = Input { snapshot: Some(Arc::default()), synced: true, ..said[1].clone() };
    let delivered = merger.merge(said);
    assert_eq!(backends(delivered), ["own 10.0.0.9:80"]);
    assert!(delivered.waiting.is_empty() && delivered.complete);
}

#[test]
fn a_changed_pool_reaches_the_services_that_refer_to_it_and_no_other() {
    let other = Arc::clone(&service(&["10.96.0.2:80"], &["10.0.0.8:80"]));
    let web = snapshot(&[("web", with_pools(&[], &["s1 a"])), ("other", other)]);
    let mut merger = Merger::default();
    let mut said = inputs(&[Some(web), Some(pools(&[("a", &["10.0.0.1:80"]), ("b", &[])]))]);
    let first = merger.merge(said.clone()).clone();
    said[1].snapshot = Some(Arc::new(pools(&[("a", &["10.0.0.2:80"]), ("b", &[])])));
    let second = merger.merge(said.clone()).clone();
    assert_eq!(backends(&second), ["10.0.0.2:80"]);
    let same = |name: &str| {
        let name = name.parse().unwrap();
        Arc::ptr_eq(&first.services[&name].service, &second.services[&name].service)
    };
    assert!(same("other") && !same("web"));

    // Put again as it was.
    said[1].snapshot = Some(Arc::new(pools(&[("a", &["10.0.0.2:80"]), ("b", &[])])));
    let again = &merger.merge(said).services;
    let web = "web".parse().unwrap();
    assert!(Arc::ptr_eq(&again[&web].service, &second.services[&web].service));
}
