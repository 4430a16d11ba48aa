//! What supported kernels may lack, how that is found out, and what it means then.

use super::preflight::{is_before, raise_memory_limit};
use super::{btf, sys};
use aya::programs::ProgramType;
use aya::sys::is_helper_supported;
use aya_obj::generated::bpf_func_id::{
    self, BPF_FUNC_ktime_get_coarse_ns, BPF_FUNC_set_retval, BPF_FUNC_skc_to_mptcp_sock,
    BPF_FUNC_skc_to_tcp_sock,
};
use lb_common::features;
use std::path::Path;

/// Something that not every supported kernel has.
#[derive(Debug)]
pub struct Feature {
    /// By which documentation and tests know it.
    pub name: &'static str,
    /// Its bit of [`lb_common::features`]; 0 if the programs need not know.
    pub bit: u32,
    /// What it means to be without.
    pub without: &'static str,
    /// A number that the programs must know of it (0 if there is none), or what the kernel lacks.
    probe: fn() -> Result<u32, String>,
}

/// What it means when nobody follows what becomes of connects.
pub(super) const WITHOUT_OUTCOMES: &str = "what becomes of connects is not counted, and a backend that refuses them is not noticed by that";

/// All of them, the newest first.
static FEATURES: [Feature; 6] = [
    Feature {
        name: "mptcp",
        bit: features::MPTCP,
        without: "MPTCP sockets see the backend as their peer, and count as active until `lb-agent \
                  detach`",
        probe: || {
            helper(ProgramType::CgroupSockAddr, BPF_FUNC_skc_to_mptcp_sock)
                .ok_or_else(|| "lacks bpf_skc_to_mptcp_sock (5.19)".to_owned())
        },
    },
    Feature {
        name: "set_retval",
        bit: features::SET_RETVAL,
        without: "a service without backends answers EPERM whatever its no_backend says",
        probe: || {
            helper(ProgramType::CgroupSockAddr, BPF_FUNC_set_retval)
                .ok_or_else(|| "lacks bpf_set_retval (5.18)".to_owned())
        },
    },
    Feature {
        name: "netns_cookie",
        bit: 0,
        without: "frontends of the host only are for the kernel's initial network namespace, \
                  whichever the agent runs in",
        probe: || match sys::netns_cookie() {
            Ok(Some(_)) => Ok(0),
            Ok(None) => Err("does not name network namespaces (SO_NETNS_COOKIE, 5.14)".to_owned()),
            Err(error) => Err(format!("does not name this network namespace ({error})")),
        },
    },
    Feature {
        name: "atomics",
        bit: features::ATOMICS,
        without: "every connection is kept in CONNECTIONS_OVERFLOW, so set tables.overflow to as many \
                  as are open at once; threads that send on one UDP socket at the same moment may \
                  see each other's frontend",
        probe: || {
            let missing = "lacks atomic operations that tell the old value, or functions that take \
                           memory (5.13)";
            match sys::probe::has_atomics() && !is_before(5, 13) {
                true => Ok(0),
                false => Err(missing.to_owned()),
            }
        },
    },
    Feature {
        name: "coarse_clock",
        bit: features::COARSE_CLOCK,
        without: "the exact clock is read for each established connection, which costs some \
                  nanoseconds",
        probe: || {
            helper(ProgramType::SockOps, BPF_FUNC_ktime_get_coarse_ns)
                .ok_or_else(|| "lacks bpf_ktime_get_coarse_ns (5.11)".to_owned())
        },
    },
    Feature {
        name: "outcomes",
        bit: features::OUTCOMES,
        without: WITHOUT_OUTCOMES,
        probe: || find_sk_err(Path::new(btf::VMLINUX)),
    },
];

/// Asks the running kernel; with each feature a number of its own, or what is lacking.
pub fn probe() -> Vec<(&'static Feature, Result<u32, String>)> {
    // Where it is refused, every answer is no, and who starts an agent is told why.
    let _ = raise_memory_limit();
    FEATURES.iter().map(|feature| (feature, (feature.probe)())).collect()
}

// === impl Feature ===

impl Feature {
    /// What to tell whoever runs an agent on a kernel that has this lack.
    pub fn warning(&self, lack: &str) -> String {
        format!("this kernel {lack}: {}", self.without)
    }
}

fn helper(program: ProgramType, helper: bpf_func_id) -> Option<u32> {
    is_helper_supported(program, helper).unwrap_or(false).then_some(0)
}

/// What it takes to tell a connect that was refused from one that was given up.
fn find_sk_err(types: &Path) -> Result<u32, String> {
    helper(ProgramType::SockOps, BPF_FUNC_skc_to_tcp_sock)
        .ok_or_else(|| "lacks bpf_skc_to_tcp_sock (5.9)".to_owned())?;
    btf::offset_of_u32(types, "sock", "sk_err")
        .map_err(|reason| format!("does not describe its types ({reason})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_types_is_a_warning() {
        let lack = find_sk_err(Path::new("/does/not/exist")).unwrap_err();
        let outcomes = FEATURES.iter().find(|feature| feature.name == "outcomes").unwrap();
        let warning = outcomes.warning(&lack);
        assert!(warning.contains("CONFIG_DEBUG_INFO_BTF"), "{warning}");
        assert!(warning.ends_with(WITHOUT_OUTCOMES), "{warning}");
    }

    #[test]
    fn names_and_bits_are_unique() {
        for (place, one) in FEATURES.iter().enumerate() {
            for other in &FEATURES[..place] {
                assert_ne!(one.name, other.name);
                assert!(one.bit == 0 || one.bit != other.bit, "{}", one.name);
            }
        }
    }

    #[test]
    fn this_kernel_lacks_nothing_that_it_is_new_enough_for() {
        let version = |word: &str| {
            let (major, minor) = word.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        for (feature, found) in probe() {
            let Err(lack) = found else { continue };
            match lack.split(['(', ')', ',', ' ']).find_map(version) {
                Some((major, minor)) => assert!(is_before(major, minor), "{lack}"),
                None => assert!(!Path::new(btf::VMLINUX).exists(), "{}: {lack}", feature.name),
            }
        }
    }
}
