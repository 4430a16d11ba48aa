//! The agent killed again and again under churn and traffic. `KILLS` says how often; `make faults`
//! does it 200 times.

use integration::lab;
use integration::soak::kills::{self, Killed};

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
    let mut killed = Killed::default();
    lab::run("killed", |lab| {
        killed = kills::run(lab, kills, seed, |complaint| println!("{complaint}"));
    });
    println!("{killed:?}");
    let Killed { outcome, at_work, idle } = killed;
    assert!(outcome.is_clean(), "{outcome:?}");
    // Where nobody dials, nothing is shown.
    assert!(outcome.connects >= 200 * u64::from(kills), "{outcome:?}");
    // Neither where kills meet no work, nor where no agent lives to do any. They come about as often as each
    // other, by how their moments are chosen; where that takes long, it goes on.
    assert!(at_work >= kills / 10 && idle >= kills / 10, "{killed:?}");
}
