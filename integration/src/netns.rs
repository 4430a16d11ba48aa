//! Network namespaces of threads. `unshare` and `setns` act on the calling thread alone, and the
//! mounts of `/sys` stay as they are, which `ip netns exec` would hide.

use crate::wait::eventually;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);

/// Moves the calling thread into a new network namespace whose loopback device is up.
pub fn enter_new() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| {
        panic!("can't create a network namespace: {error}; run the tests as root")
    });
    ip(&["link", "set", "lo", "up"]);
}

/// Moves the calling thread into the namespace that the kernel began with.
pub fn enter_initial() {
    let initial = fs::File::open("/proc/1/ns/net").expect("the first process runs");
    setns(initial, CloneFlags::CLONE_NEWNET).expect("root may change namespaces");
}

/// Gives the loopback device of the calling thread's namespace another address.
pub fn add_address(ip_address: &str) {
    let v6 = ip_address.contains(':');
    let address = format!("{ip_address}/{}", if v6 { 128 } else { 32 });
    ip(&["address", "add", &address, "dev", "lo"]
        .into_iter()
        // Without it the address can't be bound until the kernel gets round to finding it unique.
        .chain(v6.then_some("nodad"))
        .collect::<Vec<_>>());
    if v6 {
        // The way there is made behind the caller's back.
        eventually(&format!("a way to {ip_address}"), DEADLINE, || {
            let socket = UdpSocket::bind("[::]:0").expect("a UDP socket can be bound");
            socket.connect((ip_address, 9)).is_ok()
        });
    }
}

/// Takes away what [`add_address`] gave.
pub fn remove_address(ip_address: &str) {
    let length = if ip_address.contains(':') { 128 } else { 32 };
    ip(&["address", "del", &format!("{ip_address}/{length}"), "dev", "lo"]);
}

/// Makes all addresses of a network the calling thread's namespace's own.
pub fn own_network(network: &str) {
    ip(&["route", "add", "local", network, "dev", "lo"]);
}

/// Adds a route from the calling thread's namespace.
pub fn add_route(network: &str, via: &str) {
    ip(&["route", "add", network, "via", via]);
}

/// Tells whoever the calling thread's namespace would forward for that there is no way to an address.
pub fn add_unreachable(ip_address: &str) {
    let family = if ip_address.contains(':') { "-6" } else { "-4" };
    ip(&[family, "route", "add", "unreachable", ip_address]);
}

/// Sets `net.<name>` of the calling thread's namespace, `name` written with slashes.
pub fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value)
        .unwrap_or_else(|error| panic!("can't set net/{name}: {error}"));
}

/// Lets MPTCP connections of the calling thread's namespace open a further subflow from an address.
pub fn mptcp_subflows_from(ip_address: &str) {
    ip(&["mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2"]);
    ip(&["mptcp", "endpoint", "add", ip_address, "dev", "lo", "subflow"]);
}

/// A counter of the calling thread's namespace, from `/proc/net/netstat`.
pub fn counter(group: &str, name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").expect("/proc is mounted");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
    let (names, values) = (lines.next().expect("the group's names"), lines.next());
    let values = values.expect("the group's values").split(' ');
    let found = names.split(' ').zip(values).find(|(other, _)| *other == name);
    found.and_then(|(_, value)| value.parse().ok()).expect("the kernel has this counter")
}

pub(crate) fn ip(arguments: &[&str]) {
    iproute2("ip", arguments);
}

/// Several `ip` commands, a line each, in one go. Addresses say the family.
pub(crate) fn ip_batch(commands: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("can't run `ip` ({error}): install iproute2"));
    let written = child.stdin.take().expect("a pipe").write_all(commands.as_bytes());
    let output = child.wait_with_output().expect("a child can be waited for");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip -batch: {stderr}\n{commands}");
    written.expect("`ip` reads all");
}

pub(crate) fn tc(arguments: &[&str]) {
    iproute2("tc", arguments);
}

fn iproute2(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("can't run `{tool}` ({error}): install iproute2"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {}: {stderr}", arguments.join(" "));
}
