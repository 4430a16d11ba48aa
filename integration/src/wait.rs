//! Waiting for a condition, with a deadline. The only place of the crate that sleeps.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(2);

/// Where the machine is an emulated one: how many times longer everything may take.
pub const PATIENCE: &str = "LB_TEST_PATIENCE";

/// How often [`PATIENCE`] says that a deadline is to be multiplied.
pub fn patience() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| {
        let factor = std::env::var(PATIENCE).ok();
        factor.map_or(1, |text| text.parse().expect("a patience is a whole number"))
    })
}

/// Polls `look` until it returns something; `None` if it has not before the deadline, nor once more after it: who
/// is not let run for a while has not looked meanwhile.
pub fn within<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline * patience();
    loop {
        let is_last = Instant::now() >= end;
        if let Some(found) = look() {
            return Some(found);
        }
        if is_last {
            return None;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the pause between two polls of a condition"
        )]
        std::thread::sleep(INTERVAL);
    }
}

/// Polls until `look` returns something and panics, naming `what`, when the deadline passes.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, look: impl FnMut() -> Option<T>) -> T {
    match within(deadline, look) {
        Some(found) => found,
        None => panic!("still waiting for {what} after {deadline:?}"),
    }
}

/// Polls until `holds` and panics, naming `what`, when the deadline passes.
#[track_caller]
pub fn eventually(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, deadline, || holds().then_some(()));
}

/// How many repetitions of something are enough: fewer where each takes long.
pub fn repetitions(usual: u64) -> u64 {
    if patience() > 1 { usual.div_ceil(20) } else { usual }
}

/// Lets a span of time that is itself what is tested (a timeout) go by.
pub fn let_pass(span: Duration) {
    let start = Instant::now();
    eventually("time to pass", span * 2, || start.elapsed() >= span);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_by_the_deadline_is_seen_however_late() {
        let mut looks = 0;
        let found = within(Duration::from_millis(1), || {
            looks += 1;
            let_pass(Duration::from_millis(5));
            (looks > 1).then_some(looks)
        });
        assert_eq!(found, Some(2));
        assert_eq!(within(Duration::ZERO, || None::<()>), None);
    }
}
