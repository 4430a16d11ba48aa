//! The import rule: which module of the agent may name what.
//!
//! Works on the text of `src`: strings, comments and test code are taken out first, so only code
//! that ships can break a rule.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Modules that return values and leave doing to their callers. `plan` stands for all below it.
const PURE: [&str; 81] = [
    "api::page::view",
    "claims",
    "config",
    "ctl::backends",
    "ctl::connections",
    "ctl::explain",
    "ctl::pieces",
    "ctl::render",
    "ctl::report",
    "ctl::table",
    "ctl::top::line",
    "ctl::top::state",
    "ctl::top::view",
    "desired",
    "etcd::backoff",
    "etcd::position",
    "etcd::settings",
    "explain",
    "forecast",
    "health",
    "heard",
    "keys",
    "kubeproxy::cleanup::iptables",
    "kubeproxy::cleanup::names",
    "kubeproxy::cleanup::nft",
    "kubeproxy::config",
    "kubeproxy::decision",
    "kubeproxy::flags",
    "kubeproxy::health",
    "kubeproxy::node",
    "kubeproxy::pages",
    "kubeproxy::table",
    "kubeproxy::values",
    "metrics::tally",
    "model",
    "names::records",
    "nat::chains",
    "nat::contents",
    "nat::draws",
    "nat::expressions",
    "nat::flows",
    "nat::found",
    "nat::late",
    "nat::messages",
    "nat::passes",
    "nat::rows",
    "nat::said",
    "nat::sets",
    "nat::slots",
    "pairs",
    "plan",
    "reconcile::handover",
    "reconcile::recall",
    "reconcile::revisions",
    "shown",
    "sockets",
    "source::etcd::keys",
    "source::etcd::layout",
    "source::etcd::memory",
    "source::etcd::vips",
    "source::kubernetes::cluster",
    "source::kubernetes::endpoints",
    "source::kubernetes::intern",
    "source::kubernetes::listing",
    "source::kubernetes::locality",
    "source::kubernetes::node_ports",
    "source::kubernetes::notes",
    "source::kubernetes::objects",
    "source::kubernetes::progress",
    "source::kubernetes::topology",
    "source::kubernetes::translate",
    "source::spec",
    "source::underway",
    "source::changing",
    "versions",
    "status",
    "summary",
    "trace::join",
    "trace::line",
    "version",
    "yaml",
];

/// Not every planned module exists from the first day; these do, and a rename must not free them.
const EXIST: [&str; 20] = [
    "claims",
    "config",
    "desired",
    "model",
    "source",
    "source::etcd",
    "source::file",
    "source::kubernetes",
    "source::kubernetes::cluster",
    "source::spec",
    "status",
    "store",
    "yaml",
    "dataplane",
    "plan",
    "names::dns",
    "names::records",
    "kubeproxy::config",
    "kubeproxy::decision",
    "kubeproxy::flags",
];

/// Exceptions below a pure module.
const IMPURE: [&str; 1] = ["health::prober"];

/// What pure modules don't name, as paths or as crates.
const EFFECTS: [&str; 20] = [
    "tokio",
    "async",
    "Instant::now",
    "SystemTime::now",
    "rand",
    "tracing",
    "aya",
    "etcd_client",
    "kube",
    "notify",
    "nix",
    "libc",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
];

/// A name and the only modules that may use it, with what is below them.
const ONLY: [(&str, &[&str]); 14] = [
    ("aya", &["dataplane"]),
    ("aya_obj", &["dataplane"]),
    ("unsafe", &["dataplane::sys"]),
    // Whoever reads the wall clock shows it, or compares it with what others have written. Times that
    // something waits for are monotonic: the wall clock may jump.
    (
        "SystemTime::now",
        &[
            "api::backends",
            "app::kubeproxy",
            "ctl",
            "dataplane::connections",
            "etcd::watch",
            "health::prober",
            "kubeproxy::applied",
            "kubeproxy::node_port_health",
            "kubeproxy::servers",
            "metrics::reading",
            "names",
            "nat::follow",
            "reconcile::selftest",
            "report",
            "source::etcd",
            "source::file",
            "source::kubernetes",
            "trace",
        ],
    ),
    ("notify", &["source::file"]),
    ("etcd_client", &["etcd"]),
    ("hickory_server", &["fuzzing::dns", "names::dns"]),
    // Whatever listens has its bounds.
    ("hyper::server", &["serving"]),
    ("kube", &["source::kubernetes"]),
    ("rtnetlink", &["addresses"]),
    ("netlink_packet_core", &["nat"]),
    ("netlink_packet_netfilter", &["nat"]),
    ("netlink_sys", &["nat"]),
    (
        "prometheus_client",
        &["kubeproxy::metrics", "kubeproxy::process", "kubeproxy::servers", "metrics"],
    ),
];

/// Clocks that programs in the kernel may read: monotonic ones, which no one sets.
const KERNEL_CLOCKS: [&str; 2] = ["bpf_ktime_get_ns", "bpf_ktime_get_coarse_ns"];

