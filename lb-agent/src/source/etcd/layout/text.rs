//! Small pieces of foreign text: made fit to be shown, and read as addresses and numbers.

pub(super) use crate::source::clean::clean;

use crate::model::parse_socket_addr;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::net::{IpAddr, SocketAddr};

/// Longest text that can be an address and a port.
const LONGEST_ADDRESS: usize = 80;

/// An address and a port, in numbers, that can be connected to.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if text.len() > LONGEST_ADDRESS {
        let begin = clean(text, 40);
        return Err(format!("`{begin}` is not an address and a port; write it as 10.0.0.1:80"));
    }
    let address = parse_socket_addr(text).map_err(|error| error.to_string())?;
    usable(address.ip())?;
    Ok(address)
}

/// An address in numbers that can be connected to.
pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let Ok(ip) = bare.parse::<IpAddr>() else {
        let shown = clean(text, LONGEST_ADDRESS);
        return Err(format!(
            "`{shown}` is not an IP address and names are not looked up; write it as 10.0.0.1"
        ));
    };
    usable(ip.to_canonical())?;
    Ok(ip.to_canonical())
}

/// A port other than 0.
pub(super) fn port(number: i64) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{number}` is not a port; use 1 to 65535")),
    }
}

/// Refuses what connects to somewhere else than it says.
pub(super) fn usable(ip: IpAddr) -> Result<(), String> {
    if ip.is_unspecified() {
        return Err(format!("{ip} stands for any address; register the one to connect to"));
    }
    if ip.is_multicast() {
        return Err(format!("{ip} is a multicast address; register the one to connect to"));
    }
    Ok(())
}

/// Reads a JSON object.
pub(super) fn object<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    // A list would be read as the fields in their order.
    if !value.trim_ascii_start().starts_with(b"{") {
        return Err("the value is no JSON object, {...}; put it again".to_owned());
    }
    serde_json::from_slice(value).map_err(|error| {
        if error.is_data() {
            format!("{error}; correct the value")
        } else {
            format!("not valid JSON: {error}; put the value again")
        }
    })
}

/// A whole number, also in quotes; nothing, an empty text and `null` are none.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
        Nothing(()),
    }
    let either = Either::deserialize(deserializer)
        .map_err(|_| serde::de::Error::custom("expected a whole number"))?;
    match either {
        Either::Number(number) => Ok(Some(number)),
        Either::Nothing(()) => Ok(None),
        Either::Text(text) if text.is_empty() => Ok(None),
        Either::Text(text) => text.parse().map(Some).map_err(|_| {
            let shown = clean(&text, 40);
            serde::de::Error::custom(format!("expected a whole number, found `{shown}`"))
        }),
    }
}
