use crate::source::etcd::layout::LayoutKind;
use crate::source::etcd::layout::tests::Lab;

const INSTANCE: &str = r#"{"id":"..","name":"helloworld","version":"","metadata":null,"endpoints":["http://127.0.0.1:8000?isSecure=false","grpc://127.0.0.1:9000?isSecure=false"]}"#;

fn lab() -> Lab {
    Lab::new(LayoutKind::Kratos, "/microservices/")
}

#[test]
fn every_scheme_is_a_pool() {
    let mut lab = lab();
    lab.put_leased("/microservices/helloworld/1f3a", INSTANCE, Some(7)).put(
        "/microservices/helloworld/2",
        r#"{"name":"helloworld","metadata":{"weight":"30"},"endpoints":["GRPC://[fd00::1]:9000/x?by=a@b"]}"#,
    );
    assert_eq!(
        lab.pools(),
        [
            "helloworld/grpc: 127.0.0.1:9000 until etcd:test 7 [fd00::1]:9000*30",
            "helloworld/http: 127.0.0.1:8000 until etcd:test 7",
        ]
    );
    assert_eq!(lab.rejections(), [""; 0]);
    // What the pools don't show is no change; a scheme that is gone is one.
    assert!(!lab.changed());
    lab.put_leased(
        "/microservices/helloworld/1f3a",
        &INSTANCE.replace("\"version\":\"\"", "\"version\":\"2\""),
        Some(7),
    );
    assert!(!lab.changed());
    lab.put("/microservices/helloworld/1f3a", r#"{"endpoints":["grpc://127.0.0.1:9000"]}"#);
    assert_eq!(lab.pools(), ["helloworld/grpc: 127.0.0.1:9000 [fd00::1]:9000*30"]);
}

#[test]
fn a_bad_endpoint_costs_only_itself() {
    for (endpoint, part) in [
        ("grpc://web:9000", "names are not looked up"),
        ("grpc://10.0.0.1", "has no port"),
        ("10.0.0.1:9000", "is no URL such as grpc://10.0.0.1:9000"),
        ("://10.0.0.1:9000", "is no URL"),
        ("a b://10.0.0.1:9000", "is no URL"),
        ("grpc://user:secret@10.0.0.1:9000", "`...@10.0.0.1:9000` names a user"),
        ("grpc://user:secret/?#secret@10.0.0.1:9000", "`...@10.0.0.1:9000` names a user"),
        ("user:secret@10.0.0.1:9000", "`...@10.0.0.1:9000` is no URL"),
    ] {
        let mut lab = lab();
        let value = format!(r#"{{"endpoints":["{endpoint}","http://10.0.0.1:80"]}}"#);
        lab.put("/microservices/a/1", &value);
        assert_eq!(lab.pools(), ["a/http: 10.0.0.1:80"], "{endpoint}");
        let rejections = lab.rejections();
        assert!(rejections.len() == 1 && rejections[0].contains(part), "{rejections:?}");
        assert!(!rejections[0].contains("secret"), "{rejections:?}");
    }
}

#[test]
fn what_is_no_instance() {
    for (key, value, part) in [
        ("/microservices/a/1", "x", "the value is no JSON object"),
        ("/microservices/a/1", r#"{"endpoints":"x"}"#, "invalid type: string"),
        ("/microservices/a/1", r#"{"name":"b"}"#, "the value is of `b`, the key of `a`"),
        ("/microservices/a", INSTANCE, "not a key of Kratos"),
    ] {
        let mut lab = lab();
        lab.put(key, value);
        assert_eq!(lab.pools(), [""; 0]);
        let rejections = lab.rejections();
        assert!(rejections.len() == 1 && rejections[0].contains(part), "{rejections:?}");
    }
}
