use super::*;
use crate::health::effective::Why;
use crate::model::check::{Initial, Probe as Try};
use crate::model::{Backend, HealthPolicy, NoBackend, Policy, Rule};
use std::time::{Duration, SystemTime};

fn backend(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 80))
}

fn service(backends: &[SocketAddr], health: HealthPolicy) -> Arc<Service> {
    Arc::new(Service {
        frontends: BTreeMap::new(),
        backends: backends.iter().map(|address| (*address, Backend::default())).collect(),
        backends_from: Vec::new(),
        policy: Policy::Random,
        affinity: None,
        no_backend: NoBackend::Refuse,
        no_node_backend: Default::default(),
        source_ranges: Vec::new(),
        health,
    })
}

fn checked() -> HealthPolicy {
    HealthPolicy { checks: vec![Arc::new(Check::new(Try::Tcp))], ..HealthPolicy::default() }
}

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn follow(board: &mut Board, services: &[(&str, &Arc<Service>)]) -> Wanted {
    let mut named: BTreeMap<_, _> =
        board.services.keys().map(|name| (name.clone(), None)).collect();
    named.extend(services.iter().map(|(text, service)| (name(text), Some(*service))));
    board.follow(named.iter().map(|(name, service)| (name, *service)))
}

fn report(result: CheckResult) -> Report {
    let text = "L4CON connection refused".into();
    Report { result, text, took: Duration::from_millis(1), at: SystemTime::UNIX_EPOCH }
}

fn fail(board: &mut Board, target: &Target, times: u32) {
    (0..times).for_each(|_| board.record(target, report(CheckResult::Failing)));
}

fn pass(board: &mut Board, target: &Target, times: u32) {
    (0..times).for_each(|_| board.record(target, report(CheckResult::Passing)));
}

/// `10.0.0.n` of those that may be picked, with their weights.
fn picked(board: &mut Board, text: &str, service: &Arc<Service>, now: Instant) -> Vec<(u8, u16)> {
    let effective = board.effective(&name(text), service, now);
    let ready = effective.backends.iter().filter(|(_, b)| b.state == AdminState::Ready);
    let last = |address: &SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(ip) => ip.octets()[15],
    };
    ready.map(|(address, b)| (last(address), b.weight)).collect()
}

#[test]
fn one_prober_for_the_same_target_and_check() {
    let mut board = Board::default();
    let (a, b) = (backend(1), backend(2));
    let first = service(&[a, b], checked());
    let second = service(&[b], checked());
    let wanted = follow(&mut board, &[("web", &first), ("api", &second)]);
    assert_eq!((wanted.start.len(), wanted.stop.len()), (2, 0));
    // Another check on the same backend is another target.
    let slower = Check { interval: Duration::from_secs(9), ..Check::new(Try::Tcp) };
    let other = HealthPolicy { checks: vec![Arc::new(slower)], ..HealthPolicy::default() };
    let third = service(&[b], other);
    let wanted = follow(&mut board, &[("web", &first), ("api", &second), ("x", &third)]);
    assert_eq!((wanted.start.len(), wanted.stop.len()), (1, 0));
    // Nothing stops while somebody wants it, whatever the order of the services.
    let wanted = follow(&mut board, &[("api", &second), ("x", &third)]);
    assert_eq!(wanted.stop.iter().map(|t| t.backend).collect::<Vec<_>>(), [a]);
    let moved = follow(&mut board, &[("zzz", &second)]);
    assert_eq!((moved.start.len(), moved.stop.len()), (0, 1), "only x's check ended");
    assert!(follow(&mut board, &[]).stop.len() == 1 && board.probes.is_empty());
}

#[test]
fn services_without_checks_cost_nothing() {
    let mut board = Board::default();
    let plain = service(&[backend(1)], HealthPolicy::default());
    let wanted = follow(&mut board, &[("web", &plain)]);
    assert!(wanted.start.is_empty() && board.services.is_empty());
    let effective = board.effective(&name("web"), &plain, Instant::now());
    assert!(Arc::ptr_eq(&effective, &plain));
}