/// Who must not know whom.
const APART: [(&str, &str); 7] = [
    ("source", "crate::dataplane"),
    ("dataplane", "crate::source"),
    ("names", "crate::dataplane"),
    ("names", "crate::source"),
    ("etcd", "crate::source"),
    ("kubeproxy", "crate::dataplane"),
    ("nat", "crate::dataplane"),
];

#[test]
fn modules_name_only_what_they_may() {
    let modules = modules_of("lb-agent").unwrap();
    let mut broken: Vec<String> = EXIST
        .iter()
        .filter(|name| !modules.keys().any(|module| is_within(module, name)))
        .map(|name| format!("{name} is in the table but not in src; was it renamed?"))
        .collect();
    for (module, code) in &modules {
        broken.extend(violations(module, code));
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// What programs in the kernel wait for, or note, is on the monotonic clock.
#[test]
fn programs_read_no_clock_that_may_jump() {
    let modules = modules_of("lb-bpf").unwrap();
    let read: Vec<(&str, &str)> = modules
        .iter()
        .flat_map(|(module, code)| clocks(code).map(move |clock| (module.as_str(), clock)))
        .collect();
    let broken: Vec<_> = read.iter().filter(|(_, clock)| !KERNEL_CLOCKS.contains(clock)).collect();
    assert!(broken.is_empty(), "{broken:?}: only {KERNEL_CLOCKS:?} may be read");
    for clock in KERNEL_CLOCKS {
        assert!(read.iter().any(|(_, read)| *read == clock), "nobody reads {clock} any more");
    }
}

/// What of the code is named like a helper of the kernel that tells a time.
fn clocks(code: &[String]) -> impl Iterator<Item = &str> {
    let tells = ["ktime", "jiffies", "clock_get", "gettime"];
    let tells = move |token: &&str| tells.iter().any(|part| token.contains(part));
    code.iter().map(String::as_str).filter(tells)
}

fn violations(module: &str, code: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let pure = PURE.iter().any(|name| is_within(module, name));
    if pure && !IMPURE.iter().any(|name| is_within(module, name)) {
        let effects = EFFECTS.iter().filter(|effect| names(module, code, effect));
        found.extend(effects.map(|effect| format!("{module} is pure and names `{effect}`")));
    }
    for (name, allowed) in ONLY {
        if names(module, code, name) && !allowed.iter().any(|owner| is_within(module, owner)) {
            found.push(format!("{module} names `{name}`; only {} may", allowed.join(", ")));
        }
    }
    for (side, other) in APART {
        if is_within(module, side) && names(module, code, other) {
            found.push(format!("{module} names `{other}`"));
        }
    }
    found
}

fn is_within(module: &str, parent: &str) -> bool {
    module.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Whether the code has these path segments in a row, written out or through a `use` group.
fn names(module: &str, code: &[String], path: &str) -> bool {
    let wanted: Vec<&str> = path.split("::").collect();
    let plain = paths(code, module).iter().any(|segments| {
        segments.windows(wanted.len()).any(|window| window.iter().eq(wanted.iter()))
    });
    // Words that are no paths, such as `unsafe`.
    plain || (wanted.len() == 1 && code.iter().any(|token| token == wanted[0]))
}

/// All paths of the code: groups are multiplied out, `super` and `self` are resolved.
fn paths(code: &[String], module: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut current: Vec<String> = Vec::new();
    let mut tokens = code.iter().map(String::as_str).peekable();
    while let Some(token) = tokens.next() {
        match token {
            "::" if tokens.peek() == Some(&"{") => {
                tokens.next();
                groups.push(std::mem::take(&mut current));
                current = groups.last().cloned().unwrap_or_default();
            }
            "::" => {}
            "," | "}" if !groups.is_empty() => {
                paths.push(std::mem::take(&mut current));
                if token == "}" {
                    groups.pop();
                }
                current = groups.last().cloned().unwrap_or_default();
            }
            word if is_word(word) => {
                current.push(word.to_owned());
                if tokens.peek() != Some(&"::") && groups.is_empty() {
                    paths.push(std::mem::take(&mut current));
                }
            }
            _ if groups.is_empty() => current.clear(),
            _ => {}
        }
    }
    paths.into_iter().map(|path| resolve(path, module)).collect()
}

fn resolve(path: Vec<String>, module: &str) -> Vec<String> {
    let ups = path.iter().take_while(|segment| *segment == "super").count();
    if ups == 0 {
        return path;
    }
    let here: Vec<&str> = module.split("::").collect();
    let kept = here.len().saturating_sub(ups);
    let start = ["crate"].into_iter().chain(here.into_iter().take(kept)).map(str::to_owned);
    start.chain(path.into_iter().skip(ups)).collect()
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

// === reading src ===

/// The code that ships, as tokens, by module path. Several files of one module can't happen.
fn modules_of(package: &str) -> io::Result<BTreeMap<String, Vec<String>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(package).join("src");
    let mut modules = BTreeMap::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&root).unwrap_or(&path).with_extension("");
                let mut segments: Vec<_> =
                    relative.iter().filter_map(|segment| segment.to_str()).collect();
                match segments.last() {
                    Some(&"tests") => continue,
                    Some(&"mod") => drop(segments.pop()),
                    _ => {}
                }
                let code = without_tests(tokens(&fs::read_to_string(&path)?));
                modules.insert(segments.join("::"), code);
            }
        }
    }
    Ok(modules)
}

