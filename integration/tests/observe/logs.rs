//! The agent's log: its forms, and that what is logged can be changed while it runs.

use integration::agent::Agent;
use integration::client::dial;
use integration::etcd::Etcd;
use integration::kubernetes::{self, Svc};
use integration::lab;
use integration::process::binary;
use integration::server::{Backends, Kind};
use integration::spec::{service, services};
use integration::wait::{eventually, wait_for};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn the_level_changes_while_the_agent_runs() {
    lab::run("log-level", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["a", "b"]);
        let web = |index| {
            services(&[service("web").frontend("10.96.0.10:80").backend(backends.at(index))])
        };
        let agent = Agent::start(lab, &web(0));
        let said = |arguments: &[&str]| {
            let finished = lab.lbctl(arguments);
            (finished.code, finished.stdout + &finished.stderr)
        };
        assert_eq!(said(&["log-level"]), (Some(0), "info\n".to_owned()));
        assert!(!agent.log().contains("applied"), "{}", agent.log());
        let (code, text) = said(&["log-level", "info,lb_agent::reconcile=debug"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("started with info; `lbctl log-level reset` goes back"), "{text}");
        agent.reload(&web(1));
        eventually("a line that is logged now", DEADLINE, || agent.log().contains("applied"));

        // A mistake changes nothing.
        let (code, text) = said(&["log-level", "debgu"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("`debgu` is no level; use off, error"), "{text}");
        assert!(said(&["log-level"]).1.starts_with("info,lb_agent::reconcile=debug"));

        assert_eq!(said(&["log-level", "reset"]), (Some(0), "info\n".to_owned()));
        let lines = |agent: &Agent<'_>| agent.log().matches("applied").count();
        let before = lines(&agent);
        agent.reload(&web(0));
        assert_eq!(lines(&agent), before, "{}", agent.log());
        drop(agent);
        let (code, text) = said(&["log-level"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("no agent answers"), "{text}");
    });
}

#[test]
fn a_line_per_change_and_none_per_connection() {
    lab::run("log-lines", |lab| {
        let (one, other) = (Backends::tcp("127.0.0.1", ["a"]), Backends::tcp("127.0.0.1", ["b"]));
        let (first, second) = (one.at(0), other.at(0));
        let web = service("web")
            .frontend("10.96.0.10:80")
            .backends([first, second])
            // Refused at once, or unanswered for seconds and three times over: a machine that is busy
            // takes nobody out.
            .with("checks: [{tcp: {interval: 2s, timeout: 2s, fast_interval: 100ms}}]");
        let agent = Agent::start(lab, &services(&[web]));
        let vip: SocketAddr = "10.96.0.10:80".parse().unwrap();
        let lines = |agent: &Agent<'_>| agent.log().lines().count();
        let before = lines(&agent);
        for _ in 0..200 {
            dial(vip).unwrap();
        }
        assert_eq!(lines(&agent), before, "{}", agent.log());

        let of = |agent: &Agent<'_>, backend: SocketAddr, word: &str| {
            let backend = format!("backend={backend}");
            let log = agent.log();
            let word = format!("backend is {word} service=web");
            let has = |line: &&str| line.contains(&backend) && line.contains(&word);
            log.lines().filter(has).count()
        };
        drop(one);
        eventually("a line", DEADLINE, || of(&agent, first, "failing") == 1);
        let _one = Backends::start(Kind::Tcp, [(first, "a")]);
        eventually("a line", DEADLINE, || of(&agent, first, "serving") == 1);
        assert_eq!(lab.lbctl(&["drain", &format!("web/{second}")]).code, Some(0));
        eventually("a line", DEADLINE, || of(&agent, second, "draining") == 1);
        assert_eq!(of(&agent, first, "failing"), 1, "{}", agent.log());
        assert_eq!(of(&agent, second, "failing"), 0, "{}", agent.log());
    });
}

/// What makes a terminal do something, and would make a line of its own.
const EVIL: &str = "e\u{1b}[2J\u{9b}1m\u{202e}\n2026-01-01T00:00:00Z  WARN forged";

/// Everything is in its line, and makes no terminal do anything.
#[track_caller]
fn expect_plain(log: &str) {
    let acts = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    for line in log.lines() {
        assert!(!line.contains(acts), "{line:?}");
        // Each begins with a moment of its own.
        assert!(line.starts_with("20") && !line.starts_with("2026-01-01T00:00:00Z"), "{line:?}");
    }
}

