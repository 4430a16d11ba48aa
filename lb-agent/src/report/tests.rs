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
            backends_from: Vec::new(),
            health: Default::default(),
        };
        (name.parse().unwrap(), Entry { service: Arc::new(service), source: "file:x".into() })
    });
    Desired { services: services.collect(), complete, ..Desired::default() }
}

fn reporter(earlier: Option<State>) -> Reporter {
    let identity = Identity { cgroup: PathBuf::new(), pin_dir: PathBuf::new(), warnings: vec![] };
    Reporter::new(identity, earlier)
}

fn since(reporter: &Reporter, service: &str) -> SystemTime {
    let state = reporter.state();
    let found = state.services.iter().find(|s| s.name == service).unwrap();
    found.backends[0].since.unwrap()
}

/// A state that names its services in another order than this agent does.
fn saved(services: &[(&str, AdminState)], age: Duration) -> State {
    let mut earlier = reporter(None);
    earlier.update(&desired(services, true), &planner());
    let mut state = State::clone(&earlier.state());
    state.services.reverse();
    for backend in state.services.iter_mut().flat_map(|service| &mut service.backends) {
        backend.since = backend.since.map(|since| since - age);
    }
    state
}

#[test]
fn a_backend_keeps_its_age_until_its_state_changes() {
    let mut reporter = reporter(None);
    let planner = planner();
    reporter.update(&desired(&[("a", AdminState::Ready)], true), &planner);
    let first = since(&reporter, "a");
    let others = [("a", AdminState::Ready), ("0", AdminState::Ready), ("b", AdminState::Ready)];
    reporter.update(&desired(&others, true), &planner);
    assert_eq!(since(&reporter, "a"), first);
    assert!(since(&reporter, "b") > first);
    reporter.update(&desired(&[("a", AdminState::Drain)], true), &planner);
    assert!(since(&reporter, "a") > first);
}

#[test]
fn ages_outlive_the_agent_until_every_source_has_delivered() {
    let hour = Duration::from_secs(3600);
    let both = [("a", AdminState::Ready), ("b", AdminState::Drain)];
    let old = SystemTime::now() - hour / 2;
    let planner = planner();

    let mut late = reporter(Some(saved(&both, hour)));
    late.update(&desired(&both[..1], false), &planner);
    late.update(&desired(&both, true), &planner);
    assert!(since(&late, "a") < old && since(&late, "b") < old);

    let mut gone = reporter(Some(saved(&both, hour)));
    gone.update(&desired(&both[..1], true), &planner);
    gone.update(&desired(&both, true), &planner);
    assert!(since(&gone, "a") < old && since(&gone, "b") > old, "it was not desired meanwhile");

    let mut other = reporter(Some(saved(&both, hour)));
    other.update(&desired(&[("b", AdminState::Ready)], true), &planner);
    assert!(since(&other, "b") > old, "it is in another state than before");
}
