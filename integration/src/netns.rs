//! Network namespaces of threads. `unshare` and `setns` act on the calling thread alone, and the
//! mounts of `/sys` stay as they are, which `ip netns exec` would hide.

use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::process::Command;

/// Moves the calling thread into a new network namespace whose loopback device is up.
pub fn enter_new() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| {
        panic!("can't create a network namespace: {error}; run the tests as root")
    });
    ip(&["link", "set", "lo", "up"]);
}

/// Gives the loopback device of the calling thread's namespace another address.
pub fn add_address(ip_address: &str) {
    let bits = if ip_address.contains(':') { 128 } else { 32 };
    ip(&["address", "add", &format!("{ip_address}/{bits}"), "dev", "lo"]);
}

/// Sets `net.<name>` of the calling thread's namespace, `name` written with slashes.
pub fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value)
        .unwrap_or_else(|error| panic!("can't set net/{name}: {error}"));
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("can't run `ip` ({error}): install iproute2"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {stderr}", arguments.join(" "));
}
