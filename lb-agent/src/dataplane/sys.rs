//! The system calls that no library offers: links of cgroup programs, batches, mapped tables, the
//! grace period, the cookie of a network namespace. The only unsafe code of the agent.

#![expect(
    unsafe_code,
    reason = "raw system calls and shared memory; each block says why it is sound"
)]

pub(crate) mod batch;
pub(crate) mod probe;
#[cfg(test)]
mod tests;

use aya_obj::generated::bpf_cmd;
use std::ffi::CString;
use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyMutGuard};

/// One heap for all threads, which gives large pieces back when they are freed. By default, every
/// thread that reads a large file or answers a large request keeps a heap of that size. To be called
/// before there are threads.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    {
        /// Below this, freed pieces stay for the next ones.
        const LARGE: i32 = 128 * 1024;
        for (limit, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE)] {
            // SAFETY: sets a number in the allocator, under its own lock. A refusal costs memory only.
            unsafe { libc::mallopt(limit, value) };
        }
    }
}

/// A table of the kernel as memory. Rows are `size_of::<T>()` bytes, a multiple of 8.
#[derive(Debug)]
pub(crate) struct Mapped<T> {
    rows: NonNull<T>,
    entries: u32,
    bytes: usize,
}

// SAFETY: the memory belongs to the kernel's table, not to a thread; every access is a volatile copy
// or an atomic, so sharing the pointer shares nothing that Rust's rules speak of.
unsafe impl<T: bytemuck::Pod> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: bytemuck::Pod> Sync for Mapped<T> {}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) id: u32,
    pub(crate) program_id: u32,
    /// 0 if the cgroup is gone.
    pub(crate) cgroup_id: u64,
    pub(crate) attach_type: u32,
}

// === impl Mapped ===

impl<T: bytemuck::Pod> Mapped<T> {
    /// Maps an array table of `entries` rows.
    pub(crate) fn new(map: BorrowedFd<'_>, entries: u32, writable: bool) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8), "arrays have a stride of 8 bytes") };
        let bytes = (size_of::<T>() * entries as usize).next_multiple_of(page_size());
        let protection =
            if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice; the length is the table's,
        // rounded up to pages as the kernel does.
        let address = unsafe {
            let (shared, fd) = (libc::MAP_SHARED, map.as_raw_fd());
            libc::mmap(std::ptr::null_mut(), bytes, protection, shared, fd, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let rows = NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { rows, entries, bytes })
    }

    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// A copy of a row; `None` if there is no such row.
    pub(crate) fn get(&self, index: u32) -> Option<T> {
        let row = self.row(index)?;
        // SAFETY: `row` is in the mapping and aligned; any bytes are a `T`, so a row that is being
        // written concurrently is at worst a mix of old and new.
        Some(unsafe { row.read_volatile() })
    }

    /// Writes a row that no program can reach; false if there is no such row.
    pub(crate) fn set(&self, index: u32, value: T) -> bool {
        let Some(row) = self.row(index) else { return false };
        // SAFETY: `row` is in the mapping and aligned, and mapped for writing by its opener.
        unsafe { row.write_volatile(value) };
        true
    }

    fn row(&self, index: u32) -> Option<*mut T> {
        // SAFETY: the offset stays within the mapping, whose length was computed from `entries`.
        (index < self.entries).then(|| unsafe { self.rows.as_ptr().add(index as usize) })
    }
}

impl Mapped<u64> {
    /// Stores a word so that whoever sees it also sees everything written before. False if there is
    /// no such word.
    pub(crate) fn publish(&self, index: u32, word: u64) -> bool {
        let Some(row) = self.row(index) else { return false };
        // SAFETY: an aligned word in the mapping, which other processes and the kernel access too,
        // always whole.
        unsafe { AtomicU64::from_ptr(row) }.store(word, Ordering::Release);
        true
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and nothing borrows from it.
        unsafe { libc::munmap(self.rows.as_ptr().cast(), self.bytes) };
    }
}

fn page_size() -> usize {
    // SAFETY: no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

// === links ===

/// Attaches a program to a cgroup.
pub(crate) fn create_link(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let attributes = [raw(program), raw(cgroup), attach_type, 0];
    new_fd(bpf(bpf_cmd::BPF_LINK_CREATE, &attributes)?)
}

/// Replaces the program of a link. The kernel does not compare attach types here: the caller must.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(bpf_cmd::BPF_LINK_UPDATE, &[raw(link), raw(program), 0, 0]).map(drop)
}

/// Takes a link's program off its hook, whoever else holds the link. The kernel lets go of one that nobody
/// holds any more a moment later only.
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(bpf_cmd::BPF_LINK_DETACH, &[raw(link)]).map(drop)
}

/// What a link is attached to.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // struct bpf_link_info: type, id, program id, (padding), then for cgroups id and attach type.
    let mut info = [0u32; 16];
    let length = u32::try_from(size_of_val(&info)).unwrap_or(0);
    let pointer = info.as_mut_ptr() as u64;
    let attributes = ByFd { fd: raw(link), length, info: pointer };
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(LinkInfo {
        id: info[1],
        program_id: info[2],
        cgroup_id: bytemuck::cast([info[4], info[5]]),
        attach_type: info[6],
    })
}

/// A program's id.
pub(crate) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // struct bpf_prog_info: type, id.
    let mut info = [0u32; 2];
    let length = u32::try_from(size_of_val(&info)).unwrap_or(0);
    let attributes = ByFd { fd: raw(program), length, info: info.as_mut_ptr() as u64 };
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(info[1])
}

