use super::*;
use ipnet::IpNet;

fn claims() -> Claims {
    let range = |text: &str| text.parse::<IpNet>().unwrap();
    Claims { ranges: Some(vec![range("10.96.0.0/12"), range("fd00::/8")]), ..Claims::default() }
}

pub(super) fn read(text: &str) -> Translation {
    translate("f.yaml", text, &claims(), false).unwrap()
}

pub(super) fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.services.keys().map(ServiceName::as_str).collect()
}

#[test]
fn of_two_the_later_is_rejected_and_the_first_is_named() {
    let translation = read(
        r#"services:
  - name: a
    frontends: ["10.96.0.1:80", "10.96.0.1:80"]
    backends: ["10.0.0.1:80", {address: "10.0.0.1:80", weight: 9}]
  - name: b
    frontends: ["10.96.0.1:80", "10.96.0.1:80/udp", "10.96.0.2:80"]
  - name: c
    frontends: ["[::ffff:10.96.0.1]:80/tcp"]
  - name: a
    frontends: ["10.96.0.3:80"]
"#,
    );
    let found: Vec<_> =
        translation.rejections.iter().map(|r| (r.origin.as_str(), r.reason.as_str())).collect();
    assert_eq!(
        found,
        [
            ("f.yaml:3:33", "frontend 10.96.0.1:80/tcp stands twice, first on line 3; remove one"),
            (
                "f.yaml:4:32",
                "backend 10.0.0.1:80 stands twice, first on line 4; remove one \
                 (`weight` gives it a larger share)"
            ),
            ("f.yaml:6:17", "frontend 10.96.0.1:80/tcp stands twice, first on line 3; remove one"),
            ("f.yaml:8:17", "frontend 10.96.0.1:80/tcp stands twice, first on line 3; remove one"),
            ("f.yaml:9:5", "service `a` stands twice, first on line 2; rename or remove one"),
        ]
    );
    assert_eq!(names(&translation.snapshot), ["a", "b"]);
    let services: Vec<_> = translation.snapshot.services.values().collect();
    assert_eq!((services[0].frontends.len(), services[0].backends.len()), (1, 1));
    assert_eq!(services[0].backends.values().map(|b| b.weight).collect::<Vec<_>>(), [1]);
    assert_eq!(services[1].frontends.len(), 2);
}

#[test]
fn a_frontend_without_a_backend_of_its_family_is_named_but_served() {
    let translation = read(
        r#"services:
  - name: a
    frontends: ["10.96.0.1:80", "[fd00::1]:80"]
    backends: ["10.0.0.1:80"]
  - name: none
    frontends: ["10.96.0.2:80", "[fd00::2]:80"]
    backends: []
"#,
    );
    let [rejection] = translation.rejections.as_slice() else { panic!() };
    assert_eq!(rejection.origin, "f.yaml:3:33");
    assert!(rejection.reason.contains("frontend [fd00::1]:80/tcp has no IPv6 backend"));
    assert_eq!(names(&translation.snapshot), ["a", "none"]);
    let frontends: Vec<_> =
        translation.snapshot.services.values().map(|s| s.frontends.len()).collect();
    assert_eq!(frontends, [2, 2]);
}

#[test]
fn nothing_is_never_taken_for_no_services() {
    for (text, origin, part) in [
        ("", "f.yaml", "there is no `services:`"),
        ("# only a comment\n", "f.yaml", "there is no `services:`"),
        ("services:\n", "f.yaml:1:1", "must be a list"),
        ("services: {}\n", "f.yaml:1:1", "must be a list"),
        ("services: web\n", "f.yaml:1:1", "must be a list"),
    ] {
        let error = translate("f.yaml", text, &claims(), false).unwrap_err();
        assert_eq!(error.origin, origin, "{text}");
        assert!(error.reason.contains(part), "{text}: {}", error.reason);
        assert!(error.reason.contains("write `services: []` to serve none"), "{text}");
    }
    assert!(read("services: []").snapshot.services.is_empty());
}

#[test]
fn settings_belong_to_the_main_file() {
    let text = "pin_dir: /x\nservices: []\n";
    let [rejection] = &read(text).rejections[..] else { panic!() };
    assert_eq!(rejection.origin, "f.yaml:1:1");
    assert_eq!(rejection.reason, "unknown field `pin_dir`; use `services`");
    assert_eq!(translate("f.yaml", text, &claims(), true).unwrap().rejections, []);
}

#[test]
fn a_refused_service_keeps_its_last_good_version() {
    let last = read(
        r#"services:
  - {name: a, frontends: ["10.96.0.1:80", "10.96.0.2:80"]}
  - {name: b, frontends: ["10.96.0.3:80"]}
  - {name: c, frontends: ["10.96.0.4:80"]}
  - {name: gone, frontends: ["10.96.0.5:80"]}
"#,
    )
    .snapshot;
    let mut next = read(
        r#"services:
  - {name: a, frontends: ["10.96.0.1:0"]}
  - {name: b, frontends: ["10.96.0.3:80"], policy: x}
  - {name: c, frontends: ["10.96.0.4:80"], policy: x}
  - {name: new, frontends: ["10.96.0.2:80", "10.96.0.3:80"]}
"#,
    );
    let narrow = Claims { ranges: Some(vec!["10.96.0.0/30".parse().unwrap()]), ..claims() };
    keep_last_good(&mut next, &last, &narrow);
    // `b` lost its only frontend to `new`, and `c` lies outside the ranges by now.
    assert_eq!(names(&next.snapshot), ["a", "new"]);
    let frontends: Vec<_> =
        next.snapshot.services.values().next().unwrap().frontends.keys().collect();
    assert_eq!(frontends, [&"10.96.0.1:80".parse().unwrap()]);
    let kept: Vec<_> =
        next.rejections.iter().map(|r| r.reason.ends_with("keeps serving)")).collect();
    assert_eq!(kept, [true, false, false]);
    let outside = allowed(&last, &narrow);
    assert_eq!(names(&outside), ["a", "b"]);
}

#[test]
fn what_did_not_change_is_shared_with_the_last_snapshot() {
    let text = |port: u16| {
        format!(
            "services:\n\
             - {{name: a, frontends: [\"10.96.0.1:80\"], backends: [\"10.0.0.1:80\"]}}\n\
             - {{name: b, frontends: [\"10.96.0.2:80\"], backends: [\"10.0.0.1:{port}\"]}}\n"
        )
    };
    let last = read(&text(80)).snapshot;
    let fresh = read(&text(81)).snapshot;
    let mut shared = fresh.clone();
    share_unchanged(&mut shared, &last);
    assert_eq!(shared, fresh, "what it says is the same");
    let same = last.services.iter().zip(&shared.services);
    let same: Vec<bool> = same.map(|((_, a), (_, b))| Arc::ptr_eq(a, b)).collect();
    assert_eq!(same, [true, false]);
}