#[test]
fn flapping_does_not_change_the_service() {
    let (mut board, now) = (Board::default(), Instant::now());
    let web = service(&[backend(1), backend(2)], checked());
    let wanted = follow(&mut board, &[("web", &web)]);
    let target = wanted.start[0].clone();
    pass(&mut board, &target, 1);
    assert!(Arc::ptr_eq(&board.effective(&name("web"), &web, now), &web));
    for _ in 0..10 {
        fail(&mut board, &target, 2);
        pass(&mut board, &target, 1);
        assert_eq!(board.stale().count(), 0);
    }
    fail(&mut board, &target, 3);
    assert_eq!(board.stale().count(), 1);
    assert_eq!(picked(&mut board, "web", &web, now), [(2, 1)]);
    pass(&mut board, &target, 2);
    assert!(Arc::ptr_eq(&board.effective(&name("web"), &web, now), &web));
}

#[test]
fn the_worst_of_several_checks_counts() {
    let (mut board, now) = (Board::default(), Instant::now());
    let second = Check { port: Some(81), initial: Initial::Down, ..Check::new(Try::Tcp) };
    let mut health = checked();
    health.checks.push(Arc::new(second));
    let web = service(&[backend(1), backend(2)], health);
    let start = follow(&mut board, &[("web", &web)]).start;
    assert_eq!(start.len(), 4);
    let on = |n: u8, port: u16| {
        let found = start.iter().find(|t| t.backend == backend(n) && t.address.port() == port);
        found.unwrap().clone()
    };
    // Down until the first result, by the second check: nobody is up, so all are.
    assert_eq!(picked(&mut board, "web", &web, now), [(1, 1), (2, 1)]);
    assert!(board.fails_open(&name("web")));
    pass(&mut board, &on(1, 81), 1);
    assert_eq!(picked(&mut board, "web", &web, now), [(1, 1)]);
    let verdict = &board.verdicts(&name("web"), now).unwrap()[&backend(2)];
    assert_eq!((verdict.share.why, verdict.check.as_ref().unwrap().up), (Why::Failing, false));
    fail(&mut board, &on(1, 80), 1);
    pass(&mut board, &on(2, 81), 1);
    assert_eq!(picked(&mut board, "web", &web, now), [(2, 1)]);
}

#[test]
fn families_do_not_stand_in_for_each_other() {
    let (mut board, now) = (Board::default(), Instant::now());
    let v6: SocketAddr = "[fd00::9]:80".parse().unwrap();
    let web = service(&[backend(1), v6], checked());
    let start = follow(&mut board, &[("web", &web)]).start;
    let target = start.iter().find(|t| t.backend.is_ipv4()).unwrap();
    fail(&mut board, target, 3);
    assert_eq!(picked(&mut board, "web", &web, now), [(1, 1), (9, 1)]);
    assert!(board.fails_open(&name("web")));
}

#[test]
fn ejected_and_back_with_a_slow_start() {
    let (mut board, begin) = (Board::default(), Instant::now());
    let health = HealthPolicy { slow_start: Duration::from_secs(20), ..HealthPolicy::default() };
    let web = service(&[backend(1), backend(2)], health);
    follow(&mut board, &[("web", &web)]);
    for count in 1..5 {
        let decision = board.failed(&name("web"), &web, backend(1), count, begin);
        assert_eq!(decision, Decision::Stays);
    }
    // Nobody starts slowly at first.
    assert_eq!(picked(&mut board, "web", &web, begin), [(1, 1), (2, 1)]);
    let decision = board.failed(&name("web"), &web, backend(1), 5, begin);
    assert!(matches!(decision, Decision::Ejected(_)));
    assert_eq!(picked(&mut board, "web", &web, begin), [(2, 1)]);
    let verdict = &board.verdicts(&name("web"), begin).unwrap()[&backend(1)];
    assert_eq!(verdict.share.why, Why::Ejected);
    assert_eq!(board.next(), Some(begin + Duration::from_secs(30)));

    let back = begin + Duration::from_secs(30);
    board.tick(back);
    let mut shares = vec![picked(&mut board, "web", &web, back)];
    while let Some(at) = board.next() {
        board.tick(at);
        shares.push(picked(&mut board, "web", &web, at));
    }
    assert_eq!(shares.len(), 21, "20 steps, the last one the end");
    assert_eq!((&shares[0], &shares[10]), (&vec![(1, 1), (2, 20)], &vec![(1, 1), (2, 2)]));
    assert_eq!(shares[20], [(1, 1), (2, 1)]);
    assert!(Arc::ptr_eq(&board.effective(&name("web"), &web, back), &web));
}

