//! Rows of sockets that closed while no program was there to see it, as when somebody has taken the
//! links away: they would take up room and count as open for ever.
//!
//! What is collected must be nobody's. So a row is suspected only if it is older than the last time the
//! programs were attached (a socket that closed since was seen), if no network namespace has a socket
//! with its cookie, and if that was so some seconds before, too: a socket on its way from the program
//! to the kernel's hash tables is in neither for a moment. At last the descriptors of all processes
//! are looked through, for sockets that the kernel does not list because they are not connected any
//! more, or because nothing leads to their namespace. Where any of that can't be done, nothing is
//! collected.
//!
//! The row is given up by a program, as `sock_release` does it, because a system call would write the
//! whole of a row that another socket may claim at this moment.

use super::destroy::diag::{Diag, Question};
use super::destroy::{Rows, may_enter_namespaces, namespaces};
use super::{DataplaneError, sys};
use lb_common::protocol;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Inode of the PID namespace that has all processes.
const FIRST_PIDS: u64 = 0xEFFF_FFFC;

/// A look for such rows; may run on another thread.
pub type Sweep = Box<dyn FnOnce() -> Result<Swept, DataplaneError> + Send>;

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Cookies of rows that seem to be nobody's.
    pub suspects: BTreeSet<u64>,
    /// Rows that were given up.
    pub collected: u64,
    /// What could not be looked through, and what to do about it. Nothing was collected then.
    pub problems: BTreeSet<String>,
    /// Whether that is what the agent may not look into: nothing has failed.
    pub unprivileged: bool,
}

/// What a look needs.
pub(super) struct Sweeper {
    pub(super) pins: PathBuf,
    /// Gives up the row of the cookie in its data.
    pub(super) program: OwnedFd,
    /// When the programs were last attached: [`lb_common::since`].
    pub(super) attached: u32,
}

/// The sockets that there are.
#[derive(Default)]
struct Living {
    cookies: BTreeSet<u64>,
    inodes: BTreeSet<u32>,
    problems: BTreeSet<String>,
}

/// Why it can't be told whether a row is nobody's.
struct Unseen {
    problem: String,
    unprivileged: bool,
}

impl Sweeper {
    /// Looks for suspects; if there were some `before`, those of them that still are suspect are
    /// collected.
    pub(super) fn run(self, before: Option<&BTreeSet<u64>>) -> Result<Swept, DataplaneError> {
        let rows = Rows::open(&self.pins)?;
        let mut suspects = rows.all()?;
        suspects.retain(|cookie, memory| {
            memory.since <= self.attached && before.is_none_or(|before| before.contains(cookie))
        });
        if suspects.is_empty() {
            return Ok(Swept::default());
        }
        if let Some(barrier) = barrier() {
            return Ok(Unseen { problem: unseen(barrier), unprivileged: true }.into());
        }
        let living = living()?;
        if !living.problems.is_empty() {
            return Ok(Swept { problems: living.problems, ..Swept::default() });
        }
        suspects.retain(|cookie, _| !living.cookies.contains(cookie));
        if before.is_some() && !suspects.is_empty() {
            let open = match open_elsewhere(&living.inodes) {
                Ok(open) => open,
                Err(unseen) => return Ok(unseen.into()),
            };
            suspects.retain(|cookie, _| !open.contains(cookie));
        }
        let mut swept = Swept::default();
        for (cookie, memory) in suspects {
            if before.is_none() {
                swept.suspects.insert(cookie);
            } else if rows.remembers(&memory.row) {
                self.give_up(cookie)?;
                swept.collected += 1;
            }
        }
        Ok(swept)
    }

    fn give_up(&self, cookie: u64) -> Result<(), DataplaneError> {
        // The kernel takes no packet without room for an Ethernet header.
        let mut data = [0; 64];
        data[..8].copy_from_slice(&cookie.to_ne_bytes());
        sys::run_once(self.program.as_fd(), &data)
            .map_err(|e| DataplaneError::new("giving up the row of a closed socket", e))
    }
}

/// Why the agent may not look into all that may have a socket, and what to do about it. Sockets of processes
/// that can't be seen would look as if they were closed.
fn barrier() -> Option<&'static str> {
    if fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino()) != FIRST_PIDS {
        Some("this agent does not see all processes; run it in the host's PID namespace")
    } else if !Path::new("/proc/1").exists() {
        Some("/proc hides other users' processes (hidepid); give the agent CAP_SYS_PTRACE")
    } else if !may_enter_namespaces() {
        Some(
            "other network namespaces can't be looked into; give the agent CAP_SYS_ADMIN, CAP_SYS_PTRACE \
             and CAP_DAC_READ_SEARCH",
        )
    } else {
        None
    }
}

/// Whether any has closed is what is not known.
fn unseen(why: &str) -> String {
    format!("if sockets have closed while no program was attached, their rows stay, because {why}")
}

