//! Addresses, ranges and numbers, as the cluster writes them.

use super::Family;
use crate::source::clean::clean;
use ipnet::IpNet;
use std::net::IpAddr;

/// Longest piece of foreign text in a line.
const SHOWN: usize = 80;

/// A piece of foreign text, in a line.
pub(super) fn shown(text: &str) -> String {
    format!("`{}`", clean(text, SHOWN))
}

/// An address in numbers that connections can go to.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let Ok(address) = text.parse::<IpAddr>() else {
        let text_shown = shown(text);
        return Err(match without_zeros(text) {
            Some(plain) => format!(
                "{text_shown} has leading zeros, which some programs take for octal numbers; \
                 write it as {plain}"
            ),
            None => format!("{text_shown} is not an IP address; write it as 10.0.0.1 or fd00::1"),
        });
    };
    let address = address.to_canonical();
    match special(&address) {
        Some(kind) => Err(format!("{address} is {kind}; use the address to connect to")),
        None => Ok(address),
    }
}

/// An address of this family.
pub(super) fn address_of(family: Family, text: &str) -> Result<IpAddr, String> {
    let address = address(text)?;
    if Family::of(&address) == family {
        return Ok(address);
    }
    Err(format!(
        "{address} is not an {} address, which it is said to be; correct one of the two",
        family.word()
    ))
}

/// The address that is meant if there are leading zeros in an IPv4 address.
fn without_zeros(text: &str) -> Option<IpAddr> {
    let parts: Vec<_> = text
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            rest => rest,
        })
        .collect();
    parts.join(".").parse().ok().filter(IpAddr::is_ipv4)
}

/// What connects to somewhere else than it says.
fn special(address: &IpAddr) -> Option<&'static str> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_loopback() {
        Some("a loopback address, which is another one in every pod")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if broadcast {
        Some("the broadcast address")
    } else if link_local {
        Some("a link-local address, which means nothing without an interface")
    } else {
        None
    }
}

/// A range. Bits that are set beyond the prefix are taken as 0.
pub(super) fn range(text: &str) -> Result<IpNet, String> {
    match text.trim().parse::<IpNet>() {
        Ok(range) => Ok(range.trunc()),
        Err(_) => Err(format!(
            "{} is not an address range; write it as 10.0.0.0/8 or fd00::/64",
            shown(text)
        )),
    }
}

/// A port other than 0.
pub(super) fn port(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{number} is not a port; use 1 to 65535")),
    }
}

/// Whether this can be a namespace, or the name of a Service or a port.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (1..=63).contains(&text.len()) && text.chars().all(plain)
}
