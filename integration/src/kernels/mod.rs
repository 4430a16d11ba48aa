//! The tests under other kernels: which there are, what goes into a guest, and what the guest says.
//!
//! `bin/kernels` fetches kernels, packs, boots and reads; `bin/kernels-init` is the guest's first and
//! only process of its own, which runs the tests. Between them is one serial line.

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
}

/// From the oldest that is supported to the newest that Debian packs.
pub const KERNELS: [Kernel; 4] = [
    Kernel { name: "5.10", suite: "bullseye", mandatory: false },
    Kernel { name: "6.1", suite: "bookworm", mandatory: true },
    Kernel { name: "6.12", suite: "trixie", mandatory: false },
    Kernel { name: "newest", suite: "trixie-backports", mandatory: false },
];

/// Test programs that make sense in a guest: not those that need a store, a cluster, a browser, or
/// speed.
pub const TESTS: [&str; 24] = [
    "bad_input",
    "bad_start",
    "connections",
    "degraded",
    "detach",
    "events",
    "exclude",
    "fixtures",
    "given_up",
    "limits",
    "no_backend",
    "outcomes",
    "outcomes_agent",
    "pick",
    "pods",
    "publish",
    "reach",
    "reload",
    "restart",
    "reuse",
    "scope",
    "tcp",
    "udp",
    "unanswered",
];

/// What Debian's kernels have as modules; what a kernel has built in, or not at all, is passed over.
pub const MODULES: [&str; 8] =
    ["bridge", "dummy", "mptcp_diag", "sch_netem", "sch_tbf", "tcp_diag", "udp_diag", "veth"];

/// Where the guest has the programs under test; the tests lie in `deps`, as cargo puts them.
pub const PAYLOAD: &str = "/payload";

/// Where the guest's list of modules is, a line each.
pub const MODULE_LIST: &str = "/modules";
