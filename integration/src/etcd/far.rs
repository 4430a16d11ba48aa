//! The other end of a wire: a network namespace, reached over a veth pair. While the wire is cut,
//! packets vanish both ways and nobody is told, as between hosts.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::Arc;
use std::thread;

/// The device, which has the same name at both ends.
const DEVICE: &str = "lb-wire";
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const NEAR_MAC: &str = "02:00:00:00:00:01";
const FAR_MAC: &str = "02:00:00:00:00:02";
/// Nobody's: a frame to it is dropped by whoever gets it.
const NOBODY: &str = "02:00:00:00:00:99";

/// A network namespace that exists while this does.
#[derive(Debug)]
pub struct Far {
    namespace: File,
}

// === impl Far ===

impl Far {
    /// Makes the namespace and the wire to it from the calling thread's.
    pub fn create() -> Arc<Self> {
        let opened = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
            File::open("/proc/thread-self/ns/net").expect("/proc is mounted")
        });
        let far = Self { namespace: opened.join().expect("the thread does not panic") };
        let peer = ["type", "veth", "peer", "name", DEVICE, "address", FAR_MAC, "netns"];
        let add = ["link", "add", DEVICE, "address", NEAR_MAC];
        let path = far.path();
        run(Command::new("ip").args(add).args(peer).arg(&path));
        run(Command::new("ip").args(["address", "add", &format!("{NEAR}/24"), "dev", DEVICE]));
        run(Command::new("ip").args(["link", "set", DEVICE, "up"]));
        run(far.command("ip").args(["link", "set", "lo", "up"]));
        run(far.command("ip").args(["address", "add", &format!("{FAR}/24"), "dev", DEVICE]));
        run(far.command("ip").args(["link", "set", DEVICE, "up"]));
        far.restore();
        Arc::new(far)
    }

    /// The far end's address.
    pub fn address(&self) -> IpAddr {
        FAR.into()
    }

    /// From now on all packets are lost, both ways.
    pub fn cut(&self) {
        self.aim(NOBODY, NOBODY);
    }

    /// Ends [`cut`](Self::cut).
    pub fn restore(&self) {
        self.aim(FAR_MAC, NEAR_MAC);
    }

    /// A command that runs at the far end.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// Moves the calling thread to the far end.
    pub fn enter(&self) {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("a namespace can be entered");
    }

    /// Says what hardware address each end sends to.
    fn aim(&self, near_sends_to: &str, far_sends_to: &str) {
        let neighbour = |ip: Ipv4Addr, mac: &str| {
            ["neigh", "replace", &ip.to_string(), "lladdr", mac, "dev", DEVICE, "nud", "permanent"]
                .map(str::to_owned)
        };
        run(Command::new("ip").args(neighbour(FAR, near_sends_to)));
        run(self.command("ip").args(neighbour(NEAR, far_sends_to)));
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("can't run {command:?} ({error}): run `make setup-tests`"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}
