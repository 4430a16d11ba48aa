//! What keys and answers do.

use super::*;
use crate::model::AdminState;
use crate::status::{BackendStatus, OutcomeCounts, ServiceCounts};
use crate::summary::tests as fixture;
use proptest::prelude::*;
use std::time::SystemTime;

/// A service with backends that have these counts: connects, open, refused, round trip in ms.
pub(crate) fn service(name: &str, backends: &[(&str, [u64; 3], u64)]) -> ServiceStatus {
    let connects = backends.iter().map(|(_, [connects, ..], _)| connects).sum();
    let backends = backends.iter().map(|(address, [connects, active, refused], rtt)| {
        let srtt = Some(Duration::from_millis(*rtt)).filter(|rtt| !rtt.is_zero());
        let outcomes =
            OutcomeCounts { established: 1, refused: *refused, srtt, ..OutcomeCounts::default() };
        BackendStatus {
            active: *active,
            connects: *connects,
            outcomes: Some(Box::new(outcomes)),
            ..fixture::backend(address, AdminState::Ready, None)
        }
    });
    let backends: Vec<_> = backends.collect();
    ServiceStatus {
        name: name.to_owned(),
        counters: ServiceCounts { connects, ..ServiceCounts::default() },
        ..fixture::service(vec![fixture::frontend("10.96.0.1:80", backends.len())], backends)
    }
}

pub(crate) fn answer(services: Vec<ServiceStatus>) -> Answer {
    let agent = AgentStatus { ready: true, ..crate::report::empty_status(SystemTime::UNIX_EPOCH) };
    Answer { agent: Arc::new(agent), services }
}

/// Two looks, two seconds apart: `busy` has 20 connects per second, `slow` 2 and failures.
pub(crate) fn two_looks() -> Top {
    let look = |busy, slow, failed| {
        answer(vec![
            service("busy", &[("10.0.0.1:80", [busy, 3, 0], 1), ("10.0.0.2:80", [busy, 4, 0], 2)]),
            service("idle", &[]),
            service("slow", &[("10.0.0.3:80", [slow, 9, failed], 70)]),
        ])
    };
    let mut top = Top::new(true);
    top.answered(Duration::from_secs(5), look(100, 10, 0));
    top.answered(Duration::from_secs(7), look(120, 14, 6));
    top
}

pub(crate) fn press(top: &mut Top, keys: &str) -> Then {
    let mut then = Then::Stay;
    for key in keys.split(' ') {
        let code = match key {
            "Enter" => KeyCode::Enter,
            "Esc" => KeyCode::Esc,
            "Tab" => KeyCode::Tab,
            "Up" => KeyCode::Up,
            "Down" => KeyCode::Down,
            "PageDown" => KeyCode::PageDown,
            "End" => KeyCode::End,
            "Backspace" => KeyCode::Backspace,
            other => KeyCode::Char(other.chars().next().unwrap()),
        };
        then = top.key(KeyEvent::from(code));
    }
    then
}

fn names(top: &Top) -> Vec<&str> {
    top.lines().iter().map(|line| line.name.as_str()).collect()
}

#[test]
fn rates_are_of_the_time_between_two_looks() {
    let mut top = two_looks();
    let lines = top.lines();
    let seen: Vec<_> =
        lines.iter().map(|l| (l.name.as_str(), l.rate, l.failing, l.failed)).collect();
    assert_eq!(seen, [("busy", 20.0, 0.0, 0), ("slow", 2.0, 3.0, 6), ("idle", 0.0, 0.0, 0)]);
    assert_eq!((top.total.rate, top.total.active, top.total.backends), (22.0, 16, 3));
    // A service that began anew has no negative rate, one that is new has none.
    let fresh = vec![service("busy", &[("10.0.0.1:80", [1, 0, 0], 1)]), service("new", &[])];
    top.answered(Duration::from_secs(8), answer(fresh));
    assert!(top.lines().iter().all(|line| line.rate == 0.0));
}

