//! Nodes and pods: namespaces, bridges, veth pairs, routes.

use super::{Pair, Place};
use crate::cgroup::Cgroup;
use crate::lab::Lab;
use crate::netns::{self, ip_batch, sysctl};
use crate::process::kill;
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

/// The device by which a node reaches the others.
const UPLINK: &str = "wire";
/// The bridge that a node's pods are on.
const BRIDGE: &str = "pods";
/// Host part of the first pod's address; the bridge has 1.
const FIRST: u8 = 10;

/// A node; its own processes' place is what it dereferences to. Pods must end before it.
#[derive(Debug)]
pub struct Node {
    // Keeps the namespace visible; gone before its cgroup.
    _pause: Option<Pause>,
    place: Place,
    /// The cgroup of its pods.
    pods: Cgroup,
    /// 1, 2, ...: part of every address.
    number: u8,
    next: AtomicU8,
}

/// A pod; gone when dropped, with what serves in it.
#[derive(Debug)]
pub struct Pod {
    // Gone before its cgroup.
    _pause: Option<Pause>,
    place: Place,
}

/// A process that does nothing, as each pod has one: it makes the pod's namespace visible.
#[derive(Debug)]
struct Pause(Child);

// === impl Node ===

impl Node {
    /// Makes the calling thread's namespace, which must be the lab's, a node of this name.
    pub fn here(lab: &Lab, name: &str) -> Self {
        let place = place(name, own_namespace(), lab.cgroup().child(name), 1);
        let node = Self {
            place,
            pods: lab.cgroup().child("pods"),
            number: 1,
            next: FIRST.into(),
            _pause: None,
        };
        node.run(without_dad);
        // A bridge without an address of its own takes that of a port, and another when the port goes:
        // those who know it would send into the void for a while.
        ip_batch(&format!("link add {UPLINK} address 02:00:00:00:00:01 type bridge"));
        node.set_up();
        node
    }

    /// Makes another node, 2 or more, with a route to and from this one. The lab's agent translates
    /// nothing there.
    pub fn beside(&self, lab: &Lab, number: u8, name: &str) -> Self {
        let pods = format!("{name}-pods");
        self.linked(unserved(lab, name), unserved(lab, &pods), number, name)
    }

    /// Makes another node as [`beside`](Self::beside) does, whose agent is that of `lab`, which is no
    /// other node's.
    pub fn beside_in(&self, lab: &Lab, number: u8, name: &str) -> Self {
        self.linked(lab.cgroup().child(name), lab.cgroup().child("pods"), number, name)
    }

    fn linked(&self, cgroup: Cgroup, pods: Cgroup, number: u8, name: &str) -> Self {
        let (namespace, pause) = new_namespace(&cgroup);
        let place = place(name, namespace, cgroup, number);
        let node = Self { place, pods, number, next: FIRST.into(), _pause: Some(pause) };
        let namespace = path(&node.place);
        self.run(|| {
            ip_batch(&format!(
                "link add {UPLINK}{number} type veth peer name {UPLINK} netns {namespace}\n\
                 link set {UPLINK}{number} master {UPLINK} up"
            ));
        });
        node.set_up();
        self.leads_to(&node);
        node.leads_to(self);
        node
    }

    /// Starts a pod.
    pub fn pod(&self, name: &str) -> Pod {
        self.pod_in(self.pods.child(name), name)
    }

    /// Starts a pod whose sockets are not the node's, as those of a virtual machine: the lab's agent
    /// sees its packets only.
    pub fn guest(&self, lab: &Lab, name: &str) -> Pod {
        self.pod_in(unserved(lab, name), name)
    }

    fn pod_in(&self, cgroup: Cgroup, name: &str) -> Pod {
        let host = self.next.fetch_add(1, Ordering::Relaxed);
        let (namespace, pause) = new_namespace(&cgroup);
        let addresses = pod_addresses(self.number, host);
        let place = Place::new(name, self.name(), namespace, cgroup, addresses);
        let gateway = self.gateway();
        self.run(|| {
            let namespace = path(&place);
            ip_batch(&format!(
                "link add pod{host} type veth peer name eth0 netns {namespace}\n\
                 link set pod{host} master {BRIDGE} up"
            ));
        });
        place.run(|| {
            let (Pair { v4, v6 }, via) = (addresses, gateway);
            // It is alone in its network, so that all it sends passes the node.
            ip_batch(&format!(
                "address add {v4}/32 dev eth0\n\
                 address add {v6}/128 dev eth0 nodad\n\
                 link set eth0 up\n\
                 route add {via4} dev eth0\n\
                 route add {via6} dev eth0\n\
                 route add default via {via4} src {v4}\n\
                 route add default via {via6} src {v6}",
                via4 = via.v4,
                via6 = via.v6,
            ));
        });
        Pod { place, _pause: Some(pause) }
    }

    /// Starts a pod that shares the node's network.
    pub fn host_pod(&self, name: &str) -> Pod {
        let namespace = self.run(own_namespace);
        let cgroup = self.pods.child(name);
        let place = Place::new(name, self.name(), namespace, cgroup, self.addresses());
        Pod { place, _pause: None }
    }

