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

/// Polls `look` until it returns something; `None` if it has not before the deadline.
pub fn within<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline * patience();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
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
