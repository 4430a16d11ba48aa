//! What a service sees of the file system, and where it may write.

use super::unit::Unit;
use anyhow::{Context as _, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// Where kernels are asked and told things.
const OF_THE_KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];
const TUNABLES: [&str; 7] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
];

/// Moves into a view of its own, in which only `writable` and what the unit binds can be written to. `keep` is seen
/// whatever is hidden.
pub(super) fn enter(unit: &Unit, writable: &[PathBuf], keep: &Path) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let kept = File::open(keep).with_context(|| format!("{}", keep.display()))?;
    let mut own: Vec<PathBuf> = writable.to_vec();

    // With a `-` it may be missing for whoever makes it; not for the service.
    let bound = unit.all("BindPaths").map(|path| path.strip_prefix('-').unwrap_or(path));
    let bound: Vec<_> = bound.map(PathBuf::from).collect();
    let sources: Vec<_> = bound.iter().map(File::open).collect::<Result<_, _>>()?;
    let mut read_only = Vec::new();
    for line in unit.all("TemporaryFileSystem") {
        let (path, options) = line.split_once(':').unwrap_or((line, ""));
        let (flags, rest): (Vec<_>, Vec<_>) = options.split(',').partition(|word| *word == "ro");
        temporary(path, &rest.join(","))?;
        if !flags.is_empty() {
            read_only.push(PathBuf::from(path));
        }
    }
    if unit.is_on("ProtectHome")? {
        for path in
            ["/home", "/root", "/run/user"].into_iter().filter(|path| Path::new(path).is_dir())
        {
            temporary(path, "mode=0000")?;
            read_only.push(path.into());
        }
    }
    if unit.is_on("PrivateTmp")? {
        for path in ["/tmp", "/var/tmp"] {
            temporary(path, "mode=1777")?;
            own.push(path.into());
        }
    }
    for (path, source) in bound.iter().zip(&sources) {
        bind(source, path)?;
    }
    own.extend(bound);
    // Whatever lies over it now, it is there again, and with it the service's own directories in it.
    bind(&kept, keep)?;
    for path in writable {
        bind(&File::open(path)?, path)?;
    }

    ensure!(unit.one("ProtectSystem")? == "strict", "ProtectSystem: only strict is known");
    let tunables = unit.is_on("ProtectKernelTunables")?;
    if tunables {
        for path in TUNABLES.into_iter().filter(|path| Path::new(path).exists()) {
            bind(&File::open(path)?, Path::new(path))?;
            read_only.push(path.into());
        }
    }
    let groups = unit.is_on("ProtectControlGroups")?;
    for Mount { path, flags } in mounts()? {
        let within = |root: &str| path.starts_with(root);
        let protected = if within("/sys/fs/cgroup") {
            groups
        } else if within("/sys") {
            tunables
        } else {
            !OF_THE_KERNEL.iter().any(|root| path.starts_with(root))
        };
        if (protected || read_only.contains(&path)) && !own.contains(&path) {
            let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            match mount(None::<&str>, &path, None::<&str>, flags, None::<&str>) {
                // Another mount lies over it.
                Ok(()) | Err(Errno::ENOENT | Errno::EINVAL | Errno::EACCES | Errno::ENOTDIR) => {}
                Err(errno) => return Err(errno).with_context(|| format!("{}", path.display())),
            }
        }
    }
    // The working directory may be one that is hidden now.
    std::env::set_current_dir("/")?;
    Ok(())
}

fn temporary(path: &str, options: &str) -> anyhow::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options)).with_context(|| path.to_owned())
}

/// Lets `path` be what was opened, even if it can't be reached by its name any more.
fn bind(source: &File, path: &Path) -> anyhow::Result<()> {
    if source.metadata()?.is_dir() {
        fs::create_dir_all(path)?;
    }
    let opened = format!("/proc/self/fd/{}", source.as_raw_fd());
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(opened.as_str()), path, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("binding {}", path.display()))
}

struct Mount {
    path: PathBuf,
    /// But for whether it can be written to.
    flags: MsFlags,
}

fn mounts() -> anyhow::Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = |line: &str| {
        // 36 35 98:0 /mnt1 /mnt2 rw,noatime ...
        let mut words = line.split(' ').skip(4);
        let (path, options) = (words.next()?, words.next()?);
        let mut flags = MsFlags::empty();
        for option in options.split(',') {
            flags |= match option {
                "nosuid" => MsFlags::MS_NOSUID,
                "nodev" => MsFlags::MS_NODEV,
                "noexec" => MsFlags::MS_NOEXEC,
                "noatime" => MsFlags::MS_NOATIME,
                "nodiratime" => MsFlags::MS_NODIRATIME,
                "relatime" => MsFlags::MS_RELATIME,
                _ => MsFlags::empty(),
            };
        }
        Some(Mount { path: path.replace("\\040", " ").into(), flags })
    };
    Ok(text.lines().filter_map(mount).collect())
}
