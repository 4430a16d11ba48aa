//! Links: which program runs on which hook of which cgroup, and how a new one takes over.

use super::features::WITHOUT_OUTCOMES;
use super::sys;
use crate::status::HookStatus;
use aya::Ebpf;
use aya_obj::generated::bpf_attach_type::{
    BPF_CGROUP_INET_SOCK_RELEASE, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME,
    BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_SOCK_OPS,
    BPF_CGROUP_UDP4_RECVMSG, BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_RECVMSG,
    BPF_CGROUP_UDP6_SENDMSG,
};
use lb_common::{LAYOUT_VERSION, features};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A hook: its name, its program in the object, and the kernel's number for it.
struct Hook {
    name: &'static str,
    program: &'static str,
    attach_type: u32,
}

/// In the order of taking over: what undoes or follows a translation before what makes one, so that
/// no socket is translated that would not be shown and released as such.
const HOOKS: [Hook; 10] = [
    hook("sock_release", "lb_sock_release", BPF_CGROUP_INET_SOCK_RELEASE as u32),
    hook("getpeername4", "lb_getpeername4", BPF_CGROUP_INET4_GETPEERNAME as u32),
    hook("getpeername6", "lb_getpeername6", BPF_CGROUP_INET6_GETPEERNAME as u32),
    hook("recvmsg4", "lb_recvmsg4", BPF_CGROUP_UDP4_RECVMSG as u32),
    hook("recvmsg6", "lb_recvmsg6", BPF_CGROUP_UDP6_RECVMSG as u32),
    hook(OUTCOMES, "lb_sock_ops", BPF_CGROUP_SOCK_OPS as u32),
    hook("sendmsg4", "lb_sendmsg4", BPF_CGROUP_UDP4_SENDMSG as u32),
    hook("sendmsg6", "lb_sendmsg6", BPF_CGROUP_UDP6_SENDMSG as u32),
    hook("connect4", "lb_connect4", BPF_CGROUP_INET4_CONNECT as u32),
    hook("connect6", "lb_connect6", BPF_CGROUP_INET6_CONNECT as u32),
];

/// The hook that follows what becomes of connects. Everything else works without.
const OUTCOMES: &str = "sock_ops";

const fn hook(name: &'static str, program: &'static str, attach_type: u32) -> Hook {
    Hook { name, program, attach_type }
}

/// Why a program could not be loaded, attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The object lacks a program: the build is broken.
    #[error("the embedded object has no program {0}; build lb-agent again from a clean tree")]
    Missing(&'static str),
    /// The kernel refused.
    #[error("{what}: {reason}")]
    Failed {
        /// What was being done.
        what: String,
        /// What the kernel said.
        reason: String,
    },
    /// Another program sits at a pin of ours.
    #[error("{path} is a link of another hook; run `lb-agent detach` and start the agent again")]
    WrongHook {
        /// The pin.
        path: PathBuf,
    },
}

/// What is attached.
pub type Attached = Vec<HookStatus>;

fn failed<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> AttachError {
    let what = what.into();
    move |reason| AttachError::Failed { what, reason: reason.to_string() }
}

/// Hands the programs of the object to the verifier, those that can work with these `features`.
/// Returns a warning if it refused one that is dispensable.
pub(super) fn load_programs(
    object: &mut Ebpf,
    features: u32,
) -> Result<Option<String>, AttachError> {
    use aya::programs::Program;
    let mut warning = None;
    for Hook { name, program, .. } in HOOKS {
        if name == OUTCOMES && features & features::OUTCOMES == 0 {
            continue;
        }
        let loaded = match object.program_mut(program).ok_or(AttachError::Missing(program))? {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::SockOps(program) => program.load(),
            _ => return Err(AttachError::Missing(program)),
        };
        match loaded {
            Ok(()) => {}
            Err(error) if name == OUTCOMES => {
                let reason = super::tables::chain(&error);
                let refused = "this kernel's verifier refused the program for sock_ops";
                warning = Some(format!("{refused} ({reason}): {WITHOUT_OUTCOMES}"));
            }
            Err(error) => {
                return Err(AttachError::Failed {
                    what: format!("the kernel's verifier refused the program for {name}"),
                    reason: super::tables::chain(&error),
                });
            }
        }
    }
    Ok(warning)
}

