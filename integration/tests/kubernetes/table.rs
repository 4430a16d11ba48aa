//! `docs/kubernetes-tests.md` names tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All `NAME.rs` below a directory.
fn files(directory: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the source is there") {
        let path = entry.expect("the source is readable").path();
        if path.is_dir() {
            files(&path, name, found);
        } else if path.file_name().is_some_and(|file| *file == *format!("{name}.rs")) {
            found.push(path);
        }
    }
}

/// Whether a file of this name has a test of this name.
fn exists(file: &str, test: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for place in [root.join("tests"), root.join("../lb-agent/src")] {
        files(&place, file, &mut found);
    }
    found.iter().any(|path| {
        let text = fs::read_to_string(path).expect("the source is readable");
        let lines: Vec<&str> = text.lines().collect();
        lines.windows(2).any(|pair| {
            let rest = pair[1].trim_start().strip_prefix("fn ");
            pair[0].contains("#[test]")
                && rest.is_some_and(|rest| rest.starts_with(&format!("{test}(")))
        })
    })
}

/// What stands in backquotes and has two colons.
fn named(text: &str) -> BTreeSet<(&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|span| span.split_once("::")).collect()
}

#[test]
fn each_test_that_the_table_names_exists() {
    assert!(exists("table", "each_test_that_the_table_names_exists"));
    assert!(!exists("table", "each_test"));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes-tests.md");
    let text = fs::read_to_string(page).expect("the page is there");
    let text = text.replace("`FILE::TEST`", "");
    let named = named(&text);
    assert!(named.len() > 40, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|(file, test)| !exists(file, test)).collect();
    assert!(
        missing.is_empty(),
        "docs/kubernetes-tests.md names tests that do not exist: {missing:?}"
    );
}
