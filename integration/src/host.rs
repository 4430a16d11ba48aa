//! What the running kernel has of all that an agent can do without: what a test expects depends on it.

use crate::netns;
use lb_agent::dataplane::features;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Whether the kernel has a feature, by its name in [`features`].
#[track_caller]
pub fn has(feature: &str) -> bool {
    *found().get(feature).unwrap_or_else(|| panic!("there is no feature {feature}"))
}

/// What a caller sees where a program means it to see this error.
pub fn errno(meant: i32) -> i32 {
    if has("set_retval") { meant } else { libc::EPERM }
}

/// What an agent tells of all that is lacking.
pub fn warnings() -> Vec<String> {
    let lacks = |(feature, found): (&features::Feature, Result<u32, String>)| {
        found.err().map(|lack| feature.warning(&lack))
    };
    features::probe().into_iter().filter_map(lacks).collect()
}

/// TCP, and MPTCP where sockets of it can be translated. Lets the calling thread's namespace make
/// them.
#[track_caller]
pub fn stream_protocols() -> Vec<Protocol> {
    if has("mptcp") {
        netns::sysctl("mptcp/enabled", "1");
        return vec![Protocol::TCP, Protocol::MPTCP];
    }
    // A kernel that has such sockets, but nothing to translate them by, would want tests of its own.
    let made = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP));
    assert!(made.is_err(), "this kernel has MPTCP, but not bpf_skc_to_mptcp_sock");
    vec![Protocol::TCP]
}

/// [`stream_protocols`] has MPTCP.
#[track_caller]
pub fn allows_mptcp() -> bool {
    stream_protocols().contains(&Protocol::MPTCP)
}

fn found() -> &'static BTreeMap<&'static str, bool> {
    static FOUND: OnceLock<BTreeMap<&'static str, bool>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let probed = features::probe().into_iter();
        probed.map(|(feature, found)| (feature.name, found.is_ok())).collect()
    })
}
