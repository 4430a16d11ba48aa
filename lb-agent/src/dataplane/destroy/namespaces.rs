//! The network namespaces of this host, as far as processes or names in `/run/netns` lead to them.

use nix::sched::{CloneFlags, setns};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// All but the calling thread's own, each once.
    pub(super) namespaces: Vec<File>,
    /// Threads whose namespace could not be seen.
    pub(super) hidden: usize,
}

/// The namespaces other than the calling thread's own. Threads may have one of their own.
pub(super) fn others() -> io::Result<Namespaces> {
    let own = fs::metadata("/proc/thread-self/ns/net")?;
    let mut known = BTreeSet::from([(own.dev(), own.ino())]);
    let mut found = Namespaces { namespaces: Vec::new(), hidden: 0 };
    let mut look_at = |path: &Path| match open_new(path, own.dev(), &mut known) {
        Ok(namespace) => found.namespaces.extend(namespace),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.hidden += 1,
        // The thread has ended.
        Err(_) => {}
    };
    // Names first: there are fewer of them.
    entries(Path::new("/run/netns")).for_each(|path| look_at(&path));
    for process in entries(Path::new("/proc")).filter(|path| is_number(path)) {
        entries(&process.join("task")).for_each(|thread| look_at(&thread.join("ns/net")));
    }
    Ok(found)
}

/// Moves the calling thread into a network namespace.
pub(super) fn enter(namespace: &File) -> nix::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET)
}

/// `None` if it is known already, or none at all.
fn open_new(path: &Path, nsfs: u64, known: &mut BTreeSet<(u64, u64)>) -> io::Result<Option<File>> {
    let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
    if known.contains(&identity(fs::metadata(path)?)) {
        return Ok(None);
    }
    let file = File::open(path)?;
    let identity = identity(file.metadata()?);
    Ok((identity.0 == nsfs && known.insert(identity)).then_some(file))
}

/// What a directory holds; nothing if it is gone or never was.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path())
}

fn is_number(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}
