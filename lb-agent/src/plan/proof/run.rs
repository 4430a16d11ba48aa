//! The exploration: nothing goes astray, and whatever rule is broken, it is found out.

use super::{Event, Mutation, Protocol};
use stateright::{Checker as _, HasDiscoveries, Model as _};

/// Explores all of it.
#[test]
fn no_reader_ever_goes_astray() {
    let checker = Protocol::new(Mutation::Faithful, 2, &[0, 1, 2, 3, 4]).checker().threads(2).spawn_bfs().join();
    println!(
        "{} states, {} ways to them, {} deep, {} states of the planner",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        checker.model().planner_states(),
    );
    checker.assert_properties();
    assert!(checker.is_done());
}

/// Every broken rule is found out.
#[test]
fn every_broken_rule_is_found() {
    for mutation in [
        Mutation::NoGrace,
        Mutation::PublishBeforeWrite,
        Mutation::InsertBeforePublish,
        Mutation::IndexReusedAtOnce,
        Mutation::RowsReusedAtOnce,
        Mutation::IdReusedWhileCounted,
        Mutation::AdoptWithoutGrace,
    ] {
        let checker = Protocol::new(mutation, 2, &[0, 1, 2, 3, 4]).checker().threads(2);
        let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let Some(found) = checker.discovery("no connect goes astray") else {
            panic!("{mutation:?} was not found in {} states", checker.unique_state_count());
        };
        let violation = found.last_state().violation.expect("it ends with a violation");
        let events: Vec<Event> = found.into_actions();
        println!("{mutation:?}: {violation:?} after {} events: {events:?}", events.len());
    }
}

#[test]
fn tune() {
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let states: Vec<usize> = env("S").split(',').filter_map(|n| n.parse().ok()).collect();
    let readers = env("R").parse().unwrap_or(1);
    let started = std::time::Instant::now();
    let checker = Protocol::new(Mutation::Faithful, readers, &states).checker().threads(1);
    let checker = checker.timeout(std::time::Duration::from_secs(120)).spawn_bfs().join();
    println!(
        "{readers} {states:?}: {} states, {} ways, {} deep, {} planners, done {} {:?} {:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        checker.model().planner_states(),
        checker.is_done(),
        started.elapsed(),
        checker.discoveries().keys().collect::<Vec<_>>(),
    );
}
