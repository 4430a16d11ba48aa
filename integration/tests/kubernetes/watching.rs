//! The source against the API server, without a kernel: what it says while the server does whatever
//! servers do.

mod credentials;
mod malformed;

use integration::apiserver::ApiServer;
use integration::etcd::pki::{Pair, Pki};
use integration::wait::{eventually, let_pass, wait_for};
use lb_agent::config::KubernetesSource;
use lb_agent::source::SourceState;
use lb_agent::source::kubernetes::cluster::{NodePortAddresses, NodePorts};
use lb_agent::source::kubernetes::{self, Running, Timing};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to look whether something stays as it is.
const WHILE: Duration = Duration::from_millis(300);
const NODE: &str = "node-a";

/// A source that follows a server, and the runtime it lives in.
struct Scene {
    running: Running,
    // The tasks end with it.
    addresses: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    runtime: Option<Runtime>,
}

impl Scene {
    fn start(config: KubernetesSource, timing: Timing) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let (sender, addresses) = watch::channel(Arc::new(BTreeSet::new()));
        let entered = runtime.enter();
        let node = NODE.to_owned();
        let running = kubernetes::spawn_with(Arc::new(config), node, addresses, None, timing);
        drop(entered);
        Self { running, addresses: sender, runtime: Some(runtime) }
    }

    /// Follows this server as fast as may be.
    fn of(api: &ApiServer) -> Self {
        Self::start(at(api), fast())
    }

    fn state(&self) -> SourceState {
        self.running.feed.borrow().clone()
    }

    /// All backends, as `service address`.
    fn backends(&self) -> BTreeSet<String> {
        let state = self.state();
        let services = state.snapshot.iter().flat_map(|snapshot| snapshot.services.iter());
        let backends = services.flat_map(|(name, service)| {
            service.backends.keys().map(move |address| format!("{name} {address}"))
        });
        backends.collect()
    }

    #[track_caller]
    fn expect(&self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|&line| line.into()).collect();
        let what = format!("{expected:?}");
        eventually(&what, PATIENCE, || self.state().synced && self.backends() == expected);
    }

    /// Waits for an error that says this.
    #[track_caller]
    fn expect_error(&self, part: &str) -> String {
        let says = || self.state().error.filter(|error| error.contains(part));
        wait_for(part, PATIENCE, says)
    }

    #[track_caller]
    fn expect_no_error(&self) {
        eventually("the error to be over", PATIENCE, || self.state().error.is_none());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn at(api: &ApiServer) -> KubernetesSource {
    KubernetesSource { server: Some(api.url()), ..KubernetesSource::default() }
}

fn fast() -> Timing {
    Timing { longest_pause: Duration::from_millis(100), ..Timing::default() }
}

fn put_service(api: &ApiServer, name: &str, ip: &str) {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
        "ipFamilies": ["IPv4"], "ports": ports});
    api.put_service(name, spec);
}

fn put_slice(api: &ApiServer, service: &str, endpoints: &[&str]) {
    api.put_slice(service, &format!("{service}-1"), &[("http", 8080, "TCP")], endpoints);
}

/// A server with a node and a service `web` of one endpoint.
fn small() -> ApiServer {
    let api = ApiServer::start();
    fill(&api);
    api
}

fn fill(api: &ApiServer) {
    api.put_node(NODE, &["192.0.2.1"]);
    put_service(api, "web", "10.96.0.10");
    put_slice(api, "web", &["10.1.0.1"]);
}

/// How many requests so far hold all these words.
fn asked(api: &ApiServer, words: &[&str]) -> usize {
    let requests = api.requests();
    requests.iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

#[test]
fn changes_arrive_and_removals() {
    let api = small();
    let scene = Scene::of(&api);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    put_slice(&api, "web", &["10.1.0.1", "10.1.0.2"]);
    scene.expect(&["default/web:http 10.1.0.1:8080", "default/web:http 10.1.0.2:8080"]);
    api.delete("services", "default", "web");
    scene.expect(&[]);
    // A slice that is before its service.
    put_slice(&api, "db", &["10.1.0.3"]);
    put_service(&api, "db", "10.96.0.11");
    scene.expect(&["default/db:http 10.1.0.3:8080"]);
    let queued = scene.running.progress.pending();
    let state = scene.state();
    assert_eq!(queued.last().map(|queued| queued.revision), Some(state.revision));
    assert!(queued.iter().map(|queued| queued.work.slices).sum::<u64>() >= 3, "{queued:?}");
    let facts = scene.running.facts.borrow().clone();
    let addresses = facts.node.as_ref().map(|node| node.addresses.clone());
    assert_eq!(addresses, Some(vec!["192.0.2.1".parse().unwrap()]));
}

#[test]
fn nothing_is_known_before_services_and_slices_are() {
    let api = small();
    api.refuse("endpointslices", Some(503));
    let scene = Scene::of(&api);
    let error = scene.expect_error("endpointslices");
    assert!(
        error.contains("answers 503") && error.contains("check the API server's log"),
        "{error}"
    );
    let state = scene.state();
    assert!(!state.synced && state.snapshot.is_none(), "{state:?}");
    api.refuse("endpointslices", None);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    scene.expect_no_error();
}

#[test]
fn lists_are_streams_or_pages() {
    let api = small();
    let scene = Scene::of(&api);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    assert_eq!(asked(&api, &["sendInitialEvents=true", "/services?"]), 1);
    assert_eq!(asked(&api, &["limit="]), 0);
    drop(scene);

    let api = small();
    api.forbid_streaming_lists();
    let services = (0..1200).map(|i| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{i}")},
            "spec": {"clusterIP": format!("10.97.{}.{}", i / 250, i % 250 + 1),
                "ports": [{"port": 80, "protocol": "TCP"}]},
        })
    });
    api.put_all(services);
    let scene = Scene::of(&api);
    let known = || scene.state().snapshot.map_or(0, |snapshot| snapshot.services.len());
    eventually("all services", PATIENCE, || known() == 1201);
    assert_eq!(asked(&api, &["/services?", "limit=500"]), 3);
    put_slice(&api, "web", &["10.1.0.7"]);
    scene.expect(&["default/web:http 10.1.0.7:8080"]);
    assert_eq!(scene.state().error, None);
}

