//! Whether the kernel has what the packet path needs: it is tried, with a table that nobody ever
//! sees. Each failure names its remedy.

use super::Family;
use super::kernel::{Nat, NatError};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// The one agent whose packet path is that of this network namespace.
#[derive(Debug)]
pub struct Claim {
    /// Names of this kind are each network namespace's own, and go with whoever has them.
    _name: UnixListener,
}

/// The name that stands for the packet path.
const NAME: &str = "lb-agent/packet-path";

/// Claims the packet path of this thread's network namespace, and tries it. The reason why it can't be
/// is one line that says what to do.
pub fn claim() -> Result<Claim, String> {
    let claim = claim_untried()
        .map_err(|error| {
            format!("the packet path can't be claimed: {error}; set `packet_path: off`")
        })?
        .ok_or(
            "the packet path of this network namespace is another agent's: \
             stop that one, or set `packet_path: off` here",
        )?;
    for family in Family::ALL {
        Nat::open().and_then(|nat| nat.try_out(family)).map_err(|error| remedy(family, &error))?;
    }
    Ok(claim)
}

/// Claims the packet path of this thread's network namespace, whether or not it can be. `None` if
/// another agent has it.
pub fn claim_untried() -> io::Result<Option<Claim>> {
    let name = SocketAddr::from_abstract_name(NAME).and_then(|name| UnixListener::bind_addr(&name));
    match name {
        Ok(name) => Ok(Some(Claim { _name: name })),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

fn remedy(family: Family, error: &NatError) -> String {
    let family = family.word();
    let source = match error {
        NatError::Socket { source, .. } | NatError::Refused { source, .. } => source,
        NatError::Garbled { .. } => {
            return format!("the packet path ({family}): {error}; report this with `uname -r`");
        }
    };
    let what = match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "CAP_NET_ADMIN is missing: grant it (a container needs it in its security context)"
        }
        io::ErrorKind::NotFound
        | io::ErrorKind::Unsupported
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::ConnectionRefused => {
            "the kernel has no nf_tables with NAT and conntrack, or may not load them: load \
             nf_tables, nft_chain_nat, nft_ct, nft_numgen, nft_masq, nft_fib and nft_reject, or use \
             a kernel that has them"
        }
        _ => "see the kernel's log",
    };
    format!(
        "the packet path ({family}) can't be: {error}; {what}, or set `packet_path: off` to serve \
         sockets of this host only"
    )
}
