//! What must be so before anything is touched; each failure names its remedy.

use super::features::Feature;
use super::generations::layout_of;
use super::{destroy, features, sys};
use anyhow::Context as _;
use aya::util::KernelVersion;
use caps::{CapSet, Capability};
use lb_common::LAYOUT_VERSION;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, FsType, statfs};
use std::fs;
use std::path::{Path, PathBuf};

const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);
const CGROUP_V1_MAGIC: FsType = FsType(0x27_e0eb);
const BPFFS: &str = "/sys/fs/bpf";

/// Why the agent can't start here.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The configuration asks for what can't be.
    #[error("{0}")]
    Configuration(String),
    /// The host lacks something.
    #[error("{0}")]
    Host(String),
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Host {
    /// The cgroup to attach to.
    pub cgroup: PathBuf,
    /// Bits of [`lb_common::features`].
    pub features: u32,
    /// Cookie of the host's network namespace; 0 if the kernel does not tell.
    pub netns: u64,
    /// Where the kernel's `struct sock` has `sk_err`, with [`lb_common::features::OUTCOMES`].
    pub sk_err: u32,
    /// What can't be done here, and what that means.
    pub warnings: Vec<String>,
}

impl Host {
    /// Logs what can't be done here.
    pub fn warn(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

/// Checks privileges, cgroup, bpffs and kernel; mounts bpffs if nobody has.
///
/// # Errors
///
/// [`PreflightError::Configuration`] if `cgroup` is no cgroup2 directory, or `pin_dir` is not on bpffs.
/// [`PreflightError::Host`] if the kernel is older than 5.10, cgroup2 or /proc is not mounted, privileges are
/// missing, the limit of locked memory can't be raised, bpffs can't be mounted or written, or `pin_dir` has what no
/// agent made. A bpffs that was mounted and a directory that was made stay.
pub fn check(cgroup: Option<&Path>, pin_dir: &Path) -> Result<Host, PreflightError> {
    let mounts = fs::read_to_string("/proc/self/mounts")
        .map_err(|e| PreflightError::Host(format!("/proc/self/mounts: {e}; mount /proc")))?;
    let cgroup = find_cgroup(cgroup, &mounts)?;
    check_capabilities()?;
    if is_before(5, 10) {
        return Err(PreflightError::Host(
            "this kernel is too old: the programs are known to work from Linux 5.10 on; run a later \
             kernel"
                .to_owned(),
        ));
    }
    raise_memory_limit()?;
    prepare_bpffs(pin_dir)?;
    refuse_strangers(pin_dir)?;
    let (features, sk_err, mut warnings) = sum_up(features::probe());
    if !destroy::may_enter_namespaces() {
        warnings.push(
            "without CAP_SYS_ADMIN, sockets to removed backends are ended in the agent's own network \
             namespace only, and rows of sockets that closed while no program was attached stay; if \
             there are other namespaces, give its unit CAP_SYS_ADMIN, CAP_SYS_PTRACE, \
             CAP_DAC_READ_SEARCH and RestrictNamespaces=net"
                .to_owned(),
        );
    }
    let netns = sys::netns_cookie().map_err(|e| {
        PreflightError::Host(format!("reading the network namespace's cookie: {e}"))
    })?;
    Ok(Host { cgroup, features, netns: netns.unwrap_or(0), sk_err, warnings })
}

/// The bits of what a kernel has that answers so, the place of `sk_err`, and a line for each lack.
fn sum_up(
    answers: impl IntoIterator<Item = (&'static Feature, Result<u32, String>)>,
) -> (u32, u32, Vec<String>) {
    let mut warnings = Vec::new();
    let (mut bits, mut sk_err) = (0, 0);
    for (feature, found) in answers {
        match found {
            Ok(datum) => {
                bits |= feature.bit;
                if feature.bit == lb_common::features::OUTCOMES {
                    sk_err = datum;
                }
            }
            Err(lack) => warnings.push(feature.warning(&lack)),
        }
    }
    (bits, sk_err, warnings)
}

/// Keeps this process's capabilities from the programs that it runs (checks may be programs). To be called before
/// there are threads.
///
/// # Errors
///
/// If the process may not call prctl(2).
pub fn keep_capabilities() -> anyhow::Result<()> {
    caps::clear(None, CapSet::Ambient)
        .context("giving up ambient capabilities; has a filter of system calls forbidden prctl?")
}

/// The configured cgroup, or the root of the cgroup2 hierarchy, wherever it is mounted.
fn find_cgroup(asked: Option<&Path>, mounts: &str) -> Result<PathBuf, PreflightError> {
    let root = cgroup2_mount(mounts);
    let Some(asked) = asked else {
        return root.ok_or_else(|| {
            PreflightError::Host(
                "no cgroup2 hierarchy is mounted; mount one with `mount -t cgroup2 none \
                 /sys/fs/cgroup/unified`, or boot with systemd.unified_cgroup_hierarchy=1"
                    .to_owned(),
            )
        });
    };
    let hint = match &root {
        Some(root) => format!("use a directory below {}, where cgroup2 is mounted", root.display()),
        None => "mount cgroup2 first: mount -t cgroup2 none /sys/fs/cgroup/unified".to_owned(),
    };
    let path = asked.display();
    match statfs(asked).map(|found| found.filesystem_type()) {
        Ok(CGROUP2_SUPER_MAGIC) if asked.is_dir() => Ok(asked.to_owned()),
        Ok(CGROUP_V1_MAGIC) => Err(PreflightError::Configuration(format!(
            "cgroup: {path} is a cgroup v1 path, and programs attach to cgroup2 only; {hint}"
        ))),
        Ok(_) => Err(PreflightError::Configuration(format!(
            "cgroup: {path} is no cgroup2 directory; {hint}"
        ))),
        Err(errno) => Err(PreflightError::Configuration(format!(
            "cgroup: {path}: {}; make it with mkdir, or {hint}",
            errno.desc()
        ))),
    }
}

/// Where the cgroup2 hierarchy is mounted. The first mount counts: later ones may be partial views.
pub(crate) fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (target, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target.replace("\\040", " ")))
    })
}

