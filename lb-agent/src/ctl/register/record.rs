//! What a registration says: the value of its key in the native layout, and what can be told of
//! another's. Pure but for the name of this host and process.

use crate::model::AdminState;
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// The value of a backend's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::ctl) struct Record {
    address: SocketAddr,
    weight: u16,
    state: AdminState,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<Arc<str>>,
    registered_by: String,
}

/// What of a value names the backend, as far as it can be read: others may have written it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(in crate::ctl) struct Traces {
    address: Option<String>,
    host: Option<String>,
    #[serde(default)]
    port: serde_json::Value,
    /// Who registered it: `host/pid`.
    pub(in crate::ctl) registered_by: Option<String>,
}

// === impl Record ===

impl Record {
    /// A backend that is ready, registered by us.
    pub(super) fn new(address: SocketAddr, weight: u16, zone: Option<Arc<str>>) -> Self {
        let host = uname().ok().map(|names| names.nodename().to_string_lossy().into_owned());
        let host = host.unwrap_or_else(|| "unknown".to_owned());
        let registered_by = format!("{host}/{}", std::process::id());
        Self { address, weight, state: AdminState::Ready, zone, registered_by }
    }

    /// Where the backend listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value, with this to say.
    pub(super) fn value(&self, state: AdminState) -> Vec<u8> {
        // Plain data always has a JSON form.
        serde_json::to_vec(&Self { state, ..self.clone() }).unwrap_or_default()
    }
}

// === impl Traces ===

impl Traces {
    /// Reads a value; nothing is found in one that is not ours to read.
    pub(in crate::ctl) fn of(value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or_default()
    }

    /// Where the backend listens.
    pub(in crate::ctl) fn address(&self) -> Option<SocketAddr> {
        if let Some(address) = &self.address {
            return address.parse().ok().map(canonical);
        }
        let ip = self.host.as_ref()?.parse().ok()?;
        let port = match &self.port {
            serde_json::Value::String(text) => text.parse().ok()?,
            number => u16::try_from(number.as_u64()?).ok()?,
        };
        Some(canonical(SocketAddr::new(ip, port)))
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_who_wrote_it() {
        let record = Record::new("10.0.0.5:8080".parse().unwrap(), 3, Some("a".into()));
        let value: serde_json::Value =
            serde_json::from_slice(&record.value(AdminState::Drain)).unwrap();
        let by = value["registered_by"].as_str().unwrap();
        assert!(by.ends_with(&format!("/{}", std::process::id())), "{by}");
        assert_eq!(
            value,
            serde_json::json!({
                "address": "10.0.0.5:8080", "weight": 3, "state": "drain", "zone": "a",
                "registered_by": by
            })
        );
        let traces = Traces::of(&record.value(AdminState::Ready));
        assert_eq!(traces.address(), Some(record.address()));
        assert_eq!(traces.registered_by.as_deref(), Some(by));
    }

    #[test]
    fn values_of_others_are_read_as_far_as_can_be() {
        for (value, address) in [
            (r#"{"address":"[::ffff:10.0.0.5]:80"}"#, Some("10.0.0.5:80")),
            (r#"{"host":"10.0.0.5","port":80}"#, Some("10.0.0.5:80")),
            (r#"{"host":"fd00::1","port":"80"}"#, Some("[fd00::1]:80")),
            (r#"{"host":"10.0.0.5"}"#, None),
            (r#"{"host":"10.0.0.5","port":99999}"#, None),
            (r#"{"address":"web:80"}"#, None),
            (r#"{"address":7}"#, None),
            ("10.0.0.5:80", None),
        ] {
            let found = Traces::of(value.as_bytes()).address();
            assert_eq!(found.map(|a| a.to_string()).as_deref(), address, "{value}");
        }
    }
}