/// The sockets of all network namespaces.
fn living() -> Result<Living, DataplaneError> {
    let total = Mutex::new(Living::default());
    let look = |_: u64| {
        let found = look_through();
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok((cookies, inodes)) => {
                total.cookies.extend(cookies);
                total.inodes.extend(inodes);
            }
            Err(errno) => {
                let text = "the sockets of a network namespace can't be listed";
                total.problems.insert(format!("{text}: {}", errno.desc()));
            }
        }
    };
    let problems = namespaces::in_each(true, look)?;
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.problems.extend(problems);
    Ok(total)
}

/// Cookies and inodes of the calling thread's namespace.
fn look_through() -> nix::Result<(Vec<u64>, Vec<u32>)> {
    let mut diag = Diag::open()?;
    let (mut cookies, mut inodes) = (Vec::new(), Vec::new());
    for number in [protocol::TCP, protocol::UDP] {
        let question = Question { protocol: number.into(), port: None, token: false };
        diag.dump(&question, None, |found| {
            // One without an inode was closed: the kernel alone still has to do with it.
            if found.inode != 0 {
                cookies.push(found.cookie);
                inodes.push(found.inode);
            }
        })?;
    }
    Ok((cookies, inodes))
}

/// Cookies of the sockets that processes have open, but for those with these inodes.
fn open_elsewhere(known: &BTreeSet<u32>) -> Result<BTreeSet<u64>, Unseen> {
    let mut open = Open { looked: known.clone(), cookies: BTreeSet::new() };
    let failed = |error: io::Error| Unseen {
        problem: unseen(&format!(
            "the sockets of all processes can't be looked at ({error}); give the agent CAP_SYS_PTRACE \
             and CAP_DAC_READ_SEARCH, and let the system call filter of its unit pass pidfd_getfd"
        )),
        unprivileged: error.kind() == io::ErrorKind::PermissionDenied,
    };
    for process in namespaces::entries(Path::new("/proc")).map_err(failed)? {
        if let Some(pid) = number_of(&process) {
            open.look_into(&process, pid).map_err(failed)?;
        }
    }
    Ok(open.cookies)
}

/// The sockets that processes were found to have open.
struct Open {
    /// Inodes of those that need no look any more: sockets are shared, and one process may have many
    /// that are none of ours.
    looked: BTreeSet<u32>,
    cookies: BTreeSet<u64>,
}

