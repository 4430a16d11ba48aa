//! The ratios of the benchmark have not collapsed, in a shortened run. What was compiled without
//! optimisation says nothing about them.

use integration::bench::{Report, check, verdict};

const SEED: u64 = 1;

#[test]
#[cfg_attr(debug_assertions, ignore = "judged by `cargo test --release` only")]
fn have_not_collapsed() {
    let mut report = Report::default();
    check::run(check::SERVICES, SEED, &mut report).expect("everything can be measured");
    let collapsed = verdict::collapsed(report.figures());
    assert!(collapsed.is_empty(), "{}", collapsed.join("\n"));
}
