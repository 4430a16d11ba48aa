//! The services as they stand in the store: what `service ls` shows. What is there is shown even if
//! an agent would refuse it. Pure.

use super::super::store::Store;
use crate::etcd::KeyValue;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A service in the store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::ctl) struct Stored {
    /// Its name.
    pub(in crate::ctl) name: String,
    /// What clients dial, as far as it is known: `auto` has no address before an agent gives one.
    pub(in crate::ctl) frontends: Vec<String>,
    /// Backends in its own value.
    pub(in crate::ctl) backends: usize,
    /// Backends in keys of their own.
    pub(in crate::ctl) registered: usize,
    /// The revision of its last change.
    pub(in crate::ctl) revision: i64,
    /// Its value.
    pub(in crate::ctl) spec: Value,
    /// Why it can't be shown, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::ctl) problem: Option<String>,
}

/// The services of these keys, by name.
pub(super) fn read(
    store: &Store,
    services: &[KeyValue],
    backends: &[KeyValue],
    allocations: &[KeyValue],
) -> Vec<Stored> {
    let within = |key: &KeyValue, prefix: &str| key.key.strip_prefix(prefix).map(str::to_owned);
    let mut registered: BTreeMap<String, usize> = BTreeMap::new();
    for key in backends {
        let path = within(key, &store.backends()).unwrap_or_default();
        // The id is the last segment.
        if let Some((service, _)) = path.rsplit_once('/') {
            *registered.entry(service.to_owned()).or_default() += 1;
        }
    }
    let allocated: BTreeMap<String, Value> = allocations
        .iter()
        .filter_map(|key| {
            let value = serde_json::from_slice(&key.value).unwrap_or_default();
            Some((within(key, &store.allocations())?, value))
        })
        .collect();
    let one = |key: &KeyValue| {
        let name = within(key, &store.services())?;
        let (spec, problem) = match serde_json::from_slice::<Value>(&key.value) {
            Ok(spec @ Value::Object(_)) => (spec, None),
            Ok(_) => (Value::Null, Some("the value is no object".to_owned())),
            Err(error) => (Value::Null, Some(format!("the value is not JSON ({error})"))),
        };
        let remedy = |problem| format!("{problem}; apply the service anew or delete it");
        Some(Stored {
            frontends: frontends(&spec, allocated.get(&name).unwrap_or(&Value::Null)),
            backends: spec["backends"].as_array().map_or(0, Vec::len),
            registered: registered.get(&name).copied().unwrap_or_default(),
            revision: key.modified,
            problem: problem.map(remedy),
            name,
            spec,
        })
    };
    services.iter().filter_map(one).collect()
}

fn frontends(spec: &Value, allocated: &Value) -> Vec<String> {
    let written = list(&spec["frontends"]).into_iter().map(|frontend| match frontend {
        Value::Object(fields) => {
            let part = |key| fields.get(key).map(text).unwrap_or_default();
            let protocol = Some(part("protocol")).filter(|p| !p.is_empty());
            format!("{}/{}", part("address"), protocol.as_deref().unwrap_or("tcp"))
        }
        plain => with_protocol(&text(plain)),
    });
    let ports: Vec<String> = list(&spec["ports"]).into_iter().map(text).collect();
    let given = list(&spec["vip"]).into_iter().flat_map(|vip| {
        let vip = text(vip);
        let of = |family: &str| allocated[family].as_str().map(str::to_owned);
        let address = match vip.as_str() {
            "auto" => of("v4").or_else(|| of("v6")),
            "auto4" => of("v4"),
            "auto6" => of("v6"),
            _ => None,
        };
        let address = address.unwrap_or(vip);
        let v6 = address.contains(':');
        let host = if v6 { format!("[{address}]") } else { address };
        ports.iter().map(move |port| with_protocol(&format!("{host}:{port}"))).collect::<Vec<_>>()
    });
    written.chain(given).collect()
}

/// A value by itself is a list of one.
fn list(value: &Value) -> Vec<&Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().collect(),
        one => vec![one],
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn with_protocol(frontend: &str) -> String {
    if frontend.contains('/') { frontend.to_owned() } else { format!("{frontend}/tcp") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn key(key: &str, value: &str) -> KeyValue {
        let value = value.as_bytes().to_vec();
        KeyValue { key: key.to_owned(), value, created: 1, modified: 7, lease: None }
    }

    #[test]
    fn frontends_are_shown_as_they_are_dialled() {
        let allocated = json!({"v4": "10.96.128.7", "v6": "fd00::7"});
        for (spec, allocated, expected) in [
            (
                json!({"frontends": ["10.96.0.1:80", "10.96.0.1:53/udp"]}),
                &Value::Null,
                &["10.96.0.1:80/tcp", "10.96.0.1:53/udp"] as &[_],
            ),
            (
                json!({"frontends": [{"address": "[fd00::1]:53", "protocol": "udp"}, {"address": "10.0.0.1:1"}]}),
                &Value::Null,
                &["[fd00::1]:53/udp", "10.0.0.1:1/tcp"],
            ),
            (
                json!({"vip": "auto", "ports": ["80", "53/udp"]}),
                &Value::Null,
                &["auto:80/tcp", "auto:53/udp"],
            ),
            (json!({"vip": "auto", "ports": [80]}), &allocated, &["10.96.128.7:80/tcp"]),
            (
                json!({"vip": ["auto4", "auto6"], "ports": ["80"]}),
                &allocated,
                &["10.96.128.7:80/tcp", "[fd00::7]:80/tcp"],
            ),
            (json!({"vip": "10.96.0.9", "ports": "80"}), &allocated, &["10.96.0.9:80/tcp"]),
            (json!({"vip": "auto"}), &allocated, &[]),
            (json!({}), &allocated, &[]),
        ] {
            assert_eq!(frontends(&spec, allocated), expected, "{spec}");
        }
    }

    #[test]
    fn a_listing_counts_backends_and_tells_of_what_it_cannot_read() {
        let settings = crate::etcd::Settings {
            endpoints: Vec::new(),
            tls: crate::etcd::Tls::default(),
            user: None,
        };
        let store =
            Store { settings: Arc::new(settings), prefix: "/lb/".to_owned(), vip_ranges: None };
        let services = [
            key(
                "/lb/services/team/web",
                r#"{"vip":"auto","ports":["80"],"backends":["10.0.0.1:1"]}"#,
            ),
            key("/lb/services/web", "{"),
            key("/lb/services/x", "[]"),
        ];
        let backends = [
            key("/lb/backends/team/web/a", "{}"),
            key("/lb/backends/team/web/b", "{}"),
            key("/lb/backends/web/a", "{}"),
            key("/lb/backends/odd", "{}"),
        ];
        let allocations = [key("/lb/allocations/team/web", r#"{"v4":"10.96.128.7","v6":null}"#)];
        let stored = read(&store, &services, &backends, &allocations);
        let seen: Vec<_> = stored
            .iter()
            .map(|s| (s.name.as_str(), s.backends, s.registered, s.problem.is_some()))
            .collect();
        assert_eq!(seen, [("team/web", 1, 2, false), ("web", 0, 1, true), ("x", 0, 0, true)]);
        assert_eq!(stored[0].frontends, ["10.96.128.7:80/tcp"]);
        let problem = stored[1].problem.as_ref().unwrap();
        assert!(problem.contains("apply the service anew or delete it"), "{problem}");
    }
}
