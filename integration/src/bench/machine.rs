//! What a run says of where it ran: absolute values mean nothing without it.

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

/// The work tree that this was compiled in.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Programs of others that are measured or measured with.
const OTHERS: [(&str, &str); 3] =
    [("nft", "--version"), ("iptables-legacy", "--version"), ("etcd", "--version")];
/// What is compiled into the programs that measure and that are measured, below the work tree's root.
const MEASURED: [&str; 6] =
    ["Cargo.toml", "Cargo.lock", "lb-agent/src", "lb-bpf", "lb-common", "integration/src"];

/// Machine, kernel and sources of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor as it names itself.
    pub processor: String,
    /// Logical processors that the run may use.
    pub processors: usize,
    /// Main memory, in MiB.
    pub memory: u64,
    /// A hypervisor says that it is there.
    pub virtual_machine: bool,
    /// Release of the kernel.
    pub kernel: String,
    /// Of the sources; ends in `-dirty` where what is measured differs from it.
    pub commit: String,
    /// Versions of others' programs, by their names; those that are not installed lack.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// The programs were compiled with optimisation: nothing else counts.
    pub optimised: bool,
}

// === impl Machine ===

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
            let mut found = lines.filter(|(key, _)| key.trim() == name);
            found.next().map(|(_, value)| value.trim().to_owned())
        };
        let memory = read("/proc/meminfo").split_whitespace().nth(1).map(str::parse::<u64>);
        Self {
            processor: field("model name").unwrap_or_else(unknown),
            processors: available_parallelism().map_or(1, usize::from),
            memory: memory.and_then(Result::ok).unwrap_or_default() / 1024,
            virtual_machine: field("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit(Path::new(ROOT)).unwrap_or_else(unknown),
            versions: OTHERS.into_iter().filter_map(version).collect(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

impl Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, memory, virtual_machine, kernel, .. } = self;
        let Self { commit, versions, optimised, .. } = self;
        let kind = if *virtual_machine { "virtual machine" } else { "machine" };
        write!(
            f,
            "{kind} with {processors} processors ({processor}) and {:.1} GiB, Linux {kernel}, ",
            *memory as f64 / 1024.0
        )?;
        for (name, version) in versions {
            write!(f, "{name} {version}, ")?;
        }
        write!(f, "commit {commit}")?;
        if !optimised {
            f.write_str("; compiled without optimisation")?;
        }
        Ok(())
    }
}

/// That what would be measured now is what was measured at this commit of this work tree.
///
/// # Errors
///
/// If it was not committed as it was measured, has changed since, or git knows no such commit.
pub(super) fn unchanged_since(root: &Path, commit: &str) -> anyhow::Result<()> {
    ensure!(
        !commit.ends_with("-dirty"),
        "{commit}: what was measured was in no commit; commit it, and run `make bench` again"
    );
    git(root, &["rev-parse", "--verify", "--quiet", &format!("{commit}^{{commit}}")])
        .with_context(|| format!("git knows no commit {commit} here: run `make bench` again"))?;
    ensure!(
        git(root, &[&["diff", "--quiet", commit, "--"][..], &MEASURED].concat()).is_some(),
        "what is measured has changed since {commit}: run `make bench` again"
    );
    Ok(())
}

/// `None` outside a git work tree.
fn commit(root: &Path) -> Option<String> {
    let commit = git(root, &["describe", "--always", "--exclude=*"])?;
    let same = git(root, &[&["diff", "--quiet", "HEAD", "--"][..], &MEASURED].concat());
    Some(if same.is_some() { commit } else { format!("{commit}-dirty") })
}

/// What git says; `None` if it fails.
fn git(root: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(args).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned())
}

/// The first word with a digit in it that such a program says of itself.
fn version((program, argument): (&str, &str)) -> Option<(String, String)> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let version = said.split_whitespace().find(|word| word.contains(|c: char| c.is_ascii_digit()));
    Some((program.to_owned(), version?.trim_start_matches('v').to_owned()))
}

/// Empty where there is no such file: what is said of the machine does not stop a run.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn unknown() -> String {
    "unknown".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_what_is_committed() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let write = |file: &str, text: &str| fs::write(root.join(file), text).unwrap();
        let done = |args: &[&str]| git(root, args).unwrap_or_else(|| panic!("git {args:?}"));
        let commit_all = || {
            done(&["add", "--all"]);
            done(&[
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@localhost",
                "commit",
                "-qm",
                "a change",
            ]);
        };
        done(&["init", "-q"]);
        for directory in ["lb-agent/src", "lb-bpf", "lb-common", "integration/src"] {
            fs::create_dir_all(root.join(directory)).unwrap();
            write(&format!("{directory}/x.rs"), "");
        }
        for file in ["Cargo.toml", "Cargo.lock", "README.md"] {
            write(file, "");
        }
        commit_all();
        let measured = commit(root).unwrap();
        assert!(!measured.ends_with("-dirty"), "{measured}");
        // What only tells of it.
        write("README.md", "told");
        assert_eq!(commit(root).unwrap(), measured);
        commit_all();
        unchanged_since(root, &measured).unwrap();

        write("lb-bpf/x.rs", "faster");
        let dirty = commit(root).unwrap();
        assert!(dirty.ends_with("-dirty"), "{dirty}");
        for (commit, why) in [
            (dirty.as_str(), "in no commit"),
            (measured.as_str(), "has changed since"),
            ("0123456789", "knows no commit"),
        ] {
            let error = unchanged_since(root, commit).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        commit_all();
        assert!(unchanged_since(root, &measured).is_err());
    }

    #[test]
    fn programs_have_versions() {
        assert_eq!(
            version(("echo", "nftables v1.0.6 (#5)")),
            Some(("echo".into(), "1.0.6".into()))
        );
        assert_eq!(version(("echo", "no number")), None);
        assert_eq!(version(("there-is-no-such-program", "")), None);
        let versions = [("nft".to_owned(), "1.0.6".to_owned())].into();
        let text = Machine { versions, commit: "abc".into(), ..Machine::here() }.to_string();
        assert!(text.contains(", nft 1.0.6, commit abc"), "{text}");
    }
}
