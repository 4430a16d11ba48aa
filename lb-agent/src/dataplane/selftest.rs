//! The self-test of the live dataplane: whether the programs are attached where they should be, whether
//! the kernel runs them there, and whether the pins lead to them. What is ours to repair is repaired.
//!
//! The kernel is asked; no socket is connected for a trial. What it says it runs at a hook is what it
//! runs, while a connect of the agent's own would tell of the agent's cgroup only, and would count as
//! somebody's.

use super::attach::{self, AttachError, Held, failed};
use super::kernel::Kernel;
use super::lock::{LockError, PinLock};
use super::tables::chain;
use super::{Checked, preflight, sys};
use crate::status::{OtherProgram, Place};
use aya::maps::{MapData, MapError};
use aya::programs::loaded_programs;
use aya::sys::SyscallError;
use lb_common::since;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What the self-test remembers.
#[derive(Default)]
pub(super) struct Remembered {
    /// The lock on the pin directory, where it had to be made again.
    lock: Option<PinLock>,
    /// Device and inode of the pin directory.
    directory: Option<(u64, u64)>,
    /// Names of the programs of others, by id.
    names: BTreeMap<u32, Option<String>>,
}

impl Kernel {
    /// Looks at all that is attached and pinned, and repairs what it can.
    pub(super) fn check(&mut self) -> Checked {
        let mut checked = Checked::default();
        let pinned = self.check_directory(&mut checked);
        let can_look = self.check_links(pinned, &mut checked);
        if pinned && can_look {
            self.check_tables(&mut checked);
        }
        self.check_generations(&mut checked);
        match attach::statuses(&self.links) {
            Ok(attached) => checked.attached = attached,
            Err(error) => checked.problems.push(error.to_string()),
        }
        checked
    }

    /// Whether there is a place for pins that is ours. Makes the directory again where it is gone.
    fn check_directory(&mut self, checked: &mut Checked) -> bool {
        let pins = &self.pins;
        if !preflight::on_bpffs(pins) {
            checked.problems.push(format!(
                "no bpffs is mounted at {} any more: what is attached stays so only while this agent \
                 runs; mount it where it was (mount -t bpf bpf DIRECTORY), then the pins are made again",
                pins.display(),
            ));
            return false;
        }
        let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let found = fs::metadata(pins).ok().map(identity);
        if found.is_some() && found == self.remembered.directory {
            return true;
        }
        // The lock is on the directory that was there before.
        let lock = match fs::create_dir_all(pins) {
            Ok(()) => PinLock::acquire(pins),
            Err(error) => Err(LockError::Failed { path: pins.clone(), reason: error.to_string() }),
        };
        match lock {
            Ok(lock) => {
                self.remembered.lock = Some(lock);
                self.remembered.directory = fs::metadata(pins).ok().map(identity);
                checked.repairs.push(format!("{} was gone; it is made again", pins.display()));
                true
            }
            Err(error) => {
                checked
                    .problems
                    .push(format!("the pins are gone and can't be made again: {error}"));
                false
            }
        }
    }

    /// Whether anything else can be looked at.
    fn check_links(&mut self, pinned: bool, checked: &mut Checked) -> bool {
        let directory = match File::open(&self.cgroup) {
            Ok(directory) => directory,
            Err(error) => {
                checked.problems.push(unopened(&self.cgroup, &error));
                return limit_of_files(&error).is_none();
            }
        };
        let id = match directory.metadata() {
            Ok(metadata) => metadata.ino(),
            Err(error) => {
                checked.problems.push(format!("{}: {error}", self.cgroup.display()));
                return true;
            }
        };
        let mut ours = BTreeMap::new();
        let object = &self.object;
        for held in &mut self.links {
            let loaded = object.program(held.hook.program).map(|program| program.fd());
            let Some(Ok(program)) = loaded else {
                checked.problems.push(AttachError::Missing(held.hook.program).to_string());
                continue;
            };
            let pins = pinned.then_some(self.pins.as_path());
            let done = mend(held, program.as_fd(), (&directory, id), pins, &mut checked.repairs);
            match done.and_then(|()| read(held)) {
                Ok(info) => drop(ours.insert(held.hook.attach_type, info.program_id)),
                Err(error) => checked.problems.push(error.to_string()),
            }
        }
        if !checked.repairs.is_empty() {
            self.attached = since::stamp(sys::monotonic_nanoseconds());
        }
        self.look_around(&directory, &ours, checked);
        true
    }

