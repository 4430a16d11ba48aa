//! Objects that no server should send: each costs itself only.

use super::*;

#[test]
fn an_object_that_is_none_stops_nothing() {
    let api = small();
    let scene = Scene::of(&api);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    api.put_service("bad", json!({"clusterIP": "10.96.0.66", "ports": "none"}));
    put_slice(&api, "web", &["10.1.0.2"]);
    put_service(&api, "good", "10.96.0.67");
    put_slice(&api, "good", &["10.1.0.3"]);
    scene.expect(&["default/good:http 10.1.0.3:8080", "default/web:http 10.1.0.2:8080"]);
    let told = |parts: &[&str]| {
        let state = scene.state();
        let origins: Vec<_> = state.rejections.iter().map(|r| r.origin.as_str()).collect();
        origins == parts && state.rejections.iter().all(|r| r.reason.contains("is none"))
    };
    eventually("it to be named", PATIENCE, || told(&["Service default/bad"]));
    let refused = scene.state().refused;
    assert_eq!(refused, 1);
    let bad = |number: u32| {
        let kept = scene.state().rejections;
        let spec =
            json!({"clusterIP": "10.96.0.66", "ports": "none", "healthCheckNodePort": number});
        api.put_service("bad", spec);
        eventually("it to be counted", PATIENCE, || {
            scene.state().refused == refused + u64::from(number)
        });
        assert!(Arc::ptr_eq(&kept, &scene.state().rejections), "it is not told anew");
    };
    bad(1);
    bad(2);

    // One that was good is out while it is none, and in again once it is corrected.
    api.put_service("good", json!({"clusterIP": "10.96.0.67", "ports": "none"}));
    scene.expect(&["default/web:http 10.1.0.2:8080"]);
    eventually("both to be named", PATIENCE, || {
        told(&["Service default/bad", "Service default/good"])
    });
    put_service(&api, "good", "10.96.0.67");
    scene.expect(&["default/good:http 10.1.0.3:8080", "default/web:http 10.1.0.2:8080"]);
    // A slice, too, and it is deleted in that state.
    let mut slice = api.get("endpointslices", "default", "good-1").unwrap();
    slice["endpoints"] = json!("none");
    api.put(slice);
    scene.expect(&["default/web:http 10.1.0.2:8080"]);
    eventually("the slice to be named", PATIENCE, || {
        told(&["EndpointSlice default/good-1", "Service default/bad"])
    });
    api.delete("endpointslices", "default", "good-1");
    api.delete("services", "default", "bad");
    eventually("nothing to be told any more", PATIENCE, || told(&[]));
    assert_eq!(scene.state().refused, 5);
    // All of that was heard in the watches.
    for resource in ["/services?", "/endpointslices?"] {
        assert_eq!(asked(&api, &["sendInitialEvents=true", resource]), 1);
        assert_eq!(asked(&api, &["limit=", resource]), 0);
    }
}

/// In a list, by either way; and what a server that is away comes back with.
#[test]
fn an_object_that_is_none_costs_no_list() {
    for streaming in [true, false] {
        let mut api = small();
        if !streaming {
            api.forbid_streaming_lists();
        }
        api.put_service("bad", json!({"clusterIP": "10.96.0.66", "ports": 7}));
        let scene = Scene::of(&api);
        scene.expect(&["default/web:http 10.1.0.1:8080"]);
        let told = || {
            let state = scene.state();
            state.rejections.iter().map(|r| r.origin.clone()).collect::<Vec<_>>()
        };
        eventually("it to be named", PATIENCE, || told() == ["Service default/bad"]);
        api.stop();
        api.delete("services", "default", "bad");
        api.resume();
        eventually("its deletion to be heard", PATIENCE, || told().is_empty());
        assert_eq!(scene.state().refused, 1, "streaming: {streaming}");
    }
}

/// Each costs itself only, and is named with its field and what to do.
#[test]
fn items_that_no_server_should_send_are_named() {
    let api = small();
    let scene = Scene::of(&api);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    let service = |name: &str, last: u8, more: serde_json::Value| {
        let mut spec = json!({"clusterIP": format!("10.96.1.{last}"),
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.put_service(name, spec);
    };
    service("no-ports", 1, json!({"ports": []}));
    service("bad-ip", 2, json!({"externalIPs": ["198.51.100.300"]}));
    service("zeros", 3, json!({"clusterIP": "10.96.001.3"}));
    service(
        "mixed",
        4,
        json!({"clusterIPs": ["10.96.1.4", "10.96.1.5"], "ipFamilies": ["IPv4", "IPv6"]}),
    );
    service("enum", 6, json!({"internalTrafficPolicy": "Near", "sessionAffinity": "Cookie"}));
    let slice = |name: &str, kind: &str, addresses: &[&str]| {
        let endpoints = addresses.iter().map(|address| json!({"addresses": [address]}));
        api.put(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": kind, "ports": [{"name": "http", "port": 8080}],
            "endpoints": endpoints.collect::<Vec<_>>(),
        }));
    };
    slice("names", "FQDN", &["web.example"]);
    slice("families", "IPv4", &["fd00::9", "10.1.0.2"]);
    slice("octal", "IPv4", &["10.1.0.010"]);
    slice("word", "IPv7", &["10.1.0.3"]);
    scene.expect(&["default/web:http 10.1.0.1:8080", "default/web:http 10.1.0.2:8080"]);
    let wanted = [
        ("EndpointSlice default/families", "endpoints[0]: fd00::9 is not an IPv4 address"),
        ("EndpointSlice default/names", "addressType FQDN"),
        ("EndpointSlice default/octal", "endpoints[0]: `10.1.0.010` has leading zeros"),
        ("EndpointSlice default/word", "addressType `IPv7` is not known; use IPv4 or IPv6"),
        ("Service default/bad-ip", "externalIPs: `198.51.100.300` is not an IP address"),
        ("Service default/enum", "internalTrafficPolicy: `Near` is not known"),
        ("Service default/enum", "sessionAffinity: `Cookie` is not known"),
        ("Service default/mixed", "clusterIPs: 10.96.1.5 is not an IPv6 address"),
        ("Service default/no-ports", "has no ports, so it serves nothing; add one"),
        ("Service default/zeros", "`10.96.001.3` has leading zeros"),
        ("Service default/zeros", "has no cluster address that is any good"),
    ];
    eventually("each to be named", PATIENCE, || {
        let state = scene.state();
        let all = state.rejections.iter().zip(wanted);
        state.rejections.len() == wanted.len()
            && all
                .into_iter()
                .all(|(r, (origin, part))| r.origin == origin && r.reason.contains(part))
    });
    let state = scene.state();
    assert_eq!((state.refused, state.error), (wanted.len() as u64, None));
    let served: Vec<_> = state.snapshot.unwrap().services.keys().map(ToString::to_string).collect();
    let good = ["bad-ip:http", "enum:http", "mixed:http", "web:http"];
    assert_eq!(served, good.map(|name| format!("default/{name}")));
}
