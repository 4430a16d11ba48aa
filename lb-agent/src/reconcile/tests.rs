mod layouts;

use super::*;
use crate::dataplane::{Doomed, Fake};
use crate::model::{Backend, Scope, Service};
use lb_common::rows::FrontendKey;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const LIMITS: Limits = Limits { frontends: 8, services: 8, rows: 64, backends: 4 };
const DEADLINE: Duration = Duration::from_secs(30);

/// The loop, its one source, and its tables.
struct Setup {
    reconciler: Reconciler<Fake>,
    source: watch::Sender<SourceState>,
    fake: Fake,
    directory: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        Self::over(Fake::default(), tempfile::tempdir().unwrap())
    }

    /// On tables that there are, with what is saved in a directory.
    fn over(fake: Fake, directory: tempfile::TempDir) -> Self {
        let (source, feed) = watch::channel(SourceState::new("s".into(), None));
        let files = Files::in_directory(directory.path());
        let identity = Identity { cgroup: "/".into(), pin_dir: "/".into(), warnings: vec![] };
        let made =
            Reconciler::new(fake.clone(), LIMITS, vec![feed], identity, files, Monitor::deaf());
        let Ok(reconciler) = made else { panic!("an empty dataplane is adopted") };
        Self { reconciler, source, fake, directory }
    }

    /// The source says this.
    fn say(&self, services: &[(&str, &str, &[&str])]) {
        say(&self.source, services);
    }

    /// The source says this, and the loop takes it.
    fn take(&mut self, services: &[(&str, &str, &[&str])]) {
        self.say(services);
        self.reconciler.absorb();
    }

    async fn end_grace(&mut self) {
        let result = ended(&mut self.reconciler.grace).await;
        self.reconciler.grace_ended(result);
    }

    /// The backends behind a frontend, by port.
    fn found(&self, frontend: &str) -> Option<Vec<u16>> {
        found(&self.fake, frontend)
    }
}

/// Services as (name, frontend, backends).
fn say(source: &watch::Sender<SourceState>, services: &[(&str, &str, &[&str])]) {
    let service = |(name, frontend, backends): &(&str, &str, &[&str])| {
        let backends = backends.iter().map(|b| (b.parse().unwrap(), Backend::default()));
        let service = Service {
            frontends: [(frontend.parse().unwrap(), Scope::Everywhere.into())].into(),
            backends: backends.collect(),
            backends_from: Vec::new(),
            policy: Default::default(),
            affinity: None,
            no_backend: Default::default(),
            no_node_backend: Default::default(),
            source_ranges: Vec::new(),
            health: Default::default(),
        };
        (name.parse().unwrap(), Arc::new(service))
    };
    let services = services.iter().map(service).collect();
    source.send_modify(|state| {
        state.snapshot = Some(Arc::new(Snapshot { services, ..Snapshot::default() }));
        state.synced = true;
        state.revision += 1;
    });
}

fn found(fake: &Fake, frontend: &str) -> Option<Vec<u16>> {
    let address: SocketAddr = frontend.parse().unwrap();
    let block = fake.lookup(&FrontendKey::new(address.ip(), address.port(), 6))?;
    Some(block.rows.iter().map(|row| u16::from_be(row.port)).collect())
}

/// Runs the loop until what it publishes fits, then stops it.
async fn run_until(setup: &mut Setup, fits: impl Fn(&Published) -> bool) -> Arc<Published> {
    let mut published = setup.reconciler.published();
    let mut last = None;
    let stop = async {
        let wait = published.wait_for(|published| fits(published));
        let found = tokio::time::timeout(DEADLINE, wait).await;
        last = Some(found.expect("it comes to that").unwrap().clone());
    };
    assert!(setup.reconciler.run(stop).await.is_ok());
    last.unwrap()
}

