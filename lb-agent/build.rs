//! Compiles lb-bpf for the kernel, once for current and once for old ones, and puts the objects into
//! `OUT_DIR`, where the agent embeds them.
//!
//! The objects need what a stable host toolchain lacks: the source of `core` and unstable flags. So
//! they are built by a second toolchain, the first of these that can: `LB_BPF_CARGO` and `LB_BPF_RUSTC`
//! if set, rustup's nightly with `rust-src`, a system-wide Rust with its sources (Debian's
//! `rust-web-src`). aya-build knows rustup toolchains only, hence this script. Anything missing is an
//! error here, never an agent that fails at run time.

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
    for variable in ["LB_BPF_CARGO", "LB_BPF_RUSTC", "PATH"] {
        directive(&format!("rerun-if-env-changed={variable}"));
    }

    let toolchain = find_toolchain()?;
    let linker = find_linker()?;
    let target_dir = shared_target_dir(&out_dir)?;
    for (object, features) in OBJECTS {
        let bytes = compile(workspace, &toolchain, &linker, &target_dir, features)?;
        fs::write(out_dir.join(object), bytes)?;
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

/// `core` takes a minute to compile, so all profiles of the host share one directory for it.
fn shared_target_dir(out_dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    let target = out_dir.ancestors().nth(4).ok_or("OUT_DIR is not where cargo puts it")?;
    Ok(target.join("bpf"))
}

fn rustflags(linker: &Path) -> String {
    let linker = format!("linker={}", linker.display());
    // Debug information carries the types that the loader and bpftool read.
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
