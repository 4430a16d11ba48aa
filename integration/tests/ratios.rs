//! The ratios of the benchmark have not collapsed, in a shortened run. What was compiled without
//! optimisation says nothing about them.

use integration::bench::{Report, check, verdict};

const SEED: u64 = 1;
/// Runs, of which one has to be quiet enough: what else the machine does shows in short turns, and what has
/// collapsed has in all.
const RUNS: usize = 4;

#[test]
#[cfg_attr(debug_assertions, ignore = "judged by `cargo test --release` only")]
fn have_not_collapsed() {
    let mut collapsed = Vec::new();
    for run in 1..=RUNS {
        let mut report = Report::default();
        check::run(check::SERVICES, SEED, &mut report).expect("everything can be measured");
        collapsed = verdict::collapsed(report.figures());
        if collapsed.is_empty() {
            return;
        }
        println!("run {run}: {}", collapsed.join("\n"));
    }
    panic!("in each of {RUNS} runs, the last time: {}", collapsed.join("\n"));
}
