//! `/metrics/slis`: what checks of the agent came to, as all components of Kubernetes tell it.

use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;

/// A check has a name and a type, which is the path that asks for it.
type Label<const N: usize> = [(&'static str, &'static str); N];

/// What checks came to, since the start. Who asks is somebody else: a check that nobody has asked for
/// is absent.
pub(super) struct Checks {
    registry: Registry,
    last: Family<Label<2>, Gauge>,
    total: Family<Label<3>, Counter>,
}

// === impl Checks ===

impl Default for Checks {
    fn default() -> Self {
        let (last, total) = (Family::default(), Family::default());
        let mut registry = Registry::default();
        let help = "Whether the check was good when it was last asked for: 1 or 0";
        registry.register("kubernetes_healthcheck", help, last.clone());
        let help = "How often the check was asked for, by what it came to";
        registry.register("kubernetes_healthchecks", help, total.clone());
        Self { registry, last, total }
    }
}

impl Checks {
    /// Somebody asked.
    pub(super) fn note(&self, name: &'static str, kind: &'static str, good: bool) {
        let (name, kind) = (("name", name), ("type", kind));
        self.last.get_or_create(&[name, kind]).set(i64::from(good));
        let status = ("status", if good { "success" } else { "error" });
        self.total.get_or_create(&[name, kind, status]).inc();
    }

    /// The text, as Prometheus scrapes it.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
