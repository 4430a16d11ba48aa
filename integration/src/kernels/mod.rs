//! The tests under other kernels: which there are, what goes into a guest, and what the guest says.
//!
//! `bin/kernels` fetches kernels, packs, boots and reads; `bin/kernels-init` is the guest's first and
//! only process of its own, which runs the tests. Between them is one serial line.

pub mod programs;
pub mod report;
pub mod table;

/// A kernel to test under, and the Debian suite that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// By which it is asked for; its version, as far as it does not change.
    pub name: &'static str,
    /// The suite.
    pub suite: &'static str,
    /// Whether a run without it has failed, rather than skipped it.
    pub mandatory: bool,
    /// What it is to be told beside what all are.
    pub parameters: &'static str,
}

const fn kernel(name: &'static str, suite: &'static str) -> Kernel {
    Kernel { name, suite, mandatory: false, parameters: "" }
}

/// From the oldest that is supported to the newest that Debian packs.
pub const KERNELS: [Kernel; 4] = [
    kernel("5.10", "bullseye"),
    Kernel { mandatory: true, ..kernel("6.1", "bookworm") },
    kernel("6.12", "trixie"),
    // Without cmpxchg16b, which an emulated CPU lacks, it has no memory for socket storage but from
    // caches that are checked.
    Kernel { parameters: "slab_debug=F,kmalloc-*", ..kernel("newest", "trixie-backports") },
];

/// What Debian's kernels have as modules; what a kernel has built in, or not at all, is passed over.
/// Not `sctp`: the tests' servers speak it by raw sockets, and a kernel that does would abort what
/// they are asked for.
pub const MODULES: [&str; 28] = [
    "bridge",
    "dummy",
    "mptcp_diag",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_counter",
    "nft_ct",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_hash",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_redir",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "sch_netem",
    "sch_tbf",
    "tcp_diag",
    "udp_diag",
    "veth",
    "xt_comment",
    "xt_nat",
    "xt_tcpudp",
];

/// Where the guest has the programs under test; the tests lie in `deps`, as cargo puts them.
pub const PAYLOAD: &str = "/payload";

/// Where the guest's list of modules is, a line each.
pub const MODULE_LIST: &str = "/modules";

/// Where the guest's [`programs::Job`]s are, a JSON object a line.
pub const JOB_LIST: &str = "/jobs";
