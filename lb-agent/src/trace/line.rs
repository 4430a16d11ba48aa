//! A line of the trace: what it says, and who wants to read it. Pure.

use crate::model::{Frontend, ServiceName};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A line of `/v1/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Line {
    /// A frontend was dialled.
    Decision(Arc<Decided>),
    /// Something became of a TCP connect that a line before told of.
    Outcome(Outcome),
    /// Lines that there are not.
    Missed(Missed),
}

/// What was decided, for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// When.
    #[serde(with = "humantime_serde")]
    pub time: SystemTime,
    /// The process.
    pub pid: u32,
    /// What its thread is called.
    pub comm: String,
    /// Its effective user.
    pub uid: u32,
    /// The id of its cgroup.
    pub cgroup: u64,
    /// The cgroup's path in the hierarchy, where it still has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<Arc<str>>,
    /// The socket's cookie, by which the lines of a connect can be told.
    pub cookie: u64,
    /// The service.
    pub service: Arc<str>,
    /// What was dialled.
    pub frontend: Frontend,
    /// Where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<SocketAddr>,
    /// What the caller got.
    pub verdict: Verdict,
    /// Nanoseconds from the frontend that was found to what was remembered of the choice.
    pub took_ns: u32,
}

/// What the caller got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// A backend.
    Translated,
    /// There was none: ECONNREFUSED.
    Refuse,
    /// There was none: EHOSTUNREACH.
    Unreachable,
    /// There was none: the address was left as it was.
    Pass,
}

/// What became of a connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The decision; `time` is when that was.
    #[serde(flatten)]
    pub decided: Arc<Decided>,
    /// What.
    pub became: Became,
    /// When.
    #[serde(with = "humantime_serde")]
    pub at: SystemTime,
    /// How long after the decision that was; for `closed`, after the connection was established.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    /// Bytes that the backend has acknowledged, of a connection that is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// Bytes that came from the backend, of a connection that is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
}

/// What became of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Became {
    /// There is a connection.
    Established,
    /// The backend's host answered with a reset.
    Refused,
    /// The first packet was not answered; the kernel goes on trying.
    Unanswered,
    /// The kernel gave up: no answer in all its time.
    Timedout,
    /// A router said that there is no way, or this host knew of none.
    Unreachable,
    /// The application gave up.
    Abandoned,
    /// The connection is over.
    Closed,
}

/// Lines that there are not, since the reader began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// Events of all services that did not fit into the kernel's ring.
    pub lost: u64,
    /// Lines that this reader was too slow for.
    pub dropped: u64,
    /// For how long the kernel recorded nothing, because the agent did not get round to asking for
    /// it. How many events that were, nobody knows.
    #[serde(default, with = "humantime_serde")]
    pub lapsed: Duration,
}

/// Which decisions somebody wants to read of; all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// That led to this backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Target>,
    /// Of this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Of processes in this cgroup, or below it: its path in the hierarchy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// That came to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// A backend's address, with or without its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any port.
    Ip(IpAddr),
    /// One port.
    Socket(SocketAddr),
}

// === impl Filter ===

impl Filter {
    /// Whether a decision is wanted, and what became of it.
    pub fn wants(&self, decided: &Decided) -> bool {
        let Self { service, backend, pid, uid, cgroup, verdict } = self;
        let below = |wanted: &String| {
            let wanted = wanted.trim_matches('/');
            let path = decided.cgroup_path.as_deref().map(|path| path.trim_matches('/'));
            let rest = path.and_then(|path| path.strip_prefix(wanted));
            rest.is_some_and(|rest| wanted.is_empty() || rest.is_empty() || rest.starts_with('/'))
        };
        service.as_ref().is_none_or(|name| name.as_str() == &*decided.service)
            && backend.is_none_or(|target| decided.backend.is_some_and(|b| target.is(b)))
            && pid.is_none_or(|pid| pid == decided.pid)
            && uid.is_none_or(|uid| uid == decided.uid)
            && cgroup.as_ref().is_none_or(below)
            && verdict.is_none_or(|verdict| verdict == decided.verdict)
    }
}

// === impl Target ===

impl Target {
    fn is(self, backend: SocketAddr) -> bool {
        match self {
            Self::Ip(ip) => ip == backend.ip(),
            Self::Socket(address) => address == backend,
        }
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip.to_canonical()));
        }
        crate::model::parse_socket_addr(text).map(Self::Socket).map_err(|error| error.to_string())
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Socket(address) => address.fmt(f),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::trace) fn decided() -> Decided {
        Decided {
            time: SystemTime::UNIX_EPOCH,
            pid: 42,
            comm: "curl".to_owned(),
            uid: 1000,
            cgroup: 77,
            cgroup_path: Some("/user.slice/a".into()),
            cookie: 5,
            service: "web".into(),
            frontend: "10.96.0.1:80".parse().unwrap(),
            backend: Some("10.0.0.1:8080".parse().unwrap()),
            verdict: Verdict::Translated,
            took_ns: 300,
        }
    }

    #[test]
    fn what_is_wanted() {
        let none = Filter::default;
        let with = |service: &str| Filter { service: Some(service.parse().unwrap()), ..none() };
        let to = |text: &str| Filter { backend: Some(text.parse().unwrap()), ..none() };
        let under = |text: &str| Filter { cgroup: Some(text.to_owned()), ..none() };
        for (filter, wanted) in [
            (none(), true),
            (with("web"), true),
            (with("we"), false),
            (to("10.0.0.1:8080"), true),
            (to("10.0.0.1"), true),
            (to("::ffff:10.0.0.1"), true),
            (to("10.0.0.1:8081"), false),
            (to("10.0.0.2"), false),
            (Filter { pid: Some(42), ..none() }, true),
            (Filter { pid: Some(4), ..none() }, false),
            (Filter { uid: Some(1000), ..none() }, true),
            (Filter { uid: Some(0), ..none() }, false),
            (under("/user.slice"), true),
            (under("user.slice/a/"), true),
            (under("/"), true),
            (under("/user"), false),
            (under("/user.slice/a/b"), false),
            (Filter { verdict: Some(Verdict::Translated), ..none() }, true),
            (Filter { verdict: Some(Verdict::Pass), ..none() }, false),
            (Filter { pid: Some(42), uid: Some(0), ..none() }, false),
        ] {
            assert_eq!(filter.wants(&decided()), wanted, "{filter:?}");
        }
        let nowhere = Decided { backend: None, cgroup_path: None, ..decided() };
        assert!(!to("10.0.0.1").wants(&nowhere) && !under("/user.slice").wants(&nowhere));
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        let lines = [
            Line::Decision(Arc::new(decided())),
            Line::Outcome(Outcome {
                decided: Arc::new(Decided { comm: "a\nb\u{1b}".to_owned(), ..decided() }),
                became: Became::Closed,
                at: SystemTime::UNIX_EPOCH + Duration::from_nanos(7),
                after: Duration::from_millis(1500),
                sent: Some(u64::MAX),
                received: Some(0),
            }),
            Line::Missed(Missed { lost: 1, dropped: 2, lapsed: Duration::from_micros(3) }),
        ];
        for line in lines {
            let text = serde_json::to_string(&line).unwrap();
            assert!(!text.contains(char::is_control), "{text}");
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
        }
    }
}
