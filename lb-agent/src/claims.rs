//! Which frontends a source may claim. Whoever can write a source could otherwise redirect any
//! connection of this host, so this is a security boundary and everything passes through here.
//!
//! Pure: the host's own addresses are found by the caller.

use crate::model::Frontend;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};

/// What one source may claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The ranges the operator allowed; `None` means any address that is not special.
    pub ranges: Option<Vec<IpNet>>,
    /// The host's own addresses, which need a range.
    pub host_addresses: Vec<IpAddr>,
    /// Whether a wide range is no permission to take loopback and the host's own addresses: it must
    /// lie within the loopback range, or be the own address alone.
    pub strict: bool,
    /// Whether its checks may run programs.
    pub exec: bool,
}

impl Claims {
    /// Whether the source may claim `frontend`.
    ///
    /// # Errors
    ///
    /// One line that says why not and what to do: the address can never be a service's, it is loopback or the
    /// host's own and no range is meant for it, or it lies outside the source's ranges.
    pub fn check(&self, frontend: &Frontend) -> Result<(), String> {
        let address = frontend.address.ip();
        if let Some(kind) = never(address) {
            return Err(format!("frontend {frontend}: {kind} can't be a service address"));
        }
        let Some(ranges) = &self.ranges else {
            return match self.special(address) {
                None => Ok(()),
                Some(kind) => Err(format!(
                    "frontend {frontend}: {kind} needs a range in `vip_ranges` that allows it"
                )),
            };
        };
        let mut around = ranges.iter().filter(|range| range.contains(&address)).peekable();
        if let Some(first) = around.peek().copied() {
            let special = if self.strict { self.special(address) } else { None };
            return match special {
                Some(kind) if !around.any(|range| is_meant(range, address)) => Err(format!(
                    "frontend {frontend}: {kind}, and {first} is no permission to take it from \
                     the host; if it is meant, add {} to `vip_ranges`",
                    IpNet::from(address)
                )),
                _ => Ok(()),
            };
        }
        let allowed: Vec<_> = ranges.iter().map(ToString::to_string).collect();
        let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        Err(format!(
            "frontend {frontend} is outside the ranges allowed for this source ({allowed}); \
             add its range to `vip_ranges` or use another address"
        ))
    }

    /// Addresses that somebody must have asked for by name.
    fn special(&self, address: IpAddr) -> Option<&'static str> {
        if address.is_loopback() {
            return Some("a loopback address");
        }
        self.host_addresses
            .iter()
            .any(|own| own.to_canonical() == address)
            .then_some("one of this host's own addresses")
    }
}

/// Whether the range is about loopback addresses, or about this address alone.
fn is_meant(range: &IpNet, address: IpAddr) -> bool {
    let alone = range.prefix_len() == range.max_prefix_len();
    alone || (address.is_loopback() && range.addr().is_loopback() && range.prefix_len() >= 8)
}