/// Puts the loaded programs on the hooks of `cgroup`, replacing in one step what earlier agents
/// put there.
pub(super) fn attach(object: &Ebpf, cgroup: &Path, pins: &Path) -> Result<Attached, AttachError> {
    let directory = File::open(cgroup).map_err(failed(format!("opening {}", cgroup.display())))?;
    let cgroup_id =
        directory.metadata().map_err(failed(format!("reading {}", cgroup.display())))?.ino();
    let mut attached = Vec::new();
    for hook in HOOKS {
        let program = object.program(hook.program).ok_or(AttachError::Missing(hook.program))?;
        // It was not loaded, for a reason that has been told.
        if hook.name == OUTCOMES && program.fd().is_err() {
            continue;
        }
        let program = program.fd().map_err(failed(format!("program {}", hook.program)))?;
        let pin = pins.join(format!("link_{}", hook.name));
        if !take_over(&hook, program.as_fd(), cgroup_id, &pin)? {
            create(&hook, program.as_fd(), &directory, &pin)?;
        }
        attached.push(status(&hook, &pin)?);
    }
    Ok(attached)
}

/// Replaces the program of a pinned link; false if there is none on this cgroup.
fn take_over(
    hook: &Hook,
    program: std::os::fd::BorrowedFd<'_>,
    cgroup_id: u64,
    pin: &Path,
) -> Result<bool, AttachError> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(format!("opening {}", pin.display()))(error)),
    };
    let info = sys::link_info(link.as_fd()).map_err(failed(format!("{}", pin.display())))?;
    if info.attach_type != hook.attach_type {
        return Err(AttachError::WrongHook { path: pin.to_owned() });
    }
    if info.cgroup_id != cgroup_id {
        return Ok(false);
    }
    match sys::update_link(link.as_fd(), program) {
        Ok(()) => Ok(true),
        // The cgroup was removed since: a directory of the same name is another cgroup.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(failed(format!("replacing the program of {}", pin.display()))(error)),
    }
}

/// Makes a link and lets its pin replace an old one: the new program is there before the old one
/// goes, and a socket that meets both is translated by the first only.
fn create(
    hook: &Hook,
    program: std::os::fd::BorrowedFd<'_>,
    cgroup: &File,
    pin: &Path,
) -> Result<(), AttachError> {
    let link = sys::create_link(program, cgroup.as_fd(), hook.attach_type)
        .map_err(failed(format!("attaching {} to the cgroup", hook.name)))?;
    // bpffs takes no dots in names.
    let fresh = pin.with_file_name(format!("new_{}", hook.name));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed(format!("removing {}", fresh.display()))(error));
        }
        _ => {}
    }
    sys::pin(link.as_fd(), &fresh).map_err(failed(format!("pinning {}", fresh.display())))?;
    fs::rename(&fresh, pin).map_err(failed(format!("pinning {}", pin.display())))
}

fn status(hook: &Hook, pin: &Path) -> Result<HookStatus, AttachError> {
    let read = || sys::link_info(sys::open_pin(pin)?.as_fd());
    let info = read().map_err(failed(format!("reading {}", pin.display())))?;
    Ok(HookStatus { hook: hook.name.to_owned(), program_id: info.program_id, link_id: info.id })
}

/// Removes links and tables of this layout version below `pin_dir`, if nothing holds the lock.
/// Returns whether there was anything. Programs stop as soon as their links are gone.
pub fn detach(pin_dir: &Path) -> Result<bool, AttachError> {
    let pins = pin_dir.join(LAYOUT_VERSION.to_string());
    if !pins.is_dir() {
        return Ok(false);
    }
    // New translations end first, the means to undo them last.
    let order = HOOKS.iter().rev().map(|hook| format!("link_{}", hook.name));
    for name in order {
        remove(&pins.join(name))?;
    }
    let entries = fs::read_dir(&pins).map_err(failed(format!("reading {}", pins.display())))?;
    for entry in entries {
        remove(&entry.map_err(failed(format!("reading {}", pins.display())))?.path())?;
    }
    fs::remove_dir(&pins).map_err(failed(format!("removing {}", pins.display())))?;
    match fs::remove_dir(pin_dir) {
        // Another layout's directory beside it is not ours to remove, nor is one that somebody made or
        // mounted for us where we may not write.
        Err(error)
            if ![
                io::ErrorKind::DirectoryNotEmpty,
                io::ErrorKind::PermissionDenied,
                io::ErrorKind::ReadOnlyFilesystem,
                io::ErrorKind::ResourceBusy,
            ]
            .contains(&error.kind()) =>
        {
            Err(failed(format!("removing {}", pin_dir.display()))(error))
        }
        _ => Ok(true),
    }
}

fn remove(path: &Path) -> Result<(), AttachError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}
