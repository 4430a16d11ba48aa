//! Tables of another layout, of which only what is counted can be read.

use super::*;
use crate::plan::Planner;

const OTHER: (&str, &str, &[&str]) = ("0", "10.96.0.9:80", &["10.0.0.1:9"]);
const B_RENAMED: (&str, &str, &[&str]) = ("c", B.1, B.2);

/// An agent that has served A and B, saved what it knew, and left its sockets to one of another
/// layout.
async fn inherited() -> Setup {
    let mut before = Setup::new();
    before.take(&[A_CHANGED, B]);
    let documents = before.reconciler.documents();
    before.reconciler.saver.finish(documents).await;
    let fake = Fake::default();
    fake.set_inherited();
    fake.set_active((0..3).collect());
    Setup::over(fake, before.directory)
}

/// A service's id, and its backends' by port.
fn ids(planner: &Planner, service: &str) -> Option<(u32, Vec<(u16, u32)>)> {
    let service = service.parse().unwrap();
    let backends = planner.backend_ids(&service)?.iter();
    let backends = backends.map(|(address, id)| (address.port(), *id)).collect();
    Some((planner.service_id(&service)?, backends))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_stays_its_services_and_backends() {
    let mut setup = inherited().await;
    // Half of what the tables are given fails once.
    setup.fake.fail_after(2);
    setup.take(&[OTHER, A_CHANGED, B_RENAMED]);
    assert!(setup.reconciler.lost);
    setup.reconciler.round(Instant::now());
    let planner = &setup.reconciler.planner;
    assert_eq!(ids(planner, "a"), Some((0, vec![(1, 0), (2, 1)])));
    assert_eq!(ids(planner, "c"), Some((1, vec![(3, 2)])), "it has B's frontend");
    assert_eq!(ids(planner, "0"), Some((2, vec![(9, 3)])));
    let reset = |action: &Action| match action {
        Action::ResetBackend { id } => Some(*id),
        _ => None,
    };
    let resets: Vec<u32> = setup.fake.take_log().iter().filter_map(reset).collect();
    assert!(resets.iter().all(|id| *id == 3), "{resets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_meanwhile_is_over_once_our_programs_are_attached() {
    let mut setup = inherited().await;
    setup.fake.set_active([1].into());
    setup.take(&[A]);
    while setup.reconciler.grace.is_some() {
        setup.end_grace().await;
    }
    setup.reconciler.tick();
    assert_eq!(setup.reconciler.planner.resting_backends(), [1, 2], "both may yet be picked");
    assert!(setup.fake.destroyed().is_empty());
    setup.reconciler.attach_if_ready(Instant::now()).unwrap();
    setup.reconciler.tick();
    let doomed = setup.fake.destroyed().concat();
    assert_eq!(doomed.iter().map(|doomed| doomed.id).collect::<Vec<_>>(), [1]);
    for _ in 0..2 {
        let result = setup.reconciler.removals.ended().await;
        setup.reconciler.destroyed(result);
        setup.reconciler.tick();
    }
    assert_eq!(setup.reconciler.planner.resting_backends(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_tables_say_goes_before_what_is_remembered() {
    let setup = inherited().await;
    let (fake, mut directory) = (Fake::default(), setup.directory);
    for (say, inherited) in [([B, A], false), ([OTHER, B], true)] {
        if inherited {
            fake.set_inherited();
        }
        let mut setup = Setup::over(fake.clone(), directory);
        setup.take(&say);
        assert_eq!(ids(&setup.reconciler.planner, "b"), Some((1, vec![(3, 1)])));
        directory = setup.directory;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_was_given_up_before_the_programs_were_attached_is_nobody_elses() {
    let mut setup = inherited().await;
    setup.fake.set_active(BTreeSet::new());
    // The second backend of A, which had the id 1, is gone; then the agent dies.
    setup.take(&[A, B]);
    while setup.reconciler.grace.is_some() {
        setup.end_grace().await;
    }
    let Setup { fake, directory, .. } = setup;
    fake.set_inherited();
    let mut setup = Setup::over(fake, directory);
    setup.take(&[A, B, OTHER]);
    let planner = &setup.reconciler.planner;
    assert_eq!(ids(planner, "a"), Some((0, vec![(1, 0)])));
    assert_eq!(ids(planner, "b"), Some((1, vec![(3, 2)])));
    assert_eq!(ids(planner, "0"), Some((2, vec![(9, 3)])));
}

/// What a cache says need not be all that the other layout's programs serve.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_serve_is_replaced_once_all_sources_have_delivered() {
    let begin = Instant::now();
    let later = |seconds| begin + Duration::from_secs(seconds);
    for live in [false, true] {
        let mut setup = inherited().await;
        setup.take(&[A]);
        setup.source.send_modify(|state| state.synced = false);
        setup.reconciler.sources = vec![setup.source.borrow().clone()];
        for seconds in [0, 9] {
            setup.reconciler.attach_if_ready(later(seconds)).unwrap();
            assert!(setup.fake.attached().is_empty(), "B may be served, too");
        }
        let attached = if live {
            setup.take(&[A, B]);
            setup.reconciler.attach_if_ready(later(9)).unwrap();
            [2]
        } else {
            setup.reconciler.attach_if_ready(later(10)).unwrap();
            [1]
        };
        assert_eq!(setup.fake.attached(), attached);
    }
}

/// A stop in between leaves the state of those who serve.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_the_ids_stays_until_the_programs_are_replaced() {
    let mut setup = inherited().await;
    let file = setup.directory.path().join("state.json");
    let names = || -> Vec<String> {
        let state: crate::status::State = store::load(&file).unwrap().unwrap();
        state.services.iter().map(|service| service.name.clone()).collect()
    };
    setup.say(&[OTHER]);
    setup.source.send_modify(|state| state.synced = false);
    run_until(&mut setup, |p| p.state.services.len() == 1).await;
    assert!(setup.fake.attached().is_empty());
    assert_eq!(names(), ["a", "b"]);
    setup.take(&[OTHER]);
    run_until(&mut setup, |p| p.agent.ready).await;
    assert_eq!(names(), ["0"]);
}
