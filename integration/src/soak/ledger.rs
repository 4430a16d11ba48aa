//! What is right, when: a log for each frontend, which clients read without a lock. An outcome is
//! right from the moment it is asked for until the loop has said that it published without it.

use super::world::{ABSENT, LINES, REFUSED, family, service_of};
use super::{Outcome, Reached};
use std::array;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries that each log keeps.
const KEPT: u64 = 1 << 16;
/// Complaints that are kept in full.
const COMPLAINTS: usize = 20;

/// The logs, and what was found.
pub(super) struct Ledger {
    lines: [Line; LINES],
    counts: Counts,
    complaints: Mutex<Vec<String>>,
}

/// One frontend's log of sets of right outcomes.
struct Line {
    /// Entries written so far, less one.
    last: AtomicU64,
    entries: Box<[AtomicU64]>,
}

/// Counted by all clients.
#[derive(Default)]
struct Counts {
    connects: AtomicU64,
    /// By way and family.
    reached: [[AtomicU64; 2]; 3],
    wrong_service: AtomicU64,
    removed_backend: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    unjudged: AtomicU64,
}

/// How a client dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A TCP connection.
    Tcp,
    /// A connected UDP socket.
    Connected,
    /// A datagram of an unconnected UDP socket.
    Unconnected,
}

