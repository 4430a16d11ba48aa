//! Names in a hosts file: a marked block in it is ours, the rest is not touched.
//!
//! Decides when to look (when names change, and every five seconds for what others do to the file)
//! and how to write: a new file beside the old one, with its mode and owner, that takes its place at
//! once. A file that is a mount of its own, as in containers, can't be replaced; it is written in
//! place. What the block says and where it stands is left to [`block`].

mod block;

use super::{Facts, Report};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::Receiver;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Between looks at what others do to the file.
const LOOK: Duration = Duration::from_secs(5);
/// From a change of names to writing it: changes come in groups.
const GATHER: Duration = Duration::from_millis(20);
/// Tries when others write at the same time.
const TRIES: usize = 3;
/// Mode of a file that was not there.
const MODE: u32 = 0o644;
/// Longest file that is read.
const LONGEST: u64 = 64 << 20;

const IN_PLACE: &str = "the file is a mount of its own and can't be replaced: it is written in \
                        place, where a reader may see half of it";

/// Tells versions of a file apart without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp([u64; 4], [i64; 4]);

/// A hosts file and how it was left.
#[derive(Debug)]
struct Hosts {
    path: PathBuf,
    /// `None` if it was never as it should be.
    left: Option<Stamp>,
    in_place: bool,
}

/// What came of an attempt to write.
#[derive(Debug, PartialEq, Eq)]
enum Wrote {
    Replaced,
    InPlace,
    /// Somebody else wrote at the same time.
    Overtaken,
}

/// Keeps the block in `path` as the names are, until it is dropped.
pub(super) async fn keep(path: PathBuf, mut facts: Receiver<Option<Arc<Facts>>>, report: Report) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hosts = Hosts { path, left: None, in_place: false };
    loop {
        let changed = tokio::select! {
            changed = facts.changed() => match changed {
                Ok(()) => true,
                Err(_) => return,
            },
            _ = look.tick() => false,
        };
        if changed {
            sleep(GATHER).await;
            hosts.left = None;
        }
        let Some(now) = facts.borrow_and_update().clone() else { continue };
        let path = hosts.path.clone();
        let names = now.records.len();
        let writing = tokio::task::spawn_blocking(move || {
            let result = hosts.sync(Some(&now));
            (hosts, result)
        });
        let (back, result) = match writing.await {
            Ok(done) => done,
            Err(panic) => {
                let fresh = Hosts { path, left: None, in_place: false };
                (fresh, Err(format!("writing the file failed: {panic}")))
            }
        };
        hosts = back;
        report.update(|status| {
            match result {
                Ok(_) => (status.records, status.error) = (names, None),
                Err(error) => status.error = Some(error),
            }
            status.problems = if hosts.in_place { vec![IN_PLACE.to_owned()] } else { Vec::new() };
        });
    }
}

/// Takes the block out. Returns whether there was one.
pub(super) fn remove(path: &Path) -> Result<bool, String> {
    Hosts { path: path.to_owned(), left: None, in_place: false }.sync(None)
}

// === impl Hosts ===

impl Hosts {
    /// Makes the block what it should be, or takes it out. Returns whether that changed the file.
    fn sync(&mut self, facts: Option<&Facts>) -> Result<bool, String> {
        let shown = self.path.display().to_string();
        let file = real_path(&self.path).map_err(|reason| format!("{shown}: {reason}"))?;
        for _ in 0..TRIES {
            let refused = |error: io::Error| format!("{shown}: {error}; {}", remedy(&error));
            let metadata = stat(&file).map_err(refused)?;
            let stamp = metadata.as_ref().map(Stamp::of);
            if stamp.is_some() && stamp == self.left {
                return Ok(false);
            }
            let text = match &metadata {
                Some(metadata) => read(&file, metadata).map_err(refused)?,
                None if facts.is_none() => return Ok(false),
                None => Vec::new(),
            };
            let damaged = |damage| format!("{shown}: {damage}");
            let before = block::find(&text).map_err(damaged)?.map(|range| &text[range]);
            let block = facts.map(|facts| block::render(&facts.records, before, facts.complete));
            let wanted = block::replace(&text, block.as_deref()).map_err(damaged)?;
            if wanted == text && metadata.is_some() {
                self.left = stamp;
                return Ok(false);
            }
            match write(&file, metadata.as_ref(), &wanted).map_err(refused)? {
                Wrote::Overtaken => continue,
                wrote => self.in_place = wrote == Wrote::InPlace,
            }
            // Others may have written since: then the next look finds another stamp, or other
            // content, and comes to the same end.
            self.left = None;
            tracing::info!(path = %shown, bytes = wanted.len(), "hosts file written");
            return Ok(true);
        }
        Err(format!("{shown}: others keep writing it; the names follow when they are done"))
    }
}