const A: (&str, &str, &[&str]) = ("a", "10.96.0.1:80", &["10.0.0.1:1"]);
const A_CHANGED: (&str, &str, &[&str]) = ("a", "10.96.0.1:80", &["10.0.0.1:1", "10.0.0.1:2"]);
const B: (&str, &str, &[&str]) = ("b", "10.96.0.2:80", &["10.0.0.1:3"]);

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_attached_once_the_tables_hold_what_was_said_first() {
    let mut setup = Setup::new();
    setup.source.send_modify(|state| state.error = Some("away".to_owned()));
    setup.reconciler.absorb();
    setup.reconciler.attach_if_ready(Instant::now()).unwrap();
    let before = setup.reconciler.published().borrow().clone();
    let pending = ["s: away", "the programs are not attached yet"].map(str::to_owned);
    assert_eq!(before.agent.pending, pending);
    assert!(setup.fake.attached().is_empty(), "nobody has said anything");

    setup.source.send_modify(|state| state.error = None);
    setup.say(&[A, B]);
    run_until(&mut setup, |p| p.agent.ready).await;
    assert_eq!(setup.fake.attached(), [2], "attached once, with both frontends in place");
    setup.say(&[A]);
    run_until(&mut setup, |p| p.agent.sources[0].services == 1).await;
    assert_eq!(setup.fake.attached(), [2]);
}

/// A store that is away makes no host unready that serves what the store said before.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_away_is_not_waited_for_while_its_cache_serves() {
    let mut setup = Setup::new();
    setup.say(&[A]);
    setup.source.send_modify(|state| state.synced = false);
    setup.reconciler.absorb();
    setup.reconciler.attach_if_ready(Instant::now()).unwrap();
    let told = |setup: &Setup| setup.reconciler.published().borrow().agent.clone();
    assert_eq!(told(&setup).pending, ["s has not delivered yet"]);
    for error in [Some("away"), None, Some("away")] {
        setup.source.send_modify(|state| state.error = error.map(str::to_owned));
        setup.reconciler.absorb();
        let agent = told(&setup);
        assert!(agent.ready && agent.sources[0].cached, "{agent:?}");
        assert_eq!(agent.sources[0].error.as_deref(), error);
    }
    setup.take(&[A]);
    let agent = told(&setup);
    assert!(!agent.sources[0].cached && agent.sources[0].synced, "{agent:?}");
}

