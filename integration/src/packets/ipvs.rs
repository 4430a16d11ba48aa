//! Services as IPVS has them in the shape that kube-proxy gives them: their addresses on a dummy device, a
//! virtual server for each, and masquerading of what the host itself sends. What ours is compared with.

use super::Rule;
use super::nft::apply;
use crate::netns::{ip, ip_batch, sysctl};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// Loads the virtual servers.
pub const TOOL: &str = "ipvsadm";
/// The modules of the kernel: IPVS, and the scheduler that kube-proxy has by default.
pub const MODULES: [&str; 2] = ["ip_vs", "ip_vs_rr"];

const DEVICE: &str = "kube-ipvs0";
const TABLE: &str = "virtual";

/// What the tools are told.
#[derive(Debug, PartialEq, Eq)]
struct Scripts {
    /// `ip -batch`.
    addresses: String,
    /// `ipvsadm --restore`.
    servers: String,
    /// `nft -f`: a packet that the host sends to one of its own addresses has that address as its source, which
    /// nobody but the host itself could answer.
    masquerade: String,
}

/// Loads services into the calling thread's namespace.
#[track_caller]
pub fn load_all(services: impl IntoIterator<Item = Rule>) {
    let scripts = scripts(services);
    ip(&["link", "add", DEVICE, "type", "dummy"]);
    ip_batch(&scripts.addresses);
    // Or nobody masquerades what IPVS has translated.
    sysctl("ipv4/vs/conntrack", "1");
    apply(&scripts.masquerade);
    let child = Command::new(TOOL).arg("--restore").stdin(Stdio::piped()).spawn();
    let mut child =
        child.unwrap_or_else(|error| panic!("can't run `{TOOL}` ({error}): install it"));
    let written = child.stdin.take().expect("a pipe").write_all(scripts.servers.as_bytes());
    let status = child.wait().expect("a child can be waited for");
    assert!(status.success(), "{TOOL} --restore: {status}");
    written.expect("ipvsadm reads all");
}

fn scripts(services: impl IntoIterator<Item = Rule>) -> Scripts {
    let mut addresses: BTreeSet<Ipv4Addr> = BTreeSet::new();
    let mut servers = String::new();
    let mut elements = Vec::new();
    for Rule { vip, protocol, endpoints } in services {
        addresses.insert(*vip.ip());
        let kind = if protocol == "udp" { 'u' } else { 't' };
        servers += &format!("-A -{kind} {vip} -s rr\n");
        for endpoint in endpoints {
            servers += &format!("-a -{kind} {vip} -r {endpoint} -m -w 1\n");
        }
        elements.push(format!("{} . {protocol} . {}", vip.ip(), vip.port()));
    }
    let address = |own| format!("address add {own}/32 dev {DEVICE}\n");
    let masquerade = format!(
        "add table ip {TABLE}\n\
         add set ip {TABLE} cluster-ips {{ type ipv4_addr . inet_proto . inet_service; \
         elements = {{ {} }}; }}\n\
         add chain ip {TABLE} nat-output {{ type nat hook output priority -100; }}\n\
         add rule ip {TABLE} nat-output ip daddr . meta l4proto . th dport @cluster-ips \
         meta mark set meta mark or 0x4000\n\
         add chain ip {TABLE} nat-postrouting {{ type nat hook postrouting priority srcnat; }}\n\
         add rule ip {TABLE} nat-postrouting meta mark and 0x4000 != 0 \
         meta mark set meta mark xor 0x4000 masquerade fully-random\n",
        elements.join(", ")
    );
    Scripts { addresses: addresses.into_iter().map(address).collect(), servers, masquerade }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_added_once_and_each_service_has_a_server() {
        let vip = "10.96.0.1:80".parse().unwrap();
        let rule = |protocol, endpoints: &[&str]| {
            let endpoints = endpoints.iter().map(|at| at.parse().unwrap()).collect();
            Rule { vip, protocol, endpoints }
        };
        let scripts =
            scripts([rule("udp", &["172.16.0.1:8080"]), rule("tcp", &["172.16.0.2:8080"])]);
        assert_eq!(scripts.addresses, "address add 10.96.0.1/32 dev kube-ipvs0\n");
        let servers = "-A -u 10.96.0.1:80 -s rr\n-a -u 10.96.0.1:80 -r 172.16.0.1:8080 -m -w 1\n\
                       -A -t 10.96.0.1:80 -s rr\n-a -t 10.96.0.1:80 -r 172.16.0.2:8080 -m -w 1\n";
        assert_eq!(scripts.servers, servers);
        let set = "elements = { 10.96.0.1 . udp . 80, 10.96.0.1 . tcp . 80 };";
        assert!(scripts.masquerade.contains(set), "{}", scripts.masquerade);
    }
}
