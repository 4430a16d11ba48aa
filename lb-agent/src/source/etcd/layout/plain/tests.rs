use crate::source::etcd::layout::LayoutKind;
use crate::source::etcd::layout::tests::Lab;

#[test]
fn go_zero_registers_under_its_lease_and_without_a_common_prefix() {
    let mut lab = Lab::new(LayoutKind::Plain, "user.rpc/");
    lab.put_leased(
        "user.rpc/7587869439291912201",
        "10.0.0.1:8080",
        Some(7_587_869_439_291_912_201),
    );
    assert_eq!(lab.pools(), ["user.rpc: 10.0.0.1:8080 until etcd:test 7587869439291912201"]);
}

#[test]
fn confd_style_and_hand_made_keys() {
    let mut lab = Lab::new(LayoutKind::Plain, "/myapp/");
    lab.put("/myapp/upstream/app1", "10.0.1.100:80\n")
        .put("/myapp/upstream/app2", r#"{"IP":"100.0.0.1","Port":8080}"#)
        .put("/myapp/upstream/app3", r#" {"ip":"[fd00::1]","Port":"8080","x":1}"#)
        .put("/myapp/myapp/1", "10.0.0.1:1")
        .put("/myapp/direct", "10.0.0.2:1");
    assert_eq!(
        lab.pools(),
        ["myapp: 10.0.0.1:1 10.0.0.2:1", "upstream: 10.0.1.100:80 100.0.0.1:8080 [fd00::1]:8080",]
    );
    assert_eq!(lab.rejections(), [""; 0]);
    lab.delete("/myapp/direct").delete("/myapp/myapp/1");
    assert_eq!(lab.pools().len(), 1);
}

#[test]
fn marks_of_directories_are_skipped() {
    let mut lab = Lab::new(LayoutKind::Plain, "/rpcx/");
    for (key, value) in
        [("/rpcx/", ""), ("/rpcx/a/", ""), ("/rpcx/a", "rpcx_path"), ("/rpcx/b/c", "init_dir")]
    {
        lab.put(key, value);
    }
    assert_eq!(lab.pools(), [""; 0]);
    assert_eq!(lab.rejections(), [""; 0]);
    // A mark in the place of an address is the end of that.
    lab.put("/rpcx/b/c", "10.0.0.1:80");
    assert_eq!(lab.pools().len(), 1);
    lab.put("/rpcx/b/c", "init_dir");
    assert_eq!(lab.pools(), [""; 0]);
}

#[test]
fn of_two_keys_with_one_address_the_first_counts() {
    let mut lab = Lab::new(LayoutKind::Plain, "/p/");
    lab.put("/p/web/b", "10.0.0.1:80").put("/p/web/a", "10.0.0.1:80").put("/p/db/b", "10.0.0.1:80");
    assert_eq!(lab.pools(), ["db: 10.0.0.1:80", "web: 10.0.0.1:80"]);
    let twice = "10.0.0.1:80 is registered twice: `a` comes first and counts; remove one of the \
                 two";
    assert_eq!(lab.rejections(), [format!("/p/web/b (revision 1): {twice}")]);
    // The note follows the revision, though nothing else changes.
    assert!(!lab.changed());
    lab.put("/p/web/b", "10.0.0.1:80");
    assert!(!lab.changed());
    assert_eq!(lab.rejections(), [format!("/p/web/b (revision 4): {twice}")]);
    assert_eq!(lab.translator.refused(), 2);
    lab.delete("/p/web/a");
    assert_eq!(lab.rejections(), [""; 0]);
    assert!(!lab.changed());
}

#[test]
fn what_is_wrong_is_said_on_one_short_line() {
    let long = "x".repeat(100_000);
    for (key, value, part) in [
        ("/p/a//b", "10.0.0.1:80", "a part of the key between slashes is empty"),
        ("/p//b", "10.0.0.1:80", "a part of the key between slashes is empty"),
        ("/p/a/", "10.0.0.1:80", "a part of the key between slashes is empty"),
        ("/p/a/b", "\u{1b}[31m", "`\\u{1b}[31m` is not an address"),
        ("/p/a/\n\u{202e}b", "x", "/p/a/\\n\\u{202e}b (revision 1)"),
        ("/p/a/b", &long, "`xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...` is not an address"),
        (&format!("/p/a/{long}"), "x", "xxx... (revision 1)"),
        ("/p/a/b", "{\"IP\":\"10.0.0.1\"}", "missing field `port`"),
        ("/p/a/b", "{\"Port\":1}", "missing field"),
        ("/p/a/b", "{\"IP\":\"x\",\"Port\":1}", "`x` is not an IP address"),
        ("/p/a/b", "{\"IP\":\"10.0.0.1\",\"Port\":null}", "there is no `Port`"),
        ("/p/a/b", "{\"IP\":\"10.0.0.1\",\"Port\":70000}", "`70000` is not a port"),
    ] {
        let mut lab = Lab::new(LayoutKind::Plain, "/p/");
        lab.put(key, value);
        assert_eq!(lab.pools(), [""; 0], "{key}");
        let rejections = lab.rejections();
        let [rejection] = rejections.as_slice() else { panic!("{key}: {rejections:?}") };
        assert!(rejection.contains(part), "{rejection}");
        assert!(rejection.len() < 1000 && !rejection.contains(char::is_control), "{rejection}");
    }
}

#[test]
fn a_value_that_is_too_large_is_not_read() {
    let mut lab = Lab::new(LayoutKind::Plain, "/p/");
    lab.put("/p/a/b", "10.0.0.1:80");
    assert_eq!(lab.pools().len(), 1);
    lab.put("/p/a/b", &format!("10.0.0.1:80{}", " ".repeat(256 << 10)));
    assert_eq!(lab.pools(), [""; 0]);
    assert_eq!(
        lab.rejections(),
        ["/p/a/b (revision 2): the value has 262155 bytes and was not read; the most is 262144"]
    );
    lab.put("/p/a/b", "10.0.0.1:80");
    assert_eq!(lab.rejections(), [""; 0]);
}
