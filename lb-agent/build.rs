//! Compiles lb-bpf for the kernel, once for current and once for old ones, and puts the objects into
//! `OUT_DIR`, where the agent embeds them.
//!
//! The objects need what a stable host toolchain lacks: the source of `core` and unstable flags. So
//! they are built by a second toolchain, the first of these that can: `LB_BPF_CARGO` and `LB_BPF_RUSTC`
//! if set, rustup's nightly with `rust-src`, a system-wide Rust with its sources (Debian's
//! `rust-web-src`). aya-build knows rustup toolchains only, hence this script. Anything missing is an
//! error here, never an agent that fails at run time.
//!
//! `LB_VERSION` becomes what `--version` says, see [`version`]. Programs that are to be small are linked for
//! that, see [`packs_relocations`].

use object::build::elf::{Builder, SectionData};
use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";
const REMEDY: &str = "run `make setup`, or install a nightly toolchain with `rustup component add \
                      rust-src --toolchain nightly` and `cargo install bpf-linker`; README.md, \
                      section Building, says more";

/// The object, and the one for kernels that refuse what it is made of; with features of lb-bpf.
const OBJECTS: [(&str, &str); 2] = [("lb-bpf.o", ""), ("lb-bpf-no-fetch.o", "no-atomic-fetch")];

struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
}

