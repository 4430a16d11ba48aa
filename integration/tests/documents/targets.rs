//! What pages say of `make` and of what it installs: each target that they name is one, and README's lists of
//! packages are what `lb-bpf/setup.sh` looks for.

use crate::page::{Page, ROOT, page, pages};
use integration::process::run;
use std::collections::BTreeSet;
use std::process::Command;
use tempfile::TempDir;

#[test]
fn targets_that_are_named_exist() {
    let scratch = TempDir::with_prefix("lb-").expect("a directory can be made");
    let mut pages = pages();
    pages.push(page("Containerfile"));
    let named: BTreeSet<String> = pages.iter().flat_map(make_commands).collect();
    assert!(named.len() > 25, "{named:?}");
    for command in named {
        let script = command.replacen("make", "exec make -n -C \"$0\"", 1);
        let mut shell = Command::new("sh");
        // As nobody's part: who runs these tests may be make, too.
        shell.args(["-c", &script, ROOT]).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        let finished = run(&mut shell, scratch.path());
        assert_eq!(finished.code, Some(0), "{command}: {finished:?}");
    }
}

/// The commands `make ...` of a page: in backticks, and in blocks as what is typed.
fn make_commands(page: &Page) -> Vec<String> {
    let blocks = page.blocks();
    let typed = blocks.iter().filter(|block| ["sh", "console"].contains(&block.language));
    let typed = typed.flat_map(|block| block.text.lines()).map(|line| {
        let typed = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")).unwrap_or(line);
        typed.split(" # ").next().unwrap_or_default()
    });
    // A Containerfile has no blocks.
    let steps = page.text.lines().filter_map(|line| line.strip_prefix("RUN "));
    typed
        .chain(steps)
        .chain(page.text.split('`'))
        .map(|command| command.strip_prefix("sudo ").unwrap_or(command).trim())
        .filter(|command| command.starts_with("make ") && !command.contains("..."))
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_is_installed_is_what_the_readme_says() {
    let scratch = TempDir::with_prefix("lb-").expect("a directory can be made");
    // With no program to be found, and no apt-get: what lacks is said.
    let missing = |argument: &str| -> BTreeSet<String> {
        let mut setup = Command::new("/bin/sh");
        setup.arg(format!("{ROOT}/lb-bpf/setup.sh")).args(argument.split_whitespace());
        setup.env("PATH", scratch.path()).env("CARGO_HOME", scratch.path());
        let finished = run(&mut setup, scratch.path());
        let said = finished.stderr.strip_prefix("setup: missing: ");
        let said = said.and_then(|said| said.split(". ").next());
        let said = said.unwrap_or_else(|| panic!("setup.sh {argument}: {finished:?}"));
        said.split_whitespace().map(str::to_owned).collect()
    };
    let readme = page("README.md");
    let listed = |target: &str| -> BTreeSet<String> {
        let row = readme.text.lines().find_map(|line| line.strip_prefix(&format!("| `{target}`")));
        let row = row.unwrap_or_else(|| panic!("the table of packages has no {target}"));
        let packages = row.rsplit(" | ").next().unwrap_or_default();
        // What is in backticks.
        let spans = packages.split('`').skip(1).step_by(2);
        spans.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let base = missing("");
    assert!(base.contains("gcc") && base.is_subset(&listed("make setup")), "{base:?}");
    for (argument, target) in [
        ("tests", "make setup-tests"),
        ("kernels", "make kernels"),
        ("packages", "make deb"),
        ("fuzz", "make fuzz"),
    ] {
        let more: BTreeSet<String> = missing(argument).difference(&base).cloned().collect();
        assert_eq!(more, listed(target), "setup.sh {argument}");
    }
    let bench: BTreeSet<String> = missing("others benchmark").difference(&base).cloned().collect();
    assert_eq!(bench, &listed("make bench") | &listed("make kernels"));
}
