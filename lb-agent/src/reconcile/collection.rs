//! When rows of sockets that closed unseen are looked for: once the programs are attached, and again a
//! little later, since what is to be collected must have been nobody's all the time. Where that can't be
//! done, it is tried again from time to time.

use crate::dataplane::{DataplaneError, Sweep, Swept};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, spawn_blocking};

/// Between the two looks: no socket takes so long from its program to the kernel's hash tables.
const PAUSE: Duration = Duration::from_secs(10);
/// After a look that was not possible.
const RETRY: Duration = Duration::from_secs(300);

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Collection {
    /// When the next look is due.
    next: Option<Instant>,
    /// What the first look has found.
    suspects: Option<BTreeSet<u64>>,
    job: Option<JoinHandle<Result<Swept, DataplaneError>>>,
    /// What has been complained of.
    problems: BTreeSet<String>,
}

impl Collection {
    /// The programs were attached: what closed before may have been missed.
    pub(super) fn begin(&mut self, now: Instant) {
        self.next = Some(now);
        self.suspects = None;
    }

    /// Begins a look if one is due and none is under way.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        sweep: impl FnOnce(Option<BTreeSet<u64>>) -> Option<Sweep>,
    ) {
        if self.job.is_none() && self.next.is_some_and(|next| next <= now) {
            self.next = None;
            self.job = sweep(self.suspects.take()).map(spawn_blocking);
        }
    }

    /// Waits for the look under way; for ever if there is none. One that failed has a problem.
    pub(super) async fn ended(&mut self) -> Swept {
        let Some(job) = &mut self.job else { return std::future::pending().await };
        let result = match job.await {
            Ok(result) => result,
            Err(panic) => Err(DataplaneError::new("looking for closed sockets", panic)),
        };
        self.job = None;
        result.unwrap_or_else(|error| {
            let problem = format!("rows of sockets that closed unseen were not collected: {error}");
            Swept { problems: [problem].into(), ..Swept::default() }
        })
    }

    /// Takes what a look has found. Returns what has not been complained of yet.
    pub(super) fn note(&mut self, swept: Swept, now: Instant) -> Vec<String> {
        let Swept { suspects, collected: _, problems, unprivileged: _ } = swept;
        // Else it begins anew, because the programs were attached again meanwhile.
        if self.next.is_none() {
            if !problems.is_empty() {
                self.next = Some(now + RETRY);
            } else if !suspects.is_empty() {
                self.next = Some(now + PAUSE);
                self.suspects = Some(suspects);
            }
        }
        problems.into_iter().filter(|problem| self.problems.insert(problem.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn twice_with_a_pause_and_only_if_there_are_suspects() {
        let (start, mut collection) = (Instant::now(), Collection::default());
        collection.tick(start, |_| panic!("nothing is attached"));
        collection.begin(start);
        let sweep = |swept: Swept| Some(Box::new(|| Ok(swept)) as Sweep);
        let suspects = BTreeSet::from([4, 7]);
        let first = Swept { suspects: suspects.clone(), ..Swept::default() };
        collection.tick(start, |before| {
            assert_eq!(before, None);
            sweep(first.clone())
        });
        collection.tick(start, |_| panic!("one is under way"));
        assert_eq!(collection.ended().await, first);
        assert!(collection.note(first, start).is_empty());
        collection.tick(start + PAUSE / 2, |_| panic!("too early"));
        collection.tick(start + PAUSE, |before| {
            assert_eq!(before, Some(suspects));
            sweep(Swept { collected: 2, ..Swept::default() })
        });
        let second = collection.ended().await;
        collection.note(second, start + PAUSE);
        collection.tick(start + 9 * PAUSE, |_| panic!("it is done"));
    }

    #[tokio::test]
    async fn what_was_not_possible_is_tried_again_from_the_start() {
        let (start, mut collection) = (Instant::now(), Collection::default());
        collection.begin(start);
        let found = Swept { suspects: [1].into(), ..Swept::default() };
        collection.tick(start, |_| None);
        collection.note(found, start);
        let mut now = start + PAUSE;
        for (round, news) in [1, 0].into_iter().enumerate() {
            collection.tick(now, |before| {
                assert_eq!(before.is_some(), round == 0);
                Some(Box::new(|| Err(DataplaneError::new("looking", "no"))) as Sweep)
            });
            let failed = collection.ended().await;
            assert_eq!(collection.note(failed, now).len(), news);
            collection.tick(now + RETRY / 2, |_| panic!("too early"));
            now += RETRY;
        }
        collection.begin(start);
        collection.note(Swept { problems: ["p".to_owned()].into(), ..Swept::default() }, now);
        let mut asked = false;
        collection.tick(start, |_| {
            asked = true;
            None
        });
        assert!(asked, "the programs were attached again");
    }

    #[tokio::test]
    async fn it_begins_anew_with_every_attachment() {
        let (start, mut collection) = (Instant::now(), Collection::default());
        collection.begin(start);
        let found = Swept { suspects: [1].into(), ..Swept::default() };
        collection.tick(start, |_| None);
        collection.begin(start);
        collection.note(found, start);
        let mut asked = None;
        collection.tick(start, |before| {
            asked = Some(before);
            None
        });
        assert_eq!(asked, Some(None));
        let problem = || Swept { problems: ["p".to_owned()].into(), ..Swept::default() };
        assert_eq!(collection.note(problem(), start), ["p"]);
        assert!(collection.note(problem(), start).is_empty());
    }
}