fn check_capabilities() -> Result<(), PreflightError> {
    let effective = caps::read(None, CapSet::Effective)
        .map_err(|e| PreflightError::Host(format!("reading this process's capabilities: {e}")))?;
    let has = |capability| effective.contains(&capability);
    let bpf = has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON);
    if (bpf || has(Capability::CAP_SYS_ADMIN)) && has(Capability::CAP_NET_ADMIN) {
        return Ok(());
    }
    Err(PreflightError::Host(
        "not enough privilege: loading and attaching programs needs CAP_BPF, CAP_PERFMON and \
         CAP_NET_ADMIN; \
         start the agent as root, or give its unit AmbientCapabilities=CAP_BPF CAP_NET_ADMIN \
         CAP_PERFMON"
            .to_owned(),
    ))
}

fn prepare_bpffs(pin_dir: &Path) -> Result<(), PreflightError> {
    if !on_bpffs(pin_dir) && pin_dir.starts_with(BPFFS) && Path::new(BPFFS).is_dir() {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|errno| {
            PreflightError::Host(format!(
                "bpffs is not mounted at {BPFFS} and mounting it failed ({}); run `mount -t bpf bpf \
                 {BPFFS}` as root",
                errno.desc()
            ))
        })?;
    }
    if !on_bpffs(pin_dir) {
        return Err(PreflightError::Configuration(format!(
            "pin_dir: {} is not on bpffs; choose a directory below {BPFFS}, or mount one there: mount \
             -t bpf bpf DIRECTORY",
            pin_dir.display()
        )));
    }
    let directory = pin_dir.join(LAYOUT_VERSION.to_string());
    fs::create_dir_all(&directory).map_err(|e| {
        PreflightError::Host(format!(
            "pin_dir: can't make {}: {e}; are you root?",
            directory.display()
        ))
    })
}

