//! The exploration: nothing goes astray, and whatever rule is broken, it is found out.

use super::wanted::{SCENES, Scene};
use super::{Event, Mutation, Protocol, SOUND};
use stateright::{Checker, HasDiscoveries, Model as _};
use std::collections::BTreeSet;

/// Explores all of every scene, and what may happen does happen in one or another.
#[test]
fn no_connect_ever_goes_astray() {
    let mut met = BTreeSet::new();
    let mut all = BTreeSet::new();
    for (scene, bounds) in
        SCENES.iter().flat_map(|scene| scene.bounds.map(|bounds| (scene, bounds)))
    {
        let model = Protocol::new(Mutation::Faithful, bounds, scene);
        let checker = model.checker().threads(1).spawn_bfs().join();
        println!(
            "{}, {bounds:?}: {} states, {} ways to them, {} events deep, {} states of the planner",
            scene.name,
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            checker.model().planner_states(),
        );
        if let Some(path) = checker.discovery(SOUND) {
            panic!("{}: {:?}\n{path}", scene.name, path.last_state().violation);
        }
        met.extend(checker.discoveries().into_keys());
        all.extend(checker.model().properties().into_iter().map(|property| property.name));
    }
    all.remove(SOUND);
    assert_eq!(met, all, "what was met with, and what should have been");
}

/// Every broken rule is found out, in one scene or another.
#[test]
fn every_broken_rule_is_found_out() {
    for mutation in [
        Mutation::NoGrace,
        Mutation::PublishBeforeWrite,
        Mutation::InsertBeforePublish,
        Mutation::IndexReusedAtOnce,
        Mutation::RowsReusedAtOnce,
        Mutation::FirstUserRetires,
        Mutation::IdReusedWhileCounted,
        Mutation::AdoptWithoutGrace,
        Mutation::RecallForgotten,
        Mutation::RecalledIdReused,
    ] {
        // Where there is nothing to recall, there is no such rule.
        let recalls = [Mutation::RecallForgotten, Mutation::RecalledIdReused].contains(&mutation);
        let mut scenes = SCENES.iter().filter(|scene| !recalls || !scene.others.is_empty());
        let found = scenes.find_map(|scene| break_rule(mutation, scene));
        assert!(found.is_some(), "{mutation:?} was not found out");
    }
}

fn break_rule(mutation: Mutation, scene: &Scene) -> Option<()> {
    let checker = Protocol::new(mutation, scene.bounds[0], scene).checker().threads(1);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let path = checker.discovery(SOUND)?;
    let violation = path.last_state().violation?;
    let events: Vec<Event> = path.into_actions();
    println!("{mutation:?}, {}: {violation:?} after {} events", scene.name, events.len());
    println!("    {events:?}");
    Some(())
}
