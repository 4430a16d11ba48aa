use super::*;
use crate::plan::{Limits, Observed};
use std::sync::Arc;
use std::time::Duration;

fn planner() -> Planner {
    let limits = Limits { frontends: 8, services: 8, rows: 64, backends: 64 };
    Planner::adopt(limits, Observed { fresh: true, ..Observed::default() }).unwrap()
}

/// Services with one backend each, in these states.
fn desired(services: &[(&str, AdminState)], complete: bool) -> Desired {
    let services = services.iter().map(|(name, state)| {
        let backend = crate::model::Backend { state: *state, ..Default::default() };
        let service = Service {
            frontends: [("10.96.0.1:80".parse().unwrap(), Default::default())].into(),
            backends: [("10.0.0.1:80".parse().unwrap(), backend)].into(),
            policy: Default::default(),
            affinity: None,
            no_backend: Default::default(),
            no_node_backend: Default::default(),
            source_ranges: Vec::new(),
            backends_from: Vec::new(),
            health: Default::default(),
        };
        (name.parse().unwrap(), Entry::new(Arc::new(service), "file:x".into()))
    });
    Desired { services: services.collect(), complete, ..Desired::default() }
}

fn reporter(earlier: Option<State>) -> Reporter {
    let identity = Identity { cgroup: PathBuf::new(), pin_dir: PathBuf::new(), warnings: vec![] };
    Reporter::new(identity, earlier)
}

fn update(reporter: &mut Reporter, desired: &Desired) {
    let known = reporter.state();
    let names = known.services.iter().map(|service| service.name.parse().unwrap());
    reporter.update(desired, &planner(), &names.chain(desired.services.keys().cloned()).collect());
}

fn since(reporter: &Reporter, service: &str) -> SystemTime {
    let state = reporter.state();
    let found = state.services.iter().find(|s| s.name == service).unwrap();
    found.backends[0].since.unwrap()
}

/// A state that names its services in another order than this agent does.
fn saved(services: &[(&str, AdminState)], age: Duration) -> State {
    let mut earlier = reporter(None);
    update(&mut earlier, &desired(services, true));
    let mut state = State::clone(&earlier.state());
    state.services.reverse();
    for service in &mut state.services {
        for backend in &mut Arc::make_mut(service).backends {
            backend.since = backend.since.map(|since| since - age);
        }
    }
    state
}

#[test]
fn a_backend_keeps_its_age_until_its_state_changes() {
    let mut reporter = reporter(None);
    update(&mut reporter, &desired(&[("a", AdminState::Ready)], true));
    let first = since(&reporter, "a");
    let others = [("a", AdminState::Ready), ("0", AdminState::Ready), ("b", AdminState::Ready)];
    update(&mut reporter, &desired(&others, true));
    assert_eq!(since(&reporter, "a"), first);
    assert!(since(&reporter, "b") > first);
    update(&mut reporter, &desired(&[("a", AdminState::Drain)], true));
    assert!(since(&reporter, "a") > first);
}

#[test]
fn ages_outlive_the_agent_until_every_source_has_delivered() {
    let hour = Duration::from_secs(3600);
    let both = [("a", AdminState::Ready), ("b", AdminState::Drain)];
    let old = SystemTime::now() - hour / 2;

    let mut late = reporter(Some(saved(&both, hour)));
    update(&mut late, &desired(&both[..1], false));
    update(&mut late, &desired(&both, true));
    assert!(since(&late, "a") < old && since(&late, "b") < old);

    let mut gone = reporter(Some(saved(&both, hour)));
    update(&mut gone, &desired(&both[..1], true));
    update(&mut gone, &desired(&both, true));
    assert!(since(&gone, "a") < old && since(&gone, "b") > old, "it was not desired meanwhile");

    let mut other = reporter(Some(saved(&both, hour)));
    update(&mut other, &desired(&[("b", AdminState::Ready)], true));
    assert!(since(&other, "b") > old, "it is in another state than before");
}

#[test]
fn what_is_as_before_keeps_its_status() {
    let mut reporter = reporter(None);
    let mut desired = desired(&[("a", AdminState::Ready), ("b", AdminState::Ready)], true);
    let mut planner = planner();
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    let mut look = |desired: &Desired, planner: &Planner, touched: BTreeSet<ServiceName>| {
        let before = reporter.state();
        reporter.update(desired, planner, &touched);
        let after = reporter.state();
        let same = |s: &&Arc<ServiceStatus>| before.services.iter().any(|b| Arc::ptr_eq(b, s));
        let same: Vec<_> = after.services.iter().filter(same).map(|s| s.name.clone()).collect();
        (after.services.len(), same.concat())
    };
    assert_eq!(look(&desired, &planner, names(&["a", "b"])), (2, String::new()));
    assert_eq!(look(&desired, &planner, BTreeSet::new()), (2, "ab".to_owned()));
    desired.services.pop_first();
    assert_eq!(look(&desired, &planner, names(&["a"])), (1, "b".to_owned()));
    // The very same service, which has got its ids only now.
    let plan = planner.plan(&desired);
    assert_eq!(look(&desired, &planner, plan.touched), (1, String::new()));
    assert!(reporter.state().services[0].id.is_some());
}
