//! Whether a file changed, and its text if it did and has come to rest.
//!
//! Watching is left to [`super::watch`]: this is one look at the file, and blocks.

use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What the file looked like when it was last read.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// `None` if the file may change once more without its stamp telling: time stamps are coarse.
    stamp: Option<Stamp>,
    /// `None` if it could not be read.
    digest: Option<u64>,
}

/// Tells versions of a file apart without reading it. The change time is in it because nobody can
/// set it back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What a look found.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing new. The stamp may be: remember it.
    Same(Seen),
    /// Somebody is writing: look again in a moment.
    Moving,
    /// A new text, or a new reason why there is none.
    Changed(Seen, Result<String, String>),
}

/// Looks at the file. Without a `hint` that its writer is done, a file that was written within the
/// last `rest` is left alone until it has rested.
pub(super) fn look(path: &Path, seen: &Seen, hint: bool, rest: Duration) -> Look {
    let before = match stat(path) {
        Ok(metadata) => metadata,
        Err(error) => return failed(path, &error),
    };
    let stamp = Stamp::of(&before);
    if seen.stamp.as_ref() == Some(&stamp) {
        return Look::Same(seen.clone());
    }
    let rested = before.modified().is_ok_and(|time| has_rested(time, rest));
    if !hint && !rested {
        return Look::Same(seen.clone());
    }
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return failed(path, &error),
    };
    if stat(path).map(|after| Stamp::of(&after)).ok().as_ref() != Some(&stamp) {
        return Look::Moving;
    }
    let digest = Some(digest(&text));
    let now = Seen { stamp: rested.then_some(stamp), digest };
    if seen.digest == digest { Look::Same(now) } else { Look::Changed(now, Ok(text)) }
}

fn stat(path: &Path) -> io::Result<Metadata> {
    let metadata = fs::metadata(path)?;
    // Reading a pipe or a device may never end.
    if metadata.is_file() { Ok(metadata) } else { Err(io::Error::other("not a regular file")) }
}

fn failed(path: &Path, error: &io::Error) -> Look {
    let path = path.display();
    let reason = match error.kind() {
        io::ErrorKind::NotFound => format!("{path}: no such file; create it or correct its path"),
        io::ErrorKind::InvalidData => format!("{path}: not UTF-8 text; save it as UTF-8"),
        _ => format!("{path}: {error}; make it a file that the agent may read"),
    };
    Look::Changed(Seen::default(), Err(reason))
}

/// A time in the future has rested: the clock was set back, which may last for ever.
fn has_rested(modified: SystemTime, rest: Duration) -> bool {
    SystemTime::now().duration_since(modified).map_or(true, |age| age >= rest)
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

// === impl Stamp ===

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn without_a_hint_a_file_must_have_rested() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "x").unwrap();
        assert!(matches!(look(&path, &Seen::default(), false, HOUR), Look::Same(_)));
        let found = look(&path, &Seen::default(), false, Duration::ZERO);
        let Look::Changed(seen, Ok(text)) = found else { panic!("{found:?}") };
        assert_eq!(text, "x");
        assert!(seen.stamp.is_some());
        assert!(matches!(look(&path, &seen, true, HOUR), Look::Same(_)));
    }

    #[test]
    fn the_stamp_of_a_fresh_file_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "x").unwrap();
        let found = look(&path, &Seen::default(), true, HOUR);
        let Look::Changed(seen, Ok(_)) = found else { panic!("{found:?}") };
        assert_eq!(seen.stamp, None, "the next write may fall into the same tick of the clock");
        assert!(matches!(look(&path, &seen, true, HOUR), Look::Same(_)), "the text is the same");
        fs::write(&path, "y").unwrap();
        assert!(matches!(look(&path, &seen, true, HOUR), Look::Changed(_, Ok(_))));
    }

    #[test]
    fn what_can_not_be_read_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, [0xff]).unwrap();
        for (path, part) in [
            (path.as_path(), "save it as UTF-8"),
            (directory.path(), "not a regular file; make it a file that the agent may read"),
            (&directory.path().join("absent"), "no such file; create it"),
        ] {
            let found = look(path, &Seen::default(), true, HOUR);
            let Look::Changed(_, Err(reason)) = found else { panic!("{found:?}") };
            assert!(reason.contains(part), "{reason}");
        }
    }
}