/// Words, `::` and single characters; no comments, no strings.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = string(rest) {
            length
        } else if first.is_alphanumeric() || first == '_' {
            let end = |c: char| !c.is_alphanumeric() && c != '_';
            let length = rest.find(end).unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// Length of the string or character literal at the start, if there is one.
fn string(text: &str) -> Option<usize> {
    let prefix = text.len() - text.trim_start_matches(['b', 'c', 'r']).len();
    let body = &text[prefix.min(2)..];
    let raw = text[..prefix.min(2)].ends_with('r');
    let hashes = body.len() - body.trim_start_matches('#').len();
    if raw && body[hashes..].starts_with('"') {
        let close = format!("\"{}", "#".repeat(hashes));
        let open = prefix.min(2) + hashes + 1;
        return Some(text[open..].find(&close).map_or(text.len(), |end| open + end + close.len()));
    }
    let quote = body.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let mut inside = body.char_indices().skip(1);
    while let Some((at, c)) = inside.next() {
        // A lifetime has no closing quote within reach.
        if quote == '\'' && at > 1 && !body[1..].starts_with('\\') && c != quote {
            return None;
        }
        match c {
            '\\' => drop(inside.next()),
            c if c == quote => return Some(prefix.min(2) + at + 1),
            _ => {}
        }
    }
    None
}

/// Drops every item under `#[cfg(test)]`.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].iter().take(attribute.len()).eq(attribute.iter()) {
            at += attribute.len();
            let mut depth = 0;
            while at < tokens.len() {
                depth += i32::from(tokens[at] == "{") - i32::from(tokens[at] == "}");
                at += 1;
                if depth == 0 && [";", "}"].contains(&tokens[at - 1].as_str()) {
                    break;
                }
            }
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

// === the test itself is tested ===

#[test]
fn each_rule_can_be_broken() {
    let check = |module: &str, text: &str| violations(module, &without_tests(tokens(text))).len();
    for (module, text) in [
        ("model", "use tokio::sync::watch;"),
        ("desired", "let now = std::time::Instant::now();"),
        ("plan::alloc", "use std::{collections::BTreeMap, fs};"),
        ("plan", "tracing::info!(\"x\");"),
        ("source::spec", "async fn f() {}"),
        ("source::file", "use crate::dataplane::Map;"),
        ("source::file", "use crate::{model, dataplane::{a, b}};"),
        ("source::file", "use super::super::dataplane;"),
        ("dataplane::maps", "fn f(s: crate::source::Feed) {}"),
        ("reconcile", "use aya::maps::Array;"),
        ("dataplane::maps", "let x = unsafe { y() };"),
        ("app", "let l: &'static str = \"\"; use notify::Watcher;"),
        ("kubeproxy::listen", "use hyper::server::conn::http1;"),
    ] {
        assert!(check(module, text) > 0, "{module}: {text}");
    }
    for (module, text) in [
        ("model", "// tokio\n/* aya */ let a = \"unsafe\"; let b = r#\"use aya\"#; let c = '\"';"),
        ("model", "#[cfg(test)] mod tests { use std::fs; fn f() { aya() } } use std::net::IpAddr;"),
        ("model", "#[cfg(test)]\nmod tests;\nstruct S<'a>(&'a str);"),
        ("health::prober", "use tokio::net::TcpStream;"),
        ("source::file", "use super::spec; use notify::Event; hint.notify_one();"),
        ("dataplane::sys", "unsafe { f() }"),
        ("dataplane", "use aya::Ebpf; let source = error.source();"),
    ] {
        assert_eq!(check(module, text), 0, "{module}: {text}");
    }
    assert!(check("model", "#[cfg(test)] fn f() { x } use aya::Ebpf;") > 0);
}

#[test]
fn each_clock_is_noticed() {
    for clock in ["bpf_ktime_get_boot_ns", "bpf_ktime_get_tai_ns", "bpf_jiffies64"] {
        let code = without_tests(tokens(&format!("let now = unsafe {{ gen::{clock}() }};")));
        assert_eq!(clocks(&code).collect::<Vec<_>>(), [clock]);
        assert!(!KERNEL_CLOCKS.contains(&clock));
    }
    let code = tokens("// bpf_ktime_get_tai_ns\nlet timeout = row.clock;");
    assert_eq!(clocks(&code).count(), 0);
}
