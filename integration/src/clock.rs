//! A wall clock that jumps, for processes that are started under it. The monotonic clock goes on: that is
//! what happens where somebody sets a host's clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A wall clock; at first it is right.
#[derive(Debug)]
pub struct Clock {
    /// Says how far it is off. Who lives by it reads this at each look at the time.
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// A clock that is kept in `scratch`.
    pub fn new(scratch: &Path) -> Self {
        let clock = Self { file: scratch.join("clock"), library: library() };
        clock.set(0);
        clock
    }

    /// Has a process live by it. Times of files are left alone.
    pub fn rules(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
    }

    /// From now on it is off by so many seconds.
    pub fn set(&self, seconds: i64) {
        let draft = self.file.with_extension("draft");
        fs::write(&draft, format!("{seconds:+}s")).expect("the scratch directory is writable");
        fs::rename(&draft, &self.file).expect("the scratch directory is writable");
    }
}

/// `libfaketime`, wherever this architecture's libraries are.
fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").expect("/usr/lib can be read").filter_map(Result::ok);
    let library = |place: fs::DirEntry| place.path().join("faketime/libfaketimeMT.so.1");
    let found = places.map(library).find(|library| library.exists());
    found.expect("libfaketime is missing: run `make setup-tests` (Debian: faketime)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_by_it() {
        let scratch = tempfile::tempdir().expect("a directory can be made");
        let clock = Clock::new(scratch.path());
        let now = || -> i64 {
            let mut command = Command::new("date");
            clock.rules(command.arg("+%s"));
            let output = command.output().expect("date can be run");
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of seconds")
        };
        let before = now();
        for (off, range) in [(3600, 3600..3660), (-3600, -3600..-3540), (0, 0..60)] {
            clock.set(off);
            assert!(range.contains(&(now() - before)), "{off}");
        }
    }
}
