//! The soak in short, and that it finds what is wrong. `make soak` runs it for longer.

use integration::lab;
use integration::soak::{self, Fault, Options, Outcome, Reached};
use integration::wait::patience;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long it may take until there is enough to judge by.
const MOST: Duration = Duration::from_secs(60);

/// What came of it, and what went wrong first. It goes on until that is enough.
fn soak(
    name: &str,
    fault: Option<Fault>,
    is_enough: impl Fn(Duration, &Outcome) -> bool + Sync,
) -> (Outcome, Vec<String>) {
    let seed = rand::random();
    // An emulated machine does less in the same time.
    let options = Options { duration: MOST * patience(), clients: 2, seed, fault };
    let (mut outcome, mut complaints) = (Outcome::default(), Vec::new());
    lab::run(name, |lab| {
        let stop = AtomicBool::new(false);
        let tell = |so_far, outcome: &Outcome| {
            if is_enough(so_far, outcome) {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let complain = |complaint: &str| complaints.push(complaint.to_owned());
        outcome = soak::run(lab, &options, &stop, tell, complain);
    });
    (outcome, complaints)
}

/// One that hardly did anything has not shown anything.
fn has_done_much(outcome: &Outcome) -> bool {
    let Outcome { connects, reached, changes, publishes, grace_periods, .. } = *outcome;
    let Reached { tcp, connected, datagrams } = reached;
    let each = [(tcp, 250), (connected, 5_000), (datagrams, 250)];
    connects >= 20_000
        && each.iter().all(|(way, enough)| way.iter().all(|reached| reached >= enough))
        && changes >= 500
        && publishes >= 500
        && grace_periods >= 5
}

/// Whether a fault is found.
fn is_found(name: &str, fault: Fault, found: impl Fn(&Outcome) -> bool + Sync) {
    let (outcome, _) = soak(name, Some(fault), |_, outcome| found(outcome));
    assert!(found(&outcome), "{outcome:?}");
}

#[test]
fn connects_and_changes_without_end() {
    let (outcome, complaints) = soak("soak", None, |so_far, outcome| {
        so_far >= Duration::from_secs(10) * patience() && has_done_much(outcome)
    });
    println!("{outcome:?}");
    assert!(outcome.is_clean(), "{outcome:?} {complaints:#?}");
    assert!(has_done_much(&outcome), "{outcome:?}");
    // Some dial what nobody serves at the time; most must reach somebody.
    assert!(outcome.refused < outcome.connects / 2, "{outcome:?}");
}

#[test]
fn another_services_backend_is_found() {
    is_found("soak-row", Fault::WrongRow, |outcome| outcome.wrong_service > 0);
}

#[test]
fn a_removed_backend_is_found() {
    is_found("soak-stale", Fault::StaleBlock, |outcome| outcome.removed_backend > 0);
}

#[test]
fn a_service_that_is_lost_is_found() {
    is_found("soak-lost", Fault::LostFrontend, |outcome| outcome.failed > 0);
}

#[test]
fn a_block_that_is_written_late_is_found() {
    let found = |outcome: &Outcome| outcome.wrong_service + outcome.failed > 0;
    is_found("soak-late", Fault::PublishFirst, found);
}
