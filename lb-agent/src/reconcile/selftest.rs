//! When the dataplane is tested, and what is said of it: a line for each change, not for each test.

use crate::dataplane::Checked;
use crate::metrics::own::{self, ErrorKind};
use crate::status::{Repair, SelfTestStatus};
use std::time::{Duration, Instant, SystemTime};

/// How often, if nothing else is said.
const EVERY: Duration = Duration::from_secs(60);

/// How often at least, while there are problems.
const AFTER_PROBLEMS: Duration = Duration::from_secs(5);

/// What the last test found, and when the next is due.
#[derive(Debug)]
pub(super) struct SelfTests {
    pub(super) every: Duration,
    next: Option<Instant>,
    status: SelfTestStatus,
}

impl Default for SelfTests {
    fn default() -> Self {
        Self { every: EVERY, next: None, status: SelfTestStatus::default() }
    }
}

impl SelfTests {
    /// The programs are attached: from now on there is something to test.
    pub(super) fn begin(&mut self, now: Instant) {
        self.next = Some(now);
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    pub(super) fn status(&self) -> &SelfTestStatus {
        &self.status
    }

    /// Takes what a test has found.
    pub(super) fn note(&mut self, found: &Checked, now: Instant) {
        let Checked { problems, repairs, notes, others, earlier, attached: _ } = found;
        let pause = if problems.is_empty() { self.every } else { self.every.min(AFTER_PROBLEMS) };
        self.next = Some(now + pause);
        let status = &mut self.status;
        let at = SystemTime::now();
        for what in repairs {
            tracing::warn!("self-test: {what}");
            status.last_repair = Some(Repair { what: what.clone(), at });
        }
        notes.iter().for_each(|note| tracing::info!("{note}"));
        status.repairs += repairs.len() as u64;
        for problem in problems.iter().filter(|problem| !status.problems.contains(problem)) {
            own::error(ErrorKind::SelfTest);
            tracing::error!("self-test: {problem}");
        }
        if problems.is_empty() && !status.problems.is_empty() {
            tracing::info!("self-test: all is as it should be again");
        }
        if *others != status.others {
            let named = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            match others.is_empty() {
                true => tracing::info!("self-test: no other programs are at our hooks any more"),
                false => tracing::info!("self-test: other programs at our hooks: {named}"),
            }
        }
        status.at = Some(at);
        status.problems.clone_from(problems);
        status.others.clone_from(others);
        status.earlier.clone_from(earlier);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{OtherProgram, Place};

    #[test]
    fn due_once_attached_and_then_again_and_again() {
        let (start, mut tests) = (Instant::now(), SelfTests::default());
        assert!(!tests.is_due(start + 9 * EVERY), "nothing is attached");
        tests.begin(start);
        assert!(tests.is_due(start));
        tests.note(&Checked::default(), start);
        assert!(!tests.is_due(start + EVERY / 2) && tests.is_due(start + EVERY));
        assert!(tests.status().at.is_some());
    }

    #[test]
    fn problems_are_looked_at_again_soon() {
        let (start, found) =
            (Instant::now(), Checked { problems: vec!["p".to_owned()], ..Checked::default() });
        for (every, pause) in [(EVERY, AFTER_PROBLEMS), (AFTER_PROBLEMS / 5, AFTER_PROBLEMS / 5)] {
            let mut tests = SelfTests { every, ..SelfTests::default() };
            tests.note(&found, start);
            let nearly = start + pause - Duration::from_millis(1);
            assert!(!tests.is_due(nearly) && tests.is_due(start + pause), "{every:?}");
        }
    }

    #[test]
    fn repairs_add_up_and_the_rest_is_what_is_so_now() {
        let (now, mut tests) = (Instant::now(), SelfTests::default());
        let other = OtherProgram {
            hook: "connect4".to_owned(),
            program_id: 7,
            name: Some("theirs".to_owned()),
            place: Place::Before,
        };
        let found = Checked {
            problems: vec!["p".to_owned()],
            repairs: vec!["a".to_owned(), "b".to_owned()],
            others: vec![other.clone()],
            ..Checked::default()
        };
        tests.note(&found, now);
        assert_eq!(other.to_string(), "theirs (program 7) before ours at connect4");
        assert_eq!(
            (&tests.status().problems, &tests.status().others),
            (&found.problems, &found.others)
        );
        tests.note(&Checked::default(), now);
        let SelfTestStatus { problems, repairs, last_repair, others, .. } = tests.status();
        assert!(problems.is_empty() && others.is_empty());
        assert_eq!((*repairs, last_repair.as_ref().map(|last| last.what.as_str())), (2, Some("b")));
    }
}