#[test]
fn what_is_known_survives_a_change_of_the_service() {
    let (mut board, now) = (Board::default(), Instant::now());
    let web = service(&[backend(1), backend(2)], checked());
    let start = follow(&mut board, &[("web", &web)]).start;
    fail(&mut board, &start[0], 3);
    assert_eq!(picked(&mut board, "web", &web, now), [(2, 1)]);
    let more = service(&[backend(1), backend(2), backend(3)], checked());
    let wanted = follow(&mut board, &[("web", &more)]);
    assert_eq!((wanted.start.len(), wanted.stop.len()), (1, 0));
    assert_eq!(picked(&mut board, "web", &more, now), [(2, 1), (3, 1)]);
}

#[test]
fn levels_and_zones() {
    let (mut board, now) = (Board::new(Some("a".into())), Instant::now());
    let rule = Rule { min_zone_healthy: Some(50), ..Rule::default() };
    let zoned = |n: u8, zone: &str, priority| {
        (backend(n), Backend { zone: Some(zone.into()), priority, ..Backend::default() })
    };
    let mut web = Service::clone(&service(&[], HealthPolicy { rule, ..checked() }));
    web.backends = [zoned(1, "a", 0), zoned(2, "b", 0), zoned(3, "a", 1)].into();
    let web = Arc::new(web);
    let start = follow(&mut board, &[("web", &web)]).start;
    assert_eq!(picked(&mut board, "web", &web, now), [(1, 1)]);
    fail(&mut board, &start[0], 3);
    assert_eq!(picked(&mut board, "web", &web, now), [(2, 1)]);
    fail(&mut board, &start[1], 3);
    assert_eq!(picked(&mut board, "web", &web, now), [(3, 1)]);
}

/// What an operator drains leaves both lists of its service, and no other list stands in for it.
#[test]
fn to_drain_takes_a_backend_out_of_both_lists() {
    use crate::model::{Exposure, Frontend, Lists, Reach};
    let (here, there) = (backend(1), backend(2));
    let mut two = Service::clone(&service(&[here, there], HealthPolicy::default()));
    let frontends = [("10.96.0.1:80", Reach::Node), ("10.0.0.9:80", Reach::Cluster)];
    two.frontends = frontends
        .map(|(text, reach)| (text.parse().unwrap(), Exposure { reach, ..Exposure::default() }))
        .into();
    two.backends.get_mut(&here).unwrap().lists = Lists::Both;
    let two = Arc::new(two);
    let mut board = Board::default();
    let said = Override { state: Some(AdminState::Drain), weight: None };
    let overrides = Overrides::from([(name("web"), [(here, said)].into())]);
    board.set_overrides(Arc::new(overrides));
    follow(&mut board, &[("web", &two)]);
    let effective = board.effective(&name("web"), &two, Instant::now());
    let usable = |text: &str| -> Vec<SocketAddr> {
        let frontend: Frontend = text.parse().unwrap();
        let led_to = effective.backends_for(&frontend);
        led_to.filter(|(_, b)| b.state == AdminState::Ready).map(|(a, _)| *a).collect()
    };
    assert_eq!((usable("10.96.0.1:80"), usable("10.0.0.9:80")), (vec![], vec![there]));
    assert_eq!(effective.backends[&here].lists, Lists::Both, "it rests in both");
    assert!(!board.fails_open(&name("web")));
}
