//! Pages of the documentation: their fenced blocks, links and headings.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the workspace is.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A page.
pub(crate) struct Page {
    /// From the root of the workspace: `docs/etcd.md`.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// What stands between two fences.
pub(crate) struct Block<'p> {
    /// The line of the first fence.
    pub(crate) line: usize,
    /// The first word after it; empty if there is none.
    pub(crate) language: &'p str,
    /// `run=NAME`: blocks of one name are one script.
    pub(crate) run: Option<&'p str>,
    pub(crate) text: String,
}

/// README, changelog, all of `docs`, and what the benchmark makes.
pub(crate) fn pages() -> Vec<Page> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).expect("the workspace has docs");
    let docs = docs.map(|entry| entry.expect("a directory can be read").file_name());
    let docs = docs.map(|name| Path::new("docs").join(name));
    let mut names: Vec<PathBuf> =
        docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    names.extend(["README.md", "CHANGELOG.md", "docs/bench/README.md"].map(PathBuf::from));
    names.sort();
    names.iter().map(|name| page(&name.to_string_lossy())).collect()
}

/// One of them.
#[track_caller]
pub(crate) fn page(name: &str) -> Page {
    let path = Path::new(ROOT).join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    Page { name: name.to_owned(), text }
}

// === impl Page ===

impl Page {
    /// The fenced blocks, in order.
    pub(crate) fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut open: Option<Block<'_>> = None;
        for (at, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(info), None) => {
                    let mut words = info.split_whitespace();
                    let language = words.next().unwrap_or_default();
                    let run = words.find_map(|word| word.strip_prefix("run="));
                    open = Some(Block { line: at + 1, language, run, text: String::new() });
                }
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block has no end", self.name);
        blocks
    }

    /// The blocks of this name, as one script.
    #[track_caller]
    pub(crate) fn script(&self, run: &str) -> String {
        let blocks = self.blocks();
        let found = blocks.iter().filter(|block| block.run == Some(run));
        let script: String = found.map(|block| block.text.as_str()).collect();
        assert!(!script.is_empty(), "{} has no block with run={run}", self.name);
        script
    }

    /// Where its links lead, but for those to other hosts, with their lines.
    pub(crate) fn links(&self) -> Vec<(usize, &str)> {
        let prose = self.prose();
        let lines = prose.iter().flat_map(|(at, line)| {
            line.split("](").skip(1).filter_map(|rest| Some((*at, rest.split_once(')')?.0)))
        });
        lines.filter(|(_, link)| !link.contains("://")).collect()
    }

    /// The names by which links reach its headings.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose().into_iter().filter(|(_, line)| line.starts_with('#'));
        headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
    }

    /// The lines outside of blocks.
    fn prose(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let lines = self.text.lines().enumerate().filter(|(_, line)| {
            let fence = line.starts_with("```");
            inside ^= fence;
            !inside && !fence
        });
        lines.map(|(at, line)| (at + 1, line)).collect()
    }
}

/// As those who show Markdown make it: small letters, digits, `-` and `_`, spaces as `-`.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}