    /// A process of the node whose sockets the lab's agent does not translate.
    pub fn stranger(&self, lab: &Lab, name: &str) -> Pod {
        let namespace = self.run(own_namespace);
        let addresses = self.addresses();
        let place = Place::new(name, self.name(), namespace, unserved(lab, name), addresses);
        Pod { place, _pause: None }
    }

    /// Gives it another address, which it has until [`loses`](Self::loses) takes it away.
    pub fn gets(&self, ip_address: &str) {
        self.run(|| ip_batch(&format!("address add {} nodad", at_uplink(ip_address))));
    }

    /// Takes away what [`gets`](Self::gets) gave.
    pub fn loses(&self, ip_address: &str) {
        self.run(|| ip_batch(&format!("address del {}", at_uplink(ip_address))));
    }

    /// The ranges of its pods' addresses.
    pub fn pod_ranges(&self) -> [String; 2] {
        let Pair { v4, v6 } = pod_addresses(self.number, 0);
        [format!("{v4}/24"), format!("{v6}/64")]
    }

    /// Its addresses on the bridge that its pods are on.
    pub fn gateway(&self) -> Pair {
        pod_addresses(self.number, 1)
    }

    /// Gives addresses to the devices that lead to other nodes (which is there) and to pods.
    fn set_up(&self) {
        let (own, gateway) = (self.addresses(), self.gateway());
        self.run(|| {
            sysctl("ipv4/ip_forward", "1");
            sysctl("ipv6/conf/all/forwarding", "1");
            // What merely passes a bridge is not the node's business. Kernels differ in having this.
            for tool in ["iptables", "ip6tables"] {
                let name = format!("bridge/bridge-nf-call-{tool}");
                if Path::new("/proc/sys/net").join(&name).exists() {
                    sysctl(&name, "0");
                }
            }
            // Each refusal is told, however many there are.
            sysctl("ipv4/icmp_ratelimit", "0");
            sysctl("ipv6/icmp/ratelimit", "0");
            // Pods know one way, and it is the right one.
            for device in ["all", "default"] {
                sysctl(&format!("ipv4/conf/{device}/send_redirects"), "0");
            }
            let mut commands = format!(
                "link add {BRIDGE} address 02:00:00:00:01:{:02x} type bridge\n",
                self.number
            );
            for (device, Pair { v4, v6 }) in [(UPLINK, own), (BRIDGE, gateway)] {
                commands += &format!(
                    "address add {v4}/24 dev {device}\n\
                     address add {v6}/64 dev {device} nodad\n\
                     link set {device} up\n"
                );
            }
            ip_batch(&commands);
        });
    }

    /// Adds the way to another node's pods.
    fn leads_to(&self, other: &Self) {
        let (pods, via) = (pod_addresses(other.number, 0), other.addresses());
        self.run(|| {
            ip_batch(&format!(
                "route add {}/24 via {}\nroute add {}/64 via {}",
                pods.v4, via.v4, pods.v6, via.v6
            ));
        });
    }
}

impl Deref for Node {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

// === impl Pause ===

impl Drop for Pause {
    fn drop(&mut self) {
        kill(&mut self.0);
    }
}

fn place(name: &str, namespace: File, cgroup: Cgroup, number: u8) -> Place {
    Place::new(name, name, namespace, cgroup, node_addresses(number))
}

fn node_addresses(number: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(172, 18, 0, number),
        v6: Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, number.into()),
    }
}

fn pod_addresses(node: u8, host: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, 244, node, host),
        v6: Ipv6Addr::new(0xfd00, 0x244, node.into(), 0, 0, 0, 0, host.into()),
    }
}

/// A namespace whose loopback device is up, and the process that is in it and in the cgroup.
fn new_namespace(cgroup: &Cgroup) -> (File, Pause) {
    let body = || {
        cgroup.enter();
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
        // It ends with its input, at the latest with the test process.
        let pause = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let pause = Pause(pause.expect("`cat` can be started"));
        netns::ip(&["link", "set", "lo", "up"]);
        without_dad();
        for device in ["all", "default"] {
            sysctl(&format!("ipv6/conf/{device}/accept_redirects"), "0");
        }
        (own_namespace(), pause)
    };
    std::thread::scope(|scope| scope.spawn(body).join()).expect("a namespace can be made")
}

fn at_uplink(ip_address: &str) -> String {
    let length = if ip_address.contains(':') { 128 } else { 32 };
    format!("{ip_address}/{length} dev {UPLINK}")
}

/// A cgroup beside the lab's.
fn unserved(lab: &Lab, name: &str) -> Cgroup {
    let unique = lab.cgroup().path().file_name().unwrap_or_default().display();
    Cgroup::create(&format!("{unique}-{name}"))
}

/// Devices made from now on have their link-local address at once, not a second later when nobody
/// has objected to it.
fn without_dad() {
    sysctl("ipv6/conf/all/accept_dad", "0");
    sysctl("ipv6/conf/default/accept_dad", "0");
}

fn own_namespace() -> File {
    File::open("/proc/thread-self/ns/net").expect("/proc is mounted")
}

/// Where `ip` finds a place's namespace.
fn path(place: &Place) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), place.namespace().as_raw_fd())
}