    /// What the kernel runs at our hooks.
    fn look_around(&mut self, cgroup: &File, ours: &BTreeMap<u32, u32>, checked: &mut Checked) {
        let mut unknown = BTreeSet::new();
        for Held { hook, .. } in &self.links {
            let Some(own) = ours.get(&hook.attach_type) else { continue };
            let ids = match sys::effective_programs(cgroup.as_fd(), hook.attach_type) {
                Ok(ids) => ids,
                Err(error) => {
                    let what = "asking which programs run at";
                    checked.problems.push(format!("{what} {}: {error}", hook.name));
                    continue;
                }
            };
            match beside(hook.name, *own, &ids) {
                Ok(others) => {
                    unknown.extend(others.iter().map(|other| other.program_id));
                    checked.others.extend(others);
                }
                Err(problem) => checked.problems.push(problem),
            }
        }
        self.remembered.names.retain(|id, _| unknown.contains(id));
        if unknown.iter().any(|id| !self.remembered.names.contains_key(id)) {
            // Without CAP_SYS_ADMIN they have no names for us.
            self.remembered.names = unknown.iter().map(|id| (*id, None)).collect();
            // One that is unloaded after it was listed gives an error; those behind it still have names.
            for program in loaded_programs().filter_map(Result::ok) {
                if let Some(name) = self.remembered.names.get_mut(&program.id()) {
                    *name = program.name_as_str().filter(|n| !n.is_empty()).map(str::to_owned);
                }
            }
        }
        for other in &mut checked.others {
            other.name = self.remembered.names.get(&other.program_id).cloned().flatten();
        }
    }

    /// Removes what nobody needs any more of what agents of other versions left.
    fn check_generations(&mut self, checked: &mut Checked) {
        for mut generation in std::mem::take(&mut self.generations) {
            if !generation.is_over() {
                checked.earlier.push(generation.status());
                self.generations.push(generation);
                continue;
            }
            match generation.remove() {
                Ok(layout) if generation.is_inherited() => checked.notes.push(format!(
                    "taken over from layout {layout}, with all that is open and counted"
                )),
                Ok(layout) => checked.notes.push(format!(
                    "the tables of layout {layout} are removed: no connection needs them any more"
                )),
                // It is tried again the next time.
                Err(error) => {
                    checked.problems.push(error.to_string());
                    checked.earlier.push(generation.status());
                    self.generations.push(generation);
                }
            }
        }
    }

    fn check_tables(&self, checked: &mut Checked) {
        for (name, id) in &self.table_ids {
            let pin = self.pins.join(name);
            let done = match pinned_id(&pin) {
                Ok(found) if found == Some(*id) => continue,
                Ok(_) => self.pin_table(name, &pin),
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => checked
                    .repairs
                    .push(format!("{} was missing; it is pinned again", pin.display())),
                Err(error) => checked.problems.push(error.to_string()),
            }
        }
    }

    fn pin_table(&self, name: &'static str, pin: &Path) -> Result<(), AttachError> {
        let table = self.object.map(name).ok_or(AttachError::Missing(name))?;
        let fresh = attach::fresh_name(pin)?;
        let what = || format!("pinning {}", pin.display());
        table.pin(&fresh).map_err(|error| failed::<String>(what())(chain(&error)))?;
        fs::rename(&fresh, pin).map_err(failed(what()))
    }

    /// Notes that the pin directory is the one that the lock is on.
    pub(super) fn remember_directory(&mut self) {
        let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
        self.remembered.directory = fs::metadata(&self.pins).ok().map(identity);
    }
}

/// The programs of others among those that the kernel runs at a hook, in its order; or what to say if ours is
/// not one of them.
fn beside(hook: &str, own: u32, running: &[u32]) -> Result<Vec<OtherProgram>, String> {
    let Some(at) = running.iter().position(|id| *id == own) else {
        return Err(format!(
            "the kernel does not run our program at {hook}, although it is attached; restart the \
             agent, and report its log if that does not help"
        ));
    };
    let others = running.iter().enumerate().filter(|(_, id)| **id != own);
    let other = |(place, id): (usize, &u32)| OtherProgram {
        hook: hook.to_owned(),
        program_id: *id,
        name: None,
        place: if place < at { Place::Before } else { Place::After },
    };
    Ok(others.map(other).collect())
}

/// What it means that the cgroup can't be opened: only if it is gone are the programs, too.
fn unopened(cgroup: &Path, error: &io::Error) -> String {
    let cgroup = cgroup.display();
    let remedy = match (error.kind(), limit_of_files(error)) {
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _) => {
            return format!(
                "the cgroup {cgroup} can't be opened ({error}): nothing is translated there; make it \
                 again, or set `cgroup` to another and restart the agent"
            );
        }
        (_, Some(limit)) => format!("raise {limit}"),
        (io::ErrorKind::PermissionDenied, _) => "let the agent's user read it".to_owned(),
        _ => "it is tried again".to_owned(),
    };
    format!(
        "the cgroup {cgroup} can't be looked at ({error}): what is attached serves on; {remedy}"
    )
}