#[test]
fn a_server_that_is_away_leaves_what_was_known() {
    let mut api = small();
    let scene = Scene::of(&api);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    let before = scene.state();
    api.stop();
    let error = scene.expect_error("connection refused");
    assert!(error.starts_with(&api.url()) && error.contains("away since"), "{error}");
    let state = scene.state();
    assert!(state.synced && state.says_nothing_new(&before), "{state:?}");
    // What happens meanwhile is seen afterwards.
    put_slice(&api, "web", &["10.1.0.9"]);
    api.resume();
    scene.expect(&["default/web:http 10.1.0.9:8080"]);
    scene.expect_no_error();
    // It was not listed again: the watches went on from where they were.
    assert_eq!(asked(&api, &["sendInitialEvents=true", "/endpointslices?"]), 1);
}

/// What the tests ask of a state.
trait Says {
    fn says_nothing_new(&self, before: &Self) -> bool;
}

impl Says for SourceState {
    fn says_nothing_new(&self, before: &Self) -> bool {
        self.snapshot == before.snapshot && self.revision == before.revision
    }
}

#[test]
fn a_server_that_has_forgotten_is_listed_anew() {
    let mut api = small();
    put_service(&api, "old", "10.96.0.20");
    put_slice(&api, "old", &["10.1.0.20"]);
    let scene = Scene::of(&api);
    scene.expect(&["default/old:http 10.1.0.20:8080", "default/web:http 10.1.0.1:8080"]);
    api.stop();
    // The deletion is forgotten, too: only a list can tell.
    api.delete("services", "default", "old");
    put_slice(&api, "web", &["10.1.0.2"]);
    api.restart_with_amnesia();
    scene.expect(&["default/web:http 10.1.0.2:8080"]);
    scene.expect_no_error();
    assert!(asked(&api, &["sendInitialEvents=true", "/services?"]) >= 2);
}

#[test]
fn bookmarks_keep_a_quiet_watch_from_being_forgotten() {
    let mut api = small();
    api.set_bookmark_interval(Duration::from_millis(50));
    let scene = Scene::of(&api);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    // Slices change, services don't; then all that happened is forgotten.
    put_slice(&api, "web", &["10.1.0.2"]);
    scene.expect(&["default/web:http 10.1.0.2:8080"]);
    // Until bookmarks have carried both watches past that.
    for _ in 0..2 {
        let heard = scene.state().heard.at();
        eventually("bookmarks", PATIENCE, || scene.state().heard.at() > heard);
    }
    api.compact();
    api.restart();
    put_service(&api, "late", "10.96.0.30");
    put_slice(&api, "late", &["10.1.0.30"]);
    scene.expect(&["default/late:http 10.1.0.30:8080", "default/web:http 10.1.0.2:8080"]);
    assert_eq!(asked(&api, &["sendInitialEvents=true", "/services?"]), 1);
}

#[test]
fn a_slow_server_and_dropped_connections_are_borne() {
    let mut api = small();
    api.set_delay(Duration::from_millis(400));
    let scene = Scene::of(&api);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    for last in 2..6 {
        api.restart();
        let address = format!("10.1.0.{last}");
        put_slice(&api, "web", &[&address]);
        scene.expect(&[&format!("default/web:http {address}:8080")]);
    }
}

#[test]
fn a_server_too_slow_to_answer_is_named() {
    let api = small();
    api.set_delay(Duration::from_secs(60));
    let timing = Timing { answer: Duration::from_millis(200), ..fast() };
    let scene = Scene::start(at(&api), timing);
    let error = scene.expect_error("no answer within 200ms");
    assert!(error.contains("check that the API server runs"), "{error}");
    api.set_delay(Duration::ZERO);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    scene.expect_no_error();
}

