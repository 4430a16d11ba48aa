//! The soak in short, and that it finds what is wrong. `make soak` runs it for longer.

use integration::lab;
use integration::soak::{self, Fault, Options, Outcome};
use std::time::Duration;

fn soak(name: &str, seconds: u64, fault: Option<Fault>) -> Outcome {
    let seed = rand::random();
    let options = Options { duration: Duration::from_secs(seconds), clients: 2, seed, fault };
    let mut outcome = Outcome::default();
    lab::run(name, |lab| {
        outcome = soak::run(lab, &options, |_, _| {}, |complaint| println!("{complaint}"));
    });
    println!("{outcome:?}");
    outcome
}

#[test]
fn connects_and_changes_without_end() {
    let outcome = soak("soak", 10, None);
    assert!(outcome.is_clean(), "{outcome:?}");
    // One that hardly did anything has not shown anything.
    let Outcome { connects, tcp, datagrams, changes, publishes, grace_periods, .. } = outcome;
    assert!(connects >= 20_000 && tcp >= 500 && datagrams >= 500, "{outcome:?}");
    assert!(changes >= 500 && publishes >= 500 && grace_periods >= 5, "{outcome:?}");
}

#[test]
fn another_services_backend_is_found() {
    let outcome = soak("soak-row", 4, Some(Fault::WrongRow));
    assert!(outcome.wrong_service > 0, "{outcome:?}");
}

#[test]
fn a_removed_backend_is_found() {
    let outcome = soak("soak-stale", 4, Some(Fault::StaleBlock));
    assert!(outcome.removed_backend > 0, "{outcome:?}");
}

#[test]
fn a_service_that_is_lost_is_found() {
    let outcome = soak("soak-lost", 4, Some(Fault::LostFrontend));
    assert!(outcome.failed > 0, "{outcome:?}");
}
