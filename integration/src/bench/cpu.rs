//! What the whole machine has spent: time of a load's own threads is the smaller part of what it
//! costs, since packets are handled wherever they come in.

use std::fs;
use std::time::Duration;

/// Time that all processors have been busy since the machine started, in steps of 10 ms; what a
/// hypervisor took for others is left out.
#[track_caller]
pub(super) fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").expect("/proc is mounted");
    Duration::from_millis(10 * ticks(&stat).expect("a kernel's /proc/stat"))
}

/// user, nice, system, irq and softirq; the guests' time is in user already.
fn ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let fields: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().map(|index| fields.get(*index)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_stolen_time_do_not_count() {
        let stat = "cpu  1 20 300 4000 50000 600000 7000000 80000000 0 0\ncpu0 9 9 9 9\n";
        assert_eq!(ticks(stat), Some(7_600_321));
        assert_eq!(ticks("cpu0 1 2 3"), None);
    }

    #[test]
    fn a_machine_that_runs_tests_is_busy() {
        assert!(busy() > Duration::ZERO);
    }
}
