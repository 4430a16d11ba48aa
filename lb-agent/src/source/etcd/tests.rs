use super::*;
use crate::etcd::{Change, KeyValue};
use crate::model::{Backend, Pool as Backends, Service};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Long enough to be seen, however slow the machine is.
const GRACE: Duration = Duration::from_secs(2);
const DOWN: &str = "http://a:2379: connection refused";

/// A source whose store is the test.
struct Scene {
    store: mpsc::Sender<Event>,
    feed: Feed,
}

fn config(grace: Duration, layout: LayoutKind) -> Arc<EtcdSource> {
    let endpoint = "http://127.0.0.1:1".parse().unwrap();
    Arc::new(EtcdSource {
        name: "etcd:test".into(),
        settings: Arc::new(etcd::Settings {
            endpoints: vec![endpoint],
            tls: etcd::Tls::default(),
            user: None,
        }),
        prefix: "/p/".to_owned(),
        layout,
        removal_grace: grace,
        vip_pool: Vec::new(),
        vip_ranges: Vec::new(),
        allow_exec: false,
    })
}

fn key(key: &str, value: &str, modified: i64) -> KeyValue {
    let value = value.as_bytes().to_vec();
    KeyValue { key: format!("/p/{key}"), value, created: 1, modified, lease: None }
}

fn put(name: &str, value: &str, modified: i64) -> Event {
    Event::Changed { revision: modified, changes: vec![Change::Put(key(name, value, modified))] }
}

fn listed(keys: &[(&str, &str)], gap: bool) -> Event {
    let keys = keys.iter().map(|(name, value)| key(name, value, 1)).collect();
    Event::Listed { revision: 1, keys, gap }
}

impl Scene {
    fn start(grace: Duration, cached: Option<Snapshot>) -> Self {
        let claims = Claims { ranges: Some(Vec::new()), strict: true, ..Claims::default() };
        Self::start_with(config(grace, LayoutKind::Plain), claims, cached)
    }

    fn native(grace: Duration, cached: Snapshot) -> Self {
        Self::start_with(config(grace, LayoutKind::Native), Claims::default(), Some(cached))
    }

    fn start_with(config: Arc<EtcdSource>, claims: Claims, cached: Option<Snapshot>) -> Self {
        let (store, events) = mpsc::channel(64);
        Self { store, feed: start(config, claims, cached.map(Arc::new), events, Heard::default()) }
    }

    async fn tell(&self, event: Event) {
        self.store.send(event).await.unwrap();
    }

    /// The next state that passes.
    async fn until(&mut self, pass: impl FnMut(&SourceState) -> bool) -> SourceState {
        let waiting = timeout(Duration::from_secs(30), self.feed.wait_for(pass));
        waiting.await.expect("in time").expect("the source runs").clone()
    }

    /// Waits for these pools to be what is served.
    async fn serves(&mut self, pools: &str) -> SourceState {
        self.until(|state| state.synced && served(state) == pools).await
    }
}

/// `web=10.0.0.1:80,10.0.0.2:80 dns=...`, in order.
fn served(state: &SourceState) -> String {
    let Some(snapshot) = &state.snapshot else {
        return "nothing".to_owned();
    };
    let pools = snapshot.pools.iter().map(|(name, pool)| {
        let backends: Vec<_> = pool.backends.keys().map(ToString::to_string).collect();
        format!("{name}={}", backends.join(","))
    });
    pools.collect::<Vec<_>>().join(" ")
}

fn pool(backends: &[&str]) -> Arc<Backends> {
    let backend = |address: &&str| (address.parse().unwrap(), Backend::default());
    Arc::new(Backends { backends: backends.iter().map(backend).collect() })
}