/// A connect that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    line: usize,
    entry: u64,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn new(outcomes: &[u64; LINES]) -> Self {
        let line = |line: usize| {
            let entries: Box<[AtomicU64]> = (0..KEPT).map(|_| AtomicU64::new(0)).collect();
            entries[0].store(outcomes[line], Ordering::SeqCst);
            Line { last: AtomicU64::new(0), entries }
        };
        let (counts, complaints) = (Counts::default(), Mutex::default());
        Self { lines: array::from_fn(line), counts, complaints }
    }

    /// These are asked for. To be called before they are.
    pub(super) fn widen(&self, outcomes: &[u64; LINES]) {
        for (line, more) in self.lines.iter().zip(outcomes) {
            line.push(line.now() | more);
        }
    }

    /// These have been published, and nothing else is in the tables; frontends that are not
    /// `installed` yet may be absent.
    pub(super) fn narrow(&self, outcomes: &[u64; LINES], installed: impl Fn(usize) -> bool) {
        for (number, (line, outcomes)) in self.lines.iter().zip(outcomes).enumerate() {
            let late = if *outcomes == ABSENT || installed(number) { 0 } else { ABSENT };
            line.push(outcomes | late);
        }
    }

    /// A connect to a frontend begins.
    pub(super) fn begin(&self, line: usize) -> Begun {
        Begun { line, entry: self.lines[line].last.load(Ordering::SeqCst) }
    }

    /// It has ended at a backend, or without one.
    pub(super) fn end(&self, begun: Begun, way: Way, found: Result<u32, String>) {
        let Counts { connects, reached, refused, .. } = &self.counts;
        add(connects);
        let Some(right) = self.lines[begun.line].since(begun.entry) else {
            add(&self.counts.unjudged);
            return;
        };
        match &found {
            Ok(backend) if right & 1 << backend != 0 => {
                add(&reached[way as usize][family(begun.line)]);
            }
            Ok(backend) if right & service_of(*backend) != 0 => {
                self.wrong(&self.counts.removed_backend, "removed", begun, way, right, &found);
            }
            Ok(_) => self.wrong(&self.counts.wrong_service, "foreign", begun, way, right, &found),
            Err(_) if right & (ABSENT | REFUSED) != 0 => add(refused),
            Err(_) => self.wrong(&self.counts.failed, "failed", begun, way, right, &found),
        }
    }

    fn wrong(
        &self,
        count: &AtomicU64,
        what: &str,
        begun: Begun,
        way: Way,
        right: u64,
        found: &Result<u32, String>,
    ) {
        add(count);
        let mut complaints = self.complaints.lock().expect("no client has panicked");
        if complaints.len() < COMPLAINTS {
            let line = begun.line;
            complaints.push(format!("{what}: {way:?} to {line}: {found:?}, right is {right:#x}"));
        }
    }

    /// What went wrong first.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().expect("no client has panicked").clone()
    }

    /// Fills in what was counted.
    pub(super) fn add_to(&self, outcome: &mut Outcome) {
        let Counts { connects, reached, wrong_service, removed_backend, failed, refused, unjudged } =
            &self.counts;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let by = |way: Way| reached[way as usize].each_ref().map(get);
        *outcome = Outcome {
            connects: get(connects),
            reached: Reached {
                tcp: by(Way::Tcp),
                connected: by(Way::Connected),
                datagrams: by(Way::Unconnected),
            },
            wrong_service: get(wrong_service),
            removed_backend: get(removed_backend),
            failed: get(failed),
            refused: get(refused),
            unjudged: get(unjudged),
            ..*outcome
        };
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

// === impl Line ===

impl Line {
    fn now(&self) -> u64 {
        self.entry(self.last.load(Ordering::SeqCst))
    }

    fn entry(&self, number: u64) -> u64 {
        let place = usize::try_from(number % KEPT).expect("the log is small");
        self.entries[place].load(Ordering::SeqCst)
    }

    /// One writer only.
    fn push(&self, outcomes: u64) {
        if self.now() != outcomes {
            let next = self.last.load(Ordering::SeqCst) + 1;
            let place = usize::try_from(next % KEPT).expect("the log is small");
            self.entries[place].store(outcomes, Ordering::SeqCst);
            self.last.store(next, Ordering::SeqCst);
        }
    }

    /// All that was right since this entry was the last; `None` if it is not known any more.
    fn since(&self, entry: u64) -> Option<u64> {
        let last = self.last.load(Ordering::SeqCst);
        let all = (entry..=last).fold(0, |all, number| all | self.entry(number));
        // Meanwhile the writer may have gone round.
        let now = self.last.load(Ordering::SeqCst);
        (now + 1 - entry < KEPT).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ledger: &Ledger) -> Outcome {
        let mut outcome = Outcome::default();
        ledger.add_to(&mut outcome);
        outcome
    }

    #[test]
    fn outcomes_are_judged_by_what_was_right_meanwhile() {
        let ledger = Ledger::new(&[0b1; LINES]);
        let before = ledger.begin(0);
        ledger.end(before, Way::Tcp, Ok(0));
        assert!(outcome(&ledger).is_clean());
        ledger.widen(&[0b10; LINES]);
        for backend in [0, 1] {
            ledger.end(before, Way::Connected, Ok(backend));
            ledger.end(ledger.begin(0), Way::Unconnected, Ok(backend));
        }
        ledger.narrow(&[0b10; LINES], |_| true);
        ledger.end(before, Way::Tcp, Ok(0));
        assert!(outcome(&ledger).is_clean(), "{:?}", ledger.complaints());
        let after = ledger.begin(0);
        ledger.end(after, Way::Tcp, Ok(0));
        assert_eq!(outcome(&ledger).removed_backend, 1);
        ledger.end(after, Way::Tcp, Ok(20));
        assert_eq!(outcome(&ledger).wrong_service, 1);
        ledger.end(after, Way::Tcp, Err("refused".to_owned()));
        assert_eq!(outcome(&ledger).failed, 1);
        ledger.end(ledger.begin(1), Way::Tcp, Ok(1));
        let reached = Reached { tcp: [2, 1], connected: [2, 0], datagrams: [2, 0] };
        assert_eq!((outcome(&ledger).connects, outcome(&ledger).reached), (10, reached));
    }

    #[test]
    fn what_is_not_installed_yet_may_be_absent() {
        let ledger = Ledger::new(&[ABSENT; LINES]);
        ledger.widen(&[0b1; LINES]);
        ledger.narrow(&[0b1; LINES], |line| line != 1);
        for line in [0, 1] {
            ledger.end(ledger.begin(line), Way::Tcp, Err("no route".to_owned()));
        }
        assert_eq!((outcome(&ledger).failed, outcome(&ledger).refused), (1, 1));
    }

    #[test]
    fn what_is_forgotten_is_not_judged() {
        let ledger = Ledger::new(&[0b1; LINES]);
        let before = ledger.begin(0);
        for number in 0..KEPT {
            ledger.lines[0].push(0b10 | number & 1);
        }
        ledger.end(before, Way::Tcp, Ok(0));
        assert_eq!(outcome(&ledger).unjudged, 1);
    }
}
