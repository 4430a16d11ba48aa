//! `lbctl service` and `lbctl deregister`: what they write is what agents serve.

use crate::register::Registrar;
use crate::scene::{one, who};
use integration::agent::Agent;
use integration::etcd::Etcd;
use integration::lab::{self, Lab};
use integration::process::Finished;
use integration::server::Backends;
use integration::wait::{eventually, wait_for};
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

const WEB: &str = "\
services:
- name: web
  frontends: [\"10.96.0.10:80\"]
  backends: [{address: \"10.0.0.1:80\", weight: 3}]
- name: team/db
  vip: auto
  ports: [5432]
";

/// `lbctl` on this store.
#[track_caller]
fn lbctl(lab: &Lab, etcd: &Etcd, arguments: &[&str]) -> Finished {
    let endpoint = etcd.endpoint();
    lab.lbctl(&[arguments, &["--endpoints", &endpoint]].concat())
}

#[track_caller]
fn prints(finished: &Finished, code: i32, out: &str, err: &str) {
    let Finished { code: seen, stdout, stderr } = finished;
    assert_eq!((*seen, stdout.as_str(), stderr.as_str()), (Some(code), out, err));
}

fn file(lab: &Lab, name: &str, text: &str) -> String {
    let path = lab.scratch().join(name);
    fs::write(&path, text).expect("the scratch directory is writable");
    path.to_string_lossy().into_owned()
}

#[test]
fn services_are_written_listed_and_deleted() {
    lab::run("services", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let web = file(lab, "web.yaml", WEB);
        let apply = ["service", "apply", "-f", &web];
        let dry = [&apply as &[_], &["--dry-run"]].concat();
        let ran = lbctl(lab, &etcd, &dry);
        prints(&ran, 0, "web created (dry run)\nteam/db created (dry run)\n", "");
        assert_eq!(etcd.list("/lb/"), []);

        prints(&lbctl(lab, &etcd, &apply), 0, "web created\nteam/db created\n", "");
        prints(&lbctl(lab, &etcd, &apply), 0, "web unchanged\nteam/db unchanged\n", "");
        let db = file(lab, "db.json", r#"{"name": "team/db", "vip": "auto", "ports": ["5433"]}"#);
        let ran = lbctl(lab, &etcd, &["service", "apply", "-f", &web, "-f", &db]);
        prints(
            &ran,
            64,
            "",
            &format!(
                "lbctl: {db}:1:2: service `team/db` stands twice, first at {web}:5:3; rename or remove \
             one\nlbctl: nothing was written\n"
            ),
        );
        let ran = lbctl(lab, &etcd, &["service", "apply", "-f", &db]);
        prints(&ran, 0, "team/db configured\n", "");

        etcd.put("/lb/backends/web/a", r#"{"address":"10.0.0.2:80"}"#);
        etcd.put("/lb/backends/web/x/b", r#"{"address":"10.0.0.2:80"}"#);
        etcd.put("/lb/services/bad", "{");
        let ran = lbctl(lab, &etcd, &["service", "ls"]);
        assert_eq!(ran.code, Some(0));
        assert!(
            ran.stderr.starts_with("lbctl: /lb/services/bad: the value is not JSON"),
            "{ran:?}"
        );
        let shape: Vec<Vec<&str>> =
            ran.stdout.lines().map(|line| line.split_whitespace().take(4).collect()).collect();
        assert_eq!(
            shape,
            [
                ["NAME", "FRONTENDS", "BACKENDS", "REGISTERED"],
                ["bad", "?", "?", "0"],
                ["team/db", "auto:5433/tcp", "0", "0"],
                ["web", "10.96.0.10:80/tcp", "1", "1"],
            ]
        );
        let ran = lbctl(lab, &etcd, &["service", "ls", "-o", "name"]);
        assert_eq!(ran.stdout, "bad\nteam/db\nweb\n");

        let ran = lbctl(lab, &etcd, &["service", "delete", "wbe", "bad"]);
        prints(
            &ran,
            1,
            "",
            "lbctl: no service `wbe` in /lb/services/; did you mean `web`?\nlbctl: \
                             nothing was deleted\n",
        );
        let ran = lbctl(lab, &etcd, &["service", "delete", "bad", "web", "--backends"]);
        prints(&ran, 0, "bad deleted\nweb deleted, and 1 backend\n", "");
        let left: Vec<String> = etcd.list("/lb/").into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, ["/lb/backends/web/x/b", "/lb/services/team/db"]);
    });
}

#[test]
fn nothing_is_written_if_anything_is_wrong() {
    lab::run("services-bad", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let good = file(lab, "good.yaml", WEB);
        for (name, text, parts) in [
            (
                "a.yaml",
                "services: [{name: a b}, {name: c, frontends: [x]}]",
                &["a.yaml:1:19", "a.yaml:1:26: service `c`", "`x`"] as &[_],
            ),
            ("b.yaml", "a: [", &["b.yaml"]),
            (
                "c.yaml",
                "name: c\nfrontends: [\"10.96.0.1:80\"]\nweight: 3",
                &["c.yaml:1:1", "weight"],
            ),
            ("d.yaml", "name: d\nvip: nonsense\nports: [80]", &["d.yaml:1:1", "nonsense"]),
        ] {
            let bad = file(lab, name, text);
            let ran = lbctl(lab, &etcd, &["service", "apply", "-f", &good, "-f", &bad]);
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(64), ""), "{ran:?}");
            for part in parts {
                assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
            }
            assert!(ran.stderr.ends_with("lbctl: nothing was written\n"), "{}", ran.stderr);
        }
        assert_eq!(etcd.list("/lb/"), []);
        // What the agent's own ranges do not allow is known before it is written.
        let settings = format!(
            "sources:\n- etcd: {{endpoints: [{}]}}\n  vip_ranges: [10.97.0.0/16]\n",
            etcd.endpoint()
        );
        let config = file(lab, "lb.yaml", &settings);
        let ran = lab.lbctl(&["service", "apply", "-f", &good, "-c", &config]);
        assert_eq!(ran.code, Some(64));
        assert!(ran.stderr.contains("10.96.0.10:80") && ran.stderr.contains("outside"), "{ran:?}");
    });
}

#[test]
fn registrations_are_removed_by_name_and_by_address() {
    lab::run("deregister", |lab| {
        let etcd = Etcd::start(lab.scratch());
        for (id, value) in [
            ("a", r#"{"address":"10.0.0.1:80"}"#),
            ("b", r#"{"host":"10.0.0.1","port":80}"#),
            ("c", r#"{"address":"10.0.0.2:80"}"#),
            ("d", "nonsense"),
        ] {
            etcd.put(&format!("/lb/backends/web/{id}"), value);
        }
        let web = ["deregister", "--service", "web"];
        let deregister = |more: &[&str]| lbctl(lab, &etcd, &[&web, more].concat());
        let several = "lbctl: `web` has several backends, name one with --id: `a`, `b`, `c`, `d`\n";
        prints(&deregister(&[]), 64, "", several);
        prints(
            &deregister(&["--id", "x"]),
            1,
            "",
            "lbctl: no such backend of `web` is registered \
                                                   (it has `a`, `b`, `c`, `d`)\n",
        );
        prints(&deregister(&["--id", "d"]), 0, "web/d deregistered\n", "");
        let both = "web/a deregistered\nweb/b deregistered\n";
        prints(&deregister(&["--address", "10.0.0.1:80"]), 0, both, "");
        prints(&deregister(&[]), 0, "web/c deregistered\n", "");
        assert_eq!(etcd.list("/lb/"), []);
    });
}

#[test]
fn an_agent_serves_what_was_applied_and_registered() {
    lab::run("services-served", |lab| {
        let (mut etcd, settings) = one(lab);
        lab.set_settings(&settings);
        let web = "name: web\nfrontends: [\"10.96.0.10:80\"]\n";
        let ran = lbctl(lab, &etcd, &["service", "apply", "-f", &file(lab, "web.yaml", web)]);
        prints(&ran, 0, "web created\n", "");
        let agent = Agent::start(lab, "services: []\n");
        let servers = Backends::tcp("127.0.0.1", ["a"]);
        let address = servers.tagged("a").to_string();
        let options = ["--id", "a", "--zone", "z1"];
        let registrar = Registrar::of(lab, &etcd, &address, &options);
        eventually("a to answer", SOON, || who("10.96.0.10:80") == Ok("a".to_owned()));

        let wide = ["backends", "web", "-o", "wide", "--no-headers"];
        let last = |columns: &str| -> Vec<String> {
            let words: Vec<&str> = columns.split_whitespace().collect();
            words[words.len() - 2..].iter().map(ToString::to_string).collect()
        };
        let seen = last(&lab.lbctl(&wide).stdout);
        assert!(["1s", "2s", "0s"].contains(&seen[1].as_str()) && seen[0] == "z1", "{seen:?}");
        let json = lab.lbctl(&["backends", "web", "-o", "json", "--leases"]).stdout;
        assert!(json.contains("\"lease_left\": \""), "{json}");
        assert!(!lab.lbctl(&["backends", "web", "-o", "json"]).stdout.contains("lease_left"));

        etcd.kill9();
        let ran = wait_for("an unknown lease", SOON, || {
            let ran = lab.lbctl(&wide);
            (last(&ran.stdout)[1] == "?").then_some(ran)
        });
        assert!(ran.stderr.contains("no lease times: "), "{}", ran.stderr);
        assert_eq!(ran.code, Some(0));
        let status = wait_for("the status to tell", SOON, || {
            let status = lab.lbctl(&["status"]).stdout;
            status.contains(" (for ").then_some(status)
        });
        assert!(status.contains("etcd:/lb/"), "{status}");
        drop((registrar, agent));
    });
}
