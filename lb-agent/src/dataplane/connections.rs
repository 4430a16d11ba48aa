//! Open sockets that were translated: the rows that remember them, joined by cookie with the sockets
//! that the kernel shows, and by inode with the processes that have them open.

use super::destroy::diag::{Diag, Found, Question};
use super::destroy::{Memory, Rows, may_enter_namespaces, namespaces};
use super::sys;
use crate::sockets::{HOLDERS, Holder, Listing, Netns, OpenSocket, Transport};
use lb_common::rows::ConnectionRow;
use lb_common::{LAYOUT_VERSION, protocol, since};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A socket that the kernel shows, of which something is remembered.
struct Shown {
    memory: Memory,
    transport: Transport,
    netns: u64,
    inode: u32,
    uid: u32,
}

/// What was found in all namespaces.
#[derive(Default)]
struct Total {
    shown: Vec<Shown>,
    problems: BTreeSet<String>,
}

/// The sockets that the tables below `pin_dir` remember, without names of services, and the processes that have
/// them open: if there are any, every process's descriptors are read.
///
/// # Errors
///
/// If there are no tables of this layout below `pin_dir`, they can't be opened or read, or the network namespaces
/// can't be listed. One that can't be looked into is no error but a line in `problems`.
pub fn list(pin_dir: &Path) -> anyhow::Result<Listing> {
    let rows = Rows::open(&pin_dir.join(LAYOUT_VERSION.to_string()))?;
    let remembered = rows.all()?;
    let total = Mutex::new(Total::default());
    let look = |netns: u64| {
        let found = look_through(netns, &rows, &remembered);
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(shown) => total.shown.extend(shown),
            Err(errno) => {
                let text = "the sockets of a network namespace can't be listed";
                total.problems.insert(format!("{text}: {}", errno.desc()));
            }
        }
    };
    let mut problems = namespaces::in_each(may_enter_namespaces(), look)?;
    if !may_enter_namespaces() {
        problems.insert(
            "other network namespaces can't be looked into without CAP_SYS_ADMIN; run as root"
                .to_owned(),
        );
    }
    let Total { shown, problems: more } =
        total.into_inner().unwrap_or_else(PoisonError::into_inner);
    problems.extend(more);

    let inodes: BTreeSet<u32> = shown.iter().map(|shown| shown.inode).collect();
    let holders = holders(&inodes, &mut problems);
    let own = own_netns();
    let names = netns_names();
    let netns =
        |inode: u64| Netns { inode, name: names.get(&inode).cloned(), own: own == Some(inode) };
    // The wall clock when the monotonic one began.
    let epoch = SystemTime::now().checked_sub(sys::monotonic_now());
    let mut left = remembered;
    let mut sockets = Vec::new();
    for Shown { memory, transport, netns: inode, inode: socket, uid } in shown {
        left.remove(&memory.row.cookie);
        sockets.push(OpenSocket {
            transport: Some(transport),
            netns: Some(netns(inode)),
            uid: Some(uid),
            processes: holders.get(&socket).cloned().unwrap_or_default(),
            ..unseen(&memory, epoch)
        });
    }
    // The kernel shows no sockets of namespaces that nothing leads to, and some have closed by now.
    let still = left.values().filter(|memory| rows.remembers(&memory.row));
    sockets.extend(still.map(|memory| unseen(memory, epoch)));
    let total = sockets.len();
    Ok(Listing { sockets, total, problems: problems.into_iter().collect() })
}

fn unseen(Memory { row, since }: &Memory, epoch: Option<SystemTime>) -> OpenSocket {
    let since = since::nanoseconds(*since).map(Duration::from_nanos);
    OpenSocket {
        service: None,
        frontend: SocketAddr::new(row.frontend.into(), u16::from_be(row.frontend_port)),
        backend: backend_of(row),
        backend_id: row.backend_id,
        cookie: row.cookie,
        since: epoch.zip(since).and_then(|(epoch, since)| epoch.checked_add(since)),
        transport: None,
        netns: None,
        uid: None,
        processes: Vec::new(),
    }
}

