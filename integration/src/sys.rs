//! The system calls the safe crates don't offer.
#![expect(
    unsafe_code,
    reason = "io_uring submission, calls without a safe wrapper, calls between fork and exec"
)]

use aya_obj::generated::bpf_cmd;
use io_uring::{IoUring, opcode, types};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use socket2::{SockAddr, Socket};
use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Connects by an io_uring CONNECT operation.
///
/// # Errors
///
/// What the connect failed with, or the kernel's reason not to give us an io_uring.
pub fn io_uring_connect(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    let address = SockAddr::from(to);
    let mut ring = IoUring::new(2)?;
    let connect =
        opcode::Connect::new(types::Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len())
            .build();
    // SAFETY: the descriptor and the address outlive the operation, which is waited for below.
    unsafe { ring.submission().push(&connect) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let completed = ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?;
    match completed.result() {
        0.. => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// Dissolves a socket's association: connect(2) with `AF_UNSPEC`.
///
/// # Errors
///
/// What connect(2) failed with.
pub fn disconnect(socket: impl AsFd) -> io::Result<()> {
    let unspec =
        libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the pointer is to a whole sockaddr, of the length given.
    Errno::result(unsafe { libc::connect(socket.as_fd().as_raw_fd(), &raw const unspec, length) })?;
    Ok(())
}

/// Lets a listening socket accept data in the first packet, once `net.ipv4.tcp_fastopen` has bit 1.
///
/// # Errors
///
/// If it is no TCP socket, or is connected.
pub fn accept_fast_open(listener: impl AsFd) -> io::Result<()> {
    let queue: libc::c_int = 16;
    // SAFETY: the option takes an int, of which pointer and length are given.
    Errno::result(unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Has the link that is pinned there run another program. Both must be for the same hook; the kernel does
/// not compare that.
///
/// # Errors
///
/// What bpf(2) failed with.
pub fn replace_program(pin: &Path, program: impl AsFd) -> io::Result<()> {
    let link = open_pinned(pin)?;
    // Link, program, flags, and the program that was there, if it matters.
    let attributes = [link.as_raw_fd(), program.as_fd().as_raw_fd(), 0, 0];
    bpf(bpf_cmd::BPF_LINK_UPDATE, &attributes).map(drop)
}

/// Takes the program of the link that is pinned there off its hook. The link and its pin stay.
///
/// # Errors
///
/// What bpf(2) failed with.
pub fn detach_link(pin: &Path) -> io::Result<()> {
    bpf(bpf_cmd::BPF_LINK_DETACH, &[open_pinned(pin)?.as_raw_fd()]).map(drop)
}

fn open_pinned(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // Where the path is, room for a descriptor, and flags.
    let attributes = [path.as_ptr() as u64, 0];
    let object = bpf(bpf_cmd::BPF_OBJ_GET, &attributes)?;
    let object = RawFd::try_from(object).map_err(io::Error::other)?;
    // SAFETY: the command has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(object) })
}

/// The attributes begin as those of the command do; all others count as zero.
fn bpf<A>(command: bpf_cmd, attributes: &A) -> io::Result<libc::c_long> {
    let attributes: *const A = attributes;
    // SAFETY: the kernel reads as many bytes as they have, and what they point to outlives the call; the
    // commands above write nothing.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, attributes, size_of::<A>())
    };
    Ok(Errno::result(result)?)
}

/// Has the kernel kill the child when the thread that spawns it ends, however it ends.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl(2) is async-signal-safe, and the closure does nothing else.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
}
