use super::*;
use crate::source::etcd::layout::LayoutKind;
use crate::source::etcd::layout::tests::Lab;

fn lab() -> Lab {
    Lab::new(LayoutKind::Coredns, "/skydns/")
}

/// The backends of a name.
fn answer(lab: &mut Lab, name: &str) -> Option<String> {
    let pools = lab.pools();
    let found = pools.iter().find_map(|line| line.strip_prefix(&format!("{name}:")))?;
    Some(found.trim().to_owned())
}

#[test]
fn a_record_is_of_its_own_name_and_of_the_names_above_it() {
    let mut lab = lab();
    lab.put_leased(
        "/skydns/local/example/www/x1",
        r#"{"host":"10.0.0.10","port":8080,"priority":10,"weight":100,"ttl":60,"text":"","mail":false,"targetstrip":0,"group":"a"}"#,
        Some(7),
    )
    .put("/skydns/local/example/www/x2", r#"{"host":"10.0.0.11","port":"8080","ttl":"60"}"#)
    .put("/skydns/local/example/www/rack/x3", r#"{"host":"fd00::1"}"#)
    .put("/skydns/local/example/host1", r#"{"host":"[::ffff:10.0.0.12]"}"#);
    assert_eq!(
        lab.pools(),
        [
            "example.local: 10.0.0.12:0",
            "host1.example.local: 10.0.0.12:0",
            "rack.www.example.local: [fd00::1]:0",
            "www.example.local: 10.0.0.10:8080*100 until etcd:test 7 10.0.0.11:8080*100 \
             [fd00::1]:0*100",
            "x1.www.example.local: 10.0.0.10:8080*100 until etcd:test 7",
            "x2.www.example.local: 10.0.0.11:8080",
            "x3.rack.www.example.local: [fd00::1]:0",
        ]
    );
    assert_eq!(lab.rejections(), [""; 0]);
    lab.delete("/skydns/local/example/www/x1");
    assert_eq!(answer(&mut lab, "www.example.local").unwrap(), "10.0.0.11:8080 [fd00::1]:0");
}

#[test]
fn the_lowest_priority_value_comes_first() {
    let mut lab = lab();
    lab.put("/skydns/local/e/www/a", r#"{"host":"10.0.0.1"}"#)
        .put("/skydns/local/e/www/b", r#"{"host":"10.0.0.2","priority":"9","weight":3}"#)
        .put("/skydns/local/e/www/c", r#"{"host":"10.0.0.3","priority":9}"#);
    assert_eq!(
        answer(&mut lab, "www.e.local").unwrap(),
        "10.0.0.1:0*100 behind 1 10.0.0.2:0*3 10.0.0.3:0*100"
    );
    lab.delete("/skydns/local/e/www/b").delete("/skydns/local/e/www/c");
    assert_eq!(answer(&mut lab, "www.e.local").unwrap(), "10.0.0.1:0");
}

#[test]
fn what_is_below_a_name_comes_before_its_own_record() {
    let mut lab = lab();
    lab.put("/skydns/local/e/www", r#"{"host":"10.0.0.1"}"#);
    assert_eq!(answer(&mut lab, "www.e.local").unwrap(), "10.0.0.1:0");
    lab.put("/skydns/local/e/www/x", r#"{"host":"10.0.0.2"}"#);
    assert_eq!(answer(&mut lab, "www.e.local").unwrap(), "10.0.0.2:0");
    lab.put("/skydns/local/e/www/", r#"{"host":"10.0.0.3"}"#).delete("/skydns/local/e/www/x");
    assert_eq!(answer(&mut lab, "www.e.local").unwrap(), "10.0.0.3:0");
}

#[test]
fn a_zone_has_its_own_records_and_name_servers_are_none() {
    let mut lab = lab();
    lab.put("/skydns/local/skydns/", r#"{"host":"1.1.1.1","ttl":60}"#);
    assert_eq!(answer(&mut lab, "skydns.local").unwrap(), "1.1.1.1:0");
    lab.delete("/skydns/local/skydns/");
    for key in ["dns/apex", "dns/apex/x1", "dns/ns", "dns/ns/a"] {
        let value = format!(r#"{{"host":"10.0.0.{}"}}"#, key.len());
        lab.put(&format!("/skydns/local/skydns/{key}"), &value);
        lab.put(&format!("/skydns/local/skydns/sub/{key}"), &value);
    }
    for zone in ["skydns.local", "sub.skydns.local"] {
        assert_eq!(answer(&mut lab, zone).unwrap(), "10.0.0.8:0 10.0.0.11:0", "{zone}");
    }
    assert!(lab.pools().iter().all(|pool| !pool.contains("ns.dns")));
    lab.delete("/skydns/local/skydns/dns/apex").delete("/skydns/local/skydns/dns/apex/x1");
    assert_eq!(answer(&mut lab, "skydns.local"), None);
}

#[test]
fn records_without_an_address() {
    for (value, part) in [
        (r#"{"host":"www.example.com"}"#, "as a CNAME does, gives no backend"),
        (r#"{"host":"10.0.0.1","port":70000}"#, "`70000` is not a port"),
        (r#"{"host":"10.0.0.1","port":-1}"#, "`-1` is not a port"),
        (r#"{"host":"10.0.0.1","weight":65536}"#, "weight 65536 is out of range"),
        (r#"{"host":"0.0.0.0"}"#, "stands for any address"),
        (r#"{"host":7}"#, "expected a string"),
        ("10.0.0.1", "the value is no JSON object"),
        // No rejections: these are no backends and don't claim to be.
        (r#"{"text":"v=spf1"}"#, ""),
        (r#"{"host":"","text":"x"}"#, ""),
        (r#"{"host":"10.0.0.9","mail":true}"#, ""),
        ("{}", ""),
    ] {
        let mut lab = lab();
        lab.put("/skydns/local/e/www/a", value)
            .put("/skydns/local/e/www/b", r#"{"host":"10.0.0.1"}"#);
        assert_eq!(answer(&mut lab, "www.e.local").unwrap(), "10.0.0.1:0", "{value}");
        let rejections = lab.rejections();
        assert_eq!(rejections.len(), usize::from(!part.is_empty()), "{rejections:?}");
        assert!(rejections.iter().all(|r| r.contains(part)), "{rejections:?}");
    }
    let mut lab = lab();
    for key in ["/skydns/local/a.b/c", "/skydns//c", "/skydns/local//", "/skydns/"] {
        lab.put(key, r#"{"host":"10.0.0.1"}"#);
    }
    assert_eq!(lab.pools(), [""; 0]);
    assert!(lab.rejections().iter().all(|r| r.contains("not a name")));
    assert_eq!(lab.rejections().len(), 4);
}

#[test]
fn one_address_under_two_names_is_no_mistake() {
    let mut lab = lab();
    lab.put("/skydns/local/a/e/www/x", r#"{"host":"10.0.0.1"}"#)
        .put("/skydns/local/a/e/api/x", r#"{"host":"10.0.0.1"}"#);
    assert_eq!(answer(&mut lab, "e.a.local").unwrap(), "10.0.0.1:0");
    assert_eq!(lab.rejections(), [""; 0]);
    lab.put("/skydns/local/a/e/api/y", r#"{"host":"10.0.0.1"}"#);
    let rejections = lab.rejections();
    assert_eq!(rejections.len(), 1);
    assert!(rejections[0].starts_with("/skydns/local/a/e/api/y (revision 3): 10.0.0.1:0 is reg"));
}

#[test]
fn names_of_paths() {
    let pools = |path: &str| {
        let Place::At(dir, leaf) = Coredns.place(path) else { panic!("{path}") };
        let mut pools = Vec::new();
        let (ip, port, priority, weight) = ([10, 0, 0, 1].into(), 0, 10, 0);
        Coredns.pools((dir, leaf), &Host { ip, port, priority, weight }, &mut pools);
        pools.join(" ")
    };
    for (path, names) in [
        ("a", "a"),
        ("a/", "a"),
        ("a/b", "b.a a"),
        ("a/b/c", "c.b.a b.a"),
        ("a/b/c/d", "d.c.b.a c.b.a"),
        ("a/b/c/d/e/", "e.d.c.b.a d.c.b.a c.b.a"),
        ("a/dns/apex", "apex.dns.a dns.a a"),
    ] {
        assert_eq!(pools(path), names, "{path}");
    }
}
