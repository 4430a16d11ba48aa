//! What people write into a store by mistake: the item is refused with its key, its revision and the
//! reason, where `lbctl status` shows it, and everything else serves on.

use crate::scene::{BOUND, backend, backend_key, frontends, service_key, source, who};
use integration::agent::Agent;
use integration::etcd::{Etcd, Setup};
use integration::lab::{self, Lab};
use integration::netns;
use integration::server::Backends;
use integration::spec::{service, services};
use integration::wait::{eventually, wait_for, within};
use lb_agent::model::Rejection;
use std::collections::BTreeSet;

const WEB: &str = "10.96.0.10:80";
const FILE: &str = "10.96.0.30:80";

/// A store with one good service, an agent that serves it beside one from its file.
struct Store<'a> {
    etcd: Etcd,
    agent: Agent<'a>,
    lab: &'a Lab,
    servers: Backends,
}

impl<'a> Store<'a> {
    #[track_caller]
    fn start(lab: &'a Lab, setup: Setup, vip_ranges: Option<&str>) -> Self {
        let etcd = setup.start(lab.scratch());
        let servers = Backends::tcp("127.0.0.1", ["a", "b", "file", "extra"]);
        etcd.put(&service_key("web"), frontends(&[WEB]));
        etcd.put(&backend_key("web", "a"), backend(servers.tagged("a")));
        etcd.put(&backend_key("web", "b"), backend(servers.tagged("b")));
        let mut settings = source(&[etcd.endpoint()], "");
        if let Some(ranges) = vip_ranges {
            let kept = settings.rfind("vip_ranges:").expect("the source has ranges");
            settings.replace_range(kept.., &format!("vip_ranges: {ranges}\n"));
        }
        lab.set_settings(&settings);
        let file = service("file").frontend(FILE).backend(servers.tagged("file"));
        let agent = Agent::start(lab, &services(&[file]));
        let store = Self { etcd, agent, lab, servers };
        store.serves();
        store
    }

    /// That what was good before serves whole.
    #[track_caller]
    fn serves(&self) {
        let web: BTreeSet<_> = (0..16).map(|_| who(WEB).expect("web serves")).collect();
        assert_eq!(web, ["a", "b"].map(str::to_owned).into());
        assert_eq!(who(FILE).as_deref(), Ok("file"));
    }

    /// Puts a value that must be refused, with `part` in the reason; returns what is said of it.
    #[track_caller]
    fn refuses(&self, key: &str, value: impl Into<Vec<u8>>, part: &str) -> Rejection {
        let before = self.refused();
        let revision = self.etcd.put(key, value);
        let rejection = self.complains(key, revision, part);
        let refused = || self.refused() > before;
        eventually(&format!("{key} to be counted as refused"), BOUND, refused);
        rejection
    }

    /// Waits for a complaint about a key in this revision, with `part` in the reason, in the API and
    /// in `lbctl status`.
    #[track_caller]
    fn complains(&self, key: &str, revision: i64, part: &str) -> Rejection {
        let origin = format!("{key} (revision {revision})");
        let found = within(BOUND, || {
            let all = self.agent.status().rejections;
            all.into_iter().find(|one| one.origin == origin && one.reason.contains(part))
        });
        let found = found.unwrap_or_else(|| {
            let all = self.agent.status().rejections;
            panic!("no complaint about {origin} with `{part}`: {all:#?}")
        });
        assert!(!found.reason.contains('\n'), "{found:?}");
        let shown = self.lab.lbctl(&["status"]).stdout;
        let line = shown.lines().find(|line| line.contains(&origin));
        assert!(line.is_some_and(|line| line.contains(&found.reason)), "{found:?}: {shown}");
        found
    }

    /// How many items of the store were refused so far.
    fn refused(&self) -> u64 {
        let sources = self.agent.status().sources;
        sources.iter().filter(|source| source.name.starts_with("etcd:")).map(|s| s.refused).sum()
    }

    #[track_caller]
    fn no_complaints(&self) {
        eventually("no complaints", BOUND, || self.agent.status().rejections.is_empty());
    }
}

