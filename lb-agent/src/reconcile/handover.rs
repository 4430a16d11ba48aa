//! When programs of another layout are replaced. They serve what their agent published last, and ours
//! would serve what the sources have said by then. A cache may be a minute old, and a service that it
//! lacks would be away until its source is heard: so all of them are waited for, for a while.
//!
//! Pure.

use std::time::{Duration, Instant};

/// For so long at most. The tables that serve meanwhile follow nothing.
pub(super) const LONGEST: Duration = Duration::from_secs(10);

/// Since when the programs have been waiting to be attached.
#[derive(Debug, Default)]
pub(super) struct Handover {
    since: Option<Instant>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait, for the first time.
    Begin,
    /// Wait on.
    Wait,
    /// Attach.
    GoOn,
}

impl Handover {
    /// What to do now, if all else is ready. `short` says that others serve, and that the tables may lack
    /// something that those serve.
    pub(super) fn next(&mut self, short: bool, now: Instant) -> Next {
        match self.since {
            _ if !short => Next::GoOn,
            None => {
                self.since = Some(now);
                Next::Begin
            }
            Some(since) if now.saturating_duration_since(since) < LONGEST => Next::Wait,
            Some(_) => Next::GoOn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_serve_on_until_all_is_there_or_the_time_is_up() {
        let begin = Instant::now();
        // Seconds since the first look, whether something may be lacking, and what to do.
        for looks in [
            &[(0, false, Next::GoOn)][..],
            &[(0, true, Next::Begin), (1, true, Next::Wait), (2, false, Next::GoOn)],
            &[(0, true, Next::Begin), (9, true, Next::Wait), (10, true, Next::GoOn)],
            &[(5, true, Next::Begin), (10, true, Next::Wait), (15, true, Next::GoOn)],
            // A clock that is read out of order.
            &[(5, true, Next::Begin), (4, true, Next::Wait)],
        ] {
            let mut handover = Handover::default();
            for (seconds, short, next) in looks {
                let now = begin + Duration::from_secs(*seconds);
                assert_eq!(handover.next(*short, now), *next, "{looks:?} at {seconds} s");
            }
        }
    }
}
