//! Paths of cgroups by their ids, which are the inode numbers of their directories.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that are kept, a fixed part for each id and its path; beyond, all are looked up anew.
const KEPT: usize = 8 << 20;
/// The fixed part.
const EACH: usize = 64;
/// Between two walks through the whole hierarchy.
const PAUSE: Duration = Duration::from_secs(1);

/// The paths that are known.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// Where the hierarchy is mounted, if it is.
    root: Option<PathBuf>,
    known: HashMap<u64, Arc<str>>,
    /// Bytes of all that are known.
    bytes: usize,
    walked: Option<Instant>,
}

// === impl Cgroups ===

impl Cgroups {
    pub(super) fn new(root: Option<PathBuf>) -> Self {
        Self { root, known: HashMap::new(), bytes: 0, walked: None }
    }

    /// The path of a cgroup that this process was in a moment ago. `None` if there is no such
    /// cgroup any more, or none that can be seen from here.
    pub(super) fn path(&mut self, id: u64, pid: u32) -> Option<Arc<str>> {
        if let Some(path) = self.known.get(&id) {
            return Some(Arc::clone(path));
        }
        let root = self.root.clone()?;
        if let Some(path) = of_process(pid).filter(|path| id_of(&root, path) == Some(id)) {
            self.keep(id, path.as_str().into());
        } else if self.walked.is_none_or(|walked| walked.elapsed() >= PAUSE) {
            self.walked = Some(Instant::now());
            self.walk(&root);
        }
        self.known.get(&id).map(Arc::clone)
    }

    fn walk(&mut self, root: &Path) {
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            let Ok(metadata) = fs::metadata(&directory) else { continue };
            let below = directory.strip_prefix(root).unwrap_or(&directory);
            self.keep(metadata.ino(), format!("/{}", below.display()).into());
            let entries = fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok);
            let is_directory =
                |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            directories.extend(entries.filter(is_directory).map(|entry| entry.path()));
        }
    }

    fn keep(&mut self, id: u64, path: Arc<str>) {
        let bytes = EACH + path.len();
        if self.bytes + bytes > KEPT {
            self.known = HashMap::new();
            self.bytes = 0;
        }
        self.bytes += bytes;
        if let Some(before) = self.known.insert(id, path) {
            self.bytes -= EACH + before.len();
        }
    }
}

fn of_process(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

fn id_of(root: &Path, path: &str) -> Option<u64> {
    fs::metadata(root.join(path.trim_start_matches('/'))).ok().map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_found_by_their_numbers() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b\n");
        fs::create_dir_all(&inner).unwrap();
        let id = |path: &Path| fs::metadata(path).unwrap().ino();
        let mut cgroups = Cgroups::new(Some(root.path().to_owned()));
        assert_eq!(cgroups.path(id(&inner), 0).as_deref(), Some("/a/b\n"));
        assert_eq!(cgroups.path(id(root.path()), 0).as_deref(), Some("/"));
        // Later ones wait for the next walk.
        let later = root.path().join("c");
        fs::create_dir(&later).unwrap();
        assert_eq!(cgroups.path(id(&later), 0), None);
        cgroups.walked = None;
        assert_eq!(cgroups.path(id(&later), 0).as_deref(), Some("/c"));
        assert_eq!(Cgroups::new(None).path(id(&later), 0), None);
    }

    #[test]
    fn long_paths_and_many_take_bounded_room() {
        let mut cgroups = Cgroups::new(None);
        let path: Arc<str> = "x".repeat(4000).into();
        for id in 0..20_000 {
            // Known again, it counts once.
            cgroups.keep(id, "y".into());
            cgroups.keep(id, Arc::clone(&path));
            assert!(cgroups.bytes <= KEPT);
            assert_eq!(cgroups.bytes, cgroups.known.len() * (EACH + path.len()));
        }
        assert_eq!(cgroups.path(19_999, 0), Some(path));
        for id in 0..1_000_000 {
            cgroups.keep(id, "/".into());
        }
        assert!(cgroups.known.len() <= KEPT / EACH, "{}", cgroups.known.len());
    }
}
