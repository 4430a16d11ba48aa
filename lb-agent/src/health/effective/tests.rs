use super::*;
use proptest::prelude::*;

/// A member written as `r` ready, `d` drain, `x` disabled; then `u` up, `f` failing, `e` ejected;
/// then its priority, then `o` if it is in the own zone; then its weight, if not 1.
fn member(text: &str) -> Member {
    let mut letters = text.chars();
    let admin = match letters.next().unwrap() {
        'r' => AdminState::Ready,
        'd' => AdminState::Drain,
        _ => AdminState::Disabled,
    };
    let health = match letters.next().unwrap() {
        'u' => Health::Up,
        'f' => Health::Down,
        _ => Health::Ejected,
    };
    let rest = letters.as_str();
    let priority = rest.get(..1).and_then(|p| p.parse().ok()).unwrap_or(0);
    let own_zone = rest.contains('o');
    let weight = rest.split_once('*').map_or(1, |(_, weight)| weight.parse().unwrap());
    Member { admin, health, weight, priority, own_zone, ramp: FULL }
}

fn apply(members: &str, rule: Rule) -> (String, bool) {
    let members: Vec<Member> = members.split(' ').map(member).collect();
    let (shares, fail_open) = shares(&members, rule);
    let text = shares.iter().map(|share| match share.why {
        Why::Serving => share.weight.to_string(),
        Why::FailOpen => format!("{}!", share.weight),
        why => {
            assert_eq!(share.weight, 0);
            format!("{why:?}").to_lowercase()
        }
    });
    (text.collect::<Vec<_>>().join(" "), fail_open)
}

#[test]
fn the_rule() {
    let rule = Rule::default();
    let panic = Rule { panic_threshold: 50, ..rule };
    let zone = Rule { min_zone_healthy: Some(50), ..rule };
    for (members, rule, shares, fail_open) in [
        ("ru ru", rule, "1 1", false),
        ("ru*3 ru*6", rule, "1 2", false),
        ("ru rf re", rule, "1 failing ejected", false),
        ("ru du xu", rule, "1 draining disabled", false),
        // Fail open overrides checks, never what the operator says.
        ("rf re df xf", rule, "1! 1! draining disabled", true),
        ("du xu", rule, "draining disabled", false),
        ("du rf", rule, "draining 1!", true),
        // Too few are healthy.
        ("ru rf rf", panic, "1 1! 1!", true),
        ("ru ru rf rf", panic, "1 1 failing failing", false),
        // Backup levels.
        ("ru0 ru1 ru2", rule, "1 standby standby", false),
        ("rf0 ru1 ru2", rule, "failing 1 standby", false),
        ("rf0 rf1", rule, "1! standby", true),
        ("du0 ru1", rule, "draining 1", false),
        // Zones: all of the own one is up; half of it; less than that; nothing of it.
        ("ru0o ru0o ru0", zone, "1 1 otherzone", false),
        ("ru0o rf0o ru0", zone, "1 failing otherzone", false),
        ("ru0o rf0o rf0o rf0o ru0 ru0", zone, "2 failing failing failing 1 1", false),
        ("rf0o ru0", zone, "failing 1", false),
        ("ru0 ru0", zone, "1 1", false),
        ("ru0o ru0o", zone, "1 1", false),
        ("rf0o rf0", zone, "1! 1!", true),
        // A drained backend of the zone does not count as missing.
        ("ru0o du0o ru0", zone, "1 draining otherzone", false),
        // Only the own zone's backends of the level that serves count.
        ("rf0o ru1o ru1", zone, "failing 1 otherzone", false),
    ] {
        assert_eq!(apply(members, rule), (shares.to_owned(), fail_open), "{members} {rule:?}");
    }
}

#[test]
fn slow_start_takes_a_growing_part() {
    let whole = Duration::from_secs(10);
    for (elapsed, expected) in
        [(0, 1), (400, 1), (500, 1), (1000, 2), (5000, 10), (9999, 19), (10_000, 20)]
    {
        assert_eq!(ramp(Duration::from_millis(elapsed), whole), expected, "{elapsed}");
    }
    assert_eq!(ramp(Duration::ZERO, Duration::ZERO), FULL);
    let half = Member { ramp: FULL / 2, ..member("ru") };
    let (shares, _) = shares(&[half, member("ru")], Rule::default());
    assert_eq!(shares.iter().map(|s| s.weight).collect::<Vec<_>>(), [1, 2]);
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let admin = prop_oneof![
        4 => Just(AdminState::Ready),
        1 => Just(AdminState::Drain),
        1 => Just(AdminState::Disabled)
    ];
    let health = prop_oneof![Just(Health::Up), Just(Health::Down), Just(Health::Ejected)];
    let one = (admin, health, 1..=u16::MAX, 0_u8..3, any::<bool>(), 1..=FULL).prop_map(
        |(admin, health, weight, priority, own_zone, ramp)| Member {
            admin,
            health,
            weight,
            priority,
            own_zone,
            ramp,
        },
    );
    prop::collection::vec(one, 0..12)
}

proptest! {
    #[test]
    fn whoever_is_ready_leaves_nobody_without(
        members in members(), panic_threshold in 0_u8..=100, min in prop::option::of(0_u8..=100),
    ) {
        let rule = Rule { panic_threshold, min_zone_healthy: min };
        let (shares, fail_open) = shares(&members, rule);
        let any_ready = members.iter().any(|m| m.admin == AdminState::Ready);
        prop_assert_eq!(shares.iter().any(|s| s.weight > 0), any_ready);
        for (member, share) in members.iter().zip(&shares) {
            prop_assert!(share.weight == 0 || member.admin == AdminState::Ready);
            prop_assert!(share.weight == 0 || fail_open || member.health == Health::Up);
            prop_assert_eq!(share.weight > 0, matches!(share.why, Why::Serving | Why::FailOpen));
        }
        // A lower level that has somebody serves alone.
        let serving = members.iter().zip(&shares).filter(|(_, s)| s.weight > 0);
        let levels: std::collections::BTreeSet<u8> = serving.map(|(m, _)| m.priority).collect();
        prop_assert!(levels.len() <= 1);
    }

    /// Below its minimum the own zone gets as much of it as is up, within what whole numbers allow.
    #[test]
    fn spill_over_is_in_proportion(up in 1_usize..10, down in 1_usize..10, others in 1_usize..10) {
        let own = |health| Member { health, ..member("ru0o") };
        let mut members = vec![own(Health::Up); up];
        members.extend(vec![own(Health::Down); down]);
        members.extend(vec![member("ru0"); others]);
        let rule = Rule { min_zone_healthy: Some(100), ..Rule::default() };
        let (shares, _) = shares(&members, rule);
        let weight = |range: &[Share]| range.iter().map(|s| f64::from(s.weight)).sum::<f64>();
        let part = weight(&shares[..up]) / weight(&shares);
        let wanted = up as f64 / (up + down) as f64;
        prop_assert!((part - wanted).abs() < 0.001, "{part} {wanted}");
    }
}

#[test]
fn a_state_has_one_name() {
    for (at, why) in Why::ALL.into_iter().enumerate() {
        assert_eq!(why as usize, at, "{why:?}");
        assert_eq!(serde_json::to_value(why).unwrap(), why.label());
        assert_eq!(why.word().replace('-', "_"), why.label());
    }
}
