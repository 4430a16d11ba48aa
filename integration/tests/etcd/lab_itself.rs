//! The fixtures: a store that starts, answers, dies and comes back as it is told.

use integration::etcd::far::Far;
use integration::etcd::pki::Pki;
use integration::etcd::{Cluster, Etcd, Setup};
use integration::lab;
use integration::wait::eventually;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn one_member() {
    lab::run("etcd-one", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        assert!(etcd.put("/lb/a", "1") > 1);
        assert_eq!(etcd.get("/lb/a").as_deref(), Some("1"));
        assert_eq!(etcd.etcdctl(&["get", "/lb/a", "--print-value-only"]), "1\n");
        etcd.kill9();
        assert!(!etcd.answers());
        etcd.restart();
        assert_eq!(etcd.get("/lb/a").as_deref(), Some("1"), "the data are kept");
        let file = lab.scratch().join("snapshot");
        etcd.snapshot(&file);
        etcd.stop_signal();
        assert!(!etcd.answers());
        etcd.cont();
        etcd.wait_ready();
        let lease = etcd.put_leased("/lb/b", "2", Duration::from_secs(60));
        assert_eq!(etcd.lease_of("/lb/b"), Some(lease));
        etcd.revoke(lease);
        assert_eq!(etcd.get("/lb/b"), None);
        let compacted = etcd.compact();
        let old = etcd.try_etcdctl(&["get", "/lb/a", &format!("--rev={}", compacted - 1)]);
        assert!(old.stderr.contains("compacted"), "{old:?}");
        etcd.restore(&file);
        assert!(etcd.revision() < compacted, "the store went back");
        assert_eq!(etcd.list("/lb/"), [("/lb/a".to_owned(), "1".to_owned())]);
        etcd.wipe();
        assert_eq!((etcd.list("/"), etcd.revision()), (Vec::new(), 1));
    });
}

#[test]
fn many_keys() {
    lab::run("etcd-many", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let key = |number| format!("/lb/backends/web/{number}");
        etcd.put_many((0..10_000).map(|number| (key(number), "{}")));
        assert_eq!(etcd.list("/lb/").len(), 10_000);
        etcd.delete_many((0..9_999).map(key));
        assert_eq!(etcd.delete_prefix("/lb/"), 1);
    });
}

#[test]
fn three_members() {
    lab::run("etcd-three", |lab| {
        let mut cluster = Cluster::start(lab.scratch(), 3);
        cluster.any().put("/lb/a", "1");
        cluster.member_mut(0).kill9();
        cluster.any().put("/lb/a", "2");
        cluster.member_mut(1).kill9();
        cluster.wait_without_quorum();
        cluster.member_mut(0).begin();
        cluster.member_mut(1).begin();
        cluster.wait_ready();
        assert_eq!(cluster.member(0).get("/lb/a").as_deref(), Some("2"));
    });
}

#[test]
fn passwords() {
    lab::run("etcd-auth", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        for _ in 0..2 {
            etcd.enable_auth("lb", "secret");
            etcd.put("/lb/a", "1");
            let asked = |user| {
                let arguments = ["--user", user, "get", "/lb/a"];
                // The later of two --user counts.
                etcd.try_etcdctl(&arguments).code
            };
            assert_eq!(asked("lb:secret"), Some(0));
            assert_ne!(asked("lb:wrong"), Some(0));
            etcd.forbid("lb");
            assert_ne!(asked("lb:secret"), Some(0));
            etcd.allow("lb");
            etcd.set_password("lb", "other");
            assert_eq!(asked("lb:other"), Some(0));
            etcd.disable_auth();
            etcd.put("/lb/a", "2");
        }
        etcd.enable_auth("lb", "secret");
        etcd.restart();
        etcd.put("/lb/a", "3");
    });
}

#[test]
fn certificates() {
    lab::run("etcd-tls", |lab| {
        let pki = Pki::create(lab.scratch(), "ours");
        let other = Pki::create(lab.scratch(), "other");
        let mut etcd = Etcd::with_tls(lab.scratch(), &pki.server(), Some(&pki.ca()));
        etcd.put("/lb/a", "1");
        let asked = |etcd: &Etcd, ca: &Pki, client: &integration::etcd::pki::Pair, seconds: u32| {
            let arguments = [
                &format!("--endpoints={}", etcd.endpoint()),
                &format!("--cacert={}", ca.ca().display()),
                &format!("--cert={}", client.cert.display()),
                &format!("--key={}", client.key.display()),
                &format!("--command-timeout={seconds}s"),
                &format!("--dial-timeout={seconds}s"),
                "get",
                "/lb/a",
            ];
            etcd.try_etcdctl(&arguments).code == Some(0)
        };
        assert!(asked(&etcd, &pki, &pki.client(), 20));
        assert!(!asked(&etcd, &other, &pki.client(), 1), "the server's CA is not trusted");
        assert!(!asked(&etcd, &pki, &other.client(), 1), "the client's CA is not trusted");
        assert!(!asked(&etcd, &pki, &pki.expired_client(), 1), "the client's has expired");
        for bad in [pki.expired_server(), pki.server_named("elsewhere.example")] {
            etcd.set_tls(&bad, None);
            etcd.restart();
            assert!(!asked(&etcd, &pki, &pki.client(), 1), "{bad:?}");
        }
    });
}

#[test]
fn a_wire_that_is_cut() {
    lab::run("etcd-wire", |lab| {
        let far = Far::create();
        let etcd = Setup::default().far(&far).start(lab.scratch());
        etcd.put("/lb/a", "1");
        let address = etcd.endpoint().trim_start_matches("http://").parse().unwrap();
        let reached = |patience| std::net::TcpStream::connect_timeout(&address, patience).is_ok();
        assert!(reached(DEADLINE));
        far.cut();
        assert!(!reached(Duration::from_millis(200)));
        etcd.put("/lb/a", "2");
        far.restore();
        eventually("the wire to carry again", DEADLINE, || reached(DEADLINE));
    });
}
