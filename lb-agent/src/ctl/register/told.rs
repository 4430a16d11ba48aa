//! What a registrar says: a line when the backend is registered, one when it no longer is, one when
//! it is again. Decides what has been said already.

use super::super::say;
use super::check::Verdict;
use crate::etcd::KeeperState;

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
    pub(super) fn state(&mut self, state: &KeeperState, key: &str) {
        let line = self.state_line(state, key);
        line.iter().for_each(|line| say(line));
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

    fn state_line(&mut self, state: &KeeperState, key: &str) -> Option<String> {
        let KeeperState { registered, lease, error } = state;
        if *registered {
            if self.registered {
                return None;
            }
            let lease = lease.map(|lease| format!(", lease {lease:x}")).unwrap_or_default();
            let again = if self.ever { " again" } else { "" };
            *self = Self { registered: true, ever: true, reason: None };
            return Some(format!("registered{again}: {key}{lease}"));
        }
        let error = error.as_ref()?;
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

    #[test]
    fn each_thing_is_said_once() {
        let mut told = Told::default();
        let away =
            || KeeperState { registered: false, lease: None, error: Some("away".to_owned()) };
        let kept = |lease| KeeperState { registered: true, lease: Some(lease), error: None };
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
        ] {
            assert_eq!(told.state_line(&state, "k").as_deref(), line, "{state:?}");
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
        assert_eq!(told.state_line(&kept(1), "k").as_deref(), Some("registered again: k, lease 1"));
    }
}
