//! Tables of other layouts: what an agent of another version left, which nobody here can read.
//!
//! Their links to the hooks that translate are taken over in one step each, and translate by our tables
//! from then on. Their programs at the hooks that follow a translation stay where they are, beside
//! ours, with the tables they know: each speaks for the sockets of its own tables only. So connections
//! that are open keep their peer's name, and are counted when they close. Once none is open any more,
//! their links and tables are removed.

use super::attach::{AttachError, HOOKS, Hook, failed, pin_of};
use super::lock::{LockError, PinLock};
use super::sys::{self, Mapped};
use super::tables;
use crate::status::EarlierTables;
use lb_common::LAYOUT_VERSION;
use lb_common::rows::BackendCounters;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// One of them. Its agent does not run, and can't while this lives.
#[derive(Debug)]
pub(super) struct Generation {
    directory: PathBuf,
    layout: u32,
    _lock: PinLock,
    /// What every layout has in this form: how many sockets are open to each backend. `None` if it is
    /// not so here.
    stats: Option<Mapped<BackendCounters>>,
    /// Whether none was open when it was last looked.
    idle: bool,
    /// Whether what it has on sockets and clients is ours, too.
    inherited: bool,
}

/// Those below `pin_dir`. An error if an agent has one.
pub(super) fn find(pin_dir: &Path) -> Result<Vec<Generation>, AttachError> {
    let reading = || failed(format!("reading {}", pin_dir.display()));
    let entries = match fs::read_dir(pin_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(reading()(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let directory = entry.map_err(reading())?.path();
        if let Some(layout) = layout_of(&directory).filter(|layout| *layout != LAYOUT_VERSION) {
            found.push(Generation::open(directory, layout)?);
        }
    }
    found.sort_by_key(|generation| generation.layout);
    Ok(found)
}

/// The version of the layout that a directory is for.
pub(super) fn layout_of(directory: &Path) -> Option<u32> {
    directory.file_name()?.to_str()?.parse().ok()
}

impl Generation {
    fn open(directory: PathBuf, layout: u32) -> Result<Self, AttachError> {
        let lock = PinLock::acquire(&directory)
            .map_err(|error: LockError| AttachError::Locked(error.to_string()))?;
        let stats = tables::open_stats(&directory).ok();
        Ok(Self { directory, layout, _lock: lock, stats, idle: false, inherited: false })
    }

    /// Where its tables and links are pinned.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it has on sockets and clients is ours, too: its programs are replaced, and it ends.
    pub(super) fn note_inherited(&mut self) {
        self.inherited = true;
    }

    pub(super) fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Whether new connections are translated by it.
    pub(super) fn translates(&self) -> bool {
        HOOKS.iter().any(|hook| hook.begins && self.pin_of(hook).exists())
    }

    /// The id of the newest of its programs by which new connections are translated; ids grow from one
    /// load to the next. `None` if none of them is on a cgroup that there is.
    pub(super) fn newest(&self) -> Option<u32> {
        let running = |hook: &Hook| {
            let link = sys::open_pin(&self.pin_of(hook)).ok()?;
            let info = sys::link_info(link.as_fd()).ok()?;
            (info.cgroup_id != 0).then_some(info.program_id)
        };
        HOOKS.iter().filter(|hook| hook.begins).filter_map(running).max()
    }

    /// Where a hook's link is pinned.
    pub(super) fn pin_of(&self, hook: &Hook) -> PathBuf {
        pin_of(&self.directory, hook)
    }

    /// Sockets that are open, as far as that can be told.
    fn open_sockets(&self) -> Option<u64> {
        let stats = self.stats.as_ref()?;
        let rows = (0..stats.entries()).filter_map(|id| stats.get(id));
        Some(rows.map(|counters| counters.active()).sum())
    }

    pub(super) fn status(&self) -> EarlierTables {
        EarlierTables { layout: self.layout, open: self.open_sockets() }
    }

    /// Whether nothing needs it any more: nothing was open the last time and nothing is now. What was
    /// on its way then, as an answer to a datagram, has arrived meanwhile. What was inherited is ours
    /// once the last link is.
    pub(super) fn is_over(&mut self) -> bool {
        if self.inherited {
            return !self.is_attached();
        }
        let idle = self.open_sockets() == Some(0) || !self.is_attached();
        std::mem::replace(&mut self.idle, idle) && idle
    }

    /// Whether there are links: a start that failed has left none.
    fn is_attached(&self) -> bool {
        HOOKS.iter().any(|hook| self.pin_of(hook).exists())
    }

    /// Removes links and tables. After an error it may be tried again.
    pub(super) fn remove(&self) -> Result<u32, AttachError> {
        remove_pins(&self.directory)?;
        Ok(self.layout)
    }
}

/// Removes all that is pinned in a directory, and the directory; it may be gone already.
pub(super) fn remove_pins(directory: &Path) -> Result<(), AttachError> {
    let reading = || failed(format!("reading {}", directory.display()));
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(reading()(error)),
    };
    for entry in entries {
        super::attach::remove(&entry.map_err(reading())?.path())?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("removing {}", directory.display()))(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_layouts_are_numbers() {
        assert_eq!(layout_of(Path::new("/sys/fs/bpf/lb/7")), Some(7));
        for other in ["/sys/fs/bpf/lb/7a", "/sys/fs/bpf/lb/x", "/sys/fs/bpf/lb/-1", "/"] {
            assert_eq!(layout_of(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn one_whose_agent_runs_is_no_ones_to_take() {
        let pin_dir = tempfile::tempdir().unwrap();
        for name in [LAYOUT_VERSION.to_string(), "900".to_owned()] {
            fs::create_dir(pin_dir.path().join(name)).unwrap();
        }
        let found = find(pin_dir.path()).unwrap();
        let [generation] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(generation.status(), EarlierTables { layout: 900, open: None });
        let error = find(pin_dir.path()).unwrap_err().to_string();
        assert!(error.contains("900 is in use by process"), "{error}");
    }

    #[test]
    fn what_no_link_leads_to_is_over_the_second_time() {
        let pin_dir = tempfile::tempdir().unwrap();
        let directory = pin_dir.path().join("900");
        fs::create_dir(&directory).unwrap();
        let mut found = find(pin_dir.path()).unwrap().remove(0);
        let link = found.pin_of(&HOOKS[0]);
        fs::write(&link, "").unwrap();
        assert!(!found.is_over() && !found.is_over(), "nobody knows what is open");
        fs::remove_file(&link).unwrap();
        assert!(!found.is_over() && found.is_over());
        let obstacle = directory.join("other");
        fs::create_dir(&obstacle).unwrap();
        found.remove().unwrap_err();
        assert!(found.is_over(), "it is tried again");
        fs::remove_dir(&obstacle).unwrap();
        assert_eq!(found.remove().unwrap(), 900);
        assert!(!directory.exists());
        assert_eq!(found.remove().unwrap(), 900, "somebody else may have done it");
    }
}
