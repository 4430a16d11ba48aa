//! What the Makefile gives to `cargo test` as a filter matches tests: with a name that no test has, cargo
//! runs none, and is content.

use crate::page::ROOT;
use std::fs;
use std::path::{Path, PathBuf};

/// What one call of `cargo test` is to run.
#[derive(Debug, Default)]
struct Call {
    packages: Vec<String>,
    library: bool,
    /// Names of test programs, `*` for anything.
    programs: Vec<String>,
    /// Parts of paths of tests, those to be skipped among them.
    filters: Vec<String>,
}

/// A test: where it is, and its path as cargo prints it.
#[derive(Debug)]
struct Test {
    package: String,
    /// Its test program; none if it is the library's.
    program: Option<String>,
    path: String,
}

// === impl Call ===

impl Call {
    /// The arguments of `cargo test`. What only make knows has nothing to do with names.
    fn new(arguments: &str) -> Self {
        let mut call = Self::default();
        let mut words = arguments.split_whitespace().filter(|word| !word.starts_with("$("));
        while let Some(word) = words.next() {
            let mut value =
                || words.next().expect("an option's value").trim_matches('\'').to_owned();
            match word {
                "-p" => call.packages.push(value()),
                "--test" => call.programs.push(value()),
                "--skip" => call.filters.push(value()),
                "--exclude" => drop(value()),
                "--lib" => call.library = true,
                _ if word.starts_with('-') => {}
                filter => call.filters.push(filter.to_owned()),
            }
        }
        call
    }

    fn is_about(&self, test: &Test) -> bool {
        let everything = !self.library && self.programs.is_empty();
        let matches = |program: &str| self.programs.iter().any(|asked| fits(asked, program));
        let part = everything || test.program.as_deref().map_or(self.library, matches);
        part && (self.packages.is_empty() || self.packages.contains(&test.package))
    }
}

fn fits(asked: &str, program: &str) -> bool {
    asked.strip_suffix('*').map_or(asked == program, |start| program.starts_with(start))
}

/// The calls of the Makefile, each with the line it stands in.
fn calls() -> Vec<(String, Call)> {
    let text = fs::read_to_string(Path::new(ROOT).join("Makefile")).expect("there is a Makefile");
    let text = text.replace("\\\n", " ");
    let calls = text.lines().filter_map(|line| {
        let (_, arguments) = line.split_once("CARGO) test ")?;
        Some((line.trim().to_owned(), Call::new(arguments)))
    });
    calls.collect()
}

fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for package in ["lb-common", "lb-agent", "integration"] {
        let root = Path::new(ROOT).join(package);
        for (below, is_library) in [("src", true), ("tests", false)] {
            for path in sources(&root.join(below)) {
                let inner = path.strip_prefix(root.join(below)).expect("it is below").to_owned();
                let mut module: Vec<String> = inner
                    .with_extension("")
                    .iter()
                    .map(|part| part.to_string_lossy().into_owned())
                    .collect();
                module.retain(|part| !["mod", "main", "lib"].contains(&part.as_str()));
                let program = (!is_library).then(|| module.remove(0));
                let text = fs::read_to_string(&path).expect("sources are text");
                if text.contains("\nmod tests {") {
                    module.push("tests".to_owned());
                }
                tests.extend(names(&text).into_iter().map(|name| Test {
                    package: package.to_owned(),
                    program: program.clone(),
                    path: [&module[..], &[name]].concat().join("::"),
                }));
            }
        }
    }
    tests
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a directory can be read").path());
    let inner = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    paths.flat_map(inner).filter(is_source).collect()
}

/// The functions that bear `#[test]`, or another macro's word for it.
fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut awaited = false;
    for line in text.lines().map(str::trim) {
        awaited |= line.starts_with("#[") && line.contains("test") && !line.contains("cfg");
        let Some((_, rest)) = line.split_once("fn ").filter(|_| awaited) else { continue };
        names.extend(rest.split(['(', '<']).next().map(str::to_owned));
        awaited = false;
    }
    names
}

#[test]
fn every_filter_of_the_makefile_matches_tests() {
    let (calls, tests) = (calls(), tests());
    assert!(calls.len() > 20 && tests.len() > 1000, "{} {}", calls.len(), tests.len());
    for (line, call) in &calls {
        let about: Vec<_> = tests.iter().filter(|test| call.is_about(test)).collect();
        assert!(!about.is_empty(), "no such tests: {line}");
        for asked in &call.programs {
            let mut programs = about.iter().filter_map(|test| test.program.as_deref());
            assert!(programs.any(|program| fits(asked, program)), "no program {asked}: {line}");
        }
        for filter in &call.filters {
            let found = about.iter().any(|test| test.path.contains(filter.as_str()));
            assert!(found, "no test is called {filter}: {line}");
        }
    }
}

#[test]
fn arguments_are_read_as_cargo_reads_them() {
    let call =
        Call::new("$(OPTIMISED) -p a --exclude b --test 'o*' one:: -- --nocapture --skip two");
    assert_eq!(call.packages, ["a"]);
    assert_eq!(
        (call.programs, call.filters),
        (vec!["o*".to_owned()], vec!["one::".to_owned(), "two".to_owned()])
    );
    let found = names("#[cfg(test)]\nfn no() {}\n#[test]\n#[ignore]\nfn yes() {}\nfn neither() {}");
    assert_eq!(found, ["yes"]);
}
