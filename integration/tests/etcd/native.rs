//! Our own layout, end to end: what is put into the store is what a connect finds.

use crate::scene::{
    BOUND, GRACE, START, addr, backend, backend_key, frontends, one, service_key, who,
};
use integration::agent::Agent;
use integration::cgroup::Cgroup;
use integration::client::dial;
use integration::etcd::{Etcd, Setup};
use integration::http;
use integration::lab::{self, Lab};
use integration::server::Backends;
use integration::spec::{service, services};
use integration::wait::{eventually, wait_for};
use lb_agent::status::ServiceStatus;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

const WEB: &str = "10.96.0.10:80";
const NOTHING: &str = "services: []\n";

/// Waits until exactly these answer at `vip`.
#[track_caller]
fn answers(vip: &str, tags: &[&str]) {
    let wanted: BTreeSet<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
    eventually(&format!("{vip} to be answered by {tags:?}"), BOUND, || {
        let seen: BTreeSet<_> = (0..16).map(|_| who(vip)).collect();
        seen.into_iter().collect::<Result<BTreeSet<_>, _>>().is_ok_and(|seen| seen == wanted)
    });
}

/// Waits until a connect to `vip` fails so.
#[track_caller]
fn fails(vip: &str, how: ErrorKind) {
    eventually(&format!("{vip} to fail with {how:?}"), BOUND, || who(vip) == Err(how));
}

/// The address that the store says a service has.
fn allocated(etcd: &Etcd, service: &str) -> Option<String> {
    let text = etcd.get(&format!("/lb/allocations/{service}"))?;
    let value: serde_json::Value = serde_json::from_str(&text).expect("agents write JSON");
    Some(value["v4"].as_str().expect("the pool is IPv4").to_owned())
}

#[track_caller]
fn gets_an_address(etcd: &Etcd, service: &str) -> String {
    gets_an_address_within(etcd, service, BOUND)
}

#[track_caller]
fn gets_an_address_within(etcd: &Etcd, service: &str, bound: Duration) -> String {
    let get = || allocated(etcd, service);
    let address = wait_for(&format!("{service} to get an address"), bound, get);
    // Both keys are written at once.
    assert_eq!(etcd.get(&format!("/lb/vips/{address}")).as_deref(), Some(service));
    address
}

#[test]
fn what_is_put_is_what_a_connect_finds() {
    lab::run("native-connect", |lab| {
        let (etcd, settings) = one(lab);
        let servers = Backends::tcp("127.0.0.1", ["a", "b", "c"]);
        lab.set_settings(&settings);
        let agent = Agent::start(lab, NOTHING);
        assert_eq!(who(WEB), Err(ErrorKind::NetworkUnreachable));

        // A backend waits for its service; both serve as soon as they are there.
        etcd.put(&backend_key("web", "a"), backend(servers.tagged("a")));
        etcd.put(&service_key("web"), frontends(&[WEB]));
        answers(WEB, &["a"]);
        let lease = etcd.put_leased(
            &backend_key("web", "b"),
            backend(servers.tagged("b")),
            Duration::from_secs(60),
        );
        answers(WEB, &["a", "b"]);
        let shown = agent.backend("web", servers.tagged("b")).lease;
        assert_eq!(
            shown.map(|lease| (lease.source.to_string(), lease.id)),
            Some(("etcd:/lb/".to_owned(), lease))
        );
        let mut call = dial(addr(WEB)).unwrap();

        // What hangs on a lease goes with it, at once: the store itself says so.
        etcd.revoke(lease);
        answers(WEB, &["a"]);
        assert!(call.echoes("open connections stay"));

        // Drained: no new connections, the others stay.
        etcd.put(&backend_key("web", "c"), backend(servers.tagged("c")));
        answers(WEB, &["a", "c"]);
        let drained = json!({"address": servers.tagged("a"), "state": "drain"}).to_string();
        etcd.put(&backend_key("web", "a"), drained);
        answers(WEB, &["c"]);

        // Without backends a service answers as it says.
        etcd.delete(&backend_key("web", "a"));
        etcd.delete(&backend_key("web", "c"));
        fails(WEB, ErrorKind::ConnectionRefused);
        let unreachable = json!({"frontends": [WEB], "no_backend": "unreachable"}).to_string();
        etcd.put(&service_key("web"), unreachable);
        fails(WEB, ErrorKind::HostUnreachable);

        // Without its service an address is any address.
        etcd.delete(&service_key("web"));
        fails(WEB, ErrorKind::NetworkUnreachable);
        assert_eq!(agent.complaints(), [""; 0]);
    });
}

#[test]
fn an_address_outside_the_ranges_is_refused_with_its_key() {
    lab::run("native-claims", |lab| {
        let (etcd, settings) = one(lab);
        lab.set_settings(&settings);
        let agent = Agent::start(lab, NOTHING);
        let revision = etcd.put(&service_key("greedy"), frontends(&["127.0.0.1:80"]));
        let rejection = wait_for("a rejection", BOUND, || agent.status().rejections.pop());
        assert_eq!(rejection.origin, format!("/lb/services/greedy (revision {revision})"));
        assert!(rejection.reason.contains("vip_ranges"), "{}", rejection.reason);
        assert!(agent.services().is_empty());
    });
}

