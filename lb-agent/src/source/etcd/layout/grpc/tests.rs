use crate::source::etcd::layout::LayoutKind;
use crate::source::etcd::layout::tests::Lab;

const ADD: &str = r#"{"Op":0,"Addr":"10.0.0.1:8080","Metadata":null}"#;

fn lab() -> Lab {
    Lab::new(LayoutKind::Grpc, "/services/")
}

#[test]
fn endpoints_become_pools_by_target() {
    let mut lab = lab();
    lab.put("/services/greeter/10.0.0.1:8080", ADD)
        .put_leased(
            "/services/greeter/b",
            r#"{"Op":0,"Addr":"[fd00::1]:80","Metadata":{"w":[1]},"New":1}"#,
            Some(0x5dee),
        )
        .put("/services/team/a/echo/1", r#"{"Op":"0","Addr":" 10.0.0.3:1 "}"#)
        .put("/services/top", r#"{"Addr":"[::ffff:10.0.0.4]:1"}"#)
        .put("/services/gone/1", r#"{"Op":1,"Addr":"10.0.0.1:8080"}"#);
    assert_eq!(
        lab.pools(),
        [
            "greeter: 10.0.0.1:8080 [fd00::1]:80 until etcd:test 24046",
            "services: 10.0.0.4:1",
            "team/a/echo: 10.0.0.3:1",
        ]
    );
    assert_eq!(lab.rejections(), [""; 0]);
    // A deletion by value, and one by key.
    lab.put("/services/greeter/10.0.0.1:8080", r#"{"Op":1,"Addr":"","Metadata":null}"#);
    lab.delete("/services/team/a/echo/1");
    assert_eq!(
        lab.pools(),
        ["greeter: [fd00::1]:80 until etcd:test 24046", "services: 10.0.0.4:1"]
    );
}

#[test]
fn a_target_is_not_the_beginning_of_another() {
    let mut lab = lab();
    lab.put("/services/foo/1", ADD).put("/services/foo_other/1", ADD).put("/services/foo/x/1", ADD);
    assert_eq!(
        lab.pools(),
        ["foo: 10.0.0.1:8080", "foo/x: 10.0.0.1:8080", "foo_other: 10.0.0.1:8080"]
    );
}

#[test]
fn what_is_wrong_costs_only_itself() {
    for (value, part) in [
        ("", "the value is no JSON object"),
        ("{", "not valid JSON: EOF"),
        ("[1]", "the value is no JSON object"),
        ("\"x\"", "the value is no JSON object"),
        ("{}", "there is no `Addr`"),
        (r#"{"Op":0,"Addr":7}"#, "invalid type: integer `7`, expected a string"),
        (r#"{"Op":2,"Addr":"10.0.0.1:80"}"#, "`Op` 2 is unknown"),
        (r#"{"Op":[],"Addr":"10.0.0.1:80"}"#, "expected a whole number"),
        (r#"{"Op":"x","Addr":"10.0.0.1:80"}"#, "expected a whole number, found `x`"),
        (r#"{"Addr":"10.0.0.1"}"#, "has no port"),
        (r#"{"Addr":"10.0.0.1:0"}"#, "port 0 is not a port"),
        (r#"{"Addr":"web.example:80"}"#, "names are not looked up"),
        (r#"{"Addr":"0.0.0.0:80"}"#, "stands for any address"),
        (r#"{"Addr":"224.0.0.1:80"}"#, "a multicast address"),
    ] {
        let mut lab = lab();
        lab.put("/services/a/good", ADD).put("/services/a/bad", value);
        lab.put("/services/b/good", ADD);
        assert_eq!(lab.pools(), ["a: 10.0.0.1:8080", "b: 10.0.0.1:8080"], "{value}");
        let rejections = lab.rejections();
        let [rejection] = rejections.as_slice() else { panic!("{value}: {rejections:?}") };
        assert!(rejection.starts_with("/services/a/bad (revision 2): "), "{rejection}");
        assert!(rejection.contains(part), "{value}: {rejection}");
        assert_eq!(lab.translator.refused(), 1);
        lab.delete("/services/a/bad");
        assert_eq!(lab.rejections(), [""; 0]);
        assert_eq!(lab.translator.refused(), 1);
    }
}
