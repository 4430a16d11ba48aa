//! The agent's log: its forms, and that what is logged can be changed while it runs.

use integration::agent::Agent;
use integration::client::dial;
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

#[test]
fn json_is_an_object_a_line() {
    lab::run("log-json", |lab| {
        lab.write_config("services: []\n");
        let mut agent = Agent::spawn(lab, &["--log-format", "json"]);
        agent.wait_ready();
        let log = agent.log();
        for line in log.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
        }
        assert!(log.contains("serving"), "{log}");
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