/// Whether the deepest existing ancestor lies on bpffs.
pub(super) fn on_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .and_then(|existing| statfs(existing).ok())
        .is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// What is in the directory must be agents', of whatever version.
fn refuse_strangers(pin_dir: &Path) -> Result<(), PreflightError> {
    let entries = fs::read_dir(pin_dir)
        .map_err(|e| PreflightError::Host(format!("pin_dir: {}: {e}", pin_dir.display())))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if layout_of(&path).is_none() {
            return Err(PreflightError::Host(format!(
                "pin_dir: {} is none of an agent's; remove it, or choose another pin_dir",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Before 5.11, tables count as locked memory, of which even root gets 64 KiB by default.
pub(crate) fn raise_memory_limit() -> Result<(), PreflightError> {
    if !is_before(5, 11) {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).map_err(|errno| {
        PreflightError::Host(format!(
            "this kernel counts tables as locked memory, and raising that limit failed ({}); give the \
             agent's unit LimitMEMLOCK=infinity, or CAP_SYS_RESOURCE",
            errno.desc()
        ))
    })
}

/// Whether the running kernel is older; one that does not tell is taken as old.
pub(super) fn is_before(major: u8, minor: u8) -> bool {
    !KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(major, minor, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::logged;

    /// Whatever kernel that is: with everything, without this or that, and without all of it.
    #[test]
    fn what_a_kernel_lacks_is_said_once_and_not_made_use_of() {
        let all: Vec<&Feature> =
            features::probe().into_iter().map(|(feature, _)| feature).collect();
        let alone = all.iter().map(|feature| vec![feature.name]);
        // As Linux 5.10 is.
        let old = vec!["mptcp", "set_retval", "netns_cookie", "atomics", "coarse_clock"];
        let names = all.iter().map(|feature| feature.name).collect();
        for lacking in alone.chain([vec![], old, names]) {
            let is_lacking = |feature: &Feature| lacking.contains(&feature.name);
            let answer = |feature: &&'static Feature| match is_lacking(feature) {
                true => (*feature, Err(format!("lacks {} (9.9)", feature.name))),
                false => (*feature, Ok(7)),
            };
            let (features, sk_err, warnings) = sum_up(all.iter().map(answer));
            let host = Host { cgroup: PathBuf::new(), features, netns: 0, sk_err, warnings };
            let bits = all.iter().filter(|feature| !is_lacking(feature)).map(|feature| feature.bit);
            assert_eq!(features, bits.sum::<u32>(), "{lacking:?}");
            assert_eq!(sk_err, if lacking.contains(&"outcomes") { 0 } else { 7 }, "{lacking:?}");
            let line = |feature: &&&Feature| {
                let Feature { name, without, .. } = feature;
                format!("WARN this kernel lacks {name} (9.9): {without}")
            };
            let expected: Vec<_> = all.iter().filter(|f| is_lacking(f)).map(|f| line(&f)).collect();
            let log = logged(|| host.warn());
            assert_eq!(log.lines().map(str::trim_start).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn cgroup2_is_found_wherever_it_is_mounted() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(cgroup2_mount(unified), Some("/sys/fs/cgroup".into()));
        let spaced = "none /mnt/a\\040b cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(spaced), Some("/mnt/a b".into()));
        assert_eq!(cgroup2_mount("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"), None);
    }

    #[test]
    fn a_path_that_is_no_cgroup2_says_where_one_is() {
        let mounts = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let error = find_cgroup(Some(Path::new("/proc")), mounts).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/proc is no cgroup2 directory"), "{text}");
        assert!(text.contains("below /sys/fs/cgroup/unified"), "{text}");
        let error = find_cgroup(Some(Path::new("/does/not/exist")), mounts).unwrap_err();
        assert!(matches!(error, PreflightError::Configuration(_)));
        assert!(matches!(find_cgroup(None, ""), Err(PreflightError::Host(_))));
    }
}
