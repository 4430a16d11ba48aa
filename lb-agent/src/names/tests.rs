use super::records::tests::service;
use super::*;
use crate::status::HookStatus;
use std::time::Duration;
use tokio::time::timeout;

/// So long nothing happens where nothing is to happen.
const MOMENT: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(20);

fn state(services: &[(&str, &[&str])]) -> Arc<State> {
    let services = services.iter().map(|(name, at)| Arc::new(service(name, at))).collect();
    Arc::new(State { services })
}

/// What the loop publishes: `attached` and `ready` are about the agent.
fn published(state: &Arc<State>, attached: bool, ready: bool) -> Arc<Published> {
    let hook = HookStatus { hook: "connect4".to_owned(), program_id: 1, link_id: 1 };
    let hooks = if attached { vec![hook] } else { Vec::new() };
    let mut agent = crate::report::empty_status(SystemTime::now());
    (agent.hooks, agent.ready) = (hooks, ready);
    Arc::new(Published { agent, state: Arc::clone(state) })
}

#[tokio::test]
async fn names_follow_what_is_served() {
    let web = state(&[("web", &["10.0.0.1:80"])]);
    let publisher = Sender::new(published(&web, false, false));
    let (sender, mut facts) = watch::channel(None);
    let all = Arc::new(Sender::new(vec![NamesStatus::new(NamesKind::Zone, "z".to_owned())]));
    let told = all.subscribe();
    let zone = records::Zone::default();
    let task = tokio::spawn(follow(zone, publisher.subscribe(), sender, Report { index: 0, all }));
    let mut next = async |wait| {
        let soon = timeout(wait, facts.changed()).await;
        soon.ok().map(|changed| {
            changed.unwrap();
            facts.borrow_and_update().clone().unwrap()
        })
    };
    // Before the programs are attached nothing is known.
    assert_eq!(next(MOMENT).await, None);
    publisher.send_replace(published(&web, true, false));
    let first = next(DEADLINE).await.unwrap();
    assert!(!first.complete && first.records.find("web.lb.internal").is_some());
    // The same names, be it in another state.
    publisher.send_replace(published(&state(&[("web", &["10.0.0.1:80"])]), true, false));
    assert_eq!(next(MOMENT).await, None);
    publisher.send_replace(published(&web, true, true));
    let second = next(DEADLINE).await.unwrap();
    assert!(second.complete && second.serial > first.serial);
    for (services, names) in [
        (&[("web", ["10.0.0.2:80"].as_slice())][..], 1),
        (&[("web", &["10.0.0.2:80", "10.0.0.3:80"])], 1),
        (&[("web", &["!10.0.0.2:80", "10.0.0.3:80"])], 1),
        (&[("other", &["!10.0.0.2:80", "10.0.0.3:80"])], 1),
        (&[("other", &["10.0.0.3:80"]), ("a/b/c", &["10.0.0.4:80"])], 1),
        (&[], 0),
    ] {
        publisher.send_replace(published(&state(services), true, true));
        let now = next(DEADLINE).await.unwrap();
        assert_eq!(now.records.len(), names, "{services:?}");
        assert_eq!(told.borrow()[0].records, names);
        let problems = services.iter().filter(|(name, _)| name.contains("b/c")).count();
        assert_eq!(told.borrow()[0].problems.len(), problems);
    }
    drop(publisher);
    task.await.unwrap();
}

#[test]
fn serials_grow_whatever_the_clock_does() {
    let now = now_serial().wrapping_add(2);
    for serial in [now, now.wrapping_add(100), now.wrapping_add((1 << 31) - 600)] {
        assert_eq!(after(serial), serial.wrapping_add(1), "the clock is behind");
    }
    for serial in [now.wrapping_sub(600), now.wrapping_sub((1 << 31) - 600)] {
        let next = after(serial);
        assert!(next.wrapping_sub(now.wrapping_sub(2)) < 600, "the clock is ahead");
    }
}