/// Addresses that mean something else to the kernel, whatever the ranges say.
fn never(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("the broadcast address")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ranges: Option<&[&str]>, frontend: &str) -> Result<(), String> {
        let claims = Claims {
            ranges: ranges.map(|list| list.iter().map(|r| r.parse().unwrap()).collect()),
            host_addresses: vec![
                "192.0.2.7".parse().unwrap(),
                "2001:db8::7".parse().unwrap(),
                "::ffff:192.0.2.8".parse().unwrap(),
            ],
            strict: false,
            exec: false,
        };
        claims.check(&frontend.parse().unwrap())
    }

    #[test]
    fn strict_claims_take_what_a_range_means_and_no_more() {
        let own = ["192.0.2.7", "127.0.0.1", "::1", "fd00::7"].map(|a| a.parse().unwrap());
        let check = |ranges: &[&str], frontend: &str| {
            let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
            let claims = Claims {
                ranges: Some(ranges),
                host_addresses: own.to_vec(),
                strict: true,
                exec: false,
            };
            claims.check(&frontend.parse().unwrap())
        };
        for (ranges, frontend) in [
            (["0.0.0.0/0", "::/0"].as_slice(), "10.0.0.1:80"),
            (&["127.0.0.0/8"], "127.0.0.1:80"),
            (&["0.0.0.0/0", "127.96.0.0/16"], "127.96.0.1:80"),
            (&["::1/128"], "[::1]:80"),
            (&["192.0.2.0/24", "192.0.2.7/32"], "192.0.2.7:80"),
            (&["fd00::7/128"], "[fd00::7]:80"),
        ] {
            assert_eq!(check(ranges, frontend), Ok(()), "{ranges:?} {frontend}");
        }
        for (ranges, frontend, part) in [
            (["0.0.0.0/0"].as_slice(), "127.0.0.1:80", "if it is meant, add 127.0.0.1/32"),
            (&["126.0.0.0/7"], "127.0.0.1:80", "a loopback address, and 126.0.0.0/7 is no perm"),
            (&["::/0"], "[::1]:80", "add ::1/128"),
            (&["192.0.2.0/24"], "192.0.2.7:80", "own addresses, and 192.0.2.0/24 is no permission"),
            (&["192.0.2.6/31"], "192.0.2.7:80", "no permission"),
            (&["fd00::/8"], "[fd00::7]:80", "add fd00::7/128"),
            (&["10.0.0.0/8"], "192.0.2.7:80", "outside the ranges"),
            (&["::/0"], "[::]:80", "the unspecified address"),
        ] {
            let error = check(ranges, frontend).unwrap_err();
            assert!(error.contains(part), "{ranges:?} {frontend}: {error}");
        }
    }

    #[test]
    fn without_ranges_special_addresses_are_refused() {
        for frontend in ["10.96.0.1:80", "192.0.2.9:80", "[2001:db8::9]:80/udp", "169.254.1.1:80"] {
            assert_eq!(check(None, frontend), Ok(()), "{frontend}");
        }
        for (frontend, part) in [
            ("127.0.0.1:80", "a loopback address needs a range"),
            ("127.96.0.1:80", "a loopback address needs a range"),
            ("[::1]:80", "a loopback address needs a range"),
            ("[::ffff:127.0.0.1]:80", "a loopback address needs a range"),
            ("192.0.2.7:80", "own addresses needs a range"),
            ("192.0.2.8:80", "own addresses needs a range"),
            ("[2001:db8::7]:80", "own addresses needs a range"),
            ("0.0.0.0:80", "the unspecified address can't be"),
            ("[::]:80", "the unspecified address can't be"),
            ("224.0.0.1:80", "a multicast address can't be"),
            ("[ff02::1]:80", "a multicast address can't be"),
            ("255.255.255.255:80", "the broadcast address can't be"),
        ] {
            let error = check(None, frontend).unwrap_err();
            assert!(error.contains(part), "{frontend}: {error}");
        }
    }

    #[test]
    fn with_ranges_only_they_count() {
        let ranges = Some(["10.96.0.0/12", "127.96.0.0/16", "192.0.2.7/32", "fd00::/8"].as_slice());
        for frontend in ["10.111.0.1:80", "127.96.0.1:80", "192.0.2.7:80", "[fd00::1]:80"] {
            assert_eq!(check(ranges, frontend), Ok(()), "{frontend}");
        }
        for frontend in ["10.112.0.1:80", "127.0.0.1:80", "192.0.2.8:80", "[fe00::1]:80"] {
            let error = check(ranges, frontend).unwrap_err();
            assert!(error.contains("outside the ranges allowed for this source (10.96.0.0/12"));
        }
        for frontend in ["0.0.0.0:80", "[ff02::1]:80"] {
            assert!(check(Some(&["0.0.0.0/0", "::/0"]), frontend).is_err(), "{frontend}");
        }
        assert!(check(Some(&[]), "10.96.0.1:80").unwrap_err().contains("(none)"));
    }
}
