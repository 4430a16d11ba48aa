//! A bounded run of what `fuzz/` runs without end: the corpus as it stands, then changed at random.
//!
//! `LB_FUZZ_SEED` repeats a run, `LB_FUZZ_RUNS` lengthens it.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]
#![expect(clippy::print_stdout, reason = "the seed is what repeats a failure")]

use lb_agent::fuzzing;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

const RUNS: usize = 3_000;
/// Most changes to one input.
const CHANGES: usize = 6;
/// What parsers turn on.
const WORDS: [&str; 27] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "/",
    "//",
    "\n",
    " ",
    "null",
    "-1",
    "0",
    "65536",
    "1e9",
    "\\u0000",
    "\u{fffd}",
    ".",
    "dns/apex",
    "services/",
    "backends/",
    "members/",
    "::ffff:0.0.0.0",
    "KUBE-SERVICES",
    " -j KUBE-SVC-A1",
    "\n-A ",
];

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn mutate(random: &mut StdRng, input: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = random.random_range(0..=input.len());
    let end = (at + random.random_range(0..20)).min(input.len());
    match random.random_range(0..8) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 => drop(input.drain(at..end)),
        2 => input.insert(at, random.random()),
        3 => {
            let word = WORDS[random.random_range(0..WORDS.len())];
            drop(input.splice(at..at, word.bytes()));
        }
        4 => {
            let word = WORDS[random.random_range(0..WORDS.len())];
            drop(input.splice(at..end, word.bytes()));
        }
        5 => {
            let other = &others[random.random_range(0..others.len())];
            let from = random.random_range(0..=other.len());
            let to = (from + random.random_range(0..200)).min(other.len());
            drop(input.splice(at..at, other[from..to].iter().copied()));
        }
        // Longer than anything that is shown, in characters of two and three bytes.
        6 => {
            let long = ["é", "€"][random.random_range(0..2)].repeat(random.random_range(10..400));
            drop(input.splice(at..at, long.bytes()));
        }
        // A line once more, elsewhere: keys come and go.
        _ => {
            let lines: Vec<_> = input.split_inclusive(|byte| *byte == b'\n').collect();
            let line =
                lines[random.random_range(0..lines.len().max(1)).min(lines.len() - 1)].to_vec();
            let place = random.random_range(1..=lines.len());
            let at: usize = lines[..place].iter().map(|line| line.len()).sum();
            drop(input.splice(at..at, line));
        }
    }
}

fn run(target: &str, body: fn(&[u8])) {
    let seed = environment("LB_FUZZ_SEED").unwrap_or_else(|| rand::rng().next_u64());
    let runs = environment("LB_FUZZ_RUNS").map_or(RUNS, |runs| usize::try_from(runs).unwrap());
    println!("{target}: LB_FUZZ_SEED={seed}");
    let corpus = corpus(target);
    let mut random = StdRng::seed_from_u64(seed);
    let changed = (0..runs).map(|_| {
        let mut input = corpus[random.random_range(0..corpus.len())].clone();
        for _ in 0..random.random_range(1..=CHANGES) {
            if !input.is_empty() {
                mutate(&mut random, &mut input, &corpus);
            }
        }
        input
    });
    for input in corpus.iter().cloned().chain(changed) {
        if catch_unwind(|| body(&input)).is_err() {
            let text = String::from_utf8_lossy(&input);
            panic!("{target}, LB_FUZZ_SEED={seed}: panicked with {input:?}, that is:\n{text}");
        }
    }
}

/// Names of functions in `fuzzing`, of what `fuzz/` has for each, and of tests.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        const TARGETS: &[&str] = &[$(stringify!($name)),*];

        $(#[test]
        fn $name() {
            run(stringify!($name), fuzzing::$name);
        })*
    };
}

targets! {
    layouts,
    services_document,
    settings,
    kube_proxy,
    kubeconfig,
    credential,
    cluster,
    requests,
    tables,
    documents,
    dns,
    kube_proxy_rules,
}

/// Nothing compiles `fuzz/` but who runs it, so each file there is held to what is compiled here.
#[test]
fn what_runs_without_end_is_the_same() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let known: BTreeSet<_> = TARGETS.iter().map(|name| (*name).to_owned()).collect();
    let names = |below: &str| -> BTreeSet<String> {
        let paths = fs::read_dir(dir.join(below)).unwrap().map(|entry| entry.unwrap().path());
        paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("corpus"), known);
    assert_eq!(names("fuzz_targets"), known);
    let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap();
    assert_eq!(manifest.matches("[[bin]]").count(), known.len());
    for name in TARGETS {
        let bin = format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n");
        assert!(manifest.contains(&bin), "Cargo.toml: {bin}");
        let text = fs::read_to_string(dir.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        let target = "#![no_main]\n\nuse libfuzzer_sys::fuzz_target;\n\n";
        let call = format!("fuzz_target!(|data: &[u8]| lb_agent::fuzzing::{name}(data));\n");
        assert_eq!(text, format!("{target}{call}"));
    }
}
