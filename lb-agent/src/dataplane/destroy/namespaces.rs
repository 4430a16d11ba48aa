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
    /// Threads whose namespace may not be seen.
    hidden: usize,
    /// Why one could not be looked at, other than that.
    failure: Option<io::Error>,
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
    let (mut waiting, mut hidden, mut failure) = (Vec::new(), 0, None);
    if others_too {
        let found = others().map_err(failed)?;
        (waiting, hidden) = (found.namespaces, found.hidden);
        failure = found.failure;
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
    if let Some(error) = failure {
        complain(format!("a process's network namespace can't be looked at: {error}"));
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
    let mut found = Namespaces { namespaces: Vec::new(), hidden: 0, failure: None };
    let mut look_at =
        |found: &mut Namespaces, path: &Path| match open_new(path, own.dev(), &mut known) {
            Ok(namespace) => found.namespaces.extend(namespace),
            Err(error) => found.note(error),
        };
    // Names first: there are fewer of them.
    for path in entries(Path::new("/run/netns"))? {
        look_at(&mut found, &path);
    }
    for process in entries(Path::new("/proc"))?.iter().filter(|path| is_number(path)) {
        match entries(&process.join("task")) {
            Ok(threads) => {
                threads.iter().for_each(|thread| look_at(&mut found, &thread.join("ns/net")));
            }
            Err(error) => found.note(error),
        }
    }
    Ok(found)
}

impl Namespaces {
    /// A namespace could not be opened.
    fn note(&mut self, error: io::Error) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            self.hidden += 1;
        } else if !is_gone(&error) {
            self.failure = Some(error);
        }
    }
}

/// Moves the calling thread into a network namespace.
fn enter(namespace: &File) -> nix::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET)
}

/// `None` if it is known already, or none at all.
fn open_new(path: &Path, nsfs: u64, known: &mut BTreeSet<(u64, u64)>) -> io::Result<Option<File>> {
    let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let found = identity(fs::metadata(path)?);
    // Somebody may have left a file of another kind, that nobody may read.
    if found.0 != nsfs || known.contains(&found) {
        return Ok(None);
    }
    let file = File::open(path)?;
    let identity = identity(file.metadata()?);
    Ok((identity.0 == nsfs && known.insert(identity)).then_some(file))
}

/// What a directory holds; nothing if it is gone or never was.
pub(in crate::dataplane) fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect();
    match paths() {
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        result => result,
    }
}

/// Whether what was asked for has ended, or was closed, in the meantime. Any other error hides what is
/// still there.
pub(in crate::dataplane) fn is_gone(error: &io::Error) -> bool {
    [libc::ENOENT, libc::ESRCH].map(Some).contains(&error.raw_os_error())
}

fn is_number(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_gone_holds_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (gone, file) = (directory.path().join("gone"), directory.path().join("file"));
        File::create(&file).unwrap();
        assert_eq!(entries(directory.path()).unwrap(), [file.as_path()]);
        assert!(entries(&gone).unwrap().is_empty());
        entries(&file).unwrap_err();
    }

    #[test]
    fn what_may_not_be_seen_and_what_fails_is_noted() {
        let mut found = Namespaces { namespaces: Vec::new(), hidden: 0, failure: None };
        for errno in [libc::ENOENT, libc::ESRCH] {
            found.note(io::Error::from_raw_os_error(errno));
        }
        assert!(found.hidden == 0 && found.failure.is_none());
        for errno in [libc::EACCES, libc::EPERM, libc::EMFILE] {
            found.note(io::Error::from_raw_os_error(errno));
        }
        assert_eq!(found.hidden, 2);
        assert_eq!(found.failure.unwrap().raw_os_error(), Some(libc::EMFILE));
    }
}