#[test]
fn a_file_comes_before_the_store() {
    lab::run("native-precedence", |lab| {
        let (etcd, settings) = one(lab);
        let servers = Backends::tcp("127.0.0.1", ["file", "store"]);
        etcd.put(&service_key("web"), frontends(&["10.96.0.11:80"]));
        etcd.put(&backend_key("web", "0"), backend(servers.tagged("store")));
        etcd.put(&service_key("other"), frontends(&[WEB, "10.96.0.12:80"]));
        etcd.put(&backend_key("other", "0"), backend(servers.tagged("store")));
        lab.set_settings(&settings);
        let file = service("web").frontend(WEB).backend(servers.tagged("file"));
        let agent = Agent::start(lab, &services(&[file]));
        answers(WEB, &["file"]);
        answers("10.96.0.12:80", &["store"]);
        assert_eq!(who("10.96.0.11:80"), Err(ErrorKind::NetworkUnreachable));
        let complaints = agent.complaints();
        assert_eq!(complaints.len(), 2, "{complaints:#?}");
        for complaint in &complaints {
            let main = lab.config_file().display().to_string();
            assert!(complaint.contains("etcd:/lb/") && complaint.contains(&main), "{complaint}");
        }
    });
}

/// What a second agent needs, as if on another host: tables, state and a cgroup of its own.
pub(crate) struct Host {
    directory: PathBuf,
    pins: PathBuf,
    cgroup: Cgroup,
}

impl Host {
    pub(crate) fn create(lab: &Lab) -> Self {
        let directory = lab.scratch().join("second");
        fs::create_dir(&directory).expect("the scratch directory is writable");
        let pins = PathBuf::from(format!("{}-second", lab.pin_dir().display()));
        Self { directory, pins, cgroup: lab.cgroup().child("second") }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    /// Starts an agent there and waits until it serves.
    #[track_caller]
    pub(crate) fn agent<'a>(&self, lab: &'a Lab) -> Agent<'a> {
        let text = |path: &Path| path.display().to_string();
        let agent = Agent::spawn(
            lab,
            &[
                "--pin-dir",
                &text(&self.pins),
                "--state-dir",
                &text(&self.directory.join("state")),
                "--socket",
                &text(&self.socket()),
                "--cgroup",
                &text(self.cgroup.path()),
            ],
        );
        eventually("the second agent", START, || {
            http::get(&self.socket(), "/readyz").is_ok_and(|(code, _)| code == 200)
        });
        agent
    }

    /// A service as it shows it.
    pub(crate) fn service(&self, name: &str) -> Option<ServiceStatus> {
        let (_, body) = http::get(&self.socket(), "/v1/services").ok()?;
        let services: Vec<ServiceStatus> = serde_json::from_str(&body).ok()?;
        services.into_iter().find(|found| found.name == name)
    }

    /// The frontends that it serves for a service.
    fn frontends(&self, service: &str) -> Option<Vec<String>> {
        let found = self.service(service)?;
        Some(found.frontends.iter().map(|frontend| frontend.frontend.to_string()).collect())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.pins)
            && !std::thread::panicking()
        {
            panic!("can't remove {}: {error}", self.pins.display());
        }
    }
}

#[test]
fn every_host_serves_the_address_that_one_of_them_took() {
    lab::run("native-auto", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let pool = "vip_pool: [10.96.128.0/24]";
        lab.set_settings(&crate::scene::source(&[etcd.endpoint()], pool));
        let servers = Backends::tcp("127.0.0.1", ["a"]);
        let host = Host::create(lab);
        let first = Agent::start(lab, NOTHING);
        let other = host.agent(lab);

        let names: Vec<String> = (0..20).map(|number| format!("auto-{number}")).collect();
        let auto = json!({"vip": "auto", "ports": ["80"]}).to_string();
        for name in &names {
            etcd.put(&service_key(name), auto.as_str());
            etcd.put(&backend_key(name, "0"), backend(servers.tagged("a")));
        }
        let mut addresses = BTreeSet::new();
        for name in &names {
            let address = gets_an_address(&etcd, name);
            assert!(address.starts_with("10.96.128."), "{address}");
            answers(&format!("{address}:80"), &["a"]);
            let expected = vec![format!("{address}:80/tcp")];
            eventually("the other host to serve the same", BOUND, || {
                host.frontends(name).as_ref() == Some(&expected)
            });
            assert!(addresses.insert(address), "an address is given away once");
        }
        assert_eq!(etcd.list("/lb/vips/").len(), names.len());
        assert_eq!(first.complaints(), [""; 0]);

        // Kept over restarts of everybody, and over a change of the service.
        let web = format!("{}:80", gets_an_address(&etcd, "auto-0"));
        let revision = etcd.revision();
        assert!(first.stop().success());
        assert!(other.stop().success());
        let first = Agent::adopt(lab);
        let other = host.agent(lab);
        answers(&web, &["a"]);
        assert_eq!(host.frontends("auto-0"), Some(vec![format!("{web}/tcp")]));
        assert_eq!(etcd.revision(), revision, "nobody had anything to write");
        let two = json!({"vip": "auto", "ports": ["80", "81"]}).to_string();
        etcd.put(&service_key("auto-0"), two);
        answers(&web.replace(":80", ":81"), &["a"]);
        answers(&web, &["a"]);

        // Freed when the service is gone, on every host.
        etcd.delete(&service_key("auto-0"));
        fails(&web, ErrorKind::NetworkUnreachable);
        eventually("the address to be free", GRACE + BOUND, || {
            allocated(&etcd, "auto-0").is_none() && etcd.list("/lb/vips/").len() == names.len() - 1
        });
        eventually("the other host to see it", BOUND, || host.frontends("auto-0").is_none());
        assert_eq!(first.complaints(), [""; 0]);
        drop(other);
    });
}

