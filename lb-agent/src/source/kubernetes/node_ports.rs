//! On which addresses NodePorts are served.
//!
//! Pure.

use super::cluster::{NodePortAddresses, NodePorts};
use super::objects::Family;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses among `own`, those of this node's interfaces; `primary` are those that the Node
/// object has. Never an address of another node: that one decides for itself.
pub fn addresses(
    settings: &NodePorts,
    own: &BTreeSet<IpAddr>,
    primary: &[IpAddr],
) -> BTreeSet<IpAddr> {
    // A link-local address is one of each interface, and connects say which by a number that is not
    // in the address.
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
    };
    let own = own.iter().map(IpAddr::to_canonical).filter(usable);
    let mut addresses: BTreeSet<IpAddr> = match &settings.addresses {
        NodePortAddresses::All => own.collect(),
        NodePortAddresses::Primary => {
            let first = first_of_each(primary.iter());
            own.filter(|address| first.contains(&Some(address))).collect()
        }
        NodePortAddresses::PrimaryIs(address) => {
            let first = first_of_each(std::iter::once(address).chain(primary));
            own.filter(|address| first.contains(&Some(address))).collect()
        }
        NodePortAddresses::Ranges(ranges) => own
            .filter(|address| {
                let mut same =
                    ranges.iter().filter(|range| range.addr().is_ipv4() == address.is_ipv4());
                let unlimited = same.clone().next().is_none();
                unlimited || same.any(|range| range.contains(address))
            })
            .collect(),
    };
    if settings.localhost {
        addresses.extend([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]);
    }
    addresses
}

fn first_of_each<'a>(
    addresses: impl Iterator<Item = &'a IpAddr> + Clone,
) -> [Option<&'a IpAddr>; 2] {
    Family::ALL.map(|family| addresses.clone().find(|address| Family::of(address) == family))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> BTreeSet<IpAddr> {
        text.split_whitespace().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn those_of_this_node_that_were_asked_for() {
        let own = set("127.0.0.1 ::1 fe80::1 169.254.20.10 192.0.2.1 192.0.2.2 fd00::1 fd00::2");
        let primary = ["203.0.113.9", "fd00::2", "fd00::1"].map(|text| text.parse().unwrap());
        let ranges = |text: &str| {
            let ranges = text.split_whitespace().map(|range| range.parse().unwrap());
            NodePortAddresses::Ranges(ranges.collect())
        };
        for (addresses, expected) in [
            (NodePortAddresses::All, "169.254.20.10 192.0.2.1 192.0.2.2 fd00::1 fd00::2"),
            // 203.0.113.9 is on none of the interfaces: somebody in front of us has it.
            (NodePortAddresses::Primary, "fd00::2"),
            (NodePortAddresses::PrimaryIs("192.0.2.2".parse().unwrap()), "192.0.2.2 fd00::2"),
            (NodePortAddresses::PrimaryIs("fd00::1".parse().unwrap()), "fd00::1"),
            (ranges("192.0.2.2/31"), "192.0.2.2 fd00::1 fd00::2"),
            (ranges("192.0.2.0/24 fd00::1/128"), "192.0.2.1 192.0.2.2 fd00::1"),
            (ranges("198.51.100.0/24 fd01::/64"), ""),
            (ranges("127.0.0.0/8 ::/0"), "fd00::1 fd00::2"),
        ] {
            for localhost in [false, true] {
                let settings = NodePorts { addresses: addresses.clone(), localhost };
                let mut expected = set(expected);
                if localhost {
                    expected.extend(set("127.0.0.1 ::1"));
                }
                assert_eq!(super::addresses(&settings, &own, &primary), expected, "{settings:?}");
            }
        }
    }
}
