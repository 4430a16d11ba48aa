//! Links: which program runs on which hook of which cgroup, and how a new one takes over.

use super::features::WITHOUT_OUTCOMES;
use super::generations::{self, Generation, remove_pins};
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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A hook: its name, its program in the object, and the kernel's number for it.
pub(super) struct Hook {
    pub(super) name: &'static str,
    pub(super) program: &'static str,
    pub(super) attach_type: u32,
    /// Whether the program translates, or follows sockets as they begin to be translated. The others
    /// follow what was translated.
    pub(super) begins: bool,
}

/// A link of ours. It is held beside its pin, so that the programs stay attached while the agent
/// runs, whatever becomes of the pin.
pub(super) struct Held {
    pub(super) hook: &'static Hook,
    pub(super) link: OwnedFd,
}

/// In the order of taking over: what undoes or follows a translation before what makes one, so that
/// no socket is translated that would not be shown and released as such.
pub(super) static HOOKS: [Hook; 10] = [
    hook("sock_release", "lb_sock_release", BPF_CGROUP_INET_SOCK_RELEASE as u32),
    hook("getpeername4", "lb_getpeername4", BPF_CGROUP_INET4_GETPEERNAME as u32),
    hook("getpeername6", "lb_getpeername6", BPF_CGROUP_INET6_GETPEERNAME as u32),
    hook("recvmsg4", "lb_recvmsg4", BPF_CGROUP_UDP4_RECVMSG as u32),
    hook("recvmsg6", "lb_recvmsg6", BPF_CGROUP_UDP6_RECVMSG as u32),
    beginning(OUTCOMES, "lb_sock_ops", BPF_CGROUP_SOCK_OPS as u32),
    beginning("sendmsg4", "lb_sendmsg4", BPF_CGROUP_UDP4_SENDMSG as u32),
    beginning("sendmsg6", "lb_sendmsg6", BPF_CGROUP_UDP6_SENDMSG as u32),
    beginning("connect4", "lb_connect4", BPF_CGROUP_INET4_CONNECT as u32),
    beginning("connect6", "lb_connect6", BPF_CGROUP_INET6_CONNECT as u32),
];

/// The hook that follows what becomes of connects. Everything else works without.
const OUTCOMES: &str = "sock_ops";

/// The program that gives up rows of sockets that closed unseen. It is run, never attached.
pub(super) const COLLECTOR: &str = "lb_collect";

const fn hook(name: &'static str, program: &'static str, attach_type: u32) -> Hook {
    Hook { name, program, attach_type, begins: false }
}

const fn beginning(name: &'static str, program: &'static str, attach_type: u32) -> Hook {
    Hook { name, program, attach_type, begins: true }
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
    /// An agent of another version runs.
    #[error("{0}")]
    Locked(String),
    /// Another program sits at a pin of ours.
    #[error("{path} is a link of another hook; run `lb-agent detach` and start the agent again")]
    WrongHook {
        /// The pin.
        path: PathBuf,
    },
}

/// What is attached.
pub type Attached = Vec<HookStatus>;

