//! What follows from the health of a service's backends.

use super::check::Check;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How the health of a service's backends is told, and what follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthPolicy {
    /// What is tried on each backend; the worst result counts.
    #[serde(default)]
    pub checks: Vec<Arc<Check>>,
    /// When real connects that fail take a backend out.
    #[serde(default)]
    pub ejection: EjectionPolicy,
    /// Which backends serve, given what is known of them.
    #[serde(default)]
    pub rule: Rule,
    /// Over how long the share of a backend that came back grows; zero: at once.
    #[serde(default, with = "humantime_serde")]
    pub slow_start: Duration,
    /// What becomes of TCP connections to a backend that is removed or disabled.
    #[serde(default)]
    pub on_removal: OnRemoval,
}

/// When and for how long a service's backends are ejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EjectionPolicy {
    /// Connects in a row that must fail; 0: nothing is ejected.
    pub failures: u32,
    /// For how long, the first time; each further time twice as long.
    #[serde(with = "humantime_serde")]
    pub time: Duration,
    /// For how long at most.
    #[serde(with = "humantime_serde")]
    pub max_time: Duration,
    /// How much of the service may be ejected at once, in percent; one backend always may.
    pub max_ejected: u8,
}

/// Which backends of a service serve, given what is known of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Fail open when less than this part of the ready backends is healthy, in percent. Without any
    /// healthy one it always does.
    pub panic_threshold: u8,
    /// Prefer the own zone while at least this part of it is healthy, in percent; below, the rest
    /// spills over in proportion. `None`: zones don't matter.
    pub min_zone_healthy: Option<u8>,
}

/// What becomes of TCP connections to a backend that is removed or disabled. Connected UDP sockets
/// are always ended: they would talk to nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRemoval {
    /// They live on.
    #[default]
    Drain,
    /// They are ended.
    Reset,
}

// === impl HealthPolicy ===

impl HealthPolicy {
    /// Whether nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

// === impl EjectionPolicy ===

impl Default for EjectionPolicy {
    fn default() -> Self {
        Self {
            failures: 5,
            time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_ejected: 50,
        }
    }
}

impl EjectionPolicy {
    /// How many of `backends` may be out at once.
    pub fn allowed(&self, backends: usize) -> usize {
        (backends * usize::from(self.max_ejected) / 100).max(1)
    }
}
