//! The soak in short, and that it finds what is wrong. `make soak` runs it for longer.

use integration::lab;
use integration::soak::{self, Fault, Options, Outcome, Reached};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What came of it, and what went wrong first.
fn soak(name: &str, seconds: u64, fault: Option<Fault>) -> (Outcome, Vec<String>) {
    let seed = rand::random();
    // An emulated machine does less in the same time.
    let duration = Duration::from_secs(seconds) * integration::wait::patience();
    let options = Options { duration, clients: 2, seed, fault };
    let (mut outcome, mut complaints) = (Outcome::default(), Vec::new());
    lab::run(name, |lab| {
        let complain = |complaint: &str| complaints.push(complaint.to_owned());
        outcome = soak::run(lab, &options, &AtomicBool::new(false), |_, _| {}, complain);
    });
    (outcome, complaints)
}

#[test]
fn connects_and_changes_without_end() {
    let (outcome, complaints) = soak("soak", 10, None);
    println!("{outcome:?}");
    assert!(outcome.is_clean(), "{outcome:?} {complaints:#?}");
    // One that hardly did anything has not shown anything.
    let Outcome { connects, refused, reached, changes, publishes, grace_periods, .. } = outcome;
    assert!(connects >= 20_000, "{outcome:?}");
    // Some dial what nobody serves at the time; most must reach somebody.
    assert!(refused < connects / 2, "{outcome:?}");
    let Reached { tcp, connected, datagrams } = reached;
    for (way, enough) in [(tcp, 250), (connected, 5_000), (datagrams, 250)] {
        assert!(way.iter().all(|reached| *reached >= enough), "{enough}: {outcome:?}");
    }
    assert!(changes >= 500 && publishes >= 500 && grace_periods >= 5, "{outcome:?}");
}

#[test]
fn another_services_backend_is_found() {
    let (outcome, _) = soak("soak-row", 4, Some(Fault::WrongRow));
    assert!(outcome.wrong_service > 0, "{outcome:?}");
}

#[test]
fn a_removed_backend_is_found() {
    let (outcome, _) = soak("soak-stale", 4, Some(Fault::StaleBlock));
    assert!(outcome.removed_backend > 0, "{outcome:?}");
}

#[test]
fn a_service_that_is_lost_is_found() {
    let (outcome, _) = soak("soak-lost", 4, Some(Fault::LostFrontend));
    assert!(outcome.failed > 0, "{outcome:?}");
}

#[test]
fn a_block_that_is_written_late_is_found() {
    let (outcome, _) = soak("soak-late", 4, Some(Fault::PublishFirst));
    assert!(outcome.wrong_service + outcome.failed > 0, "{outcome:?}");
}
