//! What `/healthz`, `/livez` and healthCheckNodePorts answer.
//!
//! Pure.

use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// How things stand.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Now.
    pub now: SystemTime,
    /// How long ago the oldest update that is not in the tables yet was heard of.
    pub waits: Option<Duration>,
    /// How long an update may wait.
    pub patience: Duration,
    /// When an update last got into the tables.
    pub updated: Option<SystemTime>,
    /// Whether the Node is known and neither being deleted nor about to be.
    pub eligible: bool,
}

/// The body of `/healthz` and `/livez`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    #[serde(serialize_with = "rfc3339")]
    last_updated: Option<SystemTime>,
    #[serde(serialize_with = "rfc3339")]
    current_time: Option<SystemTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyHealth>,
}

/// The health of one address family. One loop serves both, so they agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    #[serde(serialize_with = "rfc3339")]
    last_updated: Option<SystemTime>,
    healthy: bool,
}

/// The body of a healthCheckNodePort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceHealth<'a> {
    service: ServiceName<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ServiceName<'a> {
    namespace: &'a str,
    name: &'a str,
}

// === impl Standing ===

impl Standing {
    /// Whether updates get into the tables in time.
    pub fn is_healthy(&self) -> bool {
        self.waits.is_none_or(|waits| waits < self.patience)
    }

    /// `/livez`: whether it is 200, and the body.
    pub fn livez(&self) -> (bool, Health) {
        let healthy = self.is_healthy();
        (healthy, self.body(healthy, None))
    }

    /// `/healthz`: the same; a node that is not eligible is not healthy.
    pub fn healthz(&self) -> (bool, Health) {
        let good = self.is_healthy() && self.eligible;
        (good, self.body(good, Some(self.eligible)))
    }

    fn body(&self, good: bool, node_eligible: Option<bool>) -> Health {
        let healthy = self.is_healthy();
        let family = FamilyHealth { last_updated: self.updated, healthy };
        let families = self.updated.map(|_| ["IPv4", "IPv6"].map(|name| (name, family.clone())));
        Health {
            // While all is well, whoever looks at its age is to find it recent.
            last_updated: if good { Some(self.now) } else { self.updated },
            current_time: Some(self.now),
            node_eligible,
            healthy,
            status: families.into_iter().flatten().collect(),
        }
    }
}

// === impl ServiceHealth ===

impl<'a> ServiceHealth<'a> {
    /// The body for a service with this many ready endpoints here.
    pub fn new(namespace: &'a str, name: &'a str, local: usize, proxy_healthy: bool) -> Self {
        let service = ServiceName { namespace, name };
        Self { service, local_endpoints: local, service_proxy_healthy: proxy_healthy }
    }

    /// Whether it is 200.
    pub fn is_good(&self) -> bool {
        self.local_endpoints > 0 && self.service_proxy_healthy
    }
}

/// As Go writes a time, also the one that never was.
fn rfc3339<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&humantime::format_rfc3339_nanos(*time)),
        None => serializer.serialize_str("0001-01-01T00:00:00Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, to_value};

    fn standing(waits: Option<u64>, eligible: bool) -> Standing {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        Standing {
            now,
            waits: waits.map(Duration::from_secs),
            patience: Duration::from_secs(60),
            updated: Some(SystemTime::UNIX_EPOCH),
            eligible,
        }
    }

    #[test]
    fn who_is_healthy() {
        for (waits, eligible, healthz, livez) in [
            (None, true, true, true),
            (None, false, false, true),
            (Some(0), true, true, true),
            (Some(59), true, true, true),
            (Some(60), true, false, false),
            (Some(60), false, false, false),
        ] {
            let standing = standing(waits, eligible);
            assert_eq!(standing.healthz().0, healthz, "{waits:?} {eligible}");
            assert_eq!(standing.livez().0, livez, "{waits:?} {eligible}");
        }
    }

    #[test]
    fn bodies() {
        let (now, then) = ("1970-01-01T00:16:40.000000000Z", "1970-01-01T00:00:00.000000000Z");
        let status = |healthy| {
            let family = json!({"lastUpdated": then, "healthy": healthy});
            json!({"IPv4": family, "IPv6": family})
        };
        let body = |(_, health): (bool, Health)| to_value(health).unwrap();
        assert_eq!(
            body(standing(None, true).healthz()),
            json!({"lastUpdated": now, "currentTime": now, "nodeEligible": true, "healthy": true, "status": status(true)})
        );
        assert_eq!(
            body(standing(None, false).healthz()),
            json!({"lastUpdated": then, "currentTime": now, "nodeEligible": false, "healthy": true, "status": status(true)})
        );
        assert_eq!(
            body(standing(Some(61), true).livez()),
            json!({"lastUpdated": then, "currentTime": now, "healthy": false, "status": status(false)})
        );
        let starting = Standing { updated: None, ..standing(Some(61), true) };
        assert_eq!(
            body(starting.livez()),
            json!({"lastUpdated": "0001-01-01T00:00:00Z", "currentTime": now, "healthy": false})
        );
    }

    #[test]
    fn a_services_health() {
        for (local, proxy, good) in
            [(1, true, true), (0, true, false), (1, false, false), (3, true, true)]
        {
            let health = ServiceHealth::new("ns", "svc", local, proxy);
            assert_eq!(health.is_good(), good);
            assert_eq!(
                serde_json::to_string(&health).unwrap(),
                format!(
                    r#"{{"service":{{"namespace":"ns","name":"svc"}},"localEndpoints":{local},"serviceProxyHealthy":{proxy}}}"#
                )
            );
        }
    }
}
