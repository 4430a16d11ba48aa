//! The configuration file changes under a running agent: what is open stays, what is good serves,
//! what is bad is named with its line.

use integration::agent::Agent;
use integration::client::{Call, dial};
use integration::lab::{self, Lab};
use integration::server::Backends;
use integration::spec::{service, services};
use integration::wait::eventually;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
const OTHER: &str = "10.96.0.20:80";
const DEADLINE: Duration = Duration::from_secs(20);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// What the service at `vip` says: who answers, or the error.
fn who(vip: &str) -> Result<String, io::ErrorKind> {
    dial(addr(vip)).map(|call| call.tag).map_err(|error| error.kind())
}

#[test]
fn open_connections_stay() {
    lab::run("reload-open", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["0", "1", "2"]);
        let web = || service("web").frontend(VIP);
        let agent = Agent::start(lab, &services(&[web().backends(backends.addresses())]));
        let mut calls: Vec<Call> = (0..30).map(|_| dial(addr(VIP)).unwrap()).collect();
        let all_live = |calls: &mut [Call]| {
            for call in calls {
                assert!(call.echoes("still here"), "{}", call.tag);
                assert_eq!(call.peer(), addr(VIP), "{}", call.tag);
            }
        };
        // Backends go, one by one, then the service, then everything comes back.
        for gone in 1..3 {
            agent.reload(&services(&[web().backends(backends.addresses().skip(gone))]));
            for _ in 0..20 {
                let tag = who(VIP).unwrap();
                assert!(tag.parse::<usize>().unwrap() >= gone, "{tag} has gone");
            }
            all_live(&mut calls);
        }
        agent.reload(&services(&[]));
        assert_eq!(who(VIP), Err(io::ErrorKind::NetworkUnreachable));
        all_live(&mut calls);
        agent.reload(&services(&[web().backends(backends.addresses())]));
        all_live(&mut calls);
        drop(calls);
        agent.expect_no_connections();
    });
}

/// Connections that were open when their backend left and came back are still counted once each.
#[test]
fn a_backend_that_returns_counts_right() {
    lab::run("reload-returns", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["0", "1"]);
        let both = services(&[service("web").frontend(VIP).backends(backends.addresses())]);
        let second = services(&[service("web").frontend(VIP).backend(backends.at(1))]);
        let agent = Agent::start(lab, &both);
        let mut calls: Vec<Call> = (0..40).map(|_| dial(addr(VIP)).unwrap()).collect();
        for _ in 0..3 {
            agent.reload(&second);
            agent.reload(&both);
        }
        calls.extend((0..40).map(|_| dial(addr(VIP)).unwrap()));
        let held = |tag| calls.iter().filter(|call| call.tag == tag).count() as u64;
        let held = [held("0"), held("1")];
        let told = [0, 1].map(|index| agent.backend("web", backends.at(index)).active);
        // An id that was given up while connections held it would show here: too few, or others'.
        assert_eq!(told, held, "held {held:?}, counted {told:?}");
        drop(calls);
        agent.expect_no_connections();
    });
}

/// One backend of a running service is exchanged by the ways in which people change files.
#[test]
fn however_the_file_is_written() {
    lab::run("reload-ways", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["0", "1", "2", "3"]);
        let to =
            |index: usize| services(&[service("web").frontend(VIP).backend(backends.at(index))]);
        // As Kubernetes mounts a ConfigMap: the file is a symbolic link into a directory that is
        // itself reached by one, and the latter is swapped.
        let publish = |version: &str, services: &str| {
            let directory = lab.scratch().join(version);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("config.yaml"), lab.config(services).0).unwrap();
            swap_link(lab, Path::new(version), "..data");
        };
        publish("..v1", &to(0));
        symlink("..data/config.yaml", lab.config_file()).unwrap();
        let agent = Agent::adopt(lab);
        assert_eq!(who(VIP).unwrap(), "0");

        let before = agent.revision();
        publish("..v2", &to(1));
        agent.settled_after(before);
        assert_eq!(who(VIP).unwrap(), "1");

        // Written in place: a reader may see half of it, which is not delivered.
        let before = agent.revision();
        fs::write(lab.config_file(), lab.config(&to(2)).0).unwrap();
        agent.settled_after(before);
        eventually("the file as written", DEADLINE, || who(VIP).unwrap() == "2");

        agent.reload(&to(3));
        assert_eq!(who(VIP).unwrap(), "3");
    });
}

/// Points the link `name` at `target`, atomically.
fn swap_link(lab: &Lab, target: &Path, name: &str) {
    let draft = lab.scratch().join("..draft");
    symlink(target, &draft).expect("the scratch directory is writable");
    fs::rename(draft, lab.scratch().join(name)).expect("the scratch directory is writable");
}

#[test]
fn broken_yaml_keeps_the_last_good_state() {
    lab::run("reload-broken", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["good", "next"]);
        let good = service("web").frontend(VIP).backend(backends.at(0));
        let next = service("web").frontend(VIP).backend(backends.at(1));
        let agent = Agent::start(lab, &services(&[good]));
        let file = lab.config_file().display().to_string();
        let (_, lines) = lab.config("");
        for (broken, line) in [
            ("services:\n  - name: web\n    frontends: [\"10.96.0.10:80\"\n", lines + 3),
            ("services:\n  - name: web\n   frontends: []\n", lines + 3),
            ("services: {}}\n", lines + 1),
        ] {
            let error = agent.refused(broken);
            // The parser may find out a line later, where the next token stands.
            let named = [line, line + 1].map(|line| error.contains(&format!("{file}:{line}:")));
            assert!(named.contains(&true), "{broken}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            for _ in 0..10 {
                assert_eq!(who(VIP).unwrap(), "good");
            }
            assert!(agent.status().ready, "the last good state serves");
        }
        // An empty file (who writes in place cuts it first), or none, is no wish to have no services.
        let complains = || agent.status().sources[0].error.clone();
        let before = complains();
        lab.write_by_rename(&lab.config_file(), "");
        eventually("a complaint about the empty file", DEADLINE, || complains() != before);
        assert_eq!(who(VIP).unwrap(), "good");
        let before = complains();
        fs::remove_file(lab.config_file()).unwrap();
        eventually("a complaint about the missing file", DEADLINE, || complains() != before);
        assert!(complains().is_some());
        assert_eq!(who(VIP).unwrap(), "good");
        agent.reload(&services(&[next]));
        assert_eq!(who(VIP).unwrap(), "next");
        assert_eq!(agent.status().sources[0].error, None);
    });
}

