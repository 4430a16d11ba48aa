//! A program run under the limits of a systemd unit, where systemd itself does not run: the unit's file is read,
//! and each of its settings is either applied by the kernel's same means, or one of [`unit::NOT_HERE`]. A
//! setting that is neither is an error, so that no limit is believed in that was not tried.
//!
//! What differs: calls that this machine's libseccomp knows by name and the filter's compiler does not are refused;
//! of `PrivateTmp` and the like, what systemd shares between the services of a unit is each one's own.

mod filter;
mod view;

pub mod scene;
pub mod unit;

use anyhow::{Context as _, ensure};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chown, setgroups, setresgid, setresuid};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use unit::Unit;

/// Has a command see what the first process sees.
const OUTSIDE: &str = "/usr/bin/nsenter --mount=/proc/1/ns/mnt ";

/// Where a service's directories are.
#[derive(Clone, Debug)]
pub struct Places {
    /// In place of `/var/lib`.
    pub state: PathBuf,
    /// In place of `/run`.
    pub runtime: PathBuf,
    /// Stays to be seen, whatever is hidden.
    pub keep: PathBuf,
}

/// Does what systemd does for a start of `unit`, and becomes its program. The calling process must have one
/// thread, and be root. Returns only if that fails.
///
/// # Errors
///
/// If the unit has something that can't be applied here, or the system refuses a step or the program. The process
/// may be confined in part by then: it is to end.
pub fn exec(unit: &Unit, places: &Places) -> anyhow::Result<()> {
    for command in unit.all("ExecStartPre") {
        // With a `+` root runs it, under no limits. Ours need no other.
        let words = command.strip_prefix('+').context("an ExecStartPre without `+`")?;
        // There is no other view of the file system yet.
        let words = words.strip_prefix(OUTSIDE).context("an ExecStartPre in the service's view")?;
        let mut words = words.split_whitespace();
        let program = words.next().context("an empty ExecStartPre")?;
        let status = Command::new(program).args(words).status()?;
        ensure!(status.success(), "`{command}` ended with {status}");
    }
    let user = Uid::from_raw(unit.one("User")?.parse().context("User, as a number")?);
    let group = Gid::from_raw(unit.one("Group")?.parse().context("Group, as a number")?);
    let mut writable = Vec::new();
    for (kind, root) in [("State", &places.state), ("Runtime", &places.runtime)] {
        let directory = root.join(unit.one(&format!("{kind}Directory"))?);
        let mode = unit.one(&format!("{kind}DirectoryMode"))?;
        let mode = u32::from_str_radix(mode, 8).context("a mode")?;
        fs::create_dir_all(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
        chown(&directory, Some(user), Some(group))?;
        writable.push(directory);
    }
    let filters = filter::compile(unit)?;
    view::enter(unit, &writable, &places.keep)?;
    limits(unit)?;
    identity(unit, user, group)?;
    for filter in &filters {
        seccompiler::apply_filter(filter)?;
    }
    let mut words = unit.one("ExecStart")?.split_whitespace();
    let program = words.next().context("an empty ExecStart")?;
    let mut command = Command::new(program);
    command
        .args(words)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin");
    Err(command.exec()).with_context(|| format!("running {}", Path::new(program).display()))
}

fn limits(unit: &Unit) -> anyhow::Result<()> {
    for (key, resource) in
        [("LimitMEMLOCK", Resource::RLIMIT_MEMLOCK), ("LimitNOFILE", Resource::RLIMIT_NOFILE)]
    {
        let limit = match unit.one(key)? {
            "infinity" => nix::sys::resource::RLIM_INFINITY,
            number => number.parse().with_context(|| format!("{key}={number}"))?,
        };
        // Where root itself may not have more, that is as much as the service could get.
        let (_, most) = getrlimit(resource)?;
        setrlimit(resource, limit, limit).or_else(|_| setrlimit(resource, most, most))?;
    }
    let mask = u32::from_str_radix(unit.one("UMask")?, 8).context("UMask")?;
    umask(Mode::from_bits_truncate(mask));
    Ok(())
}

/// The user, with the capabilities that it is left.
fn identity(unit: &Unit, user: Uid, group: Gid) -> anyhow::Result<()> {
    let named = |key| {
        let words = unit.words(key)?.into_iter();
        words.map(|word| Ok(word.parse::<Capability>()?)).collect::<anyhow::Result<CapsHashSet>>()
    };
    let (ambient, bounding) = (named("AmbientCapabilities")?, named("CapabilityBoundingSet")?);
    for capability in caps::read(None, CapSet::Bounding)?.difference(&bounding) {
        caps::drop(None, CapSet::Bounding, *capability)?;
    }
    prctl::set_keepcaps(true)?;
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
        caps::set(None, set, &ambient).with_context(|| format!("{set:?}"))?;
    }
    ensure!(unit.is_on("NoNewPrivileges")?, "filters need NoNewPrivileges");
    prctl::set_no_new_privs()?;
    Ok(())
}