/// What people wrote is written again after a wipe; what agents wrote, nobody has a copy of.
#[test]
fn a_wiped_store_gets_its_addresses_back() {
    lab::run("native-wiped", |lab| {
        let mut etcd = Etcd::start(lab.scratch());
        let pool = "vip_pool: [10.96.128.0/24]";
        lab.set_settings(&crate::scene::source(&[etcd.endpoint()], pool));
        let servers = Backends::tcp("127.0.0.1", ["a"]);
        let auto = json!({"vip": "auto", "ports": ["80"]}).to_string();
        let fill = |etcd: &Etcd| {
            etcd.put(&backend_key("web", "0"), backend(servers.tagged("a")));
            etcd.put(&service_key("web"), auto.as_str());
        };
        // Chosen by hand, so that choosing again would choose another.
        etcd.put("/lb/vips/10.96.128.77", "web");
        fill(&etcd);
        let agent = Agent::start(lab, NOTHING);
        let vip = format!("{}:80", gets_an_address(&etcd, "web"));
        assert_eq!(vip, "10.96.128.77:80");
        answers(&vip, &["a"]);
        etcd.wipe();
        eventually("the keys to be held", BOUND, || {
            agent.status().sources.iter().any(|source| source.held.len() == 4)
        });
        fill(&etcd);
        let back = wait_for("the address", BOUND, || {
            assert_eq!(who(&vip).as_deref(), Ok("a"), "it serves all the time");
            allocated(&etcd, "web")
        });
        assert_eq!(back, "10.96.128.77");
        eventually("nothing to be held", GRACE + BOUND, || {
            assert_eq!(who(&vip).as_deref(), Ok("a"), "it serves all the time");
            agent.status().sources.iter().all(|source| source.held.is_empty())
        });
        assert_eq!(agent.complaints(), [""; 0]);
    });
}

#[test]
fn who_gets_no_address_is_told() {
    lab::run("native-full", |lab| {
        let etcd = Etcd::start(lab.scratch());
        let pool = "vip_pool: [10.96.128.0/31]";
        lab.set_settings(&crate::scene::source(&[etcd.endpoint()], pool));
        let agent = Agent::start(lab, NOTHING);
        let auto = json!({"vip": "auto", "ports": ["80"]}).to_string();
        for name in ["a", "b"] {
            etcd.put(&service_key(name), auto.as_str());
            gets_an_address(&etcd, name);
        }
        etcd.put(&service_key("c"), auto.as_str());
        eventually("a complaint", BOUND, || {
            agent.status().rejections.iter().any(|rejection| {
                rejection.service.as_deref() == Some("c")
                    && rejection.reason.contains("all IPv4 addresses of `vip_pool`")
            })
        });
        etcd.delete(&service_key("a"));
        // Nobody has it before nobody can be served by it any more.
        gets_an_address_within(&etcd, "c", GRACE + BOUND);
        eventually("no complaint", BOUND, || agent.complaints().is_empty());
    });
}

#[test]
fn without_permission_to_write_the_reason_is_shown() {
    lab::run("native-read-only", |lab| {
        let etcd = Setup::default().start(lab.scratch());
        etcd.put(&service_key("web"), json!({"vip": "auto", "ports": ["80"]}).to_string());
        let password = lab.scratch().join("password");
        fs::write(&password, "secret-of-the-test\n").unwrap();
        etcd.enable_auth("lb", "secret-of-the-test");
        etcd.only_read("lb");
        let user = format!("user: {{name: lb, password_file: {}}}", password.display());
        let more = format!("{user}\nvip_pool: [10.96.128.0/24]");
        lab.set_settings(&crate::scene::source(&[etcd.endpoint()], &more));
        let agent = Agent::start(lab, NOTHING);
        let rejection = wait_for("a rejection", BOUND, || {
            let all = agent.status().rejections;
            all.into_iter().find(|one| one.reason.contains("it can't be written"))
        });
        assert!(rejection.reason.contains("role grant-permission"), "{}", rejection.reason);
        etcd.allow("lb");
        gets_an_address(&etcd, "web");
        eventually("no complaint", Duration::from_secs(40), || agent.complaints().is_empty());
    });
}
