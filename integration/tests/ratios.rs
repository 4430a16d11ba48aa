//! The ratios of the benchmark have not collapsed, in a shortened run. `cargo test --release` judges;
//! a debug build measures less and only prints.

use integration::bench::{Report, check, verdict};

const SEED: u64 = 1;

#[test]
fn have_not_collapsed() {
    let judged = !cfg!(debug_assertions);
    let services = if judged { check::SERVICES } else { 100 };
    let mut report = Report::default();
    check::run(services, SEED, &mut report).expect("everything can be measured");
    let collapsed = verdict::collapsed(report.figures());
    if judged {
        assert!(collapsed.is_empty(), "{}", collapsed.join("\n"));
    } else {
        println!("not judged: {}", collapsed.join("\n"));
    }
}
