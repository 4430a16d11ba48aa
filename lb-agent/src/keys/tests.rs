//! What docs/ has is what the list of keys says, and the parser takes what the list says.
//!
//! `make reference` writes the schemas and the tables anew: it runs the first test with `UPDATE` set.

use super::words::said;
use super::*;
use crate::claims::Claims;
use crate::config::parse;
use crate::source::spec::{translate, value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Every mapping of a file, and a good text that has a hole for its keys.
const MAPPINGS: [(&Mapping, &str); 25] = [
    (&MAIN, "@\nservices: []"),
    (&METRICS, "metrics: {@}\nservices: []"),
    (&TABLES, "tables: {@}\nservices: []"),
    (&NAMES, "names: {@, hosts: h}\nservices: []"),
    (&DNS, "names: {dns: {@}}\nservices: []"),
    (&COREDNS, "names: {coredns: {@, endpoints: [a]}}\nservices: []"),
    (&SOURCE, "sources: [{@, file: g}]"),
    (&ETCD, "sources: [{etcd: {@, endpoints: [a]}, vip_ranges: []}]"),
    (&TLS, "sources: [{etcd: {endpoints: ['https://a'], tls: {@}}, vip_ranges: []}]"),
    (
        &USER,
        "sources: [{etcd: {endpoints: [a], user: {@, name: n, password_file: p}}, vip_ranges: []}]",
    ),
    (&KUBERNETES, "sources: [{kubernetes: {@}}]"),
    (&SERVICE, "services: [{@, name: a, frontends: ['10.96.0.1:80']}]"),
    (&AFFINITY, "services: [{affinity: {@}, name: a, frontends: ['10.96.0.1:80']}]"),
    (&EJECTION, "services: [{ejection: {@}, name: a, frontends: ['10.96.0.1:80']}]"),
    (&FRONTEND, "services: [{name: a, frontends: [{@, address: '10.96.0.1:80'}]}]"),
    (
        &BACKEND,
        "services: [{name: a, frontends: ['10.96.0.1:80'], backends: [{@, address: '10.0.0.1:1'}]}]",
    ),
    (
        &POOL,
        "services: [{name: a, frontends: ['10.96.0.1:80'], backends_from: {@, source: s, service: t}}]",
    ),
    (&CHECK, "services: [{name: a, frontends: ['10.96.0.1:80'], checks: [{@}]}]"),
    (&TCP, "services: [{name: a, frontends: ['10.96.0.1:80'], checks: [{tcp: {@}}]}]"),
    (&HTTP, "services: [{name: a, frontends: ['10.96.0.1:80'], checks: [{http: {@, path: /}}]}]"),
    (&HTTPS, "services: [{name: a, frontends: ['10.96.0.1:80'], checks: [{https: {@, path: /}}]}]"),
    (&GRPC, "services: [{name: a, frontends: ['10.96.0.1:80'], checks: [{grpc: {@, tls: true}}]}]"),
    (
        &EXEC,
        "services: [{name: a, frontends: ['10.96.0.1:80'], checks: [{exec: {@, command: [x]}}]}]",
    ),
    (&SERVICE_VALUE, "{@, \"frontends\": [\"10.96.0.1:80\"]}"),
    (&BACKEND_VALUE, "{@, \"address\": \"10.0.0.1:80\"}"),
];

/// What is read of a text for this mapping, and all that is wrong with it, unknown keys too.
fn read(mapping: &Mapping, text: &str) -> (String, Vec<String>) {
    let claims = Claims { exec: true, ..Claims::default() };
    if mapping.id == SERVICE_VALUE.id {
        let read = value::service(&"a".parse().unwrap(), text.as_bytes(), &claims);
        return (format!("{:?}", read.value), [read.problems, read.warnings].concat());
    }
    if mapping.id == BACKEND_VALUE.id {
        let read = value::backend(text.as_bytes());
        return (format!("{:?}", read.value), [read.problems, read.warnings].concat());
    }
    let settings = parse(Path::new("/f"), text);
    let services =
        text.contains("services:").then(|| translate("/f", text, &claims, true).unwrap());
    let found = format!("{settings:?} {:?}", services.as_ref().map(|t| &t.snapshot));
    let wrong = settings.err().into_iter().flatten();
    let wrong = wrong.chain(services.into_iter().flat_map(|services| services.rejections));
    (found, wrong.map(|rejection| rejection.reason).collect())
}

fn problems(mapping: &Mapping, text: &str) -> Vec<String> {
    read(mapping, text).1
}

/// The text with this in its hole.
fn filled(text: &str, key: &str, written: &str) -> String {
    if text.starts_with('{') {
        return text.replace('@', &format!("\"{key}\": {written}"));
    }
    text.replace('@', &format!("{key}: {written}"))
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// All groups, by their names.
fn groups() -> BTreeMap<&'static str, &'static Group> {
    let files = [&FILE_OF_SERVICES];
    let all = MAPPINGS.iter().map(|(mapping, _)| *mapping).chain(files).flat_map(|m| m.groups);
    all.map(|group| (group.id, *group)).collect()
}

/// The table of some groups.
fn table(groups: &[&Group]) -> String {
    let head = "| key | type | default | meaning |\n|---|---|---|---|\n".to_owned();
    groups.iter().flat_map(|group| group.keys).fold(head, |table, key| table + &row(key))
}

fn row(key: &Key) -> String {
    let Key { name, form, otherwise, meaning } = key;
    let default = match otherwise {
        Otherwise::Required => "required".to_owned(),
        Otherwise::None => "none".to_owned(),
        Otherwise::Is(text) => format!("`{text}`"),
        Otherwise::Says(text) => (*text).to_owned(),
    };
    format!("| `{name}` | {} | {default} | {meaning} |\n", said(form))
}

/// A page with its tables made anew: those below `<!-- keys: GROUP ... -->`.
fn with_tables(page: &str, seen: &mut Vec<&'static str>) -> String {
    let groups = groups();
    let mut lines = page.split_inclusive('\n').peekable();
    let mut made = String::new();
    while let Some(line) = lines.next() {
        made.push_str(line);
        let Some(names) = line.strip_prefix("<!-- keys: ").and_then(|l| l.split(" -->").next())
        else {
            continue;
        };
        let named = names.split(' ').map(|name| *groups.get(name).expect(name));
        let named: Vec<&Group> = named.collect();
        seen.extend(named.iter().map(|group| group.id));
        made.push_str(&table(&named));
        while lines.next_if(|line| line.starts_with('|')).is_some() {}
    }
    made
}

#[test]
fn docs_have_what_the_list_says() {
    let update = env::var_os("UPDATE").is_some();
    let mut seen = Vec::new();
    let mut files: Vec<(PathBuf, String)> = schemas()
        .map(|(name, schema)| (docs().join(name), format!("{schema:#}\n")))
        .into_iter()
        .collect();
    for name in ["configuration.md", "etcd.md", "health.md", "names.md"] {
        let file = docs().join(name);
        let page = fs::read_to_string(&file).unwrap();
        files.push((file, with_tables(&page, &mut seen)));
    }
    for (file, made) in files {
        if update {
            fs::write(&file, made).unwrap();
            continue;
        }
        let found = fs::read_to_string(&file).unwrap();
        let differs = found.lines().zip(made.lines()).find(|(found, made)| found != made);
        assert!(
            found == made,
            "{}: run `make reference`; the first line that differs: {differs:?}",
            file.display()
        );
    }
    // What a file has for its only key, and the item of a list that the text shows.
    let missing: Vec<_> = groups().into_keys().filter(|id| !seen.contains(id)).collect();
    assert_eq!(missing, [""; 0], "groups that no page shows");
}

#[test]
fn every_mapping_is_looked_at() {
    fn visit(form: &Form, found: &mut BTreeMap<&'static str, usize>) {
        match form {
            Form::Map(mapping) => {
                let new = found.insert(mapping.id, mapping.keys().count()).is_none();
                if new {
                    mapping.keys().for_each(|key| visit(&key.form, found));
                }
            }
            Form::List(form, ..) | Form::OneOrMore(form, _) => visit(form, found),
            Form::Or(forms) => forms.iter().for_each(|form| visit(form, found)),
            _ => {}
        }
    }
    let mut found = BTreeMap::new();
    for root in [&MAIN, &SERVICE_VALUE, &BACKEND_VALUE] {
        visit(&Form::Map(root), &mut found);
    }
    let looked: BTreeMap<_, _> =
        MAPPINGS.iter().map(|(mapping, _)| (mapping.id, mapping.keys().count())).collect();
    assert_eq!(found, looked);
}

#[test]
fn the_parser_takes_these_keys_there_and_no_others() {
    for (mapping, text) in MAPPINGS {
        let text = filled(text, "zzz", "1");
        let problems = problems(mapping, &text);
        let keys: Vec<_> = mapping.keys().map(|key| format!("`{}`", key.name)).collect();
        let said = |line: &String| {
            let offered = line.rsplit("use ").next().unwrap_or_default().replace(" or ", ", ");
            line.starts_with("unknown field `zzz`") && offered == keys.join(", ")
        };
        assert!(problems.iter().any(said), "{}: {text}: {problems:?}", mapping.id);
    }
}

/// Values of a form that are good, and such that are not.
fn samples(form: &Form) -> (Vec<String>, Vec<String>) {
    let time = |time: &Duration| format!("\"{}\"", humantime::format_duration(*time));
    let texts = |texts: &[&str]| -> Vec<String> { texts.iter().map(|t| (*t).to_owned()).collect() };
    match form {
        Form::Flag => (texts(&["true", "false"]), texts(&["\"perhaps\"", "2", "[]"])),
        Form::Words(words) => {
            (words.iter().map(|word| format!("\"{word}\"")).collect(), texts(&["\"zzz\"", "{}"]))
        }
        Form::Number(low, high) => {
            let good = [low.to_string(), format!("\"{high}\"")];
            let below = low.checked_sub(1).map_or("-1".to_owned(), |low| low.to_string());
            (good.to_vec(), vec![below, (u64::from(*high) + 1).to_string(), "\"x\"".to_owned()])
        }
        Form::Percent(low) => {
            let good = [low.to_string(), "\"100%\"".to_owned()];
            let below = low.checked_sub(1).map_or("-1".to_owned(), |low| low.to_string());
            (good.to_vec(), vec![below, "101".to_owned(), "\"x\"".to_owned()])
        }
        Form::Time(low, high) => {
            let beyond = *high + Duration::from_secs(1);
            let below = low.checked_sub(Duration::from_millis(1)).map(|low| time(&low));
            let bad = below.into_iter().chain([time(&beyond), "\"soon\"".to_owned()]);
            (vec![time(low), time(high)], bad.collect())
        }
        Form::Text | Form::Short | Form::Path | Form::Name | Form::Said(_) => {
            let long = format!("\"{}\"", "a".repeat(254));
            let bad = matches!(form, Form::Short | Form::Name).then_some(long);
            (Vec::new(), texts(&["\"\"", "[[]]"]).into_iter().chain(bad).collect())
        }
        Form::List(_, least, _) => {
            let empty = "[]".to_owned();
            let (good, bad) = if *least == 0 { (vec![empty], None) } else { (vec![], Some(empty)) };
            (good, bad.into_iter().chain(texts(&["{\"zzz\": 1}"])).collect())
        }
        Form::OneOrMore(..) | Form::Port | Form::Off => (Vec::new(), texts(&["\"\""])),
        Form::Map(_) => (Vec::new(), texts(&["[]", "1"])),
        // Each of the forms is somewhere alone.
        Form::Or(_) => (Vec::new(), texts(&["[[]]"])),
    }
}

#[test]
fn the_parser_and_the_list_agree_on_values() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (mapping, text) in MAPPINGS {
        for key in mapping.keys() {
            // The text has it already, or the key stands in its place.
            let taken = text.contains(&format!(" {}:", key.name))
                || text.contains(&format!("\"{}\":", key.name))
                || text.contains(&format!("\n{}:", key.name));
            // Whether these are good depends on the keys beside them.
            let apart = ["vip", "ports", "host", "port", "sources", "layout", "vip_ranges"];
            let (good, bad) = samples(&key.form);
            let place = format!("{}.{}", mapping.id, key.name);
            let bad_only = taken || apart.contains(&key.name);
            for written in good.iter().filter(|_| !bad_only) {
                let text = filled(text, key.name, written);
                let problems = problems(mapping, &text);
                // A timeout that is longer than its interval is no good with the others' defaults.
                let related = |line: &String| line.contains("would overtake");
                let problems: Vec<_> = problems.iter().filter(|line| !related(line)).collect();
                if !problems.is_empty() {
                    wrong.push(format!("{place}: {text}: {problems:?}"));
                }
                seen += 1;
            }
            // Whatever it says, it is for people.
            let counts = key.name != "registered_by";
            for written in bad.iter().filter(|_| counts && !taken) {
                let text = filled(text, key.name, written);
                if problems(mapping, &text).is_empty() {
                    wrong.push(format!("{place}: {text} is taken"));
                }
                seen += 1;
            }
            if let (Otherwise::Is(default), false) = (key.otherwise, bad_only) {
                let quoted = matches!(default, "true" | "false") || default.parse::<u32>().is_ok();
                let written = if quoted { default.to_owned() } else { format!("\"{default}\"") };
                let with = read(mapping, &filled(text, key.name, &written));
                let without = read(mapping, &text.replace("@, ", "").replace('@', ""));
                // A port that was asked for must be free, another need not.
                let same = if place == "main.http" { with.1.is_empty() } else { with == without };
                if !same {
                    wrong.push(format!(
                        "{place}: {written} is not the default: {with:?} {without:?}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 200, "{seen}");
}