#[test]
fn what_others_wrote_stays_in_its_line() {
    lab::run("log-hostile", |lab| {
        let etcd = Etcd::start(lab.scratch());
        etcd.put(&format!("/lb/services/{EVIL}-key"), "{}");
        let value = serde_json::json!({ "frontends": [format!("{EVIL}-value")] });
        etcd.put("/lb/services/value", value.to_string());
        // The name of a file, a name in it, and what a check says.
        let file = lab.scratch().join(format!("{}-file", EVIL.replace('/', "")));
        fs::write(&file, "services: [{name: \"e\\e[2J\\u202e-name\"}]\n").unwrap();
        let spelt = |c: char| match c.is_ascii() {
            true => c.to_string(),
            false => format!("\\u{:04x}", u32::from(c)),
        };
        let quoted = serde_json::to_string(&file.display().to_string()).unwrap();
        let quoted: String = quoted.chars().map(spelt).collect();
        lab.set_settings(&format!(
            "allow_exec: true\nsources:\n  - file: {quoted}\n  - etcd: {{endpoints: [\"{}\"]}}\n    \
             vip_ranges: [10.96.0.0/12]\n",
            etcd.endpoint()
        ));
        let says = "{exec: {command: [/bin/sh, -c, \"printf 'e\\\\033[2Jsaid'; exit 2\"], \
                    interval: 100ms, rise: 1, fall: 1}}";
        let web = service("web")
            .frontend("10.96.0.10:80")
            .backend("127.0.0.1:9")
            .with(format!("checks: [{says}]"));
        let agent = Agent::start(lab, &services(&[web]));
        for part in ["-key", "-value", "-file", "-name", "said"] {
            eventually("a line about it", DEADLINE, || {
                agent.log().lines().any(|line| line.contains(part))
            });
        }
        expect_plain(&agent.log());
        assert!(agent.log().contains("e\\u{1b}[2J\\u{9b}1m\\u{202e}\\n"), "{}", agent.log());
    });
}

#[test]
fn what_a_cluster_says_stays_in_its_line() {
    kubernetes::run("log-hostile-cluster", |world| {
        let web = Svc::new("web", 10).tcp("http", 80, 8080);
        let [mut slice, _] = web.slices(&[]);
        slice["endpoints"] = serde_json::json!([{ "addresses": [format!("{EVIL}-endpoint")] }]);
        let mut object = web.object();
        object["spec"]["ports"][0]["name"] = format!("{EVIL}-port").into();
        world.apply([slice]);
        world.api.put(object);
        for part in ["-endpoint", "-port"] {
            eventually("a line about it", DEADLINE, || world.agent().log().contains(part));
        }
        expect_plain(&world.agent().log());
    });
}

#[test]
fn json_is_an_object_a_line() {
    lab::run("log-json", |lab| {
        lab.write_config("services: [{name: \"e\\u009b2J\\u202e\\e[2J-name\"}]\n");
        let mut agent = Agent::spawn(lab, &["--log-format", "json"]);
        agent.wait_ready();
        let log = agent.log();
        for line in log.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
        }
        assert!(log.contains("serving") && log.contains("-name"), "{log}");
        let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!log.contains(acts), "{log:?}");
    });
}

/// A journal of our own, in a mount namespace of the agent's.
#[test]
fn under_systemd_fields_go_to_the_journal() {
    lab::run("log-journal", |lab| {
        let directory = lab.scratch().join("journal");
        fs::create_dir(&directory).unwrap();
        let journal = UnixDatagram::bind(directory.join("socket")).unwrap();
        journal.set_read_timeout(Some(DEADLINE)).unwrap();
        let bad = "services: [{name: bad, frontends: [\"10.96.0.1:80\"], backends: [x]}]\n";
        lab.write_config(bad);
        let errors = lab.scratch().join("stderr");
        let file = File::create(&errors).unwrap();
        let metadata = file.metadata().unwrap();
        let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && \
                      mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(&directory)
            .arg(binary("lb-agent"))
            .args(["run", "-c"])
            .arg(lab.config_file())
            .env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()))
            .stdin(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        let entry = wait_for("the refused item", DEADLINE, || {
            let mut buffer = [0; 64 * 1024];
            let length = journal.recv(&mut buffer).ok()?;
            Some(fields(&buffer[..length])).filter(|fields| fields.contains_key("LB_ORIGIN"))
        });
        integration::process::kill(&mut child);
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "lb-agent");
        assert_eq!(entry["LB_SERVICE"], "bad");
        assert!(entry["LB_ORIGIN"].contains("config.yaml:"), "{entry:?}");
        // A warning, in syslog's numbers.
        assert_eq!(entry["PRIORITY"], "4");
        assert!(!entry["MESSAGE"].is_empty());
        assert_eq!(fs::read_to_string(errors).unwrap(), "", "nothing twice");
    });
}

/// The fields of an entry in the journal's own protocol.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&entry[..end], &entry[end + 1..]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            fields.insert(text(&line[..equals]), text(&line[equals + 1..]));
            entry = rest;
        } else {
            let (length, rest) = rest.split_at(8);
            let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
            let length = usize::try_from(length).expect("a short value");
            fields.insert(text(line), text(&rest[..length]));
            entry = &rest[length + 1..];
        }
    }
    fields
}