/// The limit that was reached, if one of open files was.
fn limit_of_files(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error() {
        Some(libc::EMFILE) => Some("the agent's limit of open files (LimitNOFILE of its unit)"),
        Some(libc::ENFILE) => Some("this host's limit of open files (sysctl fs.file-max)"),
        _ => None,
    }
}

/// The table that a pin leads to, if there is one.
fn pinned_id(pin: &Path) -> Result<Option<u32>, AttachError> {
    let what = || format!("opening {}", pin.display());
    match MapData::from_pin(pin).and_then(|map| map.info()) {
        Ok(info) => Ok(Some(info.id())),
        Err(MapError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(failed::<String>(what())(chain(&error))),
    }
}

fn read(held: &Held) -> Result<sys::LinkInfo, AttachError> {
    let what = || format!("reading the link of {}", held.hook.name);
    sys::link_info(held.link.as_fd()).map_err(failed(what()))
}

/// Sees to it that a link is on the cgroup with our program, and that its pin leads to it.
fn mend(
    held: &mut Held,
    program: BorrowedFd<'_>,
    (cgroup, cgroup_id): (&File, u64),
    pins: Option<&Path>,
    repairs: &mut Vec<String>,
) -> Result<(), AttachError> {
    let name = held.hook.name;
    let info = read(held)?;
    let running =
        sys::program_id(program).map_err(failed(format!("reading the program of {name}")))?;
    if info.cgroup_id != cgroup_id {
        // The cgroup is another of the same name, or somebody has taken the program off.
        held.link = attach::create(held.hook, program, cgroup)?;
        repairs.push(format!("{name} was not attached any more; it is attached again"));
    } else if info.program_id != running {
        let what = format!("replacing the program of {name}");
        sys::update_link(held.link.as_fd(), program).map_err(failed(what))?;
        repairs.push(format!("somebody had put another program in our place at {name}"));
    }
    let Some(pins) = pins else { return Ok(()) };
    let pin = attach::pin_of(pins, held.hook);
    let own = read(held)?.id;
    let found = match sys::open_pin(&pin) {
        Ok(link) => sys::link_info(link.as_fd()).ok().map(|info| info.id),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(format!("opening {}", pin.display()))(error)),
    };
    if found != Some(own) {
        attach::pin_link(&held.link, &pin)?;
        if info.id == own {
            repairs.push(format!("{} was missing; it is pinned again", pin.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_beside_ours() {
        let (before, after) = (Place::Before, Place::After);
        for (running, expected) in [
            (vec![7], Some(vec![])),
            (vec![7, 9], Some(vec![(9, after)])),
            (vec![3, 7], Some(vec![(3, before)])),
            // Numbers say nothing of the order.
            (vec![9, 8, 7, 3], Some(vec![(9, before), (8, before), (3, after)])),
            // It is attached (or we would not ask), and the kernel goes by others.
            (vec![], None),
            (vec![3, 9], None),
        ] {
            match (beside("connect4", 7, &running), expected) {
                (Ok(others), Some(expected)) => {
                    let others = others.into_iter().map(|other| {
                        assert_eq!((other.hook.as_str(), other.name), ("connect4", None));
                        (other.program_id, other.place)
                    });
                    assert_eq!(others.collect::<Vec<_>>(), expected, "{running:?}");
                }
                (Err(problem), None) => {
                    for part in ["does not run our program at connect4", "restart the agent"] {
                        assert!(problem.contains(part), "{problem}");
                    }
                }
                (found, expected) => panic!("{running:?}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_cgroup_that_cant_be_opened_is_gone_or_serves_on() {
        for (errno, serves, remedy) in [
            (libc::ENOENT, false, "make it again"),
            (libc::ENOTDIR, false, "make it again"),
            (libc::EMFILE, true, "LimitNOFILE"),
            (libc::ENFILE, true, "fs.file-max"),
            (libc::EACCES, true, "let the agent's user read it"),
            (libc::EIO, true, "tried again"),
        ] {
            let said = unopened(Path::new("/c"), &io::Error::from_raw_os_error(errno));
            assert_eq!(said.contains("what is attached serves on"), serves, "{said}");
            assert_eq!(said.contains("nothing is translated there"), !serves, "{said}");
            assert!(said.contains(remedy), "{said}");
        }
    }
}
