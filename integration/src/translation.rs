//! Another owner's load balancer, such as the network of a cluster may bring: a few instructions that put
//! one address in the place of another.

use crate::empty_program::EmptyProgram;
use aya_obj::generated::bpf_attach_type::{
    self, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_CONNECT,
    BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_UDP4_RECVMSG, BPF_CGROUP_UDP4_SENDMSG,
    BPF_CGROUP_UDP6_RECVMSG, BPF_CGROUP_UDP6_SENDMSG,
};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// What its programs are called.
pub const NAME: &str = "translation";

type Hook = (&'static str, bpf_attach_type);

/// What applications ask for on its way to the kernel, and what they are told on its way back.
struct Hooks {
    forth: [Hook; 2],
    back: [Hook; 2],
}

const V4: Hooks = Hooks {
    forth: [("connect4", BPF_CGROUP_INET4_CONNECT), ("sendmsg4", BPF_CGROUP_UDP4_SENDMSG)],
    back: [("recvmsg4", BPF_CGROUP_UDP4_RECVMSG), ("getpeername4", BPF_CGROUP_INET4_GETPEERNAME)],
};
const V6: Hooks = Hooks {
    forth: [("connect6", BPF_CGROUP_INET6_CONNECT), ("sendmsg6", BPF_CGROUP_UDP6_SENDMSG)],
    back: [("recvmsg6", BPF_CGROUP_UDP6_RECVMSG), ("getpeername6", BPF_CGROUP_INET6_GETPEERNAME)],
};

/// An address that leads to another while this lives, and is shown in its place.
#[derive(Debug)]
pub struct Translation {
    programs: Vec<(&'static str, EmptyProgram)>,
}

impl Translation {
    /// What connects or sends to `from` reaches `to`, of the same family; applications are told `from` as the
    /// peer.
    ///
    /// # Errors
    ///
    /// As [`Self::forth`].
    pub fn attach(cgroup: &Path, from: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let mut translation = Self::forth(cgroup, from, to)?;
        translation.add(cgroup, hooks(from).back, to, from)?;
        Ok(translation)
    }

    /// The same without the way back: the peer is what it is.
    ///
    /// # Errors
    ///
    /// As [`EmptyProgram::of`].
    pub fn forth(cgroup: &Path, from: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let mut translation = Self { programs: Vec::new() };
        translation.add(cgroup, hooks(from).forth, from, to)?;
        Ok(translation)
    }

    /// Its programs, each with the name of its hook.
    pub fn programs(&self) -> impl Iterator<Item = (&'static str, &EmptyProgram)> {
        self.programs.iter().map(|(hook, program)| (*hook, program))
    }

    fn add(
        &mut self,
        cgroup: &Path,
        hooks: [Hook; 2],
        from: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<()> {
        for (name, hook) in hooks {
            let program = EmptyProgram::of(cgroup, hook, NAME, &instructions(from, to))?;
            self.programs.push((name, program));
        }
        Ok(())
    }
}

fn hooks(of: SocketAddr) -> Hooks {
    if of.is_ipv4() { V4 } else { V6 }
}

/// `if address == from { address = to }; r0 = 1; exit`. The context is in `r1`, the lower half of a code's
/// second number is the register that is written to, the upper half the one that is read.
fn instructions(from: SocketAddr, to: SocketAddr) -> Vec<u64> {
    const LOAD: u8 = 0x61;
    const STORE: u8 = 0x63;
    const SET: u8 = 0xb4;
    const JUMP_UNLESS_EQUAL: u8 = 0x56;
    let (from, to) = (words(from), words(to));
    // Two for each word that is compared, and for each that is written.
    let end = i16::try_from(2 * (from.len() + to.len())).expect("few words");
    let compare = (1..).step_by(2).zip(&from).flat_map(|(at, &(offset, value))| {
        let unlike = instruction(JUMP_UNLESS_EQUAL, 0x02, end - at - 1, value);
        [instruction(LOAD, 0x12, offset, 0), unlike]
    });
    let write = to.iter().flat_map(|&(offset, value)| {
        [instruction(SET, 0x02, 0, value), instruction(STORE, 0x21, offset, 0)]
    });
    let pass = [instruction(0xb7, 0x00, 0, 1), instruction(0x95, 0x00, 0, 0)];
    compare.chain(write).chain(pass).collect()
}

fn instruction(code: u8, registers: u8, offset: i16, value: u32) -> u64 {
    let offset = u64::from(offset.cast_unsigned());
    u64::from(code) | u64::from(registers) << 8 | offset << 16 | u64::from(value) << 32
}

/// Where the context has an address and its port, and what is there: network order, in memory.
fn words(of: SocketAddr) -> Vec<(i16, u32)> {
    const V4: i16 = 4;
    const V6: i16 = 8;
    const PORT: i16 = 24;
    let mut words = match of.ip() {
        IpAddr::V4(ip) => vec![(V4, u32::from_ne_bytes(ip.octets()))],
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let (parts, _) = octets.as_chunks::<4>();
            (V6..).step_by(4).zip(parts.iter().map(|part| u32::from_ne_bytes(*part))).collect()
        }
    };
    words.push((PORT, of.port().to_be().into()));
    words
}