impl Open {
    /// `process` is the directory of `pid`. An error if there may be a socket that was not looked at.
    fn look_into(&mut self, process: &Path, pid: i32) -> io::Result<()> {
        for descriptor in namespaces::entries(&process.join("fd"))? {
            let link = match fs::read_link(&descriptor) {
                Ok(link) => link,
                Err(error) if namespaces::is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            let inode = link.to_str().and_then(super::connections::inode_of);
            let (Some(inode), Some(number)) = (inode, number_of(&descriptor)) else { continue };
            if self.looked.contains(&inode) {
                continue;
            }
            let socket = match sys::descriptor_of(pid, number) {
                Ok(socket) => File::from(socket),
                // It was closed. Others may still have the same socket.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => continue,
                Err(error) if namespaces::is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            let found = socket.metadata()?;
            // The number may be another file's by now.
            if found.file_type().is_socket() {
                self.cookies.insert(socket2::SockRef::from(&socket).cookie()?);
            }
            if found.ino() == u64::from(inode) {
                self.looked.insert(inode);
            }
        }
        Ok(())
    }
}

// === impl Swept ===

impl From<Unseen> for Swept {
    fn from(Unseen { problem, unprivileged }: Unseen) -> Self {
        Self { problems: [problem].into(), unprivileged, ..Self::default() }
    }
}

fn number_of(path: &Path) -> Option<i32> {
    path.file_name()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::exclude::Excluded;
    use super::super::tables::{open_control, open_stats};
    use super::super::{Kernel, Settings, attach, preflight};
    use super::*;
    use crate::config::TableSizes;
    use aya::maps::{Array, HashMap, Map, MapData};
    use lb_common::rows::ConnectionRow;
    use lb_common::{LAYOUT_VERSION, control, features};
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;

    fn open() -> Open {
        Open { looked: BTreeSet::new(), cookies: BTreeSet::new() }
    }

    /// This process's number, as the system calls have it.
    fn pid() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn an_open_socket_is_found_though_the_kernel_lists_no_such() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = socket2::SockRef::from(&socket).cookie().unwrap();
        // It has no peer.
        assert!(!look_through().unwrap().0.contains(&cookie));
        let mut open = open();
        open.look_into(Path::new("/proc/self"), pid()).unwrap();
        assert!(open.cookies.contains(&cookie));
    }

    /// A directory as `/proc` has them, with one descriptor of this process.
    fn process(number: i32, link: &str) -> tempfile::TempDir {
        let process = tempfile::tempdir().unwrap();
        let descriptors = process.path().join("fd");
        fs::create_dir(&descriptors).unwrap();
        symlink(link, descriptors.join(number.to_string())).unwrap();
        process
    }

    /// Pins that go with the test.
    struct Pins(PathBuf);

    impl Drop for Pins {
        fn drop(&mut self) {
            attach::detach(&self.0).unwrap();
        }
    }

    #[test]
    fn the_row_of_a_cookie_is_given_up_and_no_other() {
        const SLOTS: u32 = 4;
        const ID: u32 = 3;
        type RawRow = [u8; size_of::<ConnectionRow>()];
        let pin_dir = Pins(format!("/sys/fs/bpf/lb-collect-{}", std::process::id()).into());
        let host = preflight::check(None, &pin_dir.0).unwrap();
        let sizes = TableSizes { connections: SLOTS, overflow: 16, backends: 16, ..small() };
        // What the other programs may do besides makes no difference.
        let features = host.features & features::ATOMICS;
        let (netns, excluded) = (host.netns, Excluded::default());
        let settings = Settings { sizes, features, netns, sk_err: 0, excluded };
        let kernel = Kernel::open(&pin_dir.0, &host.cgroup, &settings).unwrap();
        let pins = pin_dir.0.join(LAYOUT_VERSION.to_string());

        // Two have a slot, and two of the overflow table had found one of these taken.
        let (slotted, overflown) = ([1, 2], [1 + u64::from(SLOTS), 1 + 2 * u64::from(SLOTS)]);
        let row = |cookie| -> RawRow {
            bytemuck::cast(ConnectionRow { cookie, backend_id: ID, ..ConnectionRow::default() })
        };
        let open = |name| MapData::from_pin(pins.join(name)).unwrap();
        let mut slots = Array::<_, RawRow>::try_from(Map::Array(open("CONNECTIONS"))).unwrap();
        for cookie in slotted {
            slots.set(u32::try_from(cookie).unwrap(), row(cookie), 0).unwrap();
        }
        let mut overflow =
            HashMap::<_, u64, RawRow>::try_from(Map::HashMap(open("CONNECTIONS_OVERFLOW")))
                .unwrap();
        for cookie in overflown {
            overflow.insert(cookie, row(cookie), 0).unwrap();
        }
        assert!(open_control(&pins).unwrap().set(control::OVERFLOW_ROWS, 2));
        let stats = || open_stats(&pins).unwrap().get(ID).unwrap();

        let program = kernel.object.program(attach::COLLECTOR).unwrap().fd().unwrap();
        let program = program.as_fd().try_clone_to_owned().unwrap();
        let sweeper = Sweeper { pins: pins.clone(), program, attached: 0 };
        let left = || Rows::open(&pins).unwrap().all().unwrap().into_keys().collect::<Vec<_>>();
        assert_eq!(left(), [1, 2, 5, 9]);
        let unknown = 2 + u64::from(SLOTS);
        for (cookie, still, closed) in [
            (unknown, vec![1, 2, 5, 9], 0),
            (5, vec![1, 2, 9], 1),
            (1, vec![2, 9], 2),
            (1, vec![2, 9], 2),
            (9, vec![2], 3),
            (2, vec![], 4),
        ] {
            sweeper.give_up(cookie).unwrap();
            assert_eq!((left(), stats().closed), (still, closed), "{cookie}");
        }
        assert_eq!(open_control(&pins).unwrap().get(control::OVERFLOW_ROWS), Some(0));
    }

    fn small() -> TableSizes {
        let (frontends, services, rows, affinity) = (16, 16, 64, 16);
        TableSizes { frontends, services, rows, affinity, ..TableSizes::default() }
    }

    #[test]
    fn a_descriptor_that_was_closed_hides_no_other_of_the_same_socket() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = socket2::SockRef::from(&socket).cookie().unwrap();
        let inode = fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino();
        let link = format!("socket:[{inode}]");
        let mut open = open();
        // No descriptor has this number.
        open.look_into(process(i32::MAX, &link).path(), pid()).unwrap();
        // This one has become another file's.
        let file = File::open("/dev/null").unwrap();
        open.look_into(process(file.as_raw_fd(), &link).path(), pid()).unwrap();
        assert!(open.cookies.is_empty());
        open.look_into(process(socket.as_raw_fd(), &link).path(), pid()).unwrap();
        assert_eq!(open.cookies, [cookie].into());
    }

    #[test]
    fn what_cant_be_looked_at_is_not_taken_for_nothing() {
        let process = tempfile::tempdir().unwrap();
        let descriptors = process.path().join("fd");
        open().look_into(process.path(), pid()).unwrap();
        fs::write(&descriptors, "").unwrap();
        open().look_into(process.path(), pid()).unwrap_err();
        fs::remove_file(&descriptors).unwrap();
        fs::create_dir(&descriptors).unwrap();
        fs::write(descriptors.join("3"), "").unwrap();
        open().look_into(process.path(), pid()).unwrap_err();
    }
}