#[test]
fn a_watch_that_hangs_silently_is_noticed() {
    let api = small();
    // Bookmarks come more often than the silence lasts, until there are none.
    api.set_bookmark_interval(Duration::from_millis(200));
    let silence = Duration::from_secs(5);
    let scene = Scene::start(at(&api), Timing { silence, ..fast() });
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    let watches = |api: &ApiServer| asked(api, &["watch=true", "/endpointslices?"]);
    let begun = watches(&api);
    let_pass(silence + WHILE);
    assert_eq!(watches(&api), begun, "a watch with bookmarks is alive");
    api.set_silent(true);
    put_slice(&api, "web", &["10.1.0.2"]);
    let start = Instant::now();
    eventually("another watch", PATIENCE, || watches(&api) > begun);
    assert!(start.elapsed() >= silence / 2, "{:?}", start.elapsed());
    api.set_silent(false);
    scene.expect(&["default/web:http 10.1.0.2:8080"]);
    assert_eq!(scene.state().error, None);
}

#[test]
fn service_ranges_and_the_node_can_be_done_without() {
    let api = small();
    for (plural, code) in [("servicecidrs", 403), ("nodes", 403)] {
        api.refuse(plural, Some(code));
    }
    let scene = Scene::of(&api);
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    assert_eq!(scene.state().error, None);
    eventually("nothing more to be waited for", PATIENCE, || {
        scene.running.facts.borrow().service_cidrs_heard
    });
    // Not asked again and again.
    let_pass(WHILE);
    assert_eq!(asked(&api, &["/servicecidrs?"]), 1);
    drop(scene);

    let api = small();
    api.refuse("servicecidrs", Some(404));
    let scene = Scene::start(at(&api), Timing { rare: Duration::from_millis(100), ..fast() });
    scene.expect(&["default/web:http 10.1.0.1:8080"]);
    api.refuse("servicecidrs", None);
    api.put(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12"]}}));
    let ranges = || scene.running.facts.borrow().service_cidrs.clone();
    eventually("the range", PATIENCE, || {
        ranges() == BTreeSet::from(["10.96.0.0/12".parse().unwrap()])
    });
}

#[test]
fn what_we_may_not_read_is_named_with_its_role() {
    let api = small();
    api.refuse("services", Some(403));
    let scene = Scene::of(&api);
    let error = scene.expect_error("403");
    let remedy = "apiGroups: [\"\"], resources: [services], verbs: [list, watch]";
    assert!(error.contains(remedy), "{error}");
}

/// A node that joins later than the agent: what depends on it follows, the rest does not wait.
#[test]
fn what_depends_on_the_node_follows_when_it_appears() {
    let api = ApiServer::start();
    put_service(&api, "web", "10.96.0.10");
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.11",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]});
    api.put_service("open", spec);
    let endpoint = |address: &str, zone: &str| json!({"addresses": [address], "zone": zone, "hints": {"forZones": [{"name": zone}]}});
    api.put(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [endpoint("10.1.0.1", "a"), endpoint("10.1.0.2", "b")],
    }));
    let mut config = at(&api);
    config.node_ports = NodePorts { addresses: NodePortAddresses::Primary, localhost: false };
    let scene = Scene::start(config, fast());
    let own = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
    scene.addresses.send_replace(Arc::new(own.into()));
    scene.expect(&["default/web:http 10.1.0.1:8080", "default/web:http 10.1.0.2:8080"]);
    let open = || {
        let state = scene.state();
        let services = &state.snapshot.as_ref().unwrap().services;
        let service = &services[&"default/open:http".parse().unwrap()];
        service.frontends.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(open(), ["10.96.0.11:80/tcp"], "its primary address is not known");
    assert_eq!(scene.running.facts.borrow().node, None);

    api.put(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": "b"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]},
    }));
    scene.expect(&["default/web:http 10.1.0.2:8080"]);
    eventually("the NodePort", PATIENCE, || open() == ["10.96.0.11:80/tcp", "192.0.2.2:30080/tcp"]);
}

#[test]
fn ten_thousand_services_come_in_pages() {
    let api = small();
    api.forbid_streaming_lists();
    let objects = (0..10_000).flat_map(|i| {
        let ip = format!("10.{}.{}.{}", 97 + i / 62_500, i / 250, i % 250 + 1);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{i}")},
            "spec": {"clusterIP": ip, "ports": [{"port": 80, "protocol": "TCP"}]},
        });
        [service]
    });
    api.put_all(objects);
    let scene = Scene::of(&api);
    let known = || scene.state().snapshot.map_or(0, |snapshot| snapshot.services.len());
    eventually("all services", Duration::from_secs(120), || known() == 10_001);
    assert_eq!(asked(&api, &["/services?", "limit=500"]), 21);
    assert_eq!(scene.state().rejections.len(), 0, "{:?}", scene.state().rejections);
}
