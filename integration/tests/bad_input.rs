//! Bad input: one clear line that says what to do, the right exit code, and no harm to what serves.

use integration::agent::Agent;
use integration::client::dial;
use integration::lab;
use integration::process::Finished;
use integration::server::Backends;
use integration::spec::service;
use integration::wait::eventually;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const VIP: &str = "10.96.0.10:80";
/// Exit code for wrong usage or configuration.
const USAGE: Option<i32> = Some(64);
const DEADLINE: Duration = Duration::from_secs(20);

/// Where a service is at fault.
enum Fault {
    /// A line of its own.
    Field(&'static str),
    /// One of its backends.
    Backend(&'static str),
    /// One of its frontends.
    Frontend(&'static str),
    /// Its second frontend.
    Second(&'static str),
    /// Its name.
    Name(&'static str),
}

use Fault::{Backend, Field, Frontend, Name, Second};

/// Services that are rejected one by one, with what the complaint must say.
const BAD_SERVICES: [(Fault, &str); 24] = [
    (Field("colour: red"), "colour"),
    (Field("policy: fastest"), "fastest"),
    (Field("no_backend: cry"), "cry"),
    (Field("affinity: {client: moon}"), "moon"),
    (Field("affinity: {timeout: 0s}"), "timeout"),
    (Field("backends: 80"), "backends"),
    (Backend("{address: \"10.0.0.1:80\", weight: 0}"), "weight"),
    (Backend("{address: \"10.0.0.1:80\", weight: -1}"), "weight"),
    (Backend("{address: \"10.0.0.1:80\", weight: 65536}"), "65535"),
    (Backend("{address: \"10.0.0.1:80\", weight: heavy}"), "weight"),
    (Backend("{address: \"10.0.0.1:80\", state: asleep}"), "asleep"),
    (Backend("{address: \"10.0.0.1:80\", colour: red}"), "colour"),
    (Backend("\"10.0.0.1:0\""), "port"),
    (Backend("\"10.0.0.1:70000\""), "70000"),
    (Backend("\"10.0.0.1:-1\""), "-1"),
    (Backend("\"db.example.org:80\""), "db.example.org"),
    (Frontend("\"10.96.1.1:0\""), "port"),
    (Frontend("\"10.96.1.1:65536\""), "65536"),
    (Frontend("\"localhost:80\""), "localhost"),
    (Frontend("\"fd00::1:80\""), "[fd00::1]:80"),
    (Frontend("\"10.96.1.1:80/sctp\""), "sctp"),
    // The good service has it.
    (Frontend("\"10.96.0.10:80\""), "10.96.0.10:80"),
    (Second("\"10.96.1.1:80\""), "10.96.1.1:80"),
    (Name("\"bad name\""), "bad name"),
];

const HEAD: &str = "  - name: bad\n    frontends: [\"10.96.1.1:80\"]\n";
const LIST: &str = "  - name: bad\n    frontends:\n";

impl Fault {
    /// A service with this fault, as an item of the list.
    fn text(&self) -> String {
        match self {
            Field(line) => format!("{HEAD}    {line} # !\n"),
            Backend(backend) => format!("{HEAD}    backends:\n    - {backend} # !\n"),
            Frontend(frontend) => format!("{LIST}    - {frontend} # !\n"),
            Second(frontend) => format!("{LIST}    - \"10.96.1.1:80\"\n    - {frontend} # !\n"),
            Name(name) => format!("  - name: {name} # !\n    frontends: [\"10.96.1.1:80\"]\n"),
        }
    }
}

/// `FILE:LINE:` of the line of `text` that is marked as the fault.
fn place(file: &Path, text: &str) -> String {
    let marked = text.lines().position(|line| line.ends_with("# !"));
    format!("{}:{}:", file.display(), marked.expect("a marked line") + 1)
}

/// A service that works, as the first item of the list.
fn good(backends: &Backends) -> String {
    service("web").frontend(VIP).backend(backends.at(0)).to_string()
}

fn who(vip: &str) -> std::io::Result<String> {
    let vip: SocketAddr = vip.parse().expect("an address");
    Ok(dial(vip)?.tag)
}

/// Everything printed: the complaint may go to either stream.
fn printed(finished: &Finished) -> Vec<&str> {
    finished.stdout.lines().chain(finished.stderr.lines()).collect()
}

/// That exactly one line complains, and in these words.
#[track_caller]
fn expect_one_line(case: &str, finished: &Finished, code: Option<i32>, parts: &[&str]) {
    assert_eq!(finished.code, code, "{case}: {finished:?}");
    let lines = printed(finished);
    let complaints: Vec<_> =
        lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).collect();
    assert_eq!(complaints.len(), 1, "{case}: wanted one line with {parts:?}: {finished:#?}");
    assert!(!finished.stderr.contains("panicked"), "{case}: {finished:?}");
    assert!(!finished.stderr.contains("backtrace"), "{case}: {finished:?}");
}

#[test]
fn check_names_the_line_of_each_bad_service() {
    lab::run("bad-check", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let good = format!("services:\n{}", good(&backends));
        lab.write_config(&good);
        let fine = lab.lb_agent_on_config("check");
        assert_eq!(fine.code, Some(0), "{fine:?}");
        for (fault, part) in &BAD_SERVICES {
            let text = lab.config(&format!("{good}{}", fault.text())).0;
            lab.write_by_rename(&lab.config_file(), &text);
            let finished = lab.lb_agent_on_config("check");
            let parts = [&place(&lab.config_file(), &text), *part];
            expect_one_line(&fault.text(), &finished, USAGE, &parts);
            assert_eq!(printed(&finished).len(), 1, "more than one line: {finished:?}");
        }
        // All at once: a line each.
        let numbered = BAD_SERVICES.iter().enumerate().map(|(number, (fault, _))| {
            let text = fault.text().replace("name: bad\n", &format!("name: bad-{number}\n"));
            text.replace("10.96.1.1", &format!("10.96.1.{}", number + 1))
        });
        lab.write_config(&format!("{good}{}", numbered.collect::<String>()));
        let finished = lab.lb_agent_on_config("check");
        assert_eq!(finished.code, USAGE);
        assert_eq!(printed(&finished).len(), BAD_SERVICES.len(), "{finished:#?}");
    });
}

/// The same services in the file of a running agent: each is rejected with its line, and the others
/// serve on.
#[test]
fn a_running_agent_rejects_only_the_bad_service() {
    lab::run("bad-running", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let good = format!("services:\n{}", good(&backends));
        let agent = Agent::start(lab, &good);
        let before = agent.status().hooks;
        for (fault, part) in &BAD_SERVICES {
            let services = format!("{good}{}", fault.text());
            agent.reload(&services);
            let place = place(&lab.config_file(), &lab.config(&services).0);
            let rejections = agent.status().rejections;
            let [rejection] = rejections.as_slice() else { panic!("{services}: {rejections:?}") };
            assert!(rejection.origin.starts_with(&place), "{rejection:?}, not {place}");
            assert!(rejection.reason.contains(part), "{part}: {rejection:?}");
            assert_eq!(rejection.reason.lines().count(), 1, "{rejection:?}");
            assert_eq!(who(VIP).unwrap(), "web", "{services}");
        }
        assert_eq!(agent.status().hooks, before);
    });
}

/// What makes the whole file unusable, marked in the same way: `check` and `run` refuse it with 64,
/// and a running agent says so and keeps what it has.
#[test]
fn bad_files() {
    lab::run("bad-files", |lab| {
        let backends = Backends::tcp("127.0.0.1", ["web"]);
        let good = format!("services:\n{}", good(&backends));
        let agent = Agent::start(lab, &good);
        for (case, text, part) in [
            ("unknown section", "colour: red # !\n", "colour"),
            ("table size 0", "tables: {frontends: 0} # !\n", "frontends"),
            ("not a power of two", "tables: {connections: 1000} # !\n", "power of two"),
            ("negative size", "tables: {rows: -5} # !\n", "rows"),
            ("unknown table", "tables: {chairs: 4} # !\n", "chairs"),
            ("not a boolean", "detach_on_exit: perhaps # !\n", "detach_on_exit"),
            ("a source without a file", "sources:\n- {vip_ranges: [10.0.0.0/8]} # !\n", "file"),
            (
                "a range that is none",
                "sources:\n- {file: more.yaml, vip_ranges: [10.96.0.0/33]} # !\n",
                "10.96.0.0/33",
            ),
            ("two values", "tables: {rows: 10}\ntables: {rows: 20} # !\n", "tables"),
            ("no YAML", "tables: [ # !\n", ""),
        ] {
            lab.set_settings(text);
            let (config, lines) = lab.config(&good);
            let other = lab.scratch().join("bad.yaml");
            fs::write(&other, &config).unwrap();
            let place = place(&other, &config);
            for verb in ["check", "run"] {
                let finished = lab.lb_agent(&[verb, "-c", &other.to_string_lossy()]);
                if case == "no YAML" {
                    // Where a bracket is missed is up to the parser, but it is somewhere here.
                    assert_eq!(finished.code, USAGE, "{verb}: {finished:?}");
                    let mut places = (lines..=config.lines().count() + 1)
                        .map(|line| format!("{}:{line}:", other.display()));
                    let named =
                        |place: String| printed(&finished).iter().any(|l| l.contains(&place));
                    assert!(places.any(named), "{finished:?}");
                } else {
                    expect_one_line(&format!("{verb}: {case}"), &finished, USAGE, &[&place, part]);
                }
            }
            lab.write_config(&good);
            eventually("a complaint", DEADLINE, || {
                agent.complaints().iter().any(|line| line.contains(part))
            });
            assert_eq!(who(VIP).unwrap(), "web", "{case}");
            lab.set_settings("");
            lab.write_config(&good);
            eventually("no complaint", DEADLINE, || agent.complaints().is_empty());
        }
    });
}

#[test]
fn bad_usage() {
    lab::run("bad-usage", |lab| {
        for arguments in [
            &[][..],
            &["frobnicate"],
            &["run"],
            &["run", "-c"],
            &["run", "-c", "/nonexistent/config.yaml"],
            &["check", "-c", "/nonexistent/config.yaml"],
            &["run", "--colour", "red"],
            &["run", "-c", "/nonexistent/config.yaml", "--log-format", "morse"],
        ] {
            let finished = lab.lb_agent(arguments);
            assert_eq!(finished.code, USAGE, "{arguments:?}: {finished:?}");
            assert!(!printed(&finished).is_empty() && !finished.stderr.contains("panicked"));
        }
        let finished = lab.lbctl(&["frobnicate"]);
        assert_eq!(finished.code, USAGE, "{finished:?}");
    });
}
