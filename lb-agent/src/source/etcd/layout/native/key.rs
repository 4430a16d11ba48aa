//! The keys of the native layout.

use crate::model::{ServiceName, parse_socket_addr};
use std::net::{IpAddr, SocketAddr};

/// What a key is about.
pub(super) enum Key<'k> {
    /// `services/<name>`.
    Service(ServiceName),
    /// `backends/<service>/<id>`.
    Backend(ServiceName, &'k str),
    /// `vips/<address>`.
    Vip(IpAddr),
    /// `allocations/<service>`.
    Allocation(ServiceName),
    /// `overrides/<service>/<address>`.
    Override(ServiceName, SocketAddr),
}

// === impl Key ===

impl<'k> Key<'k> {
    /// Reads a key below the prefix.
    pub(super) fn parse(path: &'k str) -> Result<Self, String> {
        let name = |text: &str| text.parse::<ServiceName>().map_err(|error| error.to_string());
        match path.split_once('/') {
            Some(("services", service)) => Ok(Self::Service(name(service)?)),
            Some(("backends", rest)) => match rest.rsplit_once('/') {
                Some((service, id)) if !id.is_empty() => Ok(Self::Backend(name(service)?, id)),
                _ => Err("a backend's key is backends/SERVICE/ID; put it under one".to_owned()),
            },
            Some(("vips", text)) => {
                let address = text.parse::<IpAddr>().map(|address| address.to_canonical()).ok();
                let same = address.filter(|address| address.to_string() == text);
                same.map(Self::Vip)
                    .ok_or_else(|| "not vips/ADDRESS, as agents write it; delete it".to_owned())
            }
            Some(("allocations", service)) => Ok(Self::Allocation(name(service)?)),
            Some(("overrides", rest)) => {
                let (service, text) = rest.rsplit_once('/').unwrap_or_default();
                let address = parse_socket_addr(text).map_err(|error| error.to_string())?;
                // One way of writing it, so that two keys are never about one backend.
                if address.to_string() != text {
                    return Err(format!("write overrides/SERVICE/{address}, and delete this key"));
                }
                Ok(Self::Override(name(service)?, address))
            }
            _ => Err("no key of this layout, which has services/NAME and backends/SERVICE/ID; \
                      delete it or choose another prefix"
                .to_owned()),
        }
    }
}
