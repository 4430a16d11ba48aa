//! A program that does nothing, on a hook of a cgroup: what every measurement is compared with. And
//! programs of a few instructions written by hand.

#![expect(
    unsafe_code,
    reason = "loading a few instructions needs no object file, but a raw bpf(2)"
)]

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_prog_type};
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// `mov64 r0, 1; exit`.
const EMPTY: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];

/// The program, attached while this lives.
#[derive(Debug)]
pub struct EmptyProgram {
    program: OwnedFd,
    _link: OwnedFd,
}

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// The beginning of `union bpf_attr` for BPF_PROG_QUERY.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    cgroup: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

impl EmptyProgram {
    /// Puts `r0 = 1; exit` on connect4 of a cgroup.
    ///
    /// # Errors
    ///
    /// As [`Self::of`].
    pub fn on_connect4(cgroup: &Path) -> io::Result<Self> {
        Self::on(cgroup, bpf_attach_type::BPF_CGROUP_INET4_CONNECT)
    }

    /// Puts `r0 = 1; exit` on sock_ops of a cgroup.
    ///
    /// # Errors
    ///
    /// As [`Self::of`].
    pub fn on_sock_ops(cgroup: &Path) -> io::Result<Self> {
        Self::on(cgroup, bpf_attach_type::BPF_CGROUP_SOCK_OPS)
    }

    /// Puts `r0 = 1; exit` on a hook of a cgroup: one of socket addresses, or
    /// `BPF_CGROUP_INET_SOCK_RELEASE`, or `BPF_CGROUP_SOCK_OPS`.
    ///
    /// # Errors
    ///
    /// As [`Self::of`].
    pub fn on(cgroup: &Path, hook: bpf_attach_type) -> io::Result<Self> {
        Self::of(cgroup, hook, "empty", &EMPTY)
    }

    /// Puts other instructions there, for comparison. The name has 15 characters at most; maps are
    /// named by descriptors, which may be closed afterwards.
    ///
    /// # Errors
    ///
    /// If the verifier refuses the instructions, the cgroup can't be opened, or the kernel does not let them be
    /// attached there.
    pub fn of(
        cgroup: &Path,
        hook: bpf_attach_type,
        called: &str,
        instructions: &[u64],
    ) -> io::Result<Self> {
        let kind = match hook {
            bpf_attach_type::BPF_CGROUP_SOCK_OPS => bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS,
            bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE => {
                bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK
            }
            _ => bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        };
        let hook = hook as u32;
        let mut name = [0; 16];
        name.iter_mut().zip(called.bytes().take(15)).for_each(|(to, from)| *to = from);
        let load = ProgLoad {
            kind: kind as u32,
            instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            name,
            expected_attach_type: hook,
            ..ProgLoad::default()
        };
        let program = bpf(bpf_cmd::BPF_PROG_LOAD, &load)?;
        let directory = File::open(cgroup)?;
        let raw = |fd: RawFd| fd.unsigned_abs();
        let create = [raw(program.as_raw_fd()), raw(directory.as_raw_fd()), hook, 0];
        let link = bpf(bpf_cmd::BPF_LINK_CREATE, &create)?;
        Ok(Self { program, _link: link })
    }

    /// The ids of all programs on a hook of a cgroup itself, whoever attached them, in their order.
    ///
    /// # Errors
    ///
    /// If the cgroup can't be opened, or the kernel does not answer: privileges are missing, or there are more than
    /// 64.
    pub fn attached(cgroup: &Path, hook: bpf_attach_type) -> io::Result<Vec<u32>> {
        let directory = File::open(cgroup)?;
        let mut ids = [0u32; 64];
        let mut query = ProgQuery {
            cgroup: directory.as_raw_fd().unsigned_abs(),
            attach_type: hook as u32,
            ids: ids.as_mut_ptr() as u64,
            count: 64,
            ..ProgQuery::default()
        };
        let attributes: *mut ProgQuery = &raw mut query;
        let (command, size) = (bpf_cmd::BPF_PROG_QUERY as libc::c_long, size_of::<ProgQuery>());
        // SAFETY: the kernel reads and writes as many bytes as are given, and at most 64 ids.
        Errno::result(unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) })?;
        Ok(ids.iter().copied().take(query.count as usize).collect())
    }

    /// The program, for other links.
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// The program's id, by which its statistics are found.
    ///
    /// # Errors
    ///
    /// If `/proc/self/fdinfo` does not tell.
    pub fn id(&self) -> io::Result<u32> {
        let path = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        std::fs::read_to_string(path)?
            .lines()
            .find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn bpf<A>(command: bpf_cmd, attributes: &A) -> io::Result<OwnedFd> {
    let attributes: *const A = attributes;
    // SAFETY: the kernel reads as many bytes as are given, and what they point to lives until the
    // call returns.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, attributes, size_of::<A>())
    })?;
    let fd = RawFd::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the system call has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