fn main() {
    if let Err(error) = build() {
        // Cargo shows a build script's stderr when it fails.
        #[expect(clippy::print_stderr, reason = "this is how a build script reports")]
        {
            eprintln!("error: the kernel side was not built: {error}");
        }
        std::process::exit(1);
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir.parent().ok_or("lb-agent is not in its workspace")?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    for input in [
        "Cargo.lock",
        "Cargo.toml",
        "lb-bpf/src",
        "lb-bpf/Cargo.toml",
        "lb-common/src",
        "lb-common/Cargo.toml",
    ] {
        rerun_if_changed(&workspace.join(input));
    }
    for variable in ["LB_BPF_CARGO", "LB_BPF_RUSTC", "LB_COMMIT", "PATH"] {
        directive(&format!("rerun-if-env-changed={variable}"));
    }
    directive(&format!("rustc-env=LB_VERSION={}", version(workspace)?));
    if packs_relocations()? {
        directive("rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }

    let toolchain = find_toolchain()?;
    let linker = find_linker()?;
    let target_dir = shared_target_dir(&out_dir)?;
    let layout = env::var_os("CARGO_FEATURE_OTHER_LAYOUT").map_or("", |_| "other-layout");
    for (object, features) in OBJECTS {
        let features = format!("{features} {layout}");
        let bytes = compile(workspace, &toolchain, &linker, &target_dir, &features)?;
        fs::write(out_dir.join(object), without_debug_information(&bytes)?)?;
    }
    Ok(())
}

/// The object as these features of lb-bpf make it.
fn compile(
    workspace: &Path,
    toolchain: &Toolchain,
    linker: &Path,
    target_dir: &Path,
    features: &str,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut cargo = Command::new(&toolchain.cargo);
    cargo
        .current_dir(workspace)
        .args(["build", "--release", "--locked", "--package", "lb-bpf", "--bin", "lb-bpf"])
        .args(["--target", TARGET, "-Z", "build-std=core", "--features", features])
        .env("RUSTC", &toolchain.rustc)
        // The flags are unstable; a released compiler accepts them only when told so.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(linker));
    // What cargo and clippy set for the host crates must not reach the other toolchain.
    for variable in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(variable);
    }
    let status = cargo.status().map_err(|e| format!("{}: {e}", toolchain.cargo.display()))?;
    if !status.success() {
        return Err(format!("{} failed ({status}); {REMEDY}", toolchain.cargo.display()).into());
    }

    let object = target_dir.join(TARGET).join("release/lb-bpf");
    let bytes = fs::read(&object).map_err(|e| format!("{}: {e}", object.display()))?;
    const EM_BPF: [u8; 2] = [247, 0];
    if !bytes.starts_with(b"\x7fELF") || bytes.get(18..20) != Some(&EM_BPF) {
        return Err(format!("{} is not an eBPF object; {REMEDY}", object.display()).into());
    }
    Ok(bytes)
}

/// Most of the object is for debuggers; the loader and bpftool read its types (BTF) only.
fn without_debug_information(object: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // The linker has one table of strings for symbols and sections; what writes here wants two.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// Version, commit and version of the table layout. A build for development has no commit: it would be
/// another one after each commit, and everything had to be compiled again.
fn version(workspace: &Path) -> Result<String, Box<dyn Error>> {
    let build = if env::var("PROFILE")? == "release" {
        format!("commit {}", commit(workspace))
    } else {
        "development build".to_owned()
    };
    let package = env::var("CARGO_PKG_VERSION")?;
    Ok(format!("{package} ({build}, table layout {})", lb_common::LAYOUT_VERSION))
}

/// `LB_COMMIT` if it is set, for builds from an archive; otherwise what git says of the workspace.
fn commit(workspace: &Path) -> String {
    if let Ok(commit) = env::var("LB_COMMIT") {
        return commit;
    }
    let git =
        |arguments: &[&str]| output(Command::new("git").current_dir(workspace).args(arguments));
    // What changes with a commit, with a change that is not committed, and with the branch.
    let head = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]);
    for path in head.map(PathBuf::from).iter().chain(&[workspace.join("lb-agent/src")]) {
        rerun_if_changed(path);
    }
    git(&["describe", "--always", "--exclude", "*", "--abbrev=12", "--dirty"])
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Whether addresses that the loader adjusts are told it as a bitmap: a program of this size is 0.6 MB smaller
/// by that. Only where size is asked for (the profile `dist`), and where this machine's C library, which
/// then is the least that the programs ask for, knows the bitmap.
fn packs_relocations() -> Result<bool, Box<dyn Error>> {
    let small = matches!(env::var("OPT_LEVEL")?.as_str(), "s" | "z");
    let (host, target) = (env::var("HOST")?, env::var("TARGET")?);
    if !small || host != target || !target.ends_with("-linux-gnu") {
        return Ok(false);
    }
    let library = output(Command::new("getconf").arg("GNU_LIBC_VERSION")).unwrap_or_default();
    let version = library.strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    Ok(version.is_some_and(|minor| minor >= 36))
}

/// `core` takes a minute to compile, so all profiles of the host share one directory for it.
fn shared_target_dir(out_dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    // OUT_DIR is <target>/<profile>/build/<package>/out, and below <target>/<triple> where one is asked for.
    let mut places = out_dir.ancestors().skip(4);
    let triple = env::var("TARGET")?;
    let target = places.find(|place| !place.ends_with(&triple));
    Ok(target.ok_or("OUT_DIR is not where cargo puts it")?.join("bpf"))
}

fn rustflags(linker: &Path) -> String {
    let linker = format!("linker={}", linker.display());
    // The types that the loader and bpftool read are made from debug information.
    ["-C", "debuginfo=2", "-C", &linker, "-C", "link-arg=--btf"].join("\x1f")
}

fn find_toolchain() -> Result<Toolchain, Box<dyn Error>> {
    if let (Some(cargo), Some(rustc)) = (env::var_os("LB_BPF_CARGO"), env::var_os("LB_BPF_RUSTC")) {
        return Ok(Toolchain { cargo: cargo.into(), rustc: rustc.into() });
    }
    let rustup = |tool: &str| {
        output(Command::new("rustup").args(["which", "--toolchain", "nightly", tool]))
            .map(PathBuf::from)
    };
    let nightly = rustup("cargo").zip(rustup("rustc"));
    let system = Some((PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc")));
    [nightly, system]
        .into_iter()
        .flatten()
        .map(|(cargo, rustc)| Toolchain { cargo, rustc })
        .find(|toolchain| toolchain.cargo.exists() && has_sources(&toolchain.rustc))
        .ok_or_else(|| format!("no Rust toolchain here has the sources of `core`; {REMEDY}").into())
}

fn has_sources(rustc: &Path) -> bool {
    output(Command::new(rustc).args(["--print", "sysroot"])).is_some_and(|sysroot| {
        Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
    })
}

fn find_linker() -> Result<PathBuf, Box<dyn Error>> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
    env::split_paths(&path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("bpf-linker is not on the PATH; {REMEDY}").into())
}

/// The first line of what a command prints, if it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}

fn rerun_if_changed(path: &Path) {
    directive(&format!("rerun-if-changed={}", path.display()));
}

fn directive(text: &str) {
    println!("cargo::{text}");
}
