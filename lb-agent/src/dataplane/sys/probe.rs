//! Whether the kernel takes an instruction: by a program so small that nothing else can be wrong
//! with it.

use super::{bpf, new_fd};
use aya_obj::generated::bpf_cmd;
use std::io;
use std::os::fd::OwnedFd;

/// What `union bpf_attr` begins with for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// Whether atomic operations may tell what was there before.
pub(crate) fn has_atomics() -> bool {
    let program = load(&[
        // A word on the stack, 0; and 1 to be added to it.
        instruction(0x7a, 10, 0, -8, 0),
        instruction(0xb7, 1, 0, 0, 1),
        // BPF_STX | BPF_ATOMIC | BPF_DW with BPF_ADD | BPF_FETCH.
        instruction(0xdb, 10, 1, -8, 1),
        // Returns 0.
        instruction(0xb7, 0, 0, 0, 0),
        instruction(0x95, 0, 0, 0, 0),
    ]);
    program.is_ok()
}

/// `struct bpf_insn`.
pub(super) const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = immediate.to_le_bytes();
    u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d])
}

/// A program that sees packets of a socket.
pub(super) fn load(code: &[u64]) -> io::Result<OwnedFd> {
    const SOCKET_FILTER: u32 = 1;
    let attributes = Load {
        program_type: SOCKET_FILTER,
        instructions: u32::try_from(code.len()).map_err(io::Error::other)?,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    bpf(bpf_cmd::BPF_PROG_LOAD, &attributes).and_then(new_fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_kernel_takes_is_told_from_what_this_one_does() {
        assert!(has_atomics());
        load(&[instruction(0xff, 0, 0, 0, 0), instruction(0x95, 0, 0, 0, 0)]).unwrap_err();
    }
}