#[test]
fn values_that_say_nothing_sensible() {
    lab::run("etcd-bad-values", |lab| {
        let store = Store::start(lab, Setup::default(), None);
        let bad = "10.96.9.1:80";
        let of_service = |more: &str| format!("{{\"frontends\": [\"{bad}\"]{more}}}");
        let (service, backend) = (service_key("bad"), backend_key("web", "bad"));
        for (key, value, part) in [
            (&service, "{".to_owned(), "JSON"),
            (&service, String::new(), ""),
            (&service, "\u{fffd}\u{0}".to_owned(), "JSON"),
            (&service, "[1, 2]".to_owned(), ""),
            (&service, "null".to_owned(), ""),
            (&service, "{\"frontends\": 80}".to_owned(), "frontends"),
            (&service, "{\"frontends\": [80]}".to_owned(), "`80` is not an address"),
            (&service, "{\"frontends\": [\"10.96.9.1:99999\"]}".to_owned(), "99999"),
            (&service, "{\"frontends\": [\"10.96.9.1:80/sctp\"]}".to_owned(), "sctp"),
            (&service, of_service(", \"policy\": 7"), "policy"),
            (&service, of_service(", \"policy\": \"fastest\""), "fastest"),
            (&service, of_service(", \"name\": \"other\""), "other"),
            (&backend, "{".to_owned(), "JSON"),
            (&backend, "7".to_owned(), ""),
            (&backend, "{}".to_owned(), "address"),
            (&backend, "{\"address\": 5}".to_owned(), "address"),
            (&backend, "{\"address\": \"nowhere\"}".to_owned(), "nowhere"),
            (&backend, "{\"address\": \"127.0.0.1:0\"}".to_owned(), "port"),
            (&backend, "{\"address\": \"127.0.0.1:1\", \"weight\": \"heavy\"}".to_owned(), "heavy"),
            (&backend, "{\"address\": \"127.0.0.1:1\", \"weight\": -1}".to_owned(), "weight"),
            (
                &backend,
                "{\"address\": \"127.0.0.1:1\", \"state\": \"asleep\"}".to_owned(),
                "asleep",
            ),
        ] {
            store.refuses(key, value, part);
            store.serves();
        }
        store.etcd.delete(&service);
        store.etcd.delete(&backend);
        store.no_complaints();
        // An item that was refused and is good now serves.
        store.refuses(&service, "{", "JSON");
        store.etcd.put(&service, frontends(&[bad]));
        store.etcd.put(&backend_key("bad", "0"), self::backend(store.servers.tagged("extra")));
        eventually("the mended service", BOUND, || who(bad).as_deref() == Ok("extra"));
        store.no_complaints();
        store.serves();
    });
}

/// A good item gets a bad value: a service stays as it was, a backend is out.
#[test]
fn a_good_item_turns_bad() {
    lab::run("etcd-bad-turn", |lab| {
        let store = Store::start(lab, Setup::default(), None);
        store.refuses(&service_key("web"), "{\"frontends\": ", "JSON");
        store.serves();
        store.refuses(&backend_key("web", "b"), "{\"address\": true}", "address");
        eventually("the bad backend to be out", BOUND, || {
            (0..32).all(|_| who(WEB).as_deref() == Ok("a"))
        });
        store.etcd.put(&service_key("web"), frontends(&[WEB]));
        store.etcd.put(&backend_key("web", "b"), backend(store.servers.tagged("b")));
        store.no_complaints();
        store.serves();
    });
}

#[test]
fn numbers_as_strings() {
    lab::run("etcd-bad-numbers", |lab| {
        let store = Store::start(lab, Setup::default(), None);
        let at = store.servers.tagged("extra");
        let value = serde_json::json!({
            "host": at.ip(), "port": at.port().to_string(), "weight": "7", "colour": "red",
        });
        let revision = store.etcd.put(&backend_key("web", "c"), value.to_string());
        eventually("the backend", BOUND, || (0..32).any(|_| who(WEB).as_deref() == Ok("extra")));
        eventually("its weight", BOUND, || {
            let backends = store.agent.service("web").backends;
            backends.iter().any(|backend| (backend.address, backend.weight) == (at, 7))
        });
        // What is not known is said, and costs nothing.
        store.complains(&backend_key("web", "c"), revision, "colour");
        store.etcd.delete(&backend_key("web", "c"));
        store.no_complaints();
    });
}

#[test]
fn keys_outside_the_layout() {
    lab::run("etcd-bad-keys", |lab| {
        let store = Store::start(lab, Setup::default(), None);
        for key in ["/lb/nonsense", "/lb/nonsense/more", "/lb/backends/lonely", "/lb/services/a b"]
        {
            store.refuses(key, frontends(&["10.96.9.1:80"]), "");
            store.serves();
        }
        let before = store.refused();
        store.etcd.put_many([(b"/lb/services/\xff\xfe".to_vec(), "{}")]);
        eventually("a key that is no text to be refused", BOUND, || store.refused() > before);
        // What is beside the prefix concerns nobody.
        let revision = store.etcd.put("/lbx/services/web", "{");
        let last = store.etcd.put("/lb/nonsense", "again");
        store.complains("/lb/nonsense", last, "");
        let all = store.agent.status().rejections;
        let beside = format!("revision {revision})");
        assert!(all.iter().all(|one| !one.origin.contains(&beside)), "{all:#?}");
        store.serves();
        store.etcd.delete_prefix("/lb/nonsense");
        store.etcd.delete_many([b"/lb/services/\xff\xfe".to_vec()]);
        store.etcd.delete("/lb/backends/lonely");
        store.etcd.delete("/lb/services/a b");
        store.no_complaints();
    });
}

