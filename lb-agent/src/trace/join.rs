//! From records of the kernel side to lines: names for ids, and for each outcome the decision that
//! it belongs to. Pure.

use super::line::{Became, Decided, Line, Outcome, Verdict};
use crate::model::{Frontend, Protocol};
use lb_common::rows::{Address, Event, OutcomeEvent};
use lb_common::{no_backend, outcome, protocol};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Connects that are remembered while they are open; of those beyond, the oldest are forgotten, and
/// what becomes of them is not told.
const REMEMBERED: usize = 65_536;
/// Bytes of the texts that go with them: most are shared, and counted all the same.
const TEXTS: usize = 32 << 20;

/// What turns records into lines.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    open: HashMap<u64, Open>,
    /// Cookies by age, and when each was decided; some of them are closed by now.
    order: VecDeque<(u64, u64)>,
    /// Bytes of the texts of those that are open.
    texts: usize,
}

/// A connect that is not over.
#[derive(Debug)]
struct Open {
    decided: Arc<Decided>,
    /// Monotonic clock, nanoseconds.
    at: u64,
    established: Option<u64>,
}

/// What the records leave to look up.
pub(super) struct Known<'a> {
    /// The wall clock when the monotonic one began.
    pub(super) epoch: SystemTime,
    /// A service's name by its id.
    pub(super) service: &'a mut dyn FnMut(u32) -> Arc<str>,
    /// A cgroup's path by its id, and a process that is in it.
    pub(super) cgroup: &'a mut dyn FnMut(u64, u32) -> Option<Arc<str>>,
}

// === impl Joiner ===

impl Joiner {
    /// The line of a decision; `None` of one that can't be read.
    pub(super) fn decision(&mut self, event: &Event, known: &mut Known<'_>) -> Option<Line> {
        let dialled = event.frontend.socket_addr();
        let protocol = Protocol::from_number(event.frontend.protocol)?;
        let pid = u32::try_from(event.pid_tgid >> 32).unwrap_or(u32::MAX);
        let verdict = match (event.translated, event.no_backend) {
            (1, _) => Verdict::Translated,
            (_, no_backend::UNREACHABLE) => Verdict::Unreachable,
            (_, no_backend::PASS) => Verdict::Pass,
            _ => Verdict::Refuse,
        };
        let backend = socket_addr(event.backend, event.backend_port);
        let decided = Arc::new(Decided {
            time: known.epoch + Duration::from_nanos(event.time_ns),
            pid,
            comm: text(&event.comm),
            uid: event.uid,
            cgroup: event.cgroup,
            cgroup_path: (known.cgroup)(event.cgroup, pid),
            cookie: event.cookie,
            service: (known.service)(event.service_id),
            frontend: Frontend::new(dialled.ip(), dialled.port(), protocol),
            backend: (verdict == Verdict::Translated).then_some(backend),
            verdict,
            took_ns: event.took_ns,
        });
        if event.frontend.protocol == protocol::TCP && verdict == Verdict::Translated {
            self.remember(event, Arc::clone(&decided));
        } else {
            // What the socket has dialled before is over.
            self.forget(event.cookie);
        }
        Some(Line::Decision(decided))
    }

    fn remember(&mut self, event: &Event, decided: Arc<Decided>) {
        let at = event.time_ns;
        self.forget(event.cookie);
        self.texts += texts(&decided);
        self.open.insert(event.cookie, Open { decided, at, established: None });
        self.order.push_back((event.cookie, at));
        while self.open.len() > REMEMBERED
            || self.order.len() > 2 * REMEMBERED
            || self.texts > TEXTS
        {
            let Some((cookie, at)) = self.order.pop_front() else { break };
            if self.open.get(&cookie).is_some_and(|open| open.at == at) {
                self.forget(cookie);
            }
        }
    }

    fn forget(&mut self, cookie: u64) {
        if let Some(open) = self.open.remove(&cookie) {
            self.texts -= texts(&open.decided);
        }
    }

    /// The line of an outcome; `None` if nothing is known of its decision, which may have been made
    /// before anybody traced.
    pub(super) fn outcome(&mut self, event: &OutcomeEvent, epoch: SystemTime) -> Option<Line> {
        let became = match event.kind {
            outcome::ESTABLISHED => Became::Established,
            outcome::REFUSED => Became::Refused,
            outcome::UNANSWERED => Became::Unanswered,
            outcome::TIMED_OUT => Became::Timedout,
            outcome::UNREACHABLE => Became::Unreachable,
            outcome::ABANDONED => Became::Abandoned,
            outcome::CLOSED => Became::Closed,
            _ => return None,
        };
        let open = self.open.get_mut(&event.cookie)?;
        let began = match became {
            Became::Closed => open.established.unwrap_or(open.at),
            _ => open.at,
        };
        if became == Became::Established {
            open.established = Some(event.time_ns);
        }
        let decided = Arc::clone(&open.decided);
        if !matches!(became, Became::Established | Became::Unanswered) {
            self.forget(event.cookie);
        }
        let closed = became == Became::Closed;
        Some(Line::Outcome(Outcome {
            decided,
            became,
            at: epoch + Duration::from_nanos(event.time_ns),
            after: Duration::from_nanos(event.time_ns.saturating_sub(began)),
            sent: closed.then_some(event.sent),
            received: closed.then_some(event.received),
        }))
    }
}

fn socket_addr(address: Address, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), u16::from_be(port))
}

/// Bytes of the texts of a decision.
fn texts(decided: &Decided) -> usize {
    let path = decided.cgroup_path.as_ref().map_or(0, |path| path.len());
    path + decided.service.len() + decided.comm.len()
}

