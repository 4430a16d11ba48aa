//! One agent per pin directory: an exclusive lock on the directory itself, so that it can't outlive
//! its holder and needs no file of its own.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How often the kernel's list of locks is read for the one who holds a lock.
const LOOKS: usize = 5;

/// The lock; released when dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub struct PinLock {
    _lock: Flock<File>,
}

/// Why the directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error(
        "{path} is in use by {holder}; stop that agent first, or give this one another pin_dir"
    )]
    Held {
        /// The pin directory.
        path: PathBuf,
        /// Who holds it, as far as that can be told.
        holder: String,
    },
    /// The kernel refused.
    #[error("can't lock {path}: {reason}; is it on bpffs, and are you root?")]
    Failed {
        /// The pin directory.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
}

impl PinLock {
    /// Locks a pin directory, which must exist.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] if another process has it; [`LockError::Failed`] if the directory can't be opened, or
    /// its file system has no locks.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |reason: &dyn std::fmt::Display| LockError::Failed {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        let directory = File::open(path).map_err(|e| failed(&e))?;
        let inode = directory.metadata().map_err(|e| failed(&e))?.ino();
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(LockError::Held { path: path.to_owned(), holder: holder(inode) })
            }
            Err((_, errno)) => Err(failed(&errno)),
        }
    }
}

/// `process 123 (lb-agent)`, from the kernel's list of locks.
fn holder(inode: u64) -> String {
    // A list that is read in pieces lacks a line if one before it goes away meanwhile.
    let Some(pid) = (0..LOOKS).find_map(|_| listed(inode)) else {
        return "another process".to_owned();
    };
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

/// The process that the kernel's list of locks names.
fn listed(inode: u64) -> Option<String> {
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 1234 00:1f:5678 0 EOF
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid, file) = (words.next()?, words.nth(2)?, words.next()?);
        let same = file.rsplit(':').next()? == inode.to_string();
        (kind == "FLOCK" && same).then(|| pid.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = PinLock::acquire(directory.path()).unwrap();
        let error = PinLock::acquire(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} (", std::process::id())), "{error}");
        drop(first);
        PinLock::acquire(directory.path()).unwrap();
    }
}
