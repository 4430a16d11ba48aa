//! Few services that are large, and many that are small.

use super::*;

/// A slice of a service with endpoints 10.x.y.z from `first` on.
fn part(number: u32, first: u32, count: u32) -> Value {
    let addresses = (first..first + count).map(|at| {
        let [_, b, c, d] = at.to_be_bytes();
        format!("10.{b}.{c}.{d}")
    });
    let endpoints = addresses.collect::<Vec<_>>().join(" ");
    slice("a", &format!("a-{number:03}"), &endpoints)
}

#[test]
fn a_service_with_a_thousand_ports() {
    let mut lab = Lab::new();
    let name = |number: u32| format!("p{number}");
    let ports: Vec<_> =
        (1..=1000).map(|number| json!({ "name": name(number), "port": number })).collect();
    let mut endpoints = slice("a", "a-1", "10.0.0.1 10.0.0.2");
    let own = (1..=1000).map(|number| json!({ "name": name(number), "port": 10_000 + number }));
    endpoints["ports"] = own.collect();
    lab.put(&endpoints).put(&service("a", json!({ "ports": ports })));
    let before = lab.cluster.snapshot().unwrap();
    assert_eq!(before.services.len(), 1000);
    let expected = "ns/a:p777 10.96.0.1:777/tcp: 10.0.0.1:10777 10.0.0.2:10777";
    assert!(found(&before).contains(&expected.to_owned()));
    // One port's change leaves the others alone.
    endpoints["ports"][776]["port"] = json!(20_777);
    lab.put(&endpoints);
    let after = lab.cluster.snapshot().unwrap();
    let mut same = after
        .services
        .iter()
        .filter(|(name, service)| Arc::ptr_eq(service, &before.services[*name]));
    assert_eq!(same.by_ref().count(), 999);
    lab.delete(&service("a", json!({})));
    assert_eq!(lab.found(), [""; 0]);
    assert_eq!(lab.rejections(), [""; 0]);
}

#[test]
fn a_service_with_five_thousand_endpoints() {
    let mut lab = Lab::new();
    lab.put(&service("a", json!({})));
    let parts: Vec<_> = (0..50).map(|number| part(number, 100 * number + 1, 100)).collect();
    for (at, part) in parts.iter().enumerate().rev() {
        lab.put(part);
        let now = lab.cluster.snapshot().unwrap();
        let backends: usize = now.services.values().map(|service| service.backends.len()).sum();
        assert_eq!(backends, 100 * (50 - at));
    }
    // An endpoint moves to another slice: it is in both, then in the new one only.
    lab.put(&part(50, 100, 1));
    assert!(!lab.changed());
    lab.put(&part(0, 1, 99));
    assert!(!lab.changed());
    lab.delete(&part(50, 0, 0));
    let service = &lab.cluster.snapshot().unwrap().services[&"ns/a".parse().unwrap()];
    assert_eq!(service.backends.len(), 4999);
    assert!(!service.backends.contains_key(&"10.0.0.100:8080".parse().unwrap()));
}

#[test]
fn a_change_among_many_services_copies_no_map() {
    let mut lab = Lab::new();
    for number in 0..2000_u32 {
        let [_, _, c, d] = number.to_be_bytes();
        let address = format!("10.96.{c}.{d}");
        let name = format!("s{number}");
        lab.put(&service(&name, json!({ "clusterIP": address, "clusterIPs": [address] })));
        lab.put(&slice(&name, &name, "10.0.0.1"));
    }
    // Whoever serves has the last one until it has the next. A name is kept where the map is, so its
    // place tells whether the map is another.
    let place = |snapshot: &Snapshot| std::ptr::from_ref(snapshot.services.keys().next().unwrap());
    let mut given = lab.cluster.snapshot().unwrap();
    let mut places = Vec::new();
    for number in 1000..1010 {
        let name = format!("s{number}");
        lab.put(&slice(&name, &name, "10.0.0.1 10.0.0.2"));
        given = lab.cluster.snapshot().unwrap();
        places.push(place(&given));
    }
    assert_eq!(given.services.len(), 2000);
    assert!(places.iter().zip(&places[2..]).all(|(before, now)| before == now), "{places:?}");
}