fn cached(pools: &[(&str, &[&str])]) -> Snapshot {
    let pools = pools.iter().map(|(name, list)| ((*name).into(), pool(list))).collect();
    Snapshot { pools, ..Snapshot::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_says_is_served_at_once() {
    let mut scene = Scene::start(Duration::from_secs(30), None);
    assert!(!scene.feed.borrow().synced);
    scene.tell(listed(&[("web/a", "10.0.0.1:80")], false)).await;
    scene.serves("web=10.0.0.1:80").await;
    scene.tell(put("web/b", "10.0.0.2:80", 2)).await;
    let state = scene.serves("web=10.0.0.1:80,10.0.0.2:80").await;
    assert_eq!((state.revision, state.error), (2, None));
    scene.tell(put("web/b", "x", 3)).await;
    let state = scene.until(|state| !state.rejections.is_empty()).await;
    assert_eq!(state.rejections[0].origin, "/p/web/b (revision 3)");
    assert_eq!((served(&state), state.refused), ("web=10.0.0.1:80".to_owned(), 1));
    let changes = vec![Change::Delete { key: "/p/web/a".to_owned(), modified: 4 }];
    scene.tell(Event::Changed { revision: 4, changes }).await;
    scene.serves("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_wait_are_taken_in_together() {
    let (store, events) = mpsc::channel(64);
    store.send(listed(&[], false)).await.unwrap();
    for number in 0..50 {
        let event = put(&format!("web/{number}"), &format!("10.0.0.{number}:80"), number + 2);
        store.send(event).await.unwrap();
    }
    let mut feed = start(
        config(Duration::ZERO, LayoutKind::Plain),
        Claims::default(),
        None,
        events,
        Heard::default(),
    );
    feed.changed().await.unwrap();
    let state = feed.borrow_and_update().clone();
    assert_eq!((state.revision, served(&state).split(',').count()), (51, 50));
    assert!(!feed.has_changed().unwrap(), "published once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_new_is_no_news() {
    let mut scene = Scene::start(Duration::from_secs(30), None);
    scene.tell(listed(&[("web/a", "10.0.0.1:80")], false)).await;
    let before = scene.serves("web=10.0.0.1:80").await;
    scene.feed.mark_unchanged();
    scene.tell(put("web/a", "10.0.0.1:80", 7)).await;
    scene.tell(listed(&[("web/a", "10.0.0.1:80")], true)).await;
    scene.tell(Event::Up).await;
    // What comes last is known to come after these.
    scene.tell(Event::Down(DOWN.to_owned())).await;
    scene.feed.changed().await.unwrap();
    let after = scene.feed.borrow().clone();
    assert!(after.error.is_some() && Arc::ptr_eq(&served_arc(&before), &served_arc(&after)));
}

fn served_arc(state: &SourceState) -> Arc<Snapshot> {
    Arc::clone(state.snapshot.as_ref().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_what_was_known_serves_and_the_reason_is_shown() {
    let mut scene =
        Scene::start(Duration::from_secs(30), Some(cached(&[("web", &["10.0.0.1:80"])])));
    let state = scene.feed.borrow().clone();
    assert_eq!((state.synced, served(&state)), (false, "web=10.0.0.1:80".to_owned()));
    scene.tell(Event::Down(DOWN.to_owned())).await;
    let state = scene.until(|state| state.error.is_some()).await;
    assert_eq!((state.synced, served(&state)), (false, "web=10.0.0.1:80".to_owned()));
    let error = state.error.unwrap();
    assert!(error.starts_with(&format!("{DOWN} (away since 2")), "{error}");
    let since = |error: &str| error.split(" (").last().unwrap().to_owned();
    scene.tell(Event::Down("no leader".to_owned())).await;
    let again = scene.until(|s| s.error.as_ref().is_some_and(|e| e.contains("leader"))).await;
    assert_eq!(since(&again.error.unwrap()), since(&error), "it is away since the first reason");
    scene.tell(Event::Up).await;
    scene.tell(listed(&[("web/a", "10.0.0.2:80")], false)).await;
    let state = scene.serves("web=10.0.0.2:80").await;
    assert_eq!((state.error, state.held.len()), (None, 0), "a list is newer than any cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_after_an_outage_is_held_and_shown() {
    let mut scene = Scene::start(GRACE, None);
    scene.tell(listed(&[("web/a", "10.0.0.1:80"), ("dns/a", "10.0.0.1:53")], false)).await;
    scene.serves("dns=10.0.0.1:53 web=10.0.0.1:80").await;
    scene.tell(listed(&[("web/a", "10.0.0.1:80")], true)).await;
    let state = scene.until(|state| !state.held.is_empty()).await;
    assert_eq!(served(&state), "dns=10.0.0.1:53 web=10.0.0.1:80");
    assert_eq!(state.held[0].item, "/p/dns/a");
    let state = scene.serves("web=10.0.0.1:80").await;
    assert_eq!(state.held.len(), 0);
    assert!(SystemTime::now() >= state.delivered.unwrap() + GRACE);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_does_not_end_what_served_before_the_start() {
    let before = [("dns", ["10.0.0.9:53"].as_slice()), ("web", &["10.0.0.1:80", "10.0.0.2:80"])];
    let mut scene = Scene::start(GRACE, Some(cached(&before)));
    scene.tell(listed(&[], false)).await;
    let state = scene.until(|state| state.synced).await;
    assert_eq!(served(&state), "dns=10.0.0.9:53 web=10.0.0.1:80,10.0.0.2:80");
    assert_eq!(state.held.len(), 1);
    let item = &state.held[0].item;
    assert_eq!(item, "/p/ (all 0 services and 2 pools from before the agent started)");
    // It is being filled again: what is there already is as it says.
    scene.tell(put("web/a", "10.0.0.3:80", 2)).await;
    scene.serves("dns=10.0.0.9:53 web=10.0.0.1:80,10.0.0.2:80,10.0.0.3:80").await;
    let state = scene.serves("web=10.0.0.3:80").await;
    assert_eq!(state.held.len(), 0);
    // Without a grace, and without anything to remember, an empty list is an empty list.
    let mut scene = Scene::start(Duration::ZERO, Some(cached(&before)));
    scene.tell(listed(&[], false)).await;
    scene.serves("").await;
    let mut scene = Scene::start(Duration::from_secs(30), Some(cached(&[])));
    scene.tell(listed(&[], false)).await;
    assert_eq!(scene.serves("").await.held.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_ends_with_the_last_receiver_and_complains_if_the_store_is_given_up() {
    let Scene { store, feed } = Scene::start(Duration::ZERO, None);
    drop(feed);
    timeout(Duration::from_secs(10), store.closed()).await.expect("the source ends");
    let Scene { store, mut feed } = Scene::start(Duration::ZERO, None);
    drop(store);
    let gone = timeout(Duration::from_secs(10), feed.wait_for(|state| state.error.is_some()));
    let error = gone.await.unwrap().unwrap().error.clone().unwrap();
    assert!(error.contains("restart the agent"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_that_are_put_again_do_not_end_services_from_before_the_start() {
    let before = || snapshot(&[("web", &service(&["10.96.0.1:80"], &["10.0.0.1:80"]))]);
    let web = |state: &SourceState| {
        let snapshot = state.snapshot.as_ref().unwrap();
        let web = snapshot.services.get(&"web".parse().unwrap())?;
        Some(web.backends.keys().map(ToString::to_string).collect::<Vec<_>>().join(","))
    };
    let backend = r#"{"address":"10.0.0.2:80"}"#;
    let mut scene = Scene::native(GRACE, before());
    scene.tell(listed(&[("backends/web/a", backend), ("vips/10.96.0.1", "web")], false)).await;
    let state = scene.until(|state| state.synced).await;
    assert_eq!((web(&state), state.held.len()), (Some("10.0.0.1:80".to_owned()), 1));
    scene.tell(put("services/web", r#"{"frontends":["10.96.0.1:80"]}"#, 5)).await;
    let both = Some("10.0.0.1:80,10.0.0.2:80".to_owned());
    scene.until(|state| web(state) == both).await;
    let state = scene.until(|state| state.held.is_empty()).await;
    assert_eq!(web(&state), Some("10.0.0.2:80".to_owned()));
    // One service is enough to believe what the list says.
    let mut scene = Scene::native(GRACE, before());
    let other = [("services/other", r#"{"frontends":["10.96.0.2:80"]}"#)];
    scene.tell(listed(&other, false)).await;
    let state = scene.until(|state| state.synced).await;
    assert_eq!((web(&state), state.held.len()), (None, 0));
    // Keys that make no pool don't count in the other layouts.
    let mut scene = Scene::start(GRACE, Some(cached(&[("web", &["10.0.0.1:80"])])));
    scene.tell(listed(&[("note", "x")], false)).await;
    let state = scene.until(|state| state.synced).await;
    assert_eq!((served(&state), state.held.len()), ("web=10.0.0.1:80".to_owned(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_held_expires_while_the_store_is_away() {
    let mut scene = Scene::start(GRACE, None);
    scene.tell(listed(&[("web/a", "10.0.0.1:80")], false)).await;
    scene.serves("web=10.0.0.1:80").await;
    let mut new = Scene::start(GRACE, Some(cached(&[("web", &["10.0.0.1:80"])])));
    for scene in [&mut scene, &mut new] {
        scene.tell(listed(&[], true)).await;
        scene.tell(Event::Down(DOWN.to_owned())).await;
        let state = scene.until(|state| state.error.is_some() && !state.held.is_empty()).await;
        assert_eq!(state.held[0].until, None);
        let too_long = timeout(GRACE * 4, scene.feed.wait_for(|state| state.held.is_empty()));
        assert!(too_long.await.is_err(), "{:?}", scene.feed.borrow());
        assert_eq!(served(&scene.feed.borrow()), "web=10.0.0.1:80");
        let back = SystemTime::now();
        scene.tell(Event::Up).await;
        let state = scene.until(|state| state.error.is_none()).await;
        assert!(state.held[0].until >= Some(back + GRACE), "{:?}", state.held);
        scene.until(|state| state.held.is_empty() && served(state).is_empty()).await;
        assert!(SystemTime::now() >= back + GRACE);
    }
}

fn service(frontends: &[&str], backends: &[&str]) -> Arc<Service> {
    let frontends = frontends.iter().map(|f| (f.parse().unwrap(), Default::default()));
    Arc::new(Service {
        frontends: frontends.collect(),
        backends: pool(backends).backends.clone(),
        backends_from: Vec::new(),
        policy: Default::default(),
        affinity: None,
        no_backend: Default::default(),
        no_node_backend: Default::default(),
        source_ranges: Vec::new(),
        health: Default::default(),
    })
}

fn snapshot(services: &[(&str, &Arc<Service>)]) -> Snapshot {
    let services = services.iter().map(|(name, one)| (name.parse().unwrap(), Arc::clone(one)));
    Snapshot { services: services.collect(), ..Snapshot::default() }
}

#[test]
fn memory_fills_up_what_is_there_by_now() {
    let old = snapshot(&[
        ("kept", &service(&["10.96.0.1:80"], &["10.0.0.1:80"])),
        ("moved", &service(&["10.96.0.2:80", "10.96.0.3:80"], &["10.0.0.2:80"])),
        ("taken", &service(&["10.96.0.4:80"], &["10.0.0.3:80"])),
    ]);
    let now = snapshot(&[
        ("kept", &service(&["10.96.0.1:81"], &["10.0.0.9:80"])),
        ("new", &service(&["10.96.0.3:80", "10.96.0.4:80"], &[])),
    ]);
    let grace = Duration::from_secs(9);
    let memory = Memory::new(Arc::new(old), "/p/", grace, super::now()).unwrap();
    let expected = snapshot(&[
        ("kept", &service(&["10.96.0.1:81"], &["10.0.0.1:80", "10.0.0.9:80"])),
        ("moved", &service(&["10.96.0.2:80"], &["10.0.0.2:80"])),
        ("new", &service(&["10.96.0.3:80", "10.96.0.4:80"], &[])),
    ]);
    assert_eq!(memory.over(&now), expected);
}
