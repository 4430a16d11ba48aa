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
    /// What goes with whoever has it.
    _held: Held,
}

#[derive(Debug)]
enum Held {
    /// The way to a table that is its own. Only who may change tables can make one.
    Table(#[expect(dead_code, reason = "it is held, not used")] Nat),
    /// A name, each network namespace's own, where the kernel's tables have no owners (before 5.12).
    Name(#[expect(dead_code, reason = "it is held, not used")] UnixListener),
}

/// What stands for the packet path: an empty table, or a name.
const TABLE: &str = "lb-claim";
const NAME: &str = "lb-agent/packet-path";

/// Claims the packet path of this thread's network namespace, and tries it.
///
/// # Errors
///
/// One line that says what to do: CAP_NET_ADMIN is missing, the kernel lacks nf_tables, NAT or
/// nf_conntrack_netlink, or another agent has the packet path. Nothing is claimed then.
pub fn claim() -> Result<Claim, String> {
    let claim = claim_untried().map_err(|error| remedy(Family::V4, &error))?.ok_or(
        "the packet path of this network namespace is another agent's: \
             stop that one, or set `packet_path: off` here",
    )?;
    for family in Family::ALL {
        Nat::open().and_then(|nat| nat.try_out(family)).map_err(|error| remedy(family, &error))?;
        let asked = Nat::open().and_then(|nat| nat.try_connections(family));
        asked.map_err(|error| connections_remedy(family, &error))?;
    }
    Ok(claim)
}

/// Claims the packet path of this thread's network namespace, whether or not it can be. `None` if
/// another agent has it.
///
/// # Errors
///
/// If the kernel can't be asked, as without CAP_NET_ADMIN or nfnetlink, or refuses the claim though nobody has it.
pub fn claim_untried() -> Result<Option<Claim>, NatError> {
    let nat = Nat::open()?;
    let claimed = |held| Ok(Some(Claim { _held: held }));
    match nat.own(TABLE) {
        Ok(()) => claimed(Held::Table(nat)),
        // Before 5.12 kernels know no owners of tables: the flag is an invalid argument to them.
        Err(NatError::Refused { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput
            ) =>
        {
            match claim_name() {
                Ok(Some(name)) => claimed(Held::Name(name)),
                Ok(None) => Ok(None),
                Err(source) => Err(NatError::Socket { step: "claiming a name", source }),
            }
        }
        // Another's, or nobody's to have: that is told by whether it can be seen.
        Err(error) => match Nat::open()?.has_table(Family::V4, TABLE) {
            Ok(true) => Ok(None),
            Ok(false) | Err(_) => Err(error),
        },
    }
}

/// `None` if another agent has the name.
fn claim_name() -> io::Result<Option<UnixListener>> {
    let name = SocketAddr::from_abstract_name(NAME).and_then(|name| UnixListener::bind_addr(&name));
    match name {
        Ok(name) => Ok(Some(name)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

fn connections_remedy(family: Family, error: &NatError) -> String {
    let family = family.word();
    format!(
        "the packet path ({family}) can't be: {error}; flows to backends that are gone could not be \
         ended: load nf_conntrack_netlink, or use a kernel that has it, or set `packet_path: off` to \
         serve sockets of this host only"
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn each_failure_names_its_remedy() {
        let refused = |errno: Errno| NatError::Refused {
            step: "trying a table",
            part: "the whole".to_owned(),
            source: errno.into(),
        };
        for (errno, remedies) in [
            (Errno::EPERM, ["CAP_NET_ADMIN", "packet_path: off"]),
            (Errno::EOPNOTSUPP, ["nf_tables", "packet_path: off"]),
            (Errno::ENOENT, ["nft_chain_nat", "packet_path: off"]),
            (Errno::EINVAL, ["nft_ct", "packet_path: off"]),
            (Errno::ENOMEM, ["kernel's log", "packet_path: off"]),
        ] {
            let line = remedy(Family::V6, &refused(errno));
            assert!(line.starts_with("the packet path (ip6) can't be: "), "{line}");
            assert!(remedies.iter().all(|remedy| line.contains(remedy)), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
        let line = connections_remedy(Family::V4, &refused(Errno::EINVAL));
        assert!(line.contains("load nf_conntrack_netlink"), "{line}");
    }
}
