//! A guest's root: the programs under test, the few tools that they call, and the kernel's modules.

use crate::build::Built;
use crate::fetch::Files;
use crate::output;
use anyhow::Context;
use integration::kernels::programs::Job;
use integration::kernels::{JOB_LIST, MODULE_LIST, MODULES, PAYLOAD};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What tests run, apart from the programs under test.
const TOOLS: [&str; 28] = [
    "bash",
    "cat",
    "chown",
    "chrt",
    "cp",
    "id",
    "install",
    "ip",
    "ip6tables-restore",
    "iptables-restore",
    "kmod",
    "ls",
    "mount",
    "nft",
    "nice",
    "nsenter",
    "prlimit",
    "setarch",
    "setpriv",
    "sh",
    "sleep",
    "ss",
    "systemd-analyze",
    "tc",
    "touch",
    "true",
    "umount",
    "unshare",
];
/// What iptables has its matches and targets from.
const EXTENSIONS: &str = "/usr/lib/x86_64-linux-gnu/xtables";
/// Without any, an agent follows no cluster, not even by plain HTTP.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Directories of a root that lie in its `/usr`, as on the machines that the tools are from.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Packs what all guests have in common, and these tools.
pub(crate) fn base(place: &Path, built: &Built, also: &[&str]) -> anyhow::Result<PathBuf> {
    let root = fresh(&place.join("root"))?;
    merge(&root)?;
    for directory in ["etc", "root", "var/lib", "var/tmp", "dev", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let payload = within(&root, PAYLOAD);
    fs::create_dir_all(&payload)?;
    for (name, file) in &built.binaries {
        let to = if name == "kernels-init" { root.join("init") } else { payload.join(name) };
        stripped(file, &to)?;
    }
    for name in TOOLS.iter().chain(also) {
        tool(&root, name)?;
    }
    for entry in fs::read_dir(EXTENSIONS).context("iptables has no extensions here")? {
        let file = entry?.path();
        copy(&file, &within(&root, &file))?;
    }
    copy(Path::new(CERTIFICATES), &within(&root, CERTIFICATES))?;
    // The kernel calls it for modules that are asked for by number.
    symlink("/bin/kmod", root.join("usr/sbin/modprobe"))?;
    let archive = place.join("base.cpio");
    cpio(&root, &archive)?;
    Ok(archive)
}

/// Packs what a guest is to run.
pub(crate) fn jobs(place: &Path, built: &Built, jobs: &[Job]) -> anyhow::Result<PathBuf> {
    let root = fresh(&place.join("jobs"))?;
    let programs = within(&root, PAYLOAD).join("deps");
    fs::create_dir_all(&programs)?;
    let mut list = String::new();
    for job in jobs {
        let file = built.tests.get(&job.program).with_context(|| job.program.clone())?;
        stripped(file, &programs.join(&job.program))?;
        list += &(serde_json::to_string(job)? + "\n");
    }
    fs::write(within(&root, JOB_LIST), list)?;
    let archive = place.join("jobs.cpio");
    cpio(&root, &archive)?;
    Ok(archive)
}

/// Packs a kernel's modules: the usual ones, and these.
pub(crate) fn modules(
    place: &Path,
    files: &Files,
    also: &[&'static str],
) -> anyhow::Result<PathBuf> {
    let root = fresh(&place.join("modules"))?;
    merge(&root)?;
    let directory = root.join("lib/modules").join(&files.release);
    fs::create_dir_all(&directory)?;
    depmod(&files.root, &files.release)?;
    let mut found = Vec::new();
    for name in MODULES.iter().chain(also).copied() {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-d").arg(&files.root).args(["-S", &files.release, "--show-depends", name]);
        // Built in, or unknown to this kernel.
        let Ok(text) = output(&mut modprobe) else { continue };
        let needed: Vec<_> = text.lines().filter_map(file_to_load).collect();
        for file in &needed {
            unpack(Path::new(file), &directory)?;
        }
        if !needed.is_empty() {
            found.push(name);
        }
    }
    depmod(&root, &files.release)?;
    fs::write(within(&root, MODULE_LIST), found.join("\n"))?;
    let archive = place.join("modules.cpio");
    cpio(&root, &archive)?;
    Ok(archive)
}

/// Puts archives into one that a guest boots from: the kernel takes several, one after the other.
pub(crate) fn together(place: &Path, parts: [&Path; 3]) -> anyhow::Result<PathBuf> {
    let whole = place.join("initramfs");
    let mut out = fs::File::create(&whole)?;
    for part in parts {
        std::io::copy(&mut fs::File::open(part)?, &mut out)?;
    }
    Ok(whole)
}

/// Lets the directories of a root lie in its `/usr`. All archives must: a directory in one of them
/// would take the place of another's link.
fn merge(root: &Path) -> anyhow::Result<()> {
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(Path::new("usr").join(name), root.join(name))?;
    }
    Ok(())
}

/// Where a guest's path is while its root is being made.
fn within(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The file that a line of modprobe's names; after it come this machine's options for it.
fn file_to_load(line: &str) -> Option<&str> {
    line.strip_prefix("insmod ")?.split_whitespace().next()
}

/// An empty directory.
fn fresh(path: &Path) -> anyhow::Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| path.display().to_string())?;
    }
    fs::create_dir_all(path)?;
    Ok(path.to_owned())
}

/// Copies a program without its symbols: the guest holds all of them in memory.
fn stripped(from: &Path, to: &Path) -> anyhow::Result<()> {
    output(Command::new("strip").arg("--strip-all").arg("-o").arg(to).arg(from)).map(drop)
}

/// Where this machine has a tool.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Copies a tool of this machine with the libraries that it names.
fn tool(root: &Path, name: &str) -> anyhow::Result<()> {
    let file = installed(name)
        .with_context(|| format!("no `{name}` here; `sh lb-bpf/setup.sh kernels` installs it"))?;
    // Those that are links to a program of many names are told by theirs.
    copy(&file, &root.join("usr/bin").join(name))?;
    // A line is `name => path (address)`, or for the loader `path (address)`.
    for line in output(Command::new("ldd").arg(&file))?.lines() {
        let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else {
            continue;
        };
        copy(Path::new(library), &within(root, library))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(from, to).with_context(|| from.display().to_string()).map(drop)
}

/// Puts a module where the guest finds it, as it is when it is not compressed.
fn unpack(module: &Path, directory: &Path) -> anyhow::Result<()> {
    let name = module.file_name().with_context(|| module.display().to_string())?;
    let to = directory.join(name);
    fs::copy(module, &to).with_context(|| module.display().to_string())?;
    if module.extension().is_some_and(|extension| extension == "xz") {
        output(Command::new("xz").args(["-d", "-f"]).arg(&to))?;
    }
    Ok(())
}

fn depmod(root: &Path, release: &str) -> anyhow::Result<()> {
    output(Command::new("depmod").arg("-b").arg(root).arg(release)).map(drop)
}

fn cpio(root: &Path, archive: &Path) -> anyhow::Result<()> {
    let script = "find . | cpio -o -H newc -R 0:0 --quiet -F \"$1\"";
    let mut shell = Command::new("sh");
    shell.current_dir(root).args(["-c", script, "cpio"]).arg(archive);
    output(&mut shell).map(drop)
}