#[test]
fn keys_sort_and_turn_round() {
    let mut top = two_looks();
    for (keys, expected) in [
        ("c", ["idle", "slow", "busy"]),
        ("r", ["busy", "slow", "idle"]),
        ("a", ["slow", "busy", "idle"]),
        ("f", ["slow", "busy", "idle"]),
        ("l", ["slow", "busy", "idle"]),
        ("n", ["busy", "idle", "slow"]),
        ("n", ["slow", "idle", "busy"]),
        ("s", ["idle", "busy", "slow"]),
    ] {
        press(&mut top, keys);
        assert_eq!(names(&top), expected, "{keys}");
    }
}

#[test]
fn the_chosen_line_is_followed_and_entered_and_left() {
    let mut top = two_looks();
    top.screen(10);
    press(&mut top, "Down");
    top.screen(10);
    press(&mut top, "Enter");
    assert_eq!(top.place, Place::Backends(Some("slow".to_owned())));
    assert_eq!(names(&top), ["10.0.0.3:80"]);
    top.screen(10);
    press(&mut top, "Esc");
    assert_eq!(top.place, Place::Services);
    let screen = top.screen(10);
    assert_eq!(screen.lines[screen.chosen].name, "slow");
    // Sorted otherwise by what happens, it is still the same line.
    let busier = vec![
        service("busy", &[("10.0.0.1:80", [240, 3, 0], 1)]),
        service("slow", &[("10.0.0.3:80", [1000, 9, 6], 70)]),
    ];
    top.answered(Duration::from_secs(8), answer(busier));
    let screen = top.screen(10);
    assert_eq!((screen.chosen, screen.lines[0].name.as_str()), (0, "slow"));
    press(&mut top, "Tab");
    assert_eq!(names(&top), ["10.0.0.3:80", "10.0.0.1:80"]);
    press(&mut top, "Esc");
    // A line that is gone leaves the choice to its neighbours.
    top.answered(Duration::from_secs(9), answer(Vec::new()));
    assert_eq!(top.screen(10).of, 0);
    assert_eq!(press(&mut top, "Down Enter Up"), Then::Stay);
}

#[test]
fn the_filter_takes_keys_until_it_is_done() {
    let mut top = two_looks();
    press(&mut top, "/ s l q");
    assert_eq!((top.filter.as_str(), names(&top).len()), ("slq", 0));
    press(&mut top, "Backspace Enter");
    assert_eq!(names(&top), ["slow"]);
    assert_eq!(press(&mut top, "q"), Then::Quit);
    press(&mut top, "Esc");
    assert_eq!(names(&top).len(), 3);
    press(&mut top, "/ x Esc");
    assert_eq!((top.typing, top.filter.as_str()), (false, ""));
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&mut top, "/");
    assert_eq!(top.key(control), Then::Quit);
}

#[test]
fn an_agent_that_is_away_is_told_of_and_forgotten_when_it_is_back() {
    let mut top = two_looks();
    top.failed("no agent answers\x1b[2J".to_owned());
    assert_eq!(top.absent.as_deref(), Some("no agent answers\\u{1b}[2J"));
    assert_eq!(names(&top).len(), 3);
    top.answered(Duration::from_secs(20), answer(Vec::new()));
    assert_eq!(top.absent, None);
}

proptest! {
    #[test]
    fn the_chosen_line_is_on_the_screen(
        keys in proptest::collection::vec(
            prop_oneof![
                Just("Down"), Just("Up"), Just("PageDown"), Just("End"), Just("r"), Just("n"),
                Just("c"), Just("Tab"), Just("Enter"), Just("Esc"), Just("g"), Just("/"), Just("1")
            ],
            0..40,
        ),
        sizes in proptest::collection::vec((0usize..30, 0usize..12), 1..6),
    ) {
        let mut top = Top::new(false);
        let mut keys = keys.chunks(8);
        for (at, (services, room)) in (1u64..).zip(sizes) {
            let services = (0..services).map(|n| service(&format!("s{n}"), &[("10.0.0.1:80", [n as u64 * at, 0, 0], 1)]));
            top.answered(Duration::from_secs(at), answer(services.collect()));
            for key in keys.next().unwrap_or_default() {
                press(&mut top, key);
                let screen = top.screen(room);
                prop_assert!(screen.lines.len() <= room.max(1));
                prop_assert!(screen.of == 0 || screen.chosen < screen.lines.len());
                prop_assert!(screen.first + screen.lines.len() <= screen.of);
            }
        }
    }
}
