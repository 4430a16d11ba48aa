use super::*;
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_fails_is_shown() {
    let name: Arc<str> = "kubernetes".into();
    let config = KubernetesSource::default();
    let settings = Settings {
        source: Arc::clone(&name),
        node: "n1".to_owned(),
        node_ports: config.node_ports.clone(),
        scope: config.scope,
        pods: config.pods.clone(),
        masquerade_all: false,
    };
    let state = SourceState::new(name, None);
    let follower = Follower {
        cluster: Cluster::new(settings, SystemTime::now()),
        state: state.clone(),
        facts: state::channel(Arc::default()).0,
        progress: Arc::default(),
        down: BTreeMap::new(),
        lost: false,
        since: SystemTime::UNIX_EPOCH,
        withheld: BTreeMap::new(),
        heard: None,
        idle: Work::default(),
    };
    let (sender, mut feed) = state::channel(state);
    let (events, receiver) = channel(1);
    let mut watches = JoinSet::new();
    watches.spawn(async { panic!("on purpose") });
    // Another goes on.
    watches.spawn(async move { events.closed().await });
    let (_addresses, addresses) = state::channel(Arc::default());
    tokio::spawn(follow(follower, receiver, watches, addresses, sender));
    let shown = feed.wait_for(|state| state.error.as_deref() == Some(LOST));
    timeout(Duration::from_secs(20), shown).await.unwrap().unwrap();
}
