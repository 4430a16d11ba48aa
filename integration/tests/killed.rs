//! The agent killed again and again under churn and traffic. `KILLS` says how often; `make faults`
//! does it 200 times.

use integration::lab;
use integration::soak::{Outcome, kills};

/// How often without `KILLS`: each takes about a second.
const KILLS: u32 = 20;

#[test]
fn killed_again_and_again() {
    let kills = match std::env::var("KILLS") {
        Ok(text) => text.parse().expect("KILLS is a number"),
        Err(_) => KILLS,
    };
    let seed = rand::random();
    println!("seed {seed}");
    let mut outcome = Outcome::default();
    lab::run("killed", |lab| {
        outcome = kills::run(lab, kills, seed, |complaint| println!("{complaint}"));
    });
    println!("{outcome:?}");
    assert!(outcome.is_clean(), "{outcome:?}");
    // Where nobody dials, nothing is shown.
    assert!(outcome.connects >= 200 * u64::from(kills), "{outcome:?}");
}
