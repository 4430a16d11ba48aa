//! The static build: agent, `lbctl`, tests and the guest's first process.

use anyhow::{Context, bail, ensure};
use integration::kernels::TESTS;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A target of its own even though it is this machine's: only then do the flags spare what runs
/// during the build.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const BINARIES: [&str; 3] = ["lb-agent", "lbctl", "kernels-init"];

/// What goes into a guest, by name.
pub(crate) struct Built {
    /// Programs of the workspace.
    pub(crate) binaries: BTreeMap<String, PathBuf>,
    /// Test programs.
    pub(crate) tests: BTreeMap<String, PathBuf>,
}

/// A line of cargo's; other lines lack these fields.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds; `only` these tests if any are named.
pub(crate) fn build(workspace: &Path, target: &Path, only: &[String]) -> anyhow::Result<Built> {
    for name in only {
        ensure!(TESTS.contains(&&**name), "no test `{name}` runs in a guest; {}", TESTS.join(" "));
    }
    let tests: Vec<&str> =
        if only.is_empty() { TESTS.to_vec() } else { only.iter().map(String::as_str).collect() };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_TARGET_DIR", target)
        .args(["build", "--target", TRIPLE])
        .args(["-p", "lb-agent", "-p", "integration"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit());
    for name in BINARIES {
        cargo.args(["--bin", name]);
    }
    for name in &tests {
        cargo.args(["--test", name]);
    }
    let output = cargo.output().context("can't run cargo")?;
    if !output.status.success() {
        bail!("the static build failed");
    }
    let mut built = Built { binaries: BTreeMap::new(), tests: BTreeMap::new() };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Message = serde_json::from_str(line).context("reading what cargo says")?;
        let Message { target: Some(target), executable: Some(executable) } = message else {
            continue;
        };
        if target.kind.iter().any(|kind| kind == "test") {
            built.tests.insert(target.name, executable);
        } else if BINARIES.contains(&&*target.name) {
            built.binaries.insert(target.name, executable);
        }
    }
    let complete = built.binaries.len() == BINARIES.len() && built.tests.len() == tests.len();
    ensure!(complete, "cargo did not say where all programs are");
    Ok(built)
}
