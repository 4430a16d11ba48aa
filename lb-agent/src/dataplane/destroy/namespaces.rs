//! The network namespaces of this host, as far as processes or names in `/run/netns` lead to them.

use crate::dataplane::DataplaneError;
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Namespaces looked through at the same time.
const THREADS: usize = 4;
/// How long looking through all of them may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug)]
struct Namespaces {
    /// All but the calling thread's own, each once.
    namespaces: Vec<File>,
    /// Threads whose namespace could not be seen.
    hidden: usize,
}

/// Calls `look` in each network namespace, on a thread that is in it, with the namespace's inode; in
/// the calling thread's own only unless `others` may be entered. What could not be looked through is
/// returned, with what to do about it.
pub(in crate::dataplane) fn in_each(
    others_too: bool,
    look: impl Fn(u64) + Sync,
) -> Result<BTreeSet<String>, DataplaneError> {
    let failed = |e| DataplaneError::new("looking for network namespaces", e);
    let end = Instant::now() + DEADLINE;
    let own = fs::metadata("/proc/thread-self/ns/net").map_err(failed)?.ino();
    let (mut waiting, mut hidden) = (Vec::new(), 0);
    if others_too {
        let found = others().map_err(failed)?;
        (waiting, hidden) = (found.namespaces, found.hidden);
    }
    let problems = Mutex::new(BTreeSet::new());
    let complain = |problem: String| {
        problems.lock().unwrap_or_else(PoisonError::into_inner).insert(problem);
    };
    let threads = waiting.len().min(THREADS);
    let queue = Mutex::new(waiting.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let enter_and_look = || {
        while Instant::now() < end
            && let Some(namespace) = next()
        {
            match enter(&namespace) {
                Ok(()) => look(namespace.metadata().map_or(0, |metadata| metadata.ino())),
                Err(errno) => {
                    complain(format!("a network namespace can't be entered: {}", errno.desc()));
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            // The namespace is the thread's, and ends with it.
            let thread = thread::Builder::new().name("namespaces".to_owned());
            if let Err(error) = thread.spawn_scoped(scope, enter_and_look) {
                complain(format!("a thread can't be started: {error}"));
            }
        }
        look(own);
    });
    let left = queue.into_inner().unwrap_or_else(PoisonError::into_inner).len();
    if left > 0 {
        complain(format!("not all network namespaces were looked through within {DEADLINE:?}"));
    }
    if hidden > 0 {
        complain(
            "the network namespaces of other users' processes can't be seen; give the agent \
             CAP_SYS_PTRACE"
                .to_owned(),
        );
    }
    Ok(problems.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The namespaces other than the calling thread's own. Threads may have one of their own.
fn others() -> io::Result<Namespaces> {
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
fn enter(namespace: &File) -> nix::Result<()> {
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
pub(in crate::dataplane) fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path())
}

fn is_number(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}