pub(super) fn failed<E: std::fmt::Display>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> AttachError {
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
    for &Hook { name, program, .. } in &HOOKS {
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
    let collector = object.program_mut(COLLECTOR).ok_or(AttachError::Missing(COLLECTOR))?;
    let Program::SchedClassifier(collector) = collector else {
        return Err(AttachError::Missing(COLLECTOR));
    };
    if let Err(error) = collector.load() {
        let refused = "this kernel's verifier refused the program that collects rows of sockets that \
                       closed while nothing was attached: such rows stay";
        warning.get_or_insert(format!("{refused} ({})", super::tables::chain(&error)));
    }
    Ok(warning)
}

/// Puts the loaded programs on the hooks of `cgroup`, replacing in one step what earlier agents
/// put there.
pub(super) fn attach(
    object: &Ebpf,
    cgroup: &Path,
    pins: &Path,
    generations: &[Generation],
) -> Result<Vec<Held>, AttachError> {
    let directory = File::open(cgroup).map_err(failed(format!("opening {}", cgroup.display())))?;
    let cgroup_id =
        directory.metadata().map_err(failed(format!("reading {}", cgroup.display())))?.ino();
    let mut links = Vec::new();
    for hook in &HOOKS {
        let program = object.program(hook.program).ok_or(AttachError::Missing(hook.program))?;
        // It was not loaded, for a reason that has been told.
        if hook.name == OUTCOMES && program.fd().is_err() {
            continue;
        }
        let program = program.fd().map_err(failed(format!("program {}", hook.program)))?;
        let pin = pin_of(pins, hook);
        let mut link = take_over(hook, program.as_fd(), cgroup_id, &pin)?;
        // What translates, translates by one set of tables only. Where ours are theirs, too, all do.
        for generation in generations.iter().filter(|theirs| hook.begins || theirs.is_inherited()) {
            let earlier = generation.pin_of(hook);
            if link.is_none() {
                link = take_over(hook, program.as_fd(), cgroup_id, &earlier)?;
                if link.is_some() {
                    let what = || format!("moving {}", earlier.display());
                    fs::rename(&earlier, &pin).map_err(failed(what()))?;
                }
            }
            remove(&earlier)?;
        }
        let link = match link {
            Some(link) => link,
            None => {
                let link = create(hook, program.as_fd(), &directory)?;
                pin_link(&link, &pin)?;
                link
            }
        };
        links.push(Held { hook, link });
    }
    Ok(links)
}

/// Where a hook's link is pinned.
pub(super) fn pin_of(pins: &Path, hook: &Hook) -> PathBuf {
    pins.join(format!("link_{}", hook.name))
}

/// What these links attach.
pub(super) fn statuses(links: &[Held]) -> Result<Attached, AttachError> {
    let status = |held: &Held| {
        let Held { hook, link } = held;
        let info = sys::link_info(link.as_fd());
        let info = info.map_err(failed(format!("reading the link of {}", hook.name)))?;
        let hook = hook.name.to_owned();
        Ok(HookStatus { hook, program_id: info.program_id, link_id: info.id })
    };
    links.iter().map(status).collect()
}

/// Replaces the program of a pinned link; `None` if there is none on this cgroup.
fn take_over(
    hook: &Hook,
    program: BorrowedFd<'_>,
    cgroup_id: u64,
    pin: &Path,
) -> Result<Option<OwnedFd>, AttachError> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(format!("opening {}", pin.display()))(error)),
    };
    let info = sys::link_info(link.as_fd()).map_err(failed(format!("{}", pin.display())))?;
    if info.attach_type != hook.attach_type {
        return Err(AttachError::WrongHook { path: pin.to_owned() });
    }
    if info.cgroup_id != cgroup_id {
        return Ok(None);
    }
    match sys::update_link(link.as_fd(), program) {
        Ok(()) => Ok(Some(link)),
        // The cgroup was removed since: a directory of the same name is another cgroup.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(None),
        Err(error) => Err(failed(format!("replacing the program of {}", pin.display()))(error)),
    }
}

/// Attaches a program to a hook of the cgroup.
pub(super) fn create(
    hook: &Hook,
    program: BorrowedFd<'_>,
    cgroup: &File,
) -> Result<OwnedFd, AttachError> {
    sys::create_link(program, cgroup.as_fd(), hook.attach_type)
        .map_err(failed(format!("attaching {} to the cgroup", hook.name)))
}

/// Lets a link's pin replace an old one: the new program is there before the old one goes, and a
/// socket that meets both is translated by the first only.
pub(super) fn pin_link(link: &OwnedFd, pin: &Path) -> Result<(), AttachError> {
    let fresh = fresh_name(pin)?;
    sys::pin(link.as_fd(), &fresh).map_err(failed(format!("pinning {}", fresh.display())))?;
    fs::rename(&fresh, pin).map_err(failed(format!("pinning {}", pin.display())))
}

/// A free name beside a pin, to be renamed to it.
pub(super) fn fresh_name(pin: &Path) -> Result<PathBuf, AttachError> {
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    // bpffs takes no dots in names.
    let fresh = pin.with_file_name(format!("new_{}", name.trim_start_matches("link_")));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("removing {}", fresh.display()))(error))
        }
        _ => Ok(fresh),
    }
}

/// Removes links and tables below `pin_dir`, those of other layouts too; the caller has our lock.
/// Returns whether there was anything. No program runs any more then.
///
/// # Errors
///
/// If `pin_dir` can't be read, an agent of another layout has its tables, or the kernel refuses to detach a link or
/// to remove a pin. What was removed before that is gone; the rest is left for the next try.
pub fn detach(pin_dir: &Path) -> Result<bool, AttachError> {
    let pins = pin_dir.join(LAYOUT_VERSION.to_string());
    let generations = generations::find(pin_dir)?;
    if !pins.is_dir() && generations.is_empty() {
        return Ok(false);
    }
    // New translations end first, the means to undo them last.
    for hook in HOOKS.iter().rev() {
        let earlier = generations.iter().map(|generation| generation.pin_of(hook));
        for pin in earlier.chain([pin_of(&pins, hook)]) {
            detach_pinned(&pin)?;
            remove(&pin)?;
        }
    }
    if pins.is_dir() {
        remove_pins(&pins)?;
    }
    for generation in generations {
        generation.remove()?;
    }
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

fn detach_pinned(pin: &Path) -> Result<(), AttachError> {
    match sys::open_pin(pin).and_then(|link| sys::detach_link(link.as_fd())) {
        // What is no link is removed all the same.
        Err(error)
            if error.kind() != io::ErrorKind::NotFound
                && error.raw_os_error() != Some(libc::EINVAL) =>
        {
            Err(failed(format!("detaching {}", pin.display()))(error))
        }
        _ => Ok(()),
    }
}

pub(super) fn remove(path: &Path) -> Result<(), AttachError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}
