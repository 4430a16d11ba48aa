//! A service's address and its ports, where these are given apart.

use crate::model::Protocol;
use crate::yaml::{Item, Reader};
use std::net::IpAddr;

/// A port of a service address.
pub(crate) type Port = (u16, Protocol);

/// Addresses that a service asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// `auto`: one of whichever family.
    pub(crate) any: bool,
    /// `auto4`.
    pub(crate) v4: bool,
    /// `auto6`.
    pub(crate) v6: bool,
}

/// The addresses of a service.
#[derive(Debug, Default)]
pub(super) struct Vip {
    /// Those it names.
    pub(super) given: Vec<IpAddr>,
    /// Those it asks for.
    pub(super) asked: Asked,
}

/// Reads `auto`, `auto4`, `auto6`, an address, or several of them.
pub(super) fn read_vip(reader: &mut Reader<'_>, item: Item<'_>) -> Vip {
    let what = "an address, `auto`, `auto4` or `auto6` for `vip`";
    let mut vip = Vip::default();
    let items = reader.one_or_more(item);
    if items.is_empty() {
        reader.mismatch(item, what);
    }
    for item in items {
        match item.text() {
            Some("auto") => vip.asked.any = true,
            Some("auto4") => vip.asked.v4 = true,
            Some("auto6") => vip.asked.v6 = true,
            _ => vip.given.extend(reader.parse(item, what, parse_address)),
        }
    }
    vip
}

/// Reads `[80, "53/udp"]`.
pub(super) fn read_ports(reader: &mut Reader<'_>, item: Item<'_>) -> Vec<Port> {
    let what = "ports such as `[80, \"53/udp\"]`";
    let items = reader.one_or_more(item);
    if items.is_empty() {
        reader.mismatch(item, what);
    }
    let mut ports = Vec::new();
    for item in items {
        match reader.parse(item, what, parse_port) {
            Some(port) if ports.contains(&port) => {
                reader.reject(item.place, format!("port {} stands twice; remove one", port.0));
            }
            port => ports.extend(port),
        }
    }
    ports
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let address = text.parse::<IpAddr>().map_err(|_| {
        format!("`{text}` is no service address; write an IP address, `auto`, `auto4` or `auto6`")
    })?;
    Ok(address.to_canonical())
}

fn parse_port(text: &str) -> Result<Port, String> {
    let (number, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text, Protocol::Tcp),
        Some((_, "udp")) => (text, Protocol::Udp),
        Some((_, other)) => {
            return Err(format!("`{text}`: protocol `{other}` is not supported; use /tcp or /udp"));
        }
    };
    let number = number.split('/').next().unwrap_or(number);
    match number.parse::<u16>() {
        Ok(port) if port > 0 => Ok((port, protocol)),
        _ => Err(format!("`{number}` is not a port; use 1 to 65535")),
    }
}