/// Killed before it has saved what it published, an agent leaves tables that are newer than what the next one
/// reads.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_saved_before_does_not_undo_what_the_tables_hold() {
    let killed = |before: &[(&str, &str, &[&str])]| {
        let mut setup = Setup::new();
        setup.take(before);
        setup.reconciler.attach_if_ready(Instant::now()).unwrap();
        let Setup { fake, directory, .. } = setup;
        let next = Setup::over(fake, directory);
        next.say(&[A]);
        next.source.send_modify(|state| {
            (state.synced, state.error) = (false, Some("away".to_owned()));
        });
        next
    };
    let both = Some(vec![1, 2]);

    let mut setup = killed(&[A_CHANGED]);
    setup.reconciler.absorb();
    setup.reconciler.attach_if_ready(Instant::now()).unwrap();
    setup.reconciler.tick();
    assert_eq!(setup.found(A.1), both);
    let pending = setup.reconciler.published().borrow().agent.pending.clone();
    assert_eq!(pending, ["the programs are not attached yet", DOUBTED]);
    assert!(setup.directory.path().join("behind").exists() && !setup.reconciler.may_save());
    setup.take(&[A_CHANGED, B]);
    setup.reconciler.attach_if_ready(Instant::now()).unwrap();
    assert_eq!((setup.found(A.1), setup.found(B.1)), (both.clone(), Some(vec![3])));
    run_until(&mut setup, |p| p.agent.ready).await;
    assert!(!setup.directory.path().join("behind").exists(), "it has saved all");

    // It is not waited for a source for ever.
    let mut setup = killed(&[A_CHANGED]);
    setup.reconciler.doubt = Some(Instant::now() + TICK);
    let began = Instant::now();
    run_until(&mut setup, |p| p.agent.ready).await;
    assert!(began.elapsed() >= TICK);
    assert_eq!(setup.found(A.1), Some(vec![1]));

    // And what serves nothing is not newer.
    let mut setup = killed(&[]);
    setup.reconciler.absorb();
    assert_eq!(setup.found(A.1), Some(vec![1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_looked_at_and_applied_again() {
    let mut setup = Setup::new();
    setup.take(&[A]);
    setup.reconciler.attach_if_ready(Instant::now()).unwrap();
    setup.fake.fail_after(1);
    setup.fake.fail_observe(1);
    setup.take(&[A_CHANGED, B]);
    let work = &setup.reconciler.work;
    assert_eq!(work.failures, 1);
    assert!(work.last_error.as_ref().is_some_and(|e| e.ends_with("told to fail")), "{work:?}");

    let done = run_until(&mut setup, |p| p.agent.work.last_error.is_none()).await;
    assert_eq!(done.agent.work.failures, 2, "the tables could not be read at first");
    assert_eq!(setup.found(A.1), Some(vec![1, 2]));
    assert_eq!(setup.found(B.1), Some(vec![3]));
    let installed = done.state.services.iter().flat_map(|s| &s.frontends).filter(|f| f.installed);
    assert_eq!(installed.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_follows_while_the_tables_cannot_be_read() {
    let mut setup = Setup::new();
    setup.take(&[A]);
    setup.fake.fail_after(0);
    setup.take(&[A_CHANGED]);
    setup.fake.fail_observe(1);
    setup.take(&[A_CHANGED, B]);
    assert_eq!(setup.reconciler.work.failures, 2);
    assert_eq!(setup.reconciler.reporter.state().services.len(), 2);
    assert_eq!(setup.found(B.1), None, "the tables are as they were");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_come_less_and_less_often_until_one_succeeds() {
    let mut setup = Setup::new();
    setup.take(&[A]);
    setup.fake.fail_after(0);
    setup.take(&[A_CHANGED]);
    setup.fake.fail_observe(9);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let begin = Instant::now();
        setup.reconciler.round(begin);
        let pause = setup.reconciler.retry_at.expect("it is tried again") - begin;
        pauses.push(pause.as_millis() / FIRST_RETRY.as_millis());
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 50, 50, 50, 50]);
    assert_eq!(setup.found(A.1), Some(vec![1]), "what was there serves meanwhile");
    setup.reconciler.round(Instant::now());
    assert_eq!(setup.found(A.1), Some(vec![1, 2]));
    assert_eq!(setup.reconciler.backoff, FIRST_RETRY);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_grace_period_is_done_when_it_has_passed() {
    let mut setup = Setup::new();
    setup.take(&[A]);
    setup.take(&[]);
    setup.take(&[B]);
    assert_eq!(setup.found(A.1), None);
    assert_eq!(setup.found(B.1), None, "a deleted element may still be held");
    setup.end_grace().await;
    assert_eq!(setup.found(B.1), Some(vec![3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_period_that_failed_has_not_passed() {
    let mut setup = Setup::new();
    setup.take(&[A]);
    setup.fake.fail_grace(2);
    setup.take(&[]);
    setup.take(&[B]);
    setup.end_grace().await;
    assert_eq!(setup.found(B.1), None);
    assert!(setup.reconciler.lost && setup.reconciler.retry_at.is_some());

    // Once more for what the planner is made of anew.
    setup.reconciler.round(Instant::now());
    assert_eq!(setup.found(B.1), None);
    assert_eq!(setup.reconciler.work.failures, 2);
    setup.reconciler.round(Instant::now());
    assert_eq!(setup.found(B.1), Some(vec![3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_did_not_fit_is_served_when_ids_come_free() {
    let four = ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "10.0.0.1:4"];
    let mut setup = Setup::new();
    setup.take(&[("a", A.1, &four)]);
    setup.fake.set_active([2, 3].into());
    setup.take(&[("a", A.1, &four[..2]), B]);
    while setup.reconciler.grace.is_some() {
        setup.end_grace().await;
    }
    let result = setup.reconciler.removals.ended().await;
    setup.reconciler.destroyed(result);
    setup.reconciler.tick();
    assert_eq!(setup.reconciler.plan_rejections.len(), 1, "sockets name the ids that it needs");
    let result = setup.reconciler.removals.ended().await;
    setup.reconciler.destroyed(result);
    setup.fake.set_active([3].into());
    setup.reconciler.tick();
    assert_eq!(setup.reconciler.plan_rejections, []);
    assert_eq!(setup.found(B.1), Some(vec![3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_saved_beside_the_loop_and_at_its_end() {
    let mut setup = Setup::new();
    let file = setup.directory.path().join("snapshots.json");
    let saved = || -> Vec<String> {
        let saved: BTreeMap<String, Snapshot> = store::load(&file).unwrap().unwrap_or_default();
        saved["s"].services.keys().map(ToString::to_string).collect()
    };
    setup.take(&[A]);
    setup.reconciler.tick();
    setup.reconciler.saver.ended().await;
    assert_eq!(saved(), ["a"]);
    // Too soon after the last one.
    setup.take(&[A, B]);
    setup.reconciler.tick();
    assert_eq!(saved(), ["a"]);
    assert!(setup.reconciler.unsaved);
    run_until(&mut setup, |_| true).await;
    assert_eq!(saved(), ["a", "b"]);
}

/// An agent that is killed as soon as it is ready leaves what the next begins with.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_first_is_saved_before_the_agent_is_ready() {
    let mut setup = Setup::new();
    let file = setup.directory.path().join("snapshots.json");
    setup.take(&[A]);
    setup.reconciler.attach_if_ready(Instant::now()).unwrap();
    let published = setup.reconciler.published().borrow().clone();
    assert_eq!(published.agent.pending, ["what was delivered is not saved yet"]);
    let hurried = setup.reconciler.saver.ended().await;
    setup.reconciler.saved(hurried);
    assert!(setup.reconciler.published().borrow().agent.ready);
    let saved: BTreeMap<String, Snapshot> = store::load(&file).unwrap().unwrap();
    assert_eq!(saved["s"].services.len(), 1);
    // What comes later waits for its turn.
    setup.take(&[A, B]);
    assert!(setup.reconciler.published().borrow().agent.ready);
    assert!(setup.reconciler.unsaved);
}

/// A source may be faster than the loop, which first adopts what is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_before_the_loop_looked_is_saved_as_well() {
    let mut setup = Setup::new();
    setup.say(&[A]);
    setup.reconciler.sources = vec![setup.source.borrow().clone()];
    setup.reconciler.absorb();
    assert!(setup.reconciler.saver.is_behind());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_applied_once_nothing_of_it_waits() {
    let mut setup = Setup::new();
    let applied = |setup: &Setup| {
        let source = setup.reconciler.published().borrow().agent.sources[0].clone();
        (source.applied, source.revision)
    };
    setup.take(&[A]);
    assert_eq!(applied(&setup), (1, 1));
    setup.take(&[]);
    assert_eq!(applied(&setup), (2, 2), "nothing is left to be done");
    setup.take(&[B]);
    assert_eq!(applied(&setup), (2, 3), "a deleted element may still be held");
    setup.end_grace().await;
    assert_eq!((applied(&setup), setup.found(B.1)), ((3, 3), Some(vec![3])));
    setup.fake.fail_after(0);
    setup.take(&[A, B]);
    assert_eq!(applied(&setup), (3, 4), "what has failed is not applied");
    setup.reconciler.round(Instant::now());
    assert_eq!(applied(&setup), (4, 4));
}

/// Removed backends, once a grace period has passed, and again a little later.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_connected_to_removed_backends_is_ended_after_the_grace_period() {
    let mut setup = Setup::new();
    setup.take(&[A_CHANGED, B]);
    setup.fake.set_active((0..4).collect());
    assert!(setup.fake.destroyed().is_empty());
    setup.take(&[A]);
    let id = |service: &str, address: &str| {
        let ids = setup.reconciler.planner.backend_ids(&service.parse().unwrap());
        ids.and_then(|ids| ids.get(&address.parse().unwrap())).copied()
    };
    assert_eq!((id("a", "10.0.0.1:2"), id("b", "10.0.0.1:3")), (None, None));
    assert!(setup.fake.destroyed().is_empty(), "a program may still send sockets there");
    // What was under way did not cover the removal.
    while setup.reconciler.grace.is_some() {
        setup.end_grace().await;
    }
    let first = setup.fake.destroyed();
    let backends = |doomed: &[Doomed]| -> Vec<String> {
        doomed.iter().map(|doomed| doomed.backend.to_string()).collect()
    };
    assert_eq!(
        first.iter().flat_map(|d| backends(d)).collect::<Vec<_>>(),
        ["10.0.0.1:2", "10.0.0.1:3"]
    );
    assert!(first.iter().flatten().all(|doomed| !doomed.tcp), "services drain by default");

    let result = setup.reconciler.removals.ended().await;
    setup.reconciler.destroyed(result);
    assert_eq!(setup.reconciler.work.destroyed_udp, 2);
    setup.reconciler.tick();
    assert_eq!(setup.fake.destroyed().len(), 2, "once more");
    let result = setup.reconciler.removals.ended().await;
    setup.reconciler.destroyed(result);
    setup.reconciler.tick();
    assert_eq!(setup.fake.destroyed().len(), 2, "and not again");
}

/// Neither a backend that is back in time, nor one whose service has another name, is left.
#[tokio::test(flavor = "multi_thread")]
async fn backends_that_came_back_are_spared() {
    let mut setup = Setup::new();
    setup.take(&[A_CHANGED, B]);
    setup.fake.set_active((0..4).collect());
    setup.take(&[A, B]);
    setup.take(&[A_CHANGED, ("c", B.1, B.2)]);
    while setup.reconciler.grace.is_some() {
        setup.end_grace().await;
    }
    assert_eq!(setup.found(B.1), Some(vec![3]));
    assert_eq!(setup.fake.destroyed(), Vec::<Vec<Doomed>>::new());
    assert!(!setup.reconciler.removals.names(0), "nothing is kept waiting");
}

/// One that some frontend of its service still leads to is not left, whichever list it is out of.
#[tokio::test(flavor = "multi_thread")]
async fn backends_that_left_one_list_are_spared() {
    use crate::model::{Exposure, Lists, Reach};
    let service = |lists: &[(&str, Lists)]| {
        let backends = lists.iter().map(|(address, lists)| {
            (address.parse().unwrap(), Backend { lists: *lists, ..Backend::default() })
        });
        let frontend =
            |text: &str, reach| (text.parse().unwrap(), Exposure { reach, ..Exposure::default() });
        let frontends =
            [frontend("10.96.0.1:53", Reach::Node), frontend("10.0.0.9:53", Reach::Cluster)];
        let service = Service {
            frontends: frontends.into(),
            backends: backends.collect(),
            backends_from: Vec::new(),
            policy: Default::default(),
            affinity: None,
            no_backend: Default::default(),
            no_node_backend: Default::default(),
            source_ranges: Vec::new(),
            health: Default::default(),
        };
        Snapshot {
            services: [("dns".parse().unwrap(), service.into())].into(),
            ..Default::default()
        }
    };
    let (here, there) = ("10.0.0.1:53", "10.0.0.2:53");
    let mut setup = Setup::new();
    let mut take = async |lists: &[(&str, Lists)]| {
        setup.source.send_modify(|state| {
            state.snapshot = Some(Arc::new(service(lists)));
            state.synced = true;
            state.revision += 1;
        });
        setup.reconciler.absorb();
        setup.fake.set_active((0..4).collect());
        while setup.reconciler.grace.is_some() {
            setup.end_grace().await;
        }
        let doomed = setup.fake.destroyed().concat();
        let doomed: Vec<String> = doomed.iter().map(|d| d.backend.to_string()).collect();
        let [node, cluster] =
            ["10.96.0.1:53", "10.0.0.9:53"].map(|f| setup.found(f).unwrap().len());
        (node, cluster, doomed.join(" "))
    };
    let none = String::new;
    assert_eq!(take(&[(here, Lists::Both), (there, Lists::Cluster)]).await, (1, 2, none()));
    assert_eq!(take(&[(here, Lists::Cluster), (there, Lists::Cluster)]).await, (0, 2, none()));
    assert_eq!(take(&[(here, Lists::Node), (there, Lists::Cluster)]).await, (1, 1, none()));
    assert_eq!(take(&[(there, Lists::Cluster)]).await, (0, 1, here.to_owned()));
}

/// A plan that fails on its way does not lose who left with it.
#[tokio::test(flavor = "multi_thread")]
async fn removals_outlive_a_failure() {
    let mut setup = Setup::new();
    setup.take(&[A_CHANGED]);
    setup.fake.set_active((0..4).collect());
    setup.fake.fail_grace(1);
    setup.take(&[A]);
    setup.end_grace().await;
    assert!(setup.reconciler.lost);
    setup.reconciler.round(Instant::now());
    assert!(setup.fake.destroyed().is_empty());
    while setup.reconciler.grace.is_some() {
        setup.end_grace().await;
    }
    assert_eq!(setup.fake.destroyed().concat().len(), 1);
}
