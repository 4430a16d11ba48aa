//! Settings of what the agent shows of itself: the HTTP listener and the metrics. Pure.

use crate::keys::METRICS;
use crate::model::parse_socket_addr;
use crate::yaml::{Item, Reader};
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// Where the agent listens if nothing is said.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9777);

/// Where metrics and the status page are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http {
    /// Nothing was said: on [`Http::address`], if that is free.
    #[default]
    Default,
    /// Nowhere.
    Off,
    /// There, or the agent does not start.
    At(SocketAddr),
}

/// What `/metrics` has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Series of each backend, besides those of its service.
    pub per_backend: bool,
}

// === impl Http ===

impl Http {
    /// The address, if any.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Default => Some(LISTEN),
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for Http {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        match parse_socket_addr(text) {
            Ok(address) => Ok(Self::At(address)),
            Err(error) => Err(format!("{error}, or `off`")),
        }
    }
}

/// Reads the value of `http`.
pub(super) fn read_http(reader: &mut Reader<'_>, item: Item<'_>) -> Option<Http> {
    reader.parse(item, "an address for `http`, such as 127.0.0.1:9777, or `off`", str::parse)
}

/// Reads the mapping under `metrics:`.
pub(super) fn read_metrics(reader: &mut Reader<'_>, item: Item<'_>) -> Metrics {
    let mut metrics = Metrics::default();
    let what = "a mapping for `metrics`, such as `per_backend: true`";
    for field in reader.fields(item, what, &METRICS) {
        metrics.per_backend = reader.flag(field.item, field.key);
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::Http;

    #[test]
    fn addresses() {
        let at = |text: &str| Ok(Http::At(text.parse().unwrap()));
        for (text, expected) in [
            ("off", Ok(Http::Off)),
            ("127.0.0.1:9100", at("127.0.0.1:9100")),
            ("[::1]:9100", at("[::1]:9100")),
            ("0.0.0.0:80", at("0.0.0.0:80")),
            ("127.0.0.1:0", Err("use 1 to 65535, or `off`")),
            ("127.0.0.1", Err("has no port")),
            (":9100", Err("or `off`")),
            ("9100", Err("or `off`")),
            ("localhost:9100", Err("or `off`")),
            ("Off", Err("or `off`")),
        ] {
            match (text.parse::<Http>(), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }
}
