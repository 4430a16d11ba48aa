use super::*;
use crate::health::effective::{FULL, Health, Why};
use crate::model::{AdminState, Exposure, Frontend, HealthPolicy, Rule};
use Lists::{Both, Cluster, Node};

const UP: Member = Member {
    admin: AdminState::Ready,
    health: Health::Up,
    weight: 1,
    priority: 0,
    own_zone: false,
    ramp: FULL,
};
const DOWN: Member = Member { health: Health::Down, ..UP };
const DRAINED: Member = Member { admin: AdminState::Drain, ..UP };

fn weighing(weight: u16) -> Member {
    Member { weight, ..UP }
}

/// With a frontend of each of these.
fn service(reaches: &[Reach]) -> Service {
    let frontend = |(port, reach): (u16, &Reach)| {
        let frontend: Frontend = format!("10.96.0.1:{port}").parse().unwrap();
        (frontend, Exposure { reach: *reach, ..Exposure::default() })
    };
    Service {
        frontends: (1..).zip(reaches).map(frontend).collect(),
        backends: Default::default(),
        backends_from: Vec::new(),
        policy: Default::default(),
        affinity: None,
        no_backend: Default::default(),
        no_node_backend: Default::default(),
        source_ranges: Vec::new(),
        health: HealthPolicy { rule: Rule::default(), ..HealthPolicy::default() },
    }
}

/// Weight and lists of each, and whether a list fails open.
fn weights(members: &[(Lists, Member)], reaches: &[Reach]) -> (Vec<(u16, Lists)>, bool) {
    let (parts, fail_open) = parts(members, &service(reaches));
    assert_eq!(parts.len(), members.len());
    (parts.iter().map(|part| (part.share.weight, part.lists)).collect(), fail_open)
}

const BOTH: [Reach; 2] = [Reach::Cluster, Reach::Node];

#[test]
fn the_rule_is_applied_to_each_list() {
    for (case, members, expected, fails_open) in [
        (
            "all is well",
            vec![(Both, UP), (Cluster, UP), (Node, UP)],
            vec![(1, Both), (1, Cluster), (1, Node)],
            false,
        ),
        (
            "a drained backend leaves both",
            vec![(Both, DRAINED), (Both, UP), (Cluster, UP)],
            vec![(0, Both), (1, Both), (1, Cluster)],
            false,
        ),
        (
            "and nobody stands in for it in the list that had no other",
            vec![(Both, DRAINED), (Cluster, UP)],
            vec![(0, Both), (1, Cluster)],
            false,
        ),
        (
            "the node's only backend is down: it serves there, and not where others are up",
            vec![(Both, DOWN), (Cluster, UP)],
            vec![(1, Node), (1, Cluster)],
            true,
        ),
        (
            "the cluster's are down: they serve, and the node's healthy one alone on the node",
            vec![(Node, UP), (Cluster, DOWN), (Both, DOWN)],
            vec![(1, Node), (1, Cluster), (1, Cluster)],
            true,
        ),
        (
            "weights keep their proportions in either list",
            vec![(Both, weighing(4)), (Node, weighing(2)), (Cluster, weighing(1))],
            vec![(4, Both), (2, Node), (1, Cluster)],
            false,
        ),
    ] {
        assert_eq!(weights(&members, &BOTH), (expected, fails_open), "{case}");
    }
}

#[test]
fn a_list_that_no_frontend_leads_by_has_no_say() {
    // The cluster's other backend is up, but nobody is led there.
    let members = [(Both, DOWN), (Cluster, UP), (Node, UP)];
    assert_eq!(
        weights(&members, &[Reach::Node]),
        (vec![(0, Both), (1, Cluster), (1, Node)], false)
    );
    let members = [(Both, DOWN), (Cluster, UP)];
    assert_eq!(weights(&members, &[Reach::Node]), (vec![(1, Both), (1, Cluster)], true));
    // Without frontends for the node there is one list.
    let members = [(Both, DOWN), (Cluster, UP), (Cluster, UP)];
    let one = vec![(0, Both), (1, Cluster), (1, Cluster)];
    assert_eq!(weights(&members, &[Reach::Cluster]), (one.clone(), false));
    assert_eq!(weights(&members, &[]), (one, false));
}

#[test]
fn a_backend_says_why_it_serves_where_it_does() {
    let why = |members: &[(Lists, Member)]| {
        let (parts, _) = parts(members, &service(&BOTH));
        parts.iter().map(|part| part.share.why).collect::<Vec<_>>()
    };
    assert_eq!(why(&[(Both, DOWN), (Cluster, UP)]), [Why::FailOpen, Why::Serving]);
    assert_eq!(why(&[(Both, DOWN), (Both, UP)]), [Why::Failing, Why::Serving]);
    assert_eq!(why(&[(Both, DRAINED), (Cluster, UP)]), [Why::Draining, Why::Serving]);
}