#[repr(C)]
struct ByFd {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
struct ByPath {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins a link at a path of bpffs.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let attributes = ByPath { path: path.as_ptr() as u64, fd: raw(object), flags: 0 };
    bpf(bpf_cmd::BPF_OBJ_PIN, &attributes).map(drop)
}

/// Opens what is pinned at a path.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let attributes = ByPath { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    new_fd(bpf(bpf_cmd::BPF_OBJ_GET, &attributes)?)
}

/// The programs that run for sockets in a cgroup at one of its hooks, in their order: its own and
/// those of the cgroups above it.
pub(crate) fn effective_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    const EFFECTIVE: u32 = 1;
    /// The most programs that the kernel lets a hook of one cgroup have.
    const MOST: usize = 64;
    let mut ids = [0u32; MOST];
    let mut query = ProgQuery {
        cgroup: raw(cgroup),
        attach_type,
        query_flags: EFFECTIVE,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        padding: 0,
    };
    // Those of further cgroups may be more: the kernel then says how many there are.
    match bpf_mut(bpf_cmd::BPF_PROG_QUERY, &mut query) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {}
        result => drop(result?),
    }
    let count = usize::try_from(query.count).unwrap_or(MOST).min(MOST);
    Ok(ids[..count].to_vec())
}

#[repr(C)]
struct ProgQuery {
    cgroup: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// Has a program see a packet of this content, once, for whatever it does besides.
pub(crate) fn run_once(program: BorrowedFd<'_>, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut run = TestRun {
        program: raw(program),
        data_size: length,
        data: data.as_ptr() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    bpf_mut(bpf_cmd::BPF_PROG_TEST_RUN, &mut run).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_size: u32,
    data_size_out: u32,
    data: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// What another process has open under this number.
pub(crate) fn descriptor_of(pid: i32, number: i32) -> io::Result<OwnedFd> {
    let result = |fd: libc::c_long| if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) };
    // SAFETY: no pointers.
    let process = new_fd(result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?)?;
    let process = process.as_raw_fd();
    // SAFETY: no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, number, 0) };
    new_fd(result(fd)?)
}

// === readiness ===

/// Something that owns a descriptor, registered with the runtime. Never handed out whole, so that
/// the descriptor stays what was registered.
pub(crate) struct Readable<T: AsRawFd>(AsyncFd<T>);

impl<T: AsRawFd> Readable<T> {
    /// To be called from within the runtime. `inner` must own its descriptor.
    pub(crate) fn new(inner: T) -> io::Result<Self> {
        // SAFETY: `inner` owns the descriptor, nobody can take it out or replace it, and no type
        // that is used with this closes its descriptor before it is dropped.
        Ok(Self(unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }?))
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }

    pub(crate) async fn readable(&mut self) -> io::Result<AsyncFdReadyMutGuard<'_, T>> {
        self.0.readable_mut().await
    }
}

// === clock ===

/// `CLOCK_MONOTONIC`, which the kernel side reads as well.
pub(crate) fn monotonic_now() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live local. The clock exists on every kernel.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), nanoseconds)
}

/// The same as the kernel side has it.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    u64::try_from(monotonic_now().as_nanos()).unwrap_or(u64::MAX)
}

// === grace period ===

/// Returns when every program that was running at the time of the call has ended.
///
/// `membarrier(MEMBARRIER_CMD_GLOBAL)` is `synchronize_rcu()`, and cgroup programs run inside an RCU
/// read-side section. The kernel refuses it with `nohz_full`, and returns at once where one CPU is
/// online; there, replacing an element of an array of maps serves, for which the kernel promises to
/// wait for running programs.
pub(crate) fn wait_for_programs() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    let several = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    // SAFETY: no pointers.
    if several && unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0 {
        return Ok(());
    }
    wait_by_array_of_maps()
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn wait_by_array_of_maps() -> io::Result<()> {
    const ARRAY: u32 = 2;
    const ARRAY_OF_MAPS: u32 = 12;
    let word = MapCreate { key_size: 4, value_size: 4, max_entries: 1, ..MapCreate::default() };
    let inner = MapCreate { map_type: ARRAY, ..word };
    let inner = new_fd(bpf(bpf_cmd::BPF_MAP_CREATE, &inner)?)?;
    let outer = MapCreate {
        map_type: ARRAY_OF_MAPS,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        inner_map: raw(inner.as_fd()),
        ..MapCreate::default()
    };
    let outer = new_fd(bpf(bpf_cmd::BPF_MAP_CREATE, &outer)?)?;
    let (key, value) = (0u32, raw(inner.as_fd()));
    let element = Element {
        map: raw(outer.as_fd()),
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        ..Element::default()
    };
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &element).map(drop)
}

// === namespaces ===

/// The cookie of this process's network namespace; `None` before kernel 5.14.
pub(crate) fn netns_cookie() -> io::Result<Option<u64>> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))
        .or_else(|_| std::net::UdpSocket::bind(("::", 0)))?;
    let mut cookie = 0u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: both pointers are to live locals, of the lengths given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        return Ok(Some(cookie));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        error => Err(error),
    }
}

// === bpf(2) ===

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn new_fd(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the system call has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// [`bpf`] for a command that writes its answer into the attributes.
fn bpf_mut<A>(command: bpf_cmd, attributes: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: as in `bpf`; the kernel may write to the attributes, which are borrowed for that.
    let result = unsafe {
        let attributes: *mut A = attributes;
        libc::syscall(libc::SYS_bpf, command as libc::c_long, attributes, size_of::<A>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `attributes` begin like `union bpf_attr` does for the command; the kernel takes the rest as zero.
fn bpf<A>(command: bpf_cmd, attributes: &A) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size` bytes of the attributes, and what they point to lives until
    // the call returns; where it writes, the callers hand it memory of their own.
    let result = unsafe {
        let attributes: *const A = attributes;
        libc::syscall(libc::SYS_bpf, command as libc::c_long, attributes, size_of::<A>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
