//! Another owner's load balancer, such as the network of a cluster may bring: a few instructions that put
//! one address in the place of another, at hooks of IPv4.

use crate::empty_program::EmptyProgram;
use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_UDP4_RECVMSG,
    BPF_CGROUP_UDP4_SENDMSG,
};
use std::io;
use std::net::SocketAddrV4;
use std::path::Path;

/// What its programs are called.
pub const NAME: &str = "translation";

/// An address that leads to another while this lives, and is shown in its place.
#[derive(Debug)]
pub struct Translation {
    programs: Vec<(&'static str, EmptyProgram)>,
}

impl Translation {
    /// What connects or sends to `from` reaches `to`; applications are told `from` as the peer.
    ///
    /// # Errors
    ///
    /// As [`Self::forth`].
    pub fn attach(cgroup: &Path, from: SocketAddrV4, to: SocketAddrV4) -> io::Result<Self> {
        let mut translation = Self::forth(cgroup, from, to)?;
        translation.add(cgroup, ("recvmsg4", BPF_CGROUP_UDP4_RECVMSG), to, from)?;
        translation.add(cgroup, ("getpeername4", BPF_CGROUP_INET4_GETPEERNAME), to, from)?;
        Ok(translation)
    }

    /// The same without the way back: the peer is what it is.
    ///
    /// # Errors
    ///
    /// As [`EmptyProgram::of`].
    pub fn forth(cgroup: &Path, from: SocketAddrV4, to: SocketAddrV4) -> io::Result<Self> {
        let mut translation = Self { programs: Vec::new() };
        translation.add(cgroup, ("connect4", BPF_CGROUP_INET4_CONNECT), from, to)?;
        translation.add(cgroup, ("sendmsg4", BPF_CGROUP_UDP4_SENDMSG), from, to)?;
        Ok(translation)
    }

    /// Its programs, each with the name of its hook.
    pub fn programs(&self) -> impl Iterator<Item = (&'static str, &EmptyProgram)> {
        self.programs.iter().map(|(hook, program)| (*hook, program))
    }

    fn add(
        &mut self,
        cgroup: &Path,
        (name, hook): (&'static str, bpf_attach_type),
        from: SocketAddrV4,
        to: SocketAddrV4,
    ) -> io::Result<()> {
        let program = EmptyProgram::of(cgroup, hook, NAME, &instructions(from, to))?;
        self.programs.push((name, program));
        Ok(())
    }
}

/// `if address == from { address = to }; r0 = 1; exit`. The context is in `r1`, the lower half of a code's
/// second number is the register that is written to, the upper half the one that is read.
fn instructions(from: SocketAddrV4, to: SocketAddrV4) -> [u64; 10] {
    const LOAD: u8 = 0x61;
    const STORE: u8 = 0x63;
    const SET: u8 = 0xb4;
    const JUMP_UNLESS_EQUAL: u8 = 0x56;
    const ADDRESS: i16 = 4;
    const PORT: i16 = 24;
    [
        instruction(LOAD, 0x12, ADDRESS, 0),
        instruction(JUMP_UNLESS_EQUAL, 0x02, 6, address(from)),
        instruction(LOAD, 0x12, PORT, 0),
        instruction(JUMP_UNLESS_EQUAL, 0x02, 4, port(from)),
        instruction(SET, 0x02, 0, address(to)),
        instruction(STORE, 0x21, ADDRESS, 0),
        instruction(SET, 0x02, 0, port(to)),
        instruction(STORE, 0x21, PORT, 0),
        instruction(0xb7, 0x00, 0, 1),
        instruction(0x95, 0x00, 0, 0),
    ]
}

fn instruction(code: u8, registers: u8, offset: i16, value: u32) -> u64 {
    let offset = u64::from(offset.cast_unsigned());
    u64::from(code) | u64::from(registers) << 8 | offset << 16 | u64::from(value) << 32
}

/// As the context has it: network order, in memory.
fn address(of: SocketAddrV4) -> u32 {
    u32::from_ne_bytes(of.ip().octets())
}

fn port(of: SocketAddrV4) -> u32 {
    of.port().to_be().into()
}
