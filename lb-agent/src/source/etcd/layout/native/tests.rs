use crate::model::Snapshot;
use crate::source::etcd::layout::tests::{Lab, backends};
use crate::source::etcd::layout::{Allocation, LayoutKind, Vip, Wanted};
use std::sync::Arc;

const WEB: &str = r#"{"frontends":["10.96.0.10:80"]}"#;

fn lab() -> Lab {
    Lab::new(LayoutKind::Native, "/lb/")
}

/// The services, one a line: `name: frontends -> backends`.
fn services(lab: &mut Lab) -> Vec<String> {
    lab.translator.snapshot();
    let snapshot = lab.translator.shared.snapshot();
    let line = |(name, service): (&crate::model::ServiceName, &Arc<crate::model::Service>)| {
        let frontends: Vec<_> = service.frontends.keys().map(ToString::to_string).collect();
        format!("{name}: {} ->{}", frontends.join(" "), backends(&service.backends))
    };
    snapshot.services.iter().map(line).collect()
}

#[test]
fn services_and_backends() {
    let mut lab = lab();
    lab.put(
        "/lb/services/web",
        r#"{"name":"web","frontends":["10.96.0.10:80",{"address":"[fd00::10]:53","protocol":"udp"}],
            "backends":["10.0.0.1:80"],"policy":"least_connections","affinity":{"timeout":"1m"},
            "no_backend":"pass","backends_from":{"source":"etcd:x","service":"y","port":"7"}}"#,
    )
    .put_leased(
        "/lb/backends/web/a",
        r#"{"address":"10.0.0.5:8080","weight":"3","state":"drain","zone":"a","registered_by":"h/1"}"#,
        Some(9),
    )
    .put("/lb/backends/web/b", r#"{"host":"::ffff:10.0.0.6","port":"8080","zone":"a"}"#)
    .put("/lb/backends/default/api:http/b", r#"{"host":"fd00::6","port":8080,"weight":null}"#)
    .put("/lb/services/default/api:http", r#"{"vip":"10.96.0.11","ports":["80","53/udp"]}"#);
    assert_eq!(
        services(&mut lab),
        [
            "default/api:http: 10.96.0.11:53/udp 10.96.0.11:80/tcp -> [fd00::6]:8080",
            "web: 10.96.0.10:80/tcp [fd00::10]:53/udp -> 10.0.0.1:80 10.0.0.5:8080*3 Drain in a \
             until etcd:test 9 10.0.0.6:8080 in a",
        ]
    );
    let snapshot = lab.translator.shared.snapshot();
    let web = &snapshot.services[&"web".parse().unwrap()];
    assert_eq!(web.policy, crate::model::Policy::LeastConnections);
    assert_eq!(web.affinity.unwrap().timeout_seconds, 60);
    assert_eq!(web.no_backend, crate::model::NoBackend::Pass);
    assert_eq!((&*web.backends_from[0].source, web.backends_from[0].port), ("etcd:x", Some(7)));
    let family = "has no IPv4 backend, so its callers find none; add one or remove the frontend";
    assert_eq!(
        lab.rejections(),
        ["10.96.0.11:53/udp", "10.96.0.11:80/tcp"].map(|frontend| format!(
            "/lb/services/default/api:http (revision 5): frontend {frontend} {family}"
        ))
    );
    assert_eq!(lab.translator.refused(), 0);
}

#[test]
fn a_backend_without_its_service_waits() {
    let mut lab = lab();
    lab.put("/lb/backends/web/a", r#"{"address":"10.0.0.5:80"}"#);
    assert!(services(&mut lab).is_empty());
    assert_eq!(lab.rejections(), [""; 0]);
    lab.put("/lb/services/web", WEB);
    assert_eq!(services(&mut lab), ["web: 10.96.0.10:80/tcp -> 10.0.0.5:80"]);
    lab.delete("/lb/services/web");
    assert!(services(&mut lab).is_empty());
    lab.put("/lb/services/web", WEB).delete("/lb/backends/web/a");
    assert_eq!(services(&mut lab), ["web: 10.96.0.10:80/tcp ->"]);
}

#[test]
fn only_what_changed_is_translated_again() {
    let mut lab = lab();
    for name in ["a", "b"] {
        let port = if name == "a" { 80 } else { 81 };
        lab.put(&format!("/lb/services/{name}"), &WEB.replace("80", &port.to_string()));
        lab.put(&format!("/lb/backends/{name}/1"), r#"{"address":"10.0.0.5:80"}"#);
    }
    let before = lab.translator.snapshot().unwrap();
    let rejections = lab.translator.rejections();
    // The same again, in other words.
    lab.put("/lb/backends/a/1", r#"{"weight":1,"address":"10.0.0.5:80"}"#)
        .put("/lb/services/b", &WEB.replace("80", "81"))
        .delete("/lb/backends/a/unknown")
        .delete("/lb/services/unknown");
    assert!(lab.translator.idle() && !lab.changed());
    lab.put("/lb/backends/a/1", r#"{"weight":2,"address":"10.0.0.5:80"}"#);
    let after = lab.translator.snapshot().unwrap();
    let shared: Vec<_> = before
        .services
        .values()
        .zip(after.services.values())
        .map(|(a, b)| Arc::ptr_eq(a, b))
        .collect();
    assert_eq!(shared, [false, true]);
    assert!(Arc::ptr_eq(&rejections, &lab.translator.rejections()));
}

#[test]
fn a_bad_backend_is_out_and_nothing_else() {
    let good = r#"{"address":"10.0.0.1:80"}"#;
    for (value, part) in [
        ("", "the value is no JSON object"),
        ("{", "not valid JSON"),
        ("{}", "a backend needs an `address`"),
        (r#"{"address":null}"#, "a backend needs an `address`"),
        (r#"{"address":5}"#, "`5` is not an address and a port"),
        (r#"{"address":["10.0.0.5:80"]}"#, "expected an address and port, found a list"),
        (r#"{"address":"web:80"}"#, "names are not looked up"),
        (r#"{"address":"10.0.0.5:0"}"#, "port 0 is not a port"),
        (r#"{"address":"0.0.0.0:80"}"#, "stands for any address"),
        (r#"{"address":"10.0.0.5:80","weight":"heavy"}"#, "for `weight`, found `heavy`"),
        (r#"{"address":"10.0.0.5:80","weight":1.5}"#, "for `weight`, found `1.5`"),
        (r#"{"address":"10.0.0.5:80","weight":0}"#, "use `state: drain`"),
        (r#"{"address":"10.0.0.5:80","state":"gone"}"#, "for `state`, found `gone`"),
        (r#"{"address":"10.0.0.5:80","zone":{}}"#, "the name of a zone, found a mapping"),
        (r#"{"address":"10.0.0.5:80","address":"10.0.0.5:80"}"#, "`address` stands twice; remove"),
        (r#"{"address":"10.0.0.5:80","host":"10.0.0.5","port":1}"#, "not both"),
        (r#"{"host":"10.0.0.5"}"#, "`host` and `port` belong together"),
        (r#"{"port":80}"#, "`host` and `port` belong together"),
        (r#"{"host":"web","port":80}"#, "names are not looked up"),
        (r#"{"host":"10.0.0.5","port":70000}"#, "from 1 to 65535 for `port`, found `70000`"),
        (good, "10.0.0.1:80 is registered twice: `a` comes first and counts"),
    ] {
        let mut lab = lab();
        lab.put("/lb/services/web", WEB).put("/lb/backends/web/a", good);
        lab.put("/lb/backends/web/b", r#"{"address":"10.0.0.9:80"}"#);
        assert_eq!(services(&mut lab), ["web: 10.96.0.10:80/tcp -> 10.0.0.1:80 10.0.0.9:80"]);
        lab.put("/lb/backends/web/b", value);
        assert_eq!(services(&mut lab), ["web: 10.96.0.10:80/tcp -> 10.0.0.1:80"], "{value}");
        let rejections = lab.rejections();
        let [rejection] = rejections.as_slice() else { panic!("{value}: {rejections:?}") };
        assert!(rejection.starts_with("/lb/backends/web/b (revision 4): "), "{rejection}");
        assert!(rejection.contains(part), "{value}: {rejection}");
        assert_eq!(lab.translator.rejections()[0].service.as_deref(), Some("web"));
        assert_eq!(lab.translator.refused(), 1, "{value}");
    }
}

#[test]
fn a_refused_service_goes_on_with_its_last_good_value_and_live_backends() {
    for (value, part) in [
        ("", "the value is no JSON object"),
        ("{}", "a service needs a frontend"),
        (r#"{"frontends":["10.96.0.10:80"],"policy":"x"}"#, "found `x`"),
        (r#"{"frontends":["192.0.2.1:80"]}"#, "outside the ranges allowed for this source"),
        (
            r#"{"frontends":["10.96.0.10:80"],"name":"db"}"#,
            "`name` is `db`, but the key says `web`",
        ),
        (r#"{"frontends":["10.96.0.10:80"],"vip":"auto","ports":[1]}"#, "not both"),
        (r#"{"vip":"auto"}"#, "`vip` needs `ports`"),
        (r#"{"vip":[],"ports":[80]}"#, "expected an address, `auto`"),
        (r#"{"vip":"auto5","ports":[80]}"#, "`auto5` is no service address"),
        (r#"{"vip":"auto","ports":[]}"#, "expected ports such as"),
        (r#"{"vip":"auto","ports":[0]}"#, "`0` is not a port"),
        (r#"{"vip":"auto","ports":["80/sctp"]}"#, "protocol `sctp` is not supported"),
        (r#"{"vip":"auto","ports":[80,"80/tcp"]}"#, "port 80 stands twice"),
        (r#"{"vip":"192.0.2.1","ports":[80]}"#, "outside the ranges"),
        (r#"{"ports":[80],"backends":[]}"#, "`ports` needs a `vip`"),
        (r#"{"frontends":["10.96.0.10:80"],"backends_from":[{"source":"x"}]}"#, "needs a `source`"),
        (r#"{"frontends":["10.96.0.10:80"],"backends_from":"x"}"#, "expected a mapping such as"),
    ] {
        let mut lab = lab();
        lab.put("/lb/services/web", WEB).put("/lb/services/web", value);
        lab.put("/lb/backends/web/a", r#"{"address":"10.0.0.1:80"}"#);
        assert_eq!(services(&mut lab), ["web: 10.96.0.10:80/tcp -> 10.0.0.1:80"], "{value}");
        let rejections = lab.translator.rejections();
        assert!(rejections.iter().any(|r| r.reason.contains(part)), "{value}: {rejections:?}");
        for rejection in rejections.iter() {
            assert_eq!(rejection.origin, "/lb/services/web (revision 2)");
            assert_eq!(rejection.service.as_deref(), Some("web"));
            assert!(
                rejection.reason.ends_with("(the last good version of this service keeps serving)")
            );
        }
        lab.put("/lb/services/web", &WEB.replace("80", "81"));
        assert_eq!(services(&mut lab), ["web: 10.96.0.10:81/tcp -> 10.0.0.1:80"]);
        assert_eq!(lab.rejections(), [""; 0]);
        // Deleted is deleted: nothing is left to go on with.
        lab.delete("/lb/services/web").put("/lb/services/web", value);
        assert!(services(&mut lab).is_empty());
        assert!(lab.rejections().iter().all(|r| !r.contains("keeps serving")));
    }
}

#[test]
fn a_refused_service_yields_frontends_to_a_good_one() {
    let mut lab = lab();
    lab.put("/lb/services/a", r#"{"frontends":["10.96.0.1:80","10.96.0.2:80"]}"#);
    lab.put("/lb/services/a", "{").put("/lb/services/b", r#"{"frontends":["10.96.0.2:80"]}"#);
    assert_eq!(services(&mut lab), ["a: 10.96.0.1:80/tcp ->", "b: 10.96.0.2:80/tcp ->"]);
    assert!(lab.rejections()[0].contains("frontend 10.96.0.2:80/tcp of the last good version"));
    lab.delete("/lb/services/b");
    assert_eq!(services(&mut lab), ["a: 10.96.0.1:80/tcp 10.96.0.2:80/tcp ->"]);
    // Two good ones are left to the merge of all sources.
    lab.put("/lb/services/a", r#"{"frontends":["10.96.0.1:80"]}"#);
    lab.put("/lb/services/b", r#"{"frontends":["10.96.0.1:80"]}"#);
    assert_eq!(services(&mut lab).len(), 2);
}

#[test]
fn unknown_fields_cost_nothing_but_a_warning() {
    let mut lab = lab();
    lab.put("/lb/services/web", r#"{"frontends":["10.96.0.10:80"],"colour":"red","x":null}"#)
        .put("/lb/backends/web/a", r#"{"address":"10.0.0.1:80","colour":{"a":[1]}}"#);
    assert_eq!(services(&mut lab), ["web: 10.96.0.10:80/tcp -> 10.0.0.1:80"]);
    assert_eq!(
        lab.rejections(),
        [
            "/lb/backends/web/a (revision 2): unknown field `colour` is ignored; use `address`, \
             `host`, `port`, `weight`, `state`, `zone`, `priority` or `registered_by`",
            "/lb/services/web (revision 1): unknown field `colour` is ignored; use `name`, \
             `frontends`, `vip`, `ports`, `backends`, `backends_from`, `policy`, `affinity`, `expose`, \
             `no_backend`, `checks`, `ejection`, `panic_threshold`, `min_zone_healthy`, \
             `slow_start` or `on_removal`",
        ]
    );
    assert_eq!(lab.translator.refused(), 0);
}

#[test]
fn keys_outside_the_layout() {
    for key in [
        "nonsense",
        "nonsense/more",
        "backends/lonely",
        "backends/web/",
        "services/a b",
        "services/",
        "services",
        "backends//a",
        "vips/web",
        "vips/::ffff:10.96.0.1",
        "vips/010.96.0.1",
        "",
        "allocations/",
        "services/\u{fffd}",
    ] {
        let mut lab = lab();
        lab.put(&format!("/lb/{key}"), WEB).put(&format!("/lb/{key}"), WEB);
        assert!(services(&mut lab).is_empty(), "{key}");
        let rejections = lab.rejections();
        assert_eq!(rejections.len(), 1, "{key}: {rejections:?}");
        assert!(rejections[0].starts_with(&format!("/lb/{key} (revision 2): ")), "{rejections:?}");
        assert_eq!(lab.translator.refused(), 2);
        lab.delete(&format!("/lb/{key}"));
        assert_eq!(lab.rejections(), [""; 0]);
    }
    let mut lab = lab();
    lab.put("/lbx/services/web", "{").put("/lb/services/", "").put("/lb/", "");
    assert_eq!(lab.rejections(), [""; 0]);
}

#[test]
fn loopback_does_not_serve_others() {
    let mut lab = lab();
    let frontends = r#""frontends":["10.96.0.10:80"]"#;
    lab.put("/lb/services/web", &format!("{{{frontends}}}"))
        .put("/lb/backends/web/a", r#"{"address":"127.0.0.1:80"}"#)
        .put("/lb/backends/web/b", r#"{"address":"10.0.0.1:80"}"#);
    let both = "web: 10.96.0.10:80/tcp -> 10.0.0.1:80 127.0.0.1:80";
    assert_eq!(services(&mut lab), [both]);
    assert_eq!(lab.rejections(), [""; 0]);
    lab.put("/lb/services/web", &format!("{{{frontends},\"expose\":true}}"));
    assert_eq!(services(&mut lab), ["web: 10.96.0.10:80/tcp -> 10.0.0.1:80"]);
    let reason = "backend 127.0.0.1:80 of a service with `expose`: packets of others can't be sent \
                  to loopback; give an address of this host";
    assert_eq!(lab.rejections(), [format!("/lb/backends/web/a (revision 2): {reason}")]);
    lab.put("/lb/services/web", &format!("{{{frontends}}}"));
    assert_eq!(services(&mut lab), [both]);
    assert_eq!(lab.rejections(), [""; 0]);
}

#[test]
fn what_a_service_names_itself_comes_before_a_key() {
    let mut lab = lab();
    lab.put(
        "/lb/services/web",
        r#"{"frontends":["10.96.0.10:80"],"backends":[{"address":"10.0.0.1:80","weight":2,"zone":"b"},"10.0.0.1:80"]}"#,
    )
    .put("/lb/backends/web/a", r#"{"address":"10.0.0.1:80"}"#);
    assert_eq!(services(&mut lab), ["web: 10.96.0.10:80/tcp -> 10.0.0.1:80*2 in b"]);
    let twice = "10.0.0.1:80 is registered twice: `services/web` comes first and counts; remove \
                 one of the two";
    assert_eq!(
        lab.rejections(),
        [
            format!("/lb/backends/web/a (revision 2): {twice}"),
            "/lb/services/web (revision 1): backend 10.0.0.1:80 stands twice; remove one (`weight` \
             gives it a larger share)"
                .to_owned(),
        ]
    );
}

#[test]
fn addresses_that_were_allocated() {
    let mut lab = lab();
    lab.put("/lb/services/web", r#"{"vip":"auto","ports":[80,"53/udp"]}"#)
        .put("/lb/services/two", r#"{"vip":["auto4","auto6","10.96.0.99"],"ports":"80"}"#)
        .put("/lb/services/given", WEB);
    assert_eq!(services(&mut lab), ["given: 10.96.0.10:80/tcp ->", "two: 10.96.0.99:80/tcp ->"]);
    assert_eq!(lab.rejections(), [""; 0]);
    let name = |text: &str| text.parse::<crate::model::ServiceName>().unwrap();
    let wanted = &lab.translator.addresses().unwrap().wanted;
    let any = Wanted { any: true, v4: false, v6: false, modified: 1 };
    let both = Wanted { any: false, v4: true, v6: true, modified: 2 };
    assert_eq!(*wanted, [(name("two"), both), (name("web"), any)].into());
    lab.put("/lb/vips/10.96.128.7", "web")
        .put("/lb/allocations/web", r#"{"v4":"10.96.128.7","v6":null}"#)
        .put("/lb/vips/10.96.128.8", "two")
        .put("/lb/vips/fd00::8", "two")
        .put("/lb/allocations/two", r#"{"v4":"10.96.128.8","v6":"fd00::8"}"#);
    assert_eq!(
        services(&mut lab)[1..],
        [
            "two: 10.96.0.99:80/tcp 10.96.128.8:80/tcp [fd00::8]:80/tcp ->",
            "web: 10.96.128.7:53/udp 10.96.128.7:80/tcp ->",
        ]
    );
    let addresses = lab.translator.addresses().unwrap();
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let allocation = Allocation {
        v4: Some(ip("10.96.128.7")),
        v6: None,
        modified: 5,
        readable: true,
        declared: true,
        content: None,
    };
    assert_eq!(addresses.allocations[&name("web")], allocation);
    assert_eq!(addresses.vips[&ip("fd00::8")], Vip { service: "two".to_owned(), modified: 7 });
    assert_eq!(addresses.given, [(ip("10.96.0.10"), 1), (ip("10.96.0.99"), 1)].into());
    let changes = addresses.changes;
    // Nothing new.
    lab.put("/lb/services/given", WEB);
    assert_eq!(lab.translator.addresses().unwrap().changes, changes);
    // A refused value asks for what the last good one asked for, and names its own revision.
    lab.put("/lb/services/web", "{");
    let any = Wanted { modified: 10, ..any };
    assert_eq!(lab.translator.addresses().unwrap().wanted[&name("web")], any);
    assert_eq!(services(&mut lab)[2], "web: 10.96.128.7:53/udp 10.96.128.7:80/tcp ->");
    // One that names its address itself now has no use for the other.
    assert_eq!(lab.translator.addresses().unwrap().allocations[&name("web")].content, None);
    lab.put("/lb/services/web", r#"{"vip":"10.96.0.50","ports":[80]}"#);
    let allocation = lab.translator.addresses().unwrap().allocations[&name("web")];
    assert_eq!((allocation.declared, allocation.content), (true, Some(11)));
    // A deleted service keeps its allocation until somebody takes it back.
    lab.delete("/lb/services/web");
    let addresses = lab.translator.addresses().unwrap();
    assert!(!addresses.allocations[&name("web")].declared);
    assert!(!addresses.wanted.contains_key(&name("web")));
    assert!(addresses.changes > changes);
}

#[test]
fn allocations_that_don_t_hold() {
    let mut lab = lab();
    lab.put("/lb/services/web", r#"{"vip":"auto","ports":[80]}"#)
        .put("/lb/allocations/web", r#"{"v4":"10.96.128.7"}"#);
    // The other key may come a moment later.
    assert_eq!(services(&mut lab), ["web: 10.96.128.7:80/tcp ->"]);
    lab.put("/lb/vips/10.96.128.7", "db");
    assert!(services(&mut lab).is_empty());
    assert!(lab.rejections()[0].contains("10.96.128.7 belongs to `db`, as vips/10.96.128.7 says"));
    lab.delete("/lb/vips/10.96.128.7");
    assert_eq!(services(&mut lab), ["web: 10.96.128.7:80/tcp ->"]);
    for (value, part) in [
        (r#"{"v4":"192.0.2.1"}"#, "outside the ranges"),
        (r#"{"v4":"fd00::1"}"#, "of the other family"),
        (r#"{"v4":"x"}"#, "invalid IP address syntax"),
        ("x", "no JSON object"),
    ] {
        lab.put("/lb/allocations/web", value);
        assert!(services(&mut lab).is_empty(), "{value}");
        let rejections = lab.rejections();
        assert!(rejections[0].starts_with("/lb/allocations/web (revision "), "{rejections:?}");
        assert!(rejections[0].contains(part) && rejections.len() == 1, "{rejections:?}");
    }
}

#[test]
fn an_address_that_was_given_to_a_service_is_no_other_s() {
    let mut lab = lab();
    let auto = r#"{"vip":"auto","ports":[80]}"#;
    lab.put("/lb/services/thief", r#"{"frontends":["10.96.128.7:80","10.96.0.1:80"]}"#)
        .put("/lb/services/only", r#"{"frontends":["10.96.128.7:81"]}"#);
    let both = ["only: 10.96.128.7:81/tcp ->", "thief: 10.96.0.1:80/tcp 10.96.128.7:80/tcp ->"];
    assert_eq!(services(&mut lab), both);
    // The owner's key may come in any order.
    lab.put("/lb/vips/10.96.128.7", "web");
    assert_eq!(services(&mut lab), ["thief: 10.96.0.1:80/tcp ->"]);
    lab.put("/lb/services/web", auto).put("/lb/allocations/web", r#"{"v4":"10.96.128.7"}"#);
    let all = ["thief: 10.96.0.1:80/tcp ->", "web: 10.96.128.7:80/tcp ->"];
    assert_eq!(services(&mut lab), all);
    let rejections = lab.rejections();
    assert_eq!(rejections.len(), 2, "{rejections:#?}");
    assert!(rejections[1].starts_with(
        "/lb/services/thief (revision 1): frontend 10.96.128.7:80/tcp is left out: 10.96.128.7 \
         belongs to `web`, as vips/10.96.128.7 says"
    ));
    assert_eq!(lab.translator.refused(), 2);
    // The owner may name it, as one that has it for good does.
    lab.put("/lb/services/web", r#"{"frontends":["10.96.128.7:80"]}"#);
    assert_eq!(services(&mut lab), all);
    lab.delete("/lb/services/web").delete("/lb/allocations/web").delete("/lb/vips/10.96.128.7");
    assert_eq!(services(&mut lab), both);
    assert_eq!(lab.rejections(), [""; 0]);
}

#[test]
fn a_refused_service_goes_on_as_it_was_before_the_agent_started() {
    let mut before = lab();
    before
        .put("/lb/services/web", r#"{"frontends":["10.96.0.10:80"],"backends":["10.0.0.1:80"]}"#)
        .put_leased("/lb/backends/web/a", r#"{"address":"10.0.0.2:80"}"#, Some(1))
        .put_leased("/lb/backends/web/b", r#"{"address":"10.0.0.3:80"}"#, Some(2))
        .put("/lb/services/gone", &WEB.replace("80", "81"));
    let cached: Arc<Snapshot> = before.translator.snapshot().unwrap();
    let mut lab = lab();
    lab.translator.remember(&cached);
    lab.put("/lb/services/web", "{").put_leased(
        "/lb/backends/web/a",
        r#"{"address":"10.0.0.2:80"}"#,
        Some(1),
    );
    assert_eq!(
        services(&mut lab),
        ["web: 10.96.0.10:80/tcp -> 10.0.0.1:80 10.0.0.2:80 until etcd:test 1"]
    );
    assert!(lab.rejections()[0].ends_with("keeps serving)"));
    // What was not stored any more is forgotten with the first list.
    lab.put("/lb/services/gone", "{");
    assert_eq!(services(&mut lab).len(), 1);
}

#[test]
fn what_operators_say_is_passed_on() {
    let mut lab = lab();
    lab.put("/lb/overrides/default/web:http/10.0.0.1:80", r#"{"state":"drain","weight":7}"#)
        .put("/lb/overrides/web/[fd00::1]:80", r#"{"weight":0}"#)
        .put("/lb/overrides/web/x", "{}")
        .put("/lb/overrides/web/10.0.0.2:80", r#"{"state":"gone"}"#);
    let snapshot = lab.translator.snapshot().unwrap();
    let said =
        crate::model::Override { state: Some(crate::model::AdminState::Drain), weight: Some(7) };
    let only = [("10.0.0.1:80".parse().unwrap(), said)].into();
    assert_eq!(snapshot.overrides, [("default/web:http".parse().unwrap(), only)].into());
    let rejections = lab.rejections();
    assert_eq!(rejections.len(), 3, "{rejections:#?}");
    for part in ["weight 0 is not a share", "`x` is not an address", "unknown variant `gone`"] {
        assert!(rejections.iter().any(|line| line.contains(part)), "{part}: {rejections:#?}");
    }
    lab.delete("/lb/overrides/default/web:http/10.0.0.1:80");
    assert!(lab.translator.snapshot().unwrap().overrides.is_empty());
}
