//! When a source was last heard to be up to date. Pure.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The time of a source's last sign of life, shared by whoever hears it and whoever shows it: it
/// changes every few seconds, for which nothing else is told anew.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Of each part of the source, in milliseconds since 1970; 0: not yet.
    parts: Arc<[AtomicU64]>,
}

// === impl Heard ===

impl Heard {
    /// Of a source that is heard in so many parts: it is as old as the oldest of them.
    pub fn of(parts: usize) -> Self {
        Self { parts: (0..parts).map(|_| AtomicU64::new(0)).collect() }
    }

    /// A part has said that nothing is missing.
    pub fn mark(&self, part: usize, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if let Some(part) = self.parts.get(part) {
            part.store(u64::try_from(since.as_millis()).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Up to when nothing is missing; `None` if a part has not been heard yet.
    pub fn at(&self) -> Option<SystemTime> {
        let oldest = self.parts.iter().map(|part| part.load(Ordering::Relaxed)).min()?;
        let since = (oldest != 0).then(|| Duration::from_millis(oldest))?;
        SystemTime::UNIX_EPOCH.checked_add(since)
    }
}

impl Default for Heard {
    fn default() -> Self {
        Self::of(1)
    }
}

/// A later time of the same source is no difference.
impl PartialEq for Heard {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.parts, &other.parts) || self.at() == other.at()
    }
}

impl Eq for Heard {}

impl Serialize for Heard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        humantime_serde::serialize(&self.at(), serializer)
    }
}

impl<'de> Deserialize<'de> for Heard {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let at: Option<SystemTime> = humantime_serde::deserialize(deserializer)?;
        let heard = Self::default();
        at.into_iter().for_each(|at| heard.mark(0, at));
        Ok(heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_old_as_the_oldest_part() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let heard = Heard::of(2);
        let shown = heard.clone();
        heard.mark(1, at(50));
        assert_eq!(shown.at(), None);
        heard.mark(0, at(40));
        heard.mark(2, at(1));
        assert_eq!(shown.at(), Some(at(40)));
        let text = serde_json::to_string(&shown).unwrap();
        assert_eq!(text, "\"1970-01-01T00:00:40Z\"");
        let read: Heard = serde_json::from_str(&text).unwrap();
        assert_eq!(read, shown);
        heard.mark(0, at(60));
        assert_eq!(shown.at(), Some(at(50)));
        assert_ne!(read, shown);
        assert_eq!(heard, shown);
        let none: Heard = serde_json::from_str("null").unwrap();
        assert_eq!(none.at(), None);
    }
}