/// Where the file is: links are followed, so that they stay links.
fn real_path(path: &Path) -> Result<PathBuf, String> {
    match fs::canonicalize(path) {
        Ok(real) => Ok(real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err("the link leads nowhere; create the file it points to".to_owned());
            }
            Ok(path.to_owned())
        }
        Err(error) => Err(format!("{error}; {}", remedy(&error))),
    }
}

fn stat(file: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(file) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(file: &Path, metadata: &Metadata) -> io::Result<Vec<u8>> {
    if metadata.len() > LONGEST {
        let reason = format!("it has {} bytes", metadata.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    fs::read(file)
}

/// Puts `text` in the place of the file as it was when `before` was taken.
fn write(file: &Path, before: Option<&Metadata>, text: &[u8]) -> io::Result<Wrote> {
    let draft = draft_path(file)?;
    let result = write_draft(&draft, before, text).and_then(|()| {
        if stat(file)?.as_ref().map(Stamp::of) != before.map(Stamp::of) {
            return Ok(Wrote::Overtaken);
        }
        fs::rename(&draft, file)?;
        // Until the directory is on disk too, a power cut may bring the old file back.
        File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        Ok(Wrote::Replaced)
    });
    if !matches!(result, Ok(Wrote::Replaced)) {
        match fs::remove_file(&draft) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, draft = %draft.display(), "a draft was left behind")
            }
        }
    }
    match result {
        Err(error) if before.is_some() && is_mount(&error) => write_in_place(file, text),
        result => result,
    }
}

/// What the kernel says to whoever wants to replace a mount, or to write beside it in a directory
/// that is for reading only.
fn is_mount(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, ReadOnlyFilesystem, ResourceBusy};
    matches!(error.kind(), CrossesDevices | ReadOnlyFilesystem | ResourceBusy)
}

/// `.hosts.lb-agent`, in the same directory: a rename is atomic only within a file system.
fn draft_path(file: &Path) -> io::Result<PathBuf> {
    let name = file.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".lb-agent");
    Ok(file.with_file_name(hidden))
}

fn write_draft(draft: &Path, like: Option<&Metadata>, text: &[u8]) -> io::Result<()> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft);
    let mut file = match create() {
        // Of an agent that was killed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(draft)?;
            create()?
        }
        other => other?,
    };
    file.write_all(text)?;
    if let Some(like) = like {
        std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()))?;
    }
    let mode = like.map_or(MODE, |like| like.mode() & 0o7777);
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// The new text first, then the end: a reader in between sees it with a tail of the old one.
fn write_in_place(file: &Path, text: &[u8]) -> io::Result<Wrote> {
    let file = OpenOptions::new().write(true).open(file)?;
    file.write_all_at(text, 0)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()?;
    Ok(Wrote::InPlace)
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create its directory, or name another file in `names.hosts`",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "let the agent write it and its directory, or name another file in `names.hosts`"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space there",
        _ => "name a file that the agent can write in `names.hosts`",
    }
}

// === impl Stamp ===

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let times = [
            metadata.mtime(),
            metadata.mtime_nsec(),
            // Nobody can set it back.
            metadata.ctime(),
            metadata.ctime_nsec(),
        ];
        Self([metadata.dev(), metadata.ino(), metadata.len(), metadata.mode().into()], times)
    }
}

#[cfg(test)]
mod tests;