#[test]
fn one_bad_service_rejects_only_itself() {
    lab::run("reload-bad", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web", "other", "new"]);
        let web = service("web").frontend(VIP).backend(backends.at(0)).to_string();
        let other = service("other").frontend(OTHER).backend(backends.at(1)).to_string();
        let agent = Agent::start(lab, &format!("services:\n{web}{other}"));
        let bad = service("other").frontend(OTHER).backend("db.example.org:80").to_string();
        let new = service("new").frontend("10.96.0.30:80").backend(backends.at(2)).to_string();
        agent.reload(&format!("services:\n{web}{bad}{new}"));
        assert_eq!(who(VIP).unwrap(), "web");
        assert_eq!(who("10.96.0.30:80").unwrap(), "new");
        let rejections = agent.status().rejections;
        let [rejection] = rejections.as_slice() else { panic!("{rejections:?}") };
        // The backends of the second service: its third line.
        let line = lab.config("").1 + 1 + web.lines().count() + 3;
        let origin = format!("{}:{line}:", lab.config_file().display());
        assert!(rejection.origin.starts_with(&origin), "{rejection:?}, not {origin}");
        assert_eq!(rejection.service.as_deref(), Some("other"));
        assert!(rejection.reason.contains("db.example.org"), "{rejection:?}");
        agent.reload(&format!("services:\n{web}{other}{new}"));
        assert_eq!(agent.status().rejections, []);
        assert_eq!(who(OTHER).unwrap(), "other");
    });
}

/// What is not about services takes effect at the next start; until then it is an error that says so.
#[test]
fn changed_settings_need_a_restart() {
    lab::run("reload-settings", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let web = services(&[service("web").frontend(VIP).backend(backends.at(0))]);
        let agent = Agent::start(lab, &web);
        lab.set_settings("tables: {connections: 1024}");
        lab.write_config(&web);
        eventually("a complaint about the setting", DEADLINE, || {
            let complaints = agent.complaints();
            complaints.iter().any(|line| line.contains("tables") && line.contains("restart"))
        });
        assert_eq!(who(VIP).unwrap(), "web");
        lab.set_settings("");
        agent.reload(&web);
        assert_eq!(agent.complaints(), [] as [&str; 0]);
    });
}

/// Further files are sources of their own, after the main one.
#[test]
fn further_files() {
    lab::run("reload-further", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["main", "more", "next"]);
        let more = lab.scratch().join("more.yaml");
        lab.set_settings("sources: [{file: more.yaml, vip_ranges: [10.96.0.0/16]}]");
        let spec = |name: &str, vip, index| service(name).frontend(vip).backend(backends.at(index));
        lab.write_by_rename(&more, &services(&[spec("more", OTHER, 1)]));
        let agent = Agent::start(lab, &services(&[spec("main", VIP, 0)]));
        assert_eq!((who(VIP).unwrap(), who(OTHER).unwrap()), ("main".into(), "more".into()));
        // The same frontend: the first source keeps it.
        let both = [spec("more", OTHER, 2), spec("thief", VIP, 2)];
        lab.write_by_rename(&more, &services(&both));
        eventually("the new backend", DEADLINE, || who(OTHER).unwrap() == "next");
        assert_eq!(who(VIP).unwrap(), "main");
        // The status follows the tables.
        eventually("the rejection of the thief", DEADLINE, || {
            let rejections = agent.status().rejections;
            rejections.iter().any(|rejection| rejection.service.as_deref() == Some("thief"))
        });
        // And nothing outside the ranges that were given to it.
        lab.write_by_rename(&more, &services(&[spec("outside", "10.97.0.1:80", 2)]));
        eventually("the rejection", DEADLINE, || {
            let rejections = agent.status().rejections;
            rejections.iter().any(|rejection| rejection.service.as_deref() == Some("outside"))
        });
        assert_eq!(who("10.97.0.1:80"), Err(io::ErrorKind::NetworkUnreachable));
    });
}

/// Many services appear, change and vanish in one reload each.
#[test]
fn many_services_at_once() {
    lab::run("reload-many", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["0", "1"]);
        let vips: Vec<String> = (0..600u32)
            .map(|number| format!("10.96.{}.{}:80", number / 200, number % 200 + 1))
            .collect();
        let specs = |index: usize| {
            let each = vips.iter().enumerate().map(|(number, vip)| {
                service(format!("s{number}")).frontend(vip).backend(backends.at(index))
            });
            services(&each.collect::<Vec<_>>())
        };
        let agent = Agent::start(lab, &specs(0));
        for vip in &vips {
            assert_eq!(who(vip).unwrap(), "0");
        }
        agent.reload(&specs(1));
        for vip in &vips {
            assert_eq!(who(vip).unwrap(), "1");
        }
        agent.reload(&services(&[]));
        for vip in &vips {
            assert_eq!(who(vip), Err(io::ErrorKind::NetworkUnreachable));
        }
    });
}
