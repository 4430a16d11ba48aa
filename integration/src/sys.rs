//! The system calls the safe crates don't offer.
#![expect(
    unsafe_code,
    reason = "io_uring submission, socket calls without a safe wrapper, calls between fork and exec"
)]

use io_uring::{IoUring, opcode, types};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use socket2::{SockAddr, Socket};
use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Connects by an io_uring CONNECT operation.
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
pub fn disconnect(socket: impl AsFd) -> io::Result<()> {
    let unspec =
        libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the pointer is to a whole sockaddr, of the length given.
    Errno::result(unsafe { libc::connect(socket.as_fd().as_raw_fd(), &raw const unspec, length) })?;
    Ok(())
}

/// Lets a listening socket accept data in the first packet, once `net.ipv4.tcp_fastopen` has bit 1.
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

/// Has the kernel kill the child when the thread that spawns it ends, however it ends.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl(2) is async-signal-safe, and the closure does nothing else.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
}
