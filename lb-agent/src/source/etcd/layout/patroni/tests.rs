use crate::source::etcd::layout::LayoutKind;
use crate::source::etcd::layout::tests::Lab;

fn lab() -> Lab {
    Lab::new(LayoutKind::Patroni, "/service/")
}

fn member(host: &str, role: &str, rest: &str) -> String {
    format!(
        r#"{{"conn_url":"postgres://{host}/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"{role}","version":"4.x","xlog_location":67109192,"timeline":1{rest}}}"#
    )
}

fn cluster() -> Lab {
    let mut lab = lab();
    lab.put("/service/batman/initialize", "7419392")
        .put("/service/batman/config", r#"{"ttl":30}"#)
        .put_leased("/service/batman/leader", "pg1", Some(1))
        .put_leased("/service/batman/members/pg1", &member("10.0.0.1:5432", "primary", ""), Some(1))
        .put_leased(
            "/service/batman/members/pg2",
            &member("10.0.0.2:5432", "replica", r#","replication_state":"streaming","tags":{}"#),
            Some(2),
        )
        .put("/service/batman/members/pg3", &member("10.0.0.3", "replica", ""))
        .put("/service/batman/status", r#"{"optime":67109192}"#)
        .put("/service/batman/optime/leader", "67109192")
        .put("/service/batman/history", "[]")
        .put("/service/batman/sync", "{}")
        .put("/service/batman/failover", "{}")
        .put("/service/batman/failsafe", "{}");
    lab
}

#[test]
fn the_leader_is_the_primary_and_the_others_are_replicas() {
    let mut lab = cluster();
    assert_eq!(
        lab.pools(),
        [
            "batman/primary: 10.0.0.1:5432 until etcd:test 1",
            "batman/replicas: 10.0.0.2:5432 until etcd:test 2 10.0.0.3:5432",
        ]
    );
    assert_eq!(lab.rejections(), [""; 0]);
}

#[test]
fn rounds_without_news_cause_no_work() {
    let mut lab = cluster();
    assert!(lab.changed());
    let value = member("10.0.0.1:5432", "primary", "").replace("67109192", "67200000");
    lab.put_leased("/service/batman/members/pg1", &value, Some(1))
        .put_leased("/service/batman/leader", "pg1", Some(1))
        .put("/service/batman/status", r#"{"optime":67200000}"#);
    assert!(lab.translator.idle());
    assert!(!lab.changed());
}

#[test]
fn a_failover() {
    let mut lab = cluster();
    // The leader's lease ends.
    lab.delete("/service/batman/leader").delete("/service/batman/members/pg1");
    assert_eq!(
        lab.pools(),
        ["batman/primary:", "batman/replicas: 10.0.0.2:5432 until etcd:test 2 10.0.0.3:5432"]
    );
    lab.put("/service/batman/leader", "pg2");
    assert_eq!(lab.pools(), ["batman/primary:", "batman/replicas: 10.0.0.3:5432"]);
    assert_eq!(
        lab.rejections(),
        ["/service/batman/leader (revision 15): the leader `pg2` has not the role of a primary; \
          there is no primary until Patroni says otherwise"]
    );
    assert_eq!(lab.translator.refused(), 0);
    // Versions before 4 call it so.
    lab.put("/service/batman/members/pg2", &member("10.0.0.2:5432", "master", ""));
    assert_eq!(lab.pools(), ["batman/primary: 10.0.0.2:5432", "batman/replicas: 10.0.0.3:5432"]);
    assert_eq!(lab.rejections(), [""; 0]);
}

#[test]
fn members_that_get_no_readers() {
    for (value, readers) in [
        (member("10.0.0.2:1", "replica", r#","tags":{"noloadbalance":true}"#), false),
        (member("10.0.0.2:1", "replica", r#","tags":{"noloadbalance":"True"}"#), false),
        (member("10.0.0.2:1", "replica", r#","tags":{"noloadbalance":"false"}"#), true),
        (member("10.0.0.2:1", "replica", r#","tags":{"noloadbalance":0,"x":1}"#), true),
        (member("10.0.0.2:1", "standby_leader", ""), false),
        (member("10.0.0.2:1", "replica", "").replace("running", "starting"), false),
        (member("10.0.0.2:1", "replica", "").replace("running", "streaming"), true),
        (member("10.0.0.2:1", "primary", ""), false),
    ] {
        let mut lab = lab();
        lab.put("/service/b/members/x", &value);
        let expected = if readers { " 10.0.0.2:1" } else { "" };
        assert_eq!(lab.pools(), ["b/primary:".to_owned(), format!("b/replicas:{expected}")]);
    }
}

#[test]
fn citus_groups_are_clusters_of_their_own() {
    let mut lab = lab();
    lab.put("/service/citus/0/leader", "c0")
        .put("/service/citus/0/members/c0", &member("10.0.0.1:1", "primary", ""))
        .put("/service/citus/12/members/w", &member("10.0.0.2:1", "replica", ""))
        .put("/service/citus/12/config", "{}")
        // Names that look like something else.
        .put("/service/members/leader", "leader")
        .put("/service/members/members/leader", &member("10.0.0.3:1", "primary", ""));
    assert_eq!(
        lab.pools(),
        [
            "citus/0/primary: 10.0.0.1:1",
            "citus/0/replicas:",
            "citus/12/primary:",
            "citus/12/replicas: 10.0.0.2:1",
            "members/primary: 10.0.0.3:1",
            "members/replicas:",
        ]
    );
    assert_eq!(lab.rejections(), [""; 0]);
}

#[test]
fn what_is_wrong_costs_only_itself_and_shows_no_password() {
    for (key, value, part) in [
        ("batman/members/pg9", member("db.example:5432", "replica", ""), "names are not looked up"),
        ("batman/members/pg9", member("u:geheim@db.example", "replica", ""), "connect_address"),
        ("batman/members/pg9", member("u:geheim@x", "primary", ""), "names are not looked up"),
        ("batman/members/pg9", member("u:geheim/?#geheim@x", "primary", ""), "names are not"),
        ("batman/members/pg9", "{x".to_owned(), "not valid JSON"),
        ("batman/members/pg9", r#"{"state":"running"}"#.to_owned(), "there is no `conn_url`"),
        ("batman/members/pg9", r#"{"state":1}"#.to_owned(), "expected a string"),
        ("other/leader", " ".to_owned(), "not the name of a member"),
        ("batman/what", "x".to_owned(), "not a key of Patroni"),
        ("batman", "x".to_owned(), "not a key of Patroni"),
        ("batman/x/leader", "x".to_owned(), "not a key of Patroni"),
        ("batman//leader", "x".to_owned(), "not a key of Patroni"),
    ] {
        let mut lab = cluster();
        let before = lab.pools();
        lab.put(&format!("/service/{key}"), &value);
        assert_eq!(lab.pools(), before, "{key} {value}");
        let rejections = lab.rejections();
        let [rejection] = rejections.as_slice() else { panic!("{key} {value}: {rejections:?}") };
        assert!(rejection.starts_with(&format!("/service/{key} (revision 13): ")), "{rejection}");
        assert!(rejection.contains(part) && !rejection.contains("geheim"), "{rejection}");
    }
    let mut lab = lab();
    lab.put("/service/b/members/x", &member("u:ge/h@eim@10.0.0.1:77", "replica", ""))
        .put("/service/b/members/y", &member("[fd00::1]", "replica", ""));
    assert_eq!(lab.pools()[1], "b/replicas: 10.0.0.1:77 [fd00::1]:5432");
}
