//! The static build: agent, `lbctl`, tests and the guest's first process.

use anyhow::{Context, bail, ensure};
use integration::kernels::programs::Program;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A target of its own even though it is this machine's: only then do the flags spare what runs
/// during the build.
const TRIPLE: &str = env!("TARGET");
const BINARIES: [&str; 4] = ["lb-agent", "lbctl", "kernels-init", "confined"];

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

/// Builds these tests and what they run, as `make test` builds what it measures: what one of the two has built
/// is there for the other.
pub(crate) fn build(workspace: &Path, target: &Path, tests: &[&Program]) -> anyhow::Result<Built> {
    let mut built = Built { binaries: BTreeMap::new(), tests: BTreeMap::new() };
    let packages = ["-p", "lb-agent", "-p", "integration", "--bins"];
    cargo(workspace, target, &packages, &mut built)?;
    let mut arguments = vec!["-p", "integration"];
    arguments.extend(tests.iter().flat_map(|program| ["--test", program.name]));
    // Without a name, it would be all of them.
    if !tests.is_empty() {
        cargo(workspace, target, &arguments, &mut built)?;
    }
    built.binaries.retain(|name, _| BINARIES.contains(&&**name));
    let complete = built.binaries.len() == BINARIES.len() && built.tests.len() == tests.len();
    ensure!(complete, "cargo did not say where all programs are");
    Ok(built)
}

fn cargo(
    workspace: &Path,
    target: &Path,
    arguments: &[&str],
    built: &mut Built,
) -> anyhow::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_TARGET_DIR", target)
        .args(["build", "--release", "--target", TRIPLE, "--no-default-features"])
        .args(["--message-format", "json-render-diagnostics"])
        .args(arguments)
        .stderr(Stdio::inherit());
    let output = cargo.output().context("can't run cargo")?;
    if !output.status.success() {
        bail!("the static build failed");
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Message = serde_json::from_str(line).context("reading what cargo says")?;
        let Message { target: Some(target), executable: Some(executable) } = message else {
            continue;
        };
        let is_test = target.kind.iter().any(|kind| kind == "test");
        let place = if is_test { &mut built.tests } else { &mut built.binaries };
        place.insert(target.name, executable);
    }
    Ok(())
}
