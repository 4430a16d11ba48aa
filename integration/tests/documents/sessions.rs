//! The sessions that pages show are played: with an agent, then without one, then without its tables. Each
//! command must end as it does on the page, well or with an error; the columns of a table, the names of services,
//! sources, hooks and tables in it, and the keys of a description must be those that the page shows. Values are not compared.

use crate::page::{Page, page};
use crate::scene::Scene;
use integration::lab;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Pages whose sessions are played, in this order.
const PAGES: [&str; 2] = ["docs/observability.md", "docs/lbctl.md"];
/// The part of a page that is played after the agent's end.
const AFTERWARDS: &str = "When no agent answers";
/// What only the last of these sessions says: by then the tables are gone.
const NO_TABLES: &str = "no agent has filled tables there";

/// What the sessions show; one of these services is refused.
const SERVICES: &str = r#"services:
  - name: web
    frontends: ["10.96.0.10:80", "10.96.0.10:443", "[fd00:96::10]:80"]
    affinity: {client: cgroup, timeout: 3h}
    backends: ["10.0.0.5:8080", {address: "10.0.0.6:8080", weight: 3}, {address: "10.0.0.7:8080", state: drain}, "[fd00::5]:8080"]
    checks: [tcp]
  - name: default/dns:udp
    frontends: ["10.96.0.53:53/udp"]
    backends: ["10.0.0.5:53"]
    policy: least_connections
    no_backend: unreachable
  - name: batch
    frontends: ["10.96.0.12:80"]
    backends: ["127.0.0.1:0"]
"#;

/// Columns of names: what follows below them is listed in truth, too.
const NAMED: [&str; 5] = ["SERVICE", "NAME", "SOURCE", "HOOK", "TABLE"];

/// What is typed, and what the page shows of it.
struct Typed {
    place: String,
    section: String,
    command: String,
    shown: Vec<String>,
}

#[test]
fn sessions_are_played() {
    lab::run("sessions", |lab| {
        let scene = Scene::new(lab).with_etcd();
        let scene = scene.variable("LB_ETCD_ENDPOINTS", "http://10.0.0.1:2379");
        let home = scene.home();
        let write = |name: &str, text: &str| fs::write(home.join(name), text).expect("writable");
        write("lb.yaml", SERVICES);
        write("bad.yaml", "name: web\nfrontends: [10.96.0.10]\n");
        let typed: Vec<Typed> = PAGES.iter().flat_map(|name| typed(&page(name))).collect();
        assert!(typed.len() > 20, "{} commands were found", typed.len());
        let mut script = String::from(
            "lb-agent run -c lb.yaml &\nagent=$!\ntimeout 60 lbctl status -w -o name | grep -qx serving\n",
        );
        let mut ended = false;
        for (number, Typed { section, command, shown, .. }) in typed.iter().enumerate() {
            if let Some(file) = command.strip_prefix("cat ") {
                write(file, &shown.join("\n"));
            }
            if section == AFTERWARDS && !ended {
                script += "kill $agent\nwait $agent || true\n";
                ended = true;
            }
            if shown.iter().any(|line| line.contains(NO_TABLES)) {
                script += "lb-agent detach\n";
            }
            // It goes on until somebody ends it, and needs something to show.
            let command = match command.as_str() {
                "lbctl trace" => {
                    "lbctl trace > trace & t=$!\n\
                     until [ -s trace ]; do curl -s http://10.96.0.10/ > /dev/null; sleep 0.1; done\n\
                     kill $t; wait $t || true; cat trace"
                }
                command => command,
            };
            let _ = writeln!(
                script,
                "if {{ {command}\n}} > out.{number} 2> err.{number}; then echo 0; else echo $?; fi > code.{number}"
            );
        }
        let finished = scene.run(&script);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        for (number, typed) in typed.iter().enumerate() {
            check(typed, &home, number);
        }
    });
}

/// The commands of a page, but for those that take a cluster, and another program's.
fn typed(page: &Page) -> Vec<Typed> {
    let lines: Vec<&str> = page.text.lines().collect();
    let mut all = Vec::new();
    for block in page.blocks().iter().filter(|block| block.language == "console") {
        let heading = lines[..block.line].iter().rev().find_map(|line| line.strip_prefix("## "));
        for line in block.text.lines() {
            if let Some(command) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")) {
                all.push(Typed {
                    place: format!("{}:{}: {command}", page.name, block.line),
                    section: heading.unwrap_or_default().to_owned(),
                    command: command.to_owned(),
                    shown: Vec::new(),
                });
            } else if let Some(last) = all.last_mut() {
                last.shown.push(line.to_owned());
            }
        }
    }
    all.retain(|Typed { command, .. }| {
        let own = command.starts_with("lbctl ") || command.starts_with("cat ");
        own && !command.contains("--manifests")
    });
    all
}

#[track_caller]
fn check(Typed { place, command, shown, .. }: &Typed, home: &Path, number: usize) {
    let read = |what: &str| {
        let file = home.join(format!("{what}.{number}"));
        fs::read_to_string(file).unwrap_or_else(|error| panic!("{place}: {error}"))
    };
    let [out, err, code] = ["out", "err", "code"].map(read);
    let told = format!("{place} ended with {code}{out}{err}");
    // An error, or the answer that there is nothing of the kind.
    let fails = shown.iter().all(|line| line.starts_with("lbctl: ")) && !shown.is_empty()
        || shown.iter().any(|line| line.contains("is no frontend") || line.ends_with(" absent"));
    assert_eq!(code.trim() != "0", fails, "{told}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let real: Vec<Vec<String>> = out.lines().map(words).collect();
    let mut listed = false;
    for line in shown {
        let shown = words(line);
        let name = shown.first().filter(|_| listed);
        if let Some(name) = name {
            let real = real.iter().any(|row| row.first() == Some(name));
            assert!(real, "{told}\nthe page lists {name:?}");
        }
        listed = name.is_some();
        let is_header = shown.len() > 1
            && shown.iter().all(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '-'));
        if is_header && !command.contains("explain") {
            assert!(real.contains(&shown), "{told}\nthe page has {line:?}");
            // Nobody is connected while this is played.
            listed = NAMED.contains(&shown[0].as_str()) && !command.contains("connections");
        }
        // `Name:         web`, as opposed to tables and sentences.
        if command.contains("describe")
            && let Some((key, _)) = line.split_once(": ")
            && key.starts_with(|c: char| c.is_ascii_uppercase())
        {
            assert!(out.contains(&format!("{key}: ")), "{told}\nthe page has {line:?}");
        }
    }
}
