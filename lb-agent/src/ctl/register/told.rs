//! What a registrar says: a line when the backend is registered, one when it no longer is, one when
//! it is again. Decides what has been said already.

use super::super::say;
use super::check::Verdict;
use super::claim;
use crate::etcd::KeeperState;
use std::net::SocketAddr;

/// What has been said last, so that nothing is said twice.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// That it is registered.
    registered: bool,
    /// The same, ever.
    ever: bool,
    /// Why it is not.
    reason: Option<String>,
}

// === impl Told ===

impl Told {
    /// The checks have come to something; `kept`: the key is in the store so far.
    pub(super) fn verdict(&mut self, verdict: &Verdict, kept: bool) {
        let line = self.verdict_line(verdict, kept);
        line.iter().for_each(|line| say(line));
    }

    /// The keeper of the key has come to something.
    pub(super) fn state(&mut self, state: &KeeperState, key: &str, ours: SocketAddr) {
        let line = self.state_line(state, key, ours);
        line.iter().for_each(|line| say(line));
    }

    /// Whether it was ever said that it is registered.
    pub(super) fn ever(&self) -> bool {
        self.ever
    }

    /// The key is taken out of the store on purpose.
    pub(super) fn given_up(&mut self) {
        self.registered = false;
    }

    fn verdict_line(&mut self, verdict: &Verdict, kept: bool) -> Option<String> {
        let Verdict { passing, reason } = verdict;
        let news = if kept { "withdrawn" } else { "not registered" };
        // A failure that does not count yet is nobody's business.
        self.news(news, reason.as_ref().filter(|_| !passing)?)
    }

    fn state_line(&mut self, state: &KeeperState, key: &str, ours: SocketAddr) -> Option<String> {
        let KeeperState { registered, lease, taken, error } = state;
        if *registered {
            if self.registered {
                return None;
            }
            let lease = lease.map(|lease| format!(", lease {lease:x}")).unwrap_or_default();
            let again = if self.ever { " again" } else { "" };
            *self = Self { registered: true, ever: true, reason: None };
            return Some(format!("registered{again}: {key}{lease}"));
        }
        let error = match taken {
            Some(found) => &claim::lost(found, ours),
            None => error.as_ref()?,
        };
        let news = if self.registered { "registration lost" } else { "not registered" };
        self.registered = false;
        self.news(news, error)
    }

    /// A reason once, however long it lasts.
    fn news(&mut self, news: &str, reason: &str) -> Option<String> {
        let new = self.reason.as_deref() != Some(reason);
        self.reason = Some(reason.to_owned());
        new.then(|| format!("{news}: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::KeyValue;

    #[test]
    fn each_thing_is_said_once() {
        let mut told = Told::default();
        let away = || KeeperState { error: Some("away".to_owned()), ..KeeperState::default() };
        let kept =
            |lease| KeeperState { registered: true, lease: Some(lease), ..KeeperState::default() };
        let ours: SocketAddr = "10.0.0.5:80".parse().unwrap();
        let taken = |value: &str| {
            let (key, value) = ("k".to_owned(), value.as_bytes().to_vec());
            let taken = KeyValue { key, value, created: 1, modified: 2, lease: Some(3) };
            KeeperState { taken: Some(taken), ..away() }
        };
        let restarted = r#"{"address":"10.0.0.5:80","registered_by":"host/7"}"#;
        let other = r#"{"address":"10.0.0.6:80","registered_by":"host/7"}"#;
        // An outage that the lease outlives is no news.
        let late = KeeperState { error: Some("away".to_owned()), ..kept(0x2a) };
        for (state, line) in [
            (KeeperState::default(), None),
            (away(), Some("not registered: away")),
            (away(), None),
            (kept(0x2a), Some("registered: k, lease 2a")),
            (late, None),
            (kept(0x2a), None),
            (away(), Some("registration lost: away")),
            (away(), None),
            (kept(0x2b), Some("registered again: k, lease 2b")),
            (
                taken(restarted),
                Some(
                    "registration lost: k was taken over by 10.0.0.5:80, registered by host/7; it \
                     is left to that registrar, and put again when it is free",
                ),
            ),
            (taken(restarted), None),
            (kept(0x2c), Some("registered again: k, lease 2c")),
            (
                taken(other),
                Some(
                    "registration lost: k was taken over by 10.0.0.6:80, registered by host/7; it \
                     is put again when it is free; give one of the two another --id",
                ),
            ),
        ] {
            assert_eq!(told.state_line(&state, "k", ours).as_deref(), line, "{state:?}");
        }
        let verdict =
            |passing, reason: Option<&str>| Verdict { passing, reason: reason.map(str::to_owned) };
        for (verdict, kept, line) in [
            (verdict(true, None), true, None),
            (verdict(true, Some("busy")), true, None),
            (verdict(false, Some("busy")), true, Some("withdrawn: busy")),
            (verdict(false, Some("busy")), false, None),
            (verdict(false, Some("dead")), false, Some("not registered: dead")),
        ] {
            assert_eq!(told.verdict_line(&verdict, kept).as_deref(), line, "{verdict:?}");
        }
        told.given_up();
        assert_eq!(
            told.state_line(&kept(1), "k", ours).as_deref(),
            Some("registered again: k, lease 1")
        );
    }
}
