//! Services as nftables rules in the shape that kube-proxy gives them: a verdict map leads to a chain
//! per service, which chooses a chain per endpoint. What ours is compared with.

use super::Rule;
use super::nft::apply;
use crate::kubernetes::large::{address_of, endpoints_of, vip};
use std::fmt::Write as _;
use std::net::{SocketAddr, SocketAddrV4};

const TABLE: &str = "chains";

/// Loads services as [`crate::kubernetes::large`] has them, and one more with one endpoint, in one
/// transaction.
#[track_caller]
pub fn load(services: u32) {
    load_all((0..=services).map(|number| {
        let endpoints = match number {
            last if last == services => vec![address(0)],
            _ => endpoints_of(number).collect(),
        };
        Rule { vip: v4(vip(number)), protocol: "tcp", endpoints }
    }));
}

/// Loads services into the calling thread's namespace, in one transaction.
#[track_caller]
pub fn load_all(services: impl IntoIterator<Item = Rule>) {
    let mut script = format!(
        "add table ip {TABLE}\n\
         add chain ip {TABLE} mark-for-masquerade\n\
         add rule ip {TABLE} mark-for-masquerade meta mark set meta mark or 0x4000\n\
         add map ip {TABLE} service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}\n\
         add chain ip {TABLE} services\n\
         add rule ip {TABLE} services ip daddr . meta l4proto . th dport vmap @service-ips\n\
         add chain ip {TABLE} nat-prerouting {{ type nat hook prerouting priority dstnat; }}\n\
         add rule ip {TABLE} nat-prerouting ct state new jump services\n\
         add chain ip {TABLE} nat-output {{ type nat hook output priority -100; }}\n\
         add rule ip {TABLE} nat-output ct state new jump services\n\
         add chain ip {TABLE} nat-postrouting {{ type nat hook postrouting priority srcnat; }}\n\
         add rule ip {TABLE} nat-postrouting meta mark and 0x4000 != 0 \
         meta mark set meta mark xor 0x4000 masquerade fully-random\n"
    );
    // Chains first, then rules that name them.
    let mut rules = String::new();
    for (number, Rule { vip, protocol, endpoints }) in (0..).zip(services) {
        for endpoint in &endpoints {
            writing(writeln!(script, "add chain ip {TABLE} {}", name(number, *endpoint)));
            endpoint_rules(&mut rules, number, protocol, *endpoint);
        }
        writing(writeln!(script, "add chain ip {TABLE} service-{number}"));
        service_rule(&mut rules, number, &endpoints);
        let (ip, port) = (vip.ip(), vip.port());
        writing(writeln!(
            rules,
            "add element ip {TABLE} service-ips {{ {ip} . {protocol} . {port} : goto service-{number} }}"
        ));
    }
    script += &rules;
    apply(&script);
}

/// Moves the only endpoint of the last service from one server to the other.
#[track_caller]
pub fn change(services: u32, from: usize, to: usize) {
    let (from, to) = (address(from), address(to));
    let mut script = format!(
        "add chain ip {TABLE} {}\nflush chain ip {TABLE} service-{services}\n",
        name(services, to)
    );
    endpoint_rules(&mut script, services, "tcp", to);
    service_rule(&mut script, services, &[to]);
    let old = name(services, from);
    script += &format!("flush chain ip {TABLE} {old}\ndelete chain ip {TABLE} {old}\n");
    apply(&script);
}

fn endpoint_rules(script: &mut String, service: u32, protocol: &str, endpoint: SocketAddrV4) {
    let chain = name(service, endpoint);
    writing(write!(
        script,
        "add rule ip {TABLE} {chain} ip saddr {} jump mark-for-masquerade\n\
         add rule ip {TABLE} {chain} meta l4proto {protocol} dnat to {endpoint}\n",
        endpoint.ip()
    ));
}

fn service_rule(script: &mut String, service: u32, endpoints: &[SocketAddrV4]) {
    let slots = endpoints.iter().enumerate();
    let slots = slots.map(|(slot, endpoint)| format!("{slot} : goto {}", name(service, *endpoint)));
    writing(writeln!(
        script,
        "add rule ip {TABLE} service-{service} numgen random mod {} vmap {{ {} }}",
        endpoints.len(),
        slots.collect::<Vec<_>>().join(", ")
    ));
}

fn name(service: u32, endpoint: SocketAddrV4) -> String {
    format!("endpoint-{service}-{}-{}", endpoint.ip(), endpoint.port())
}

fn address(server: usize) -> SocketAddrV4 {
    v4(address_of(server))
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => unreachable!("{address}: services and servers are IPv4"),
    }
}

fn writing(written: std::fmt::Result) {
    written.expect("writing to a string succeeds");
}
