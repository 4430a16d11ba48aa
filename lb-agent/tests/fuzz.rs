//! A bounded run of what `fuzz/` runs without end: the corpus as it stands, then changed at random.
//!
//! `LB_FUZZ_SEED` repeats a run, `LB_FUZZ_RUNS` lengthens it.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]
#![expect(clippy::print_stdout, reason = "the seed is what repeats a failure")]

use lb_agent::fuzzing;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

const RUNS: usize = 3_000;
/// Most changes to one input.
const CHANGES: usize = 6;
/// What parsers turn on.
const WORDS: [&str; 24] = [
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

#[test]
fn layouts() {
    run("layouts", fuzzing::layouts);
}

#[test]
fn services_document() {
    run("services_document", fuzzing::services_document);
}

#[test]
fn settings() {
    run("settings", fuzzing::settings);
}

#[test]
fn kube_proxy() {
    run("kube_proxy", fuzzing::kube_proxy);
}

#[test]
fn kubeconfig() {
    run("kubeconfig", fuzzing::kubeconfig);
}

#[test]
fn cluster() {
    run("cluster", fuzzing::cluster);
}

#[test]
fn requests() {
    run("requests", fuzzing::requests);
}

#[test]
fn tables() {
    run("tables", fuzzing::tables);
}

#[test]
fn documents() {
    run("documents", fuzzing::documents);
}