#[test]
fn a_value_of_two_megabytes() {
    lab::run("etcd-bad-large", |lab| {
        let large = Setup::default().flag("--max-request-bytes=8000000");
        let store = Store::start(lab, large, None);
        let key = service_key("large");
        let value = |bytes: usize| {
            format!("{{\"frontends\": [\"10.96.9.1:80\"], \"x\": \"{}\"}}", "y".repeat(bytes))
        };
        store.refuses(&key, value(2_000_000), "bytes");
        // More of them than one answer can hold, whether listed or watched.
        for number in 0..4 {
            store.etcd.put(&format!("{key}-{number}"), value(2_000_000));
        }
        eventually("all to be refused", BOUND, || store.agent.status().rejections.len() == 5);
        store.serves();
        let Store { etcd, agent, servers, .. } = store;
        drop(agent);
        let agent = Agent::adopt(lab);
        let store = Store { etcd, agent, lab, servers };
        eventually("all to be refused again", BOUND, || store.agent.status().rejections.len() == 5);
        store.serves();
        store.etcd.delete_prefix(&key);
        store.no_complaints();
    });
}

#[test]
fn addresses_that_are_not_the_stores_to_claim() {
    lab::run("etcd-bad-claims", |lab| {
        let store = Store::start(lab, Setup::default(), None);
        let key = service_key("thief");
        for vip in ["192.0.2.1:80", "127.0.0.1:80", "[::1]:80", "[fd00:97::1]:80", "0.0.0.0:80"] {
            let rejection = store.refuses(&key, frontends(&[vip]), "");
            assert!(
                rejection.reason.contains("vip_ranges") || vip.starts_with("0."),
                "{rejection:?}"
            );
            assert_eq!(rejection.service.as_deref(), Some("thief"));
        }
        store.serves();
    });
}

/// Even a range of everything is no permission to take the host's own addresses.
#[test]
fn the_hosts_own_addresses() {
    lab::run("etcd-bad-own", |lab| {
        netns::add_address("10.50.0.1");
        netns::add_address("fd00:50::1");
        let store = Store::start(lab, Setup::default(), Some("[0.0.0.0/0, \"::/0\"]"));
        let key = service_key("thief");
        for vip in ["127.0.0.1:2379", "127.5.5.5:80", "[::1]:80", "10.50.0.1:22", "[fd00:50::1]:22"]
        {
            store.refuses(&key, frontends(&[vip]), "vip_ranges");
        }
        store.etcd.put(&key, frontends(&["192.0.2.1:80"]));
        store.etcd.put(&backend_key("thief", "0"), backend(store.servers.tagged("extra")));
        eventually("what it may claim", BOUND, || who("192.0.2.1:80").as_deref() == Ok("extra"));
        store.no_complaints();
        store.serves();
    });
}

#[test]
fn the_same_twice() {
    lab::run("etcd-bad-twice", |lab| {
        let store = Store::start(lab, Setup::default(), None);
        // A frontend that another service has, of the store or of the file before it.
        for (name, vip) in [("x-store", WEB), ("x-file", FILE)] {
            store.etcd.put(&backend_key(name, "0"), backend(store.servers.tagged("extra")));
            store.etcd.put(&service_key(name), frontends(&[vip]));
            let rejection = wait_for("a rejection", BOUND, || {
                let all = store.agent.status().rejections;
                all.into_iter().find(|one| one.service.as_deref() == Some(name))
            });
            assert!(rejection.reason.contains(vip), "{rejection:?}");
            store.serves();
            store.etcd.delete(&service_key(name));
            store.etcd.delete(&backend_key(name, "0"));
            store.no_complaints();
        }
        // One backend under two ids is one backend, and that is said.
        let revision =
            store.etcd.put(&backend_key("web", "twin"), backend(store.servers.tagged("a")));
        store.complains(&backend_key("web", "twin"), revision, "");
        assert_eq!(store.agent.service("web").backends.len(), 2);
        store.serves();
        // And stays one if either goes.
        store.etcd.delete(&backend_key("web", "a"));
        store.no_complaints();
        store.serves();
        // A field twice in one value.
        let at = store.servers.tagged("extra");
        let twice = format!("{{\"address\": \"{at}\", \"address\": \"127.0.0.1:1\"}}");
        store.refuses(&backend_key("web", "c"), twice, "address");
        store.serves();
    });
}

/// Translation happens once, so it makes no loop; it is a mistake all the same.
#[test]
fn a_backend_that_is_a_frontend() {
    lab::run("etcd-bad-loop", |lab| {
        let store = Store::start(lab, Setup::default(), None);
        store.etcd.put(&service_key("loop"), frontends(&["10.96.0.40:80"]));
        store.etcd.put(&backend_key("loop", "0"), format!("{{\"address\": \"{WEB}\"}}"));
        let said = wait_for("a warning", BOUND, || {
            let status = store.agent.status();
            let said = status.rejections.into_iter().map(|one| one.reason).chain(status.warnings);
            said.into_iter().find(|line| line.contains(WEB) && line.contains("frontend"))
        });
        let shown = lab.lbctl(&["status"]).stdout;
        assert!(shown.contains(&said), "{said}: {shown}");
        store.serves();
        store.etcd.delete(&backend_key("loop", "0"));
        eventually("the warning to go", BOUND, || {
            let status = store.agent.status();
            !status.warnings.contains(&said) && status.rejections.iter().all(|r| r.reason != said)
        });
    });
}