/// A name as the kernel keeps it.
fn text(comm: &[u8]) -> String {
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::rows::FrontendKey;

    fn event(cookie: u64, time_ns: u64) -> Event {
        let backend: SocketAddr = "10.0.0.1:8080".parse().unwrap();
        Event {
            time_ns,
            cookie,
            pid_tgid: 42 << 32 | 43,
            frontend: FrontendKey::new("10.96.0.1".parse().unwrap(), 80, protocol::TCP),
            backend: backend.ip().into(),
            backend_port: backend.port().to_be(),
            translated: 1,
            service_id: 7,
            comm: *b"cu\xff\x1bl\0garbage...",
            ..Event::default()
        }
    }

    fn decide(joiner: &mut Joiner, event: &Event) -> Arc<Decided> {
        let mut known = Known {
            epoch: SystemTime::UNIX_EPOCH,
            service: &mut |id| format!("service-{id}").into(),
            cgroup: &mut |id, pid| Some(format!("/{id}/{pid}").into()),
        };
        match joiner.decision(event, &mut known) {
            Some(Line::Decision(decided)) => decided,
            other => panic!("{other:?}"),
        }
    }

    fn became(joiner: &mut Joiner, cookie: u64, kind: u32, time_ns: u64) -> Option<(Became, u64)> {
        let event = OutcomeEvent { time_ns, cookie, kind, sent: 3, ..OutcomeEvent::default() };
        match joiner.outcome(&event, SystemTime::UNIX_EPOCH)? {
            Line::Outcome(outcome) => {
                let closed = outcome.became == Became::Closed;
                assert_eq!(outcome.sent, closed.then_some(3));
                Some((outcome.became, u64::try_from(outcome.after.as_nanos()).unwrap()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_decision_is_named() {
        let mut joiner = Joiner::default();
        let decided = decide(&mut joiner, &event(1, 1_000));
        assert_eq!((decided.pid, decided.comm.as_str()), (42, "cu\u{fffd}\u{1b}l"));
        assert_eq!(decided.cgroup_path.as_deref(), Some("/0/42"));
        assert_eq!(&*decided.service, "service-7");
        assert_eq!(decided.backend, Some("10.0.0.1:8080".parse().unwrap()));
        for (no_backend, verdict) in [
            (no_backend::REFUSE, Verdict::Refuse),
            (no_backend::UNREACHABLE, Verdict::Unreachable),
            (no_backend::PASS, Verdict::Pass),
        ] {
            let event = Event { translated: 0, no_backend, ..event(1, 1) };
            let decided = decide(&mut joiner, &event);
            assert_eq!((decided.verdict, decided.backend), (verdict, None));
        }
    }

    #[test]
    fn an_outcome_is_its_decisions() {
        let mut joiner = Joiner::default();
        assert_eq!(became(&mut joiner, 1, outcome::ESTABLISHED, 5), None, "before the trace");
        decide(&mut joiner, &event(1, 100));
        decide(&mut joiner, &event(2, 110));
        let unanswered = became(&mut joiner, 2, outcome::UNANSWERED, 210);
        assert_eq!(unanswered, Some((Became::Unanswered, 100)));
        let established = became(&mut joiner, 1, outcome::ESTABLISHED, 150);
        assert_eq!(established, Some((Became::Established, 50)));
        assert_eq!(became(&mut joiner, 1, outcome::CLOSED, 450), Some((Became::Closed, 300)));
        assert_eq!(became(&mut joiner, 1, outcome::CLOSED, 460), None, "it is over");
        assert_eq!(became(&mut joiner, 2, outcome::TIMED_OUT, 310), Some((Became::Timedout, 200)));
        // A socket that tries again.
        decide(&mut joiner, &event(3, 500));
        assert_eq!(became(&mut joiner, 3, outcome::REFUSED, 501), Some((Became::Refused, 1)));
        decide(&mut joiner, &event(3, 600));
        assert_eq!(became(&mut joiner, 3, outcome::ABANDONED, 603), Some((Became::Abandoned, 3)));
        decide(&mut joiner, &event(3, 700));
        let unreachable = became(&mut joiner, 3, outcome::UNREACHABLE, 704);
        assert_eq!(unreachable, Some((Became::Unreachable, 4)));
        assert_eq!(became(&mut joiner, 3, 99, 800), None);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut joiner = Joiner::default();
        let most = REMEMBERED as u64;
        // The first dials again, so it is no longer the oldest.
        decide(&mut joiner, &event(1, 1));
        for cookie in 2..=most {
            decide(&mut joiner, &event(cookie, cookie));
        }
        decide(&mut joiner, &event(1, most + 1));
        decide(&mut joiner, &event(most + 1, most + 2));
        assert_eq!(joiner.open.len(), REMEMBERED);
        assert!(joiner.open.contains_key(&1) && !joiner.open.contains_key(&2));
        for time in 0..3 * most {
            decide(&mut joiner, &event(1, 10 * most + time));
        }
        assert!(joiner.order.len() <= 2 * REMEMBERED && joiner.open.contains_key(&1));
        // What each has to say is counted as long as it is open.
        let counted: usize = joiner.open.values().map(|open| texts(&open.decided)).sum();
        assert_eq!(joiner.texts, counted);
    }

    #[test]
    fn long_paths_take_bounded_room() {
        let mut joiner = Joiner::default();
        let path: Arc<str> = "x".repeat(4000).into();
        for cookie in 0..20_000 {
            let mut known = Known {
                epoch: SystemTime::UNIX_EPOCH,
                service: &mut |_| "web".into(),
                cgroup: &mut |_, _| Some(Arc::clone(&path)),
            };
            joiner.decision(&event(cookie, cookie), &mut known);
            assert!(joiner.texts <= TEXTS);
        }
        assert!(joiner.open.len() >= TEXTS / 4100 && joiner.open.contains_key(&19_999));
    }
}