fn backend_of(row: &ConnectionRow) -> SocketAddr {
    SocketAddr::new(row.backend.into(), u16::from_be(row.backend_port))
}

/// The calling thread's namespace.
fn look_through(
    netns: u64,
    rows: &Rows,
    remembered: &BTreeMap<u64, Memory>,
) -> nix::Result<Vec<Shown>> {
    let mut diag = Diag::open()?;
    let mut shown = Vec::new();
    let mut keep = |transport, found: Found, memory: Memory| {
        // A row speaks for a socket only while that is its peer.
        if backend_of(&memory.row) == found.peer {
            let Found { inode, uid, .. } = found;
            shown.push(Shown { memory, transport, netns, inode, uid });
        }
    };
    for (number, transport) in [(protocol::TCP, Transport::Tcp), (protocol::UDP, Transport::Udp)] {
        let question = Question { protocol: number.into(), port: None, token: false };
        diag.dump(&question, None, |found| {
            if let Some(memory) = remembered.get(&found.cookie) {
                keep(transport, found, *memory);
            }
        })?;
    }
    let question = Question { protocol: protocol::MPTCP, port: None, token: false };
    let asked = diag.dump(&question, Some(rows.storage()), |found| {
        if let Some(row) = found.row {
            let memory = Memory { row, since: found.since };
            keep(Transport::Mptcp, found, memory);
        }
    });
    match asked {
        // A kernel without MPTCP.
        Err(Errno::ENOENT) => {}
        asked => asked?,
    }
    Ok(shown)
}

/// Who has these sockets open.
fn holders(inodes: &BTreeSet<u32>, problems: &mut BTreeSet<String>) -> BTreeMap<u32, Vec<Holder>> {
    let mut holders: BTreeMap<u32, Vec<Holder>> = BTreeMap::new();
    if inodes.is_empty() {
        return holders;
    }
    let processes = namespaces::entries(Path::new("/proc")).unwrap_or_else(|error| {
        problems.insert(format!("the processes can't be listed: /proc: {error}"));
        Vec::new()
    });
    for process in processes {
        let name = process.file_name().and_then(|name| name.to_str());
        let Some(pid) = name.and_then(|name| name.parse::<u32>().ok()) else { continue };
        let mut mine = BTreeSet::new();
        match fs::read_dir(process.join("fd")) {
            Ok(descriptors) => {
                let links = descriptors.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
                mine.extend(links.filter_map(|link| inode_of(link.to_str()?)));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                problems.insert(
                    "the descriptors of other users' processes can't be seen; run as root, or give \
                     the agent CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
                        .to_owned(),
                );
            }
            // The process has ended.
            Err(_) => {}
        }
        for inode in mine.intersection(inodes) {
            let known = holders.entry(*inode).or_default();
            if known.len() < HOLDERS {
                let comm = fs::read_to_string(process.join("comm")).unwrap_or_default();
                known.push(Holder { pid, comm: comm.trim_end_matches('\n').to_owned() });
            }
        }
    }
    holders.values_mut().for_each(|known| known.sort());
    holders
}

/// `socket:[4711]`
pub(super) fn inode_of(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn own_netns() -> Option<u64> {
    Some(fs::metadata("/proc/self/ns/net").ok()?.ino())
}

fn netns_names() -> BTreeMap<u64, String> {
    let named = |path: std::path::PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some((fs::metadata(&path).ok()?.ino(), name))
    };
    // Without names, numbers are shown.
    let names = namespaces::entries(Path::new("/run/netns")).unwrap_or_default();
    names.into_iter().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn a_socket_is_its_processs() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = inode_of(link.to_str().unwrap()).unwrap();
        let mut problems = BTreeSet::new();
        let found = holders(&BTreeSet::from([inode]), &mut problems);
        assert!(found[&inode].iter().any(|holder| holder.pid == std::process::id()), "{found:?}");
        assert_eq!(inode_of("pipe:[1]"), None);
        assert_eq!(inode_of("socket:[x]"), None);
    }
}
