//! Cgroups whose sockets are left alone: from paths to what the programs compare.
//!
//! A program asks the kernel for the id of the calling process's ancestor at a level of the hierarchy.
//! So each cgroup is known by its level, counted from the root of the hierarchy, and by its id, which
//! is its inode number. Where the root can't be seen (the mount shows a part of the hierarchy only,
//! as in a cgroup namespace), the level can't be told.

use super::preflight::cgroup2_mount;
use lb_common::MAX_EXCLUDED;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Inode number of the root of the hierarchy, wherever it is mounted.
const ROOT: u64 = 1;

/// Level and id of each excluded cgroup, as the programs take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Excluded {
    /// How many there are.
    pub(super) count: u32,
    /// Steps from the root of the hierarchy.
    pub(super) levels: [u32; MAX_EXCLUDED],
    /// The kernel's ids.
    pub(super) ids: [u64; MAX_EXCLUDED],
}

/// Finds these cgroups, whose paths are absolute or begin at the root of the cgroup2 hierarchy, below the one that
/// the programs are attached to.
///
/// # Errors
///
/// One line that says what to do: a path is no cgroup2 directory or not below the one attached to, the mount shows
/// a part of the hierarchy only, there are more than [`MAX_EXCLUDED`], or `/proc/self/mounts` can't be read.
pub fn resolve(paths: &[PathBuf], attached: &Path) -> Result<Excluded, String> {
    let mut excluded = Excluded::default();
    if paths.is_empty() {
        return Ok(excluded);
    }
    let mounts = fs::read_to_string("/proc/self/mounts")
        .map_err(|error| format!("/proc/self/mounts: {error}; mount /proc"))?;
    let root = cgroup2_mount(&mounts).unwrap_or_else(|| attached.to_owned());
    let attached = Lineage::of(attached, &root)?;
    for path in paths {
        let lineage = Lineage::of(&root.join(path), &root)?;
        let (place, outer) = (lineage.path.display(), attached.path.display());
        if attached.ids.starts_with(&lineage.ids) {
            return Err(format!(
                "exclude_cgroups: {place} holds all that the agent serves (it attaches to {outer}); name a \
                 cgroup below {outer}"
            ));
        }
        if !lineage.ids.starts_with(&attached.ids) {
            return Err(format!(
                "exclude_cgroups: {place} is not below {outer}, which the agent attaches to, and is left \
                 alone anyway; remove it"
            ));
        }
        let (level, id) = lineage.level_and_id();
        let slot = excluded.count as usize;
        if excluded.ids[..slot].contains(&id) {
            continue;
        }
        if slot == MAX_EXCLUDED {
            return Err(format!(
                "exclude_cgroups: {} cgroups are more than {MAX_EXCLUDED}; name one above several of them",
                paths.len()
            ));
        }
        (excluded.levels[slot], excluded.ids[slot]) = (level, id);
        excluded.count += 1;
    }
    Ok(excluded)
}

/// A cgroup with those above it.
struct Lineage {
    path: PathBuf,
    /// From the root of the hierarchy, whose level is 0, down to the cgroup itself; never empty.
    ids: Vec<u64>,
}

impl Lineage {
    fn of(path: &Path, root: &Path) -> Result<Self, String> {
        let (shown, root) = (path.display(), root.display());
        let unusable = |reason: String| {
            format!(
                "exclude_cgroups: {shown}: {reason}; name a directory below {root}, where cgroup2 is \
                 mounted, by its whole path or from there on"
            )
        };
        let path = path.canonicalize().map_err(|error| unusable(error.to_string()))?;
        let on_cgroup2 = |path: &Path| {
            statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
        };
        if !on_cgroup2(&path) || !path.is_dir() {
            return Err(unusable("is no cgroup2 directory".to_owned()));
        }
        let mut ids = Vec::new();
        for ancestor in path.ancestors().take_while(|path| on_cgroup2(path)) {
            let id = fs::metadata(ancestor).map_err(|error| unusable(error.to_string()))?.ino();
            ids.push(id);
            if id == ROOT {
                ids.reverse();
                return Ok(Self { path, ids });
            }
        }
        Err(format!(
            "exclude_cgroups: {shown} lies on a mount that shows a part of the cgroup2 hierarchy only; \
             give the agent the host's: run it in the host's cgroup namespace, or mount the host's \
             {root} into its container"
        ))
    }

    fn level_and_id(&self) -> (u32, u64) {
        let level = self.ids.len().saturating_sub(1);
        (u32::try_from(level).unwrap_or(u32::MAX), self.ids.last().copied().unwrap_or(ROOT))
    }
}
