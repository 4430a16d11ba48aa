//! Services and EndpointSlices of a Kubernetes cluster, as this node's kube-proxy would serve them.
//!
//! [`watch`] hears of objects, [`cluster`] keeps what matters of them and says what that comes to
//! (pure, as is everything it uses): [`objects`] reads an object, [`topology`] decides which
//! endpoints are for this node, [`translate`] makes services of both. [`client`] reaches the API
//! server. What was heard last serves while the server is away, however long that is.

mod arrival;
pub mod client;
pub mod cluster;
pub mod endpoints;
pub mod events;
pub mod intern;
mod listing;
pub mod locality;
pub mod node_ports;
mod notes;
pub mod objects;
pub mod progress;
mod requests;
pub mod topology;
pub mod translate;
mod trouble;
mod watch;

pub use self::client::Connection;
pub use self::watch::Timing;

use self::cluster::{Change, Cluster, Facts, Settings, Work};
use self::progress::{Progress, Queued};
use self::watch::{Common, News, What};
use super::{Feed, SourceState};
use crate::addresses::Addresses;
use crate::config::KubernetesSource;
use crate::heard::Heard;
use crate::model::Snapshot;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::watch::{self as state, Sender};
use tokio::task::{JoinError, JoinSet, block_in_place};

/// Most events that wait, and that are taken in before anything is published: a flood must not keep
/// it from being shown.
const BATCH: usize = 256;
/// Kinds of objects that must have been heard of: Services and EndpointSlices.
const PARTS: usize = 2;

/// Shown if a task that watches has failed.
const LOST: &str =
    "part of the cluster is not followed any more; restart the agent and report this";

/// A source at work.
#[derive(Debug)]
pub struct Running {
    /// What it says.
    pub feed: Feed,
    /// What else the cluster says that concerns this node.
    pub facts: state::Receiver<Arc<Facts>>,
    /// What has been published, and when it was heard.
    pub progress: Arc<Progress>,
    /// The way to the API server.
    pub connection: Connection,
}

/// What the watches tell.
#[derive(Debug)]
enum Event {
    Service(Box<News<Service>>),
    Slice(News<EndpointSlice>),
    Node(Box<News<Node>>),
    ServiceCidr(News<ServiceCIDR>),
}

/// A cluster and what is known of it.
struct Follower {
    cluster: Cluster,
    state: SourceState,
    facts: Sender<Arc<Facts>>,
    progress: Arc<Progress>,
    /// What can't be followed, and why.
    down: BTreeMap<&'static str, String>,
    /// Whether a task that watches has failed.
    lost: bool,
    /// Since when there is something.
    since: SystemTime,
    /// What the server withholds, and has been said.
    withheld: BTreeMap<&'static str, String>,
    /// When the first change was heard that is not published.
    heard: Option<(SystemTime, Instant)>,
    /// When its bytes had been read; of a list, when it was complete.
    arrived: Option<Instant>,
    /// Changes that came to nothing so far.
    idle: Work,
}

/// Follows a cluster; `cached` serves until it can be read. Must be called within a multi-threaded
/// tokio runtime; the tasks end when the feed has no receiver left.
pub fn spawn(
    config: Arc<KubernetesSource>,
    node: String,
    addresses: Addresses,
    cached: Option<Arc<Snapshot>>,
) -> Running {
    spawn_with(config, node, addresses, cached, Timing::default())
}

/// [`spawn`] with other patience.
pub fn spawn_with(
    config: Arc<KubernetesSource>,
    node: String,
    addresses: Addresses,
    cached: Option<Arc<Snapshot>>,
    timing: Timing,
) -> Running {
    let settings = Settings {
        source: Arc::clone(&config.name),
        node: node.clone(),
        node_ports: config.node_ports.clone(),
        scope: config.scope,
        pods: config.pods.clone(),
        masquerade_all: config.masquerade_all,
    };
    let heard = Heard::of(PARTS);
    let new = SourceState::new(Arc::clone(&config.name), cached);
    let state = SourceState { heard: heard.clone(), ..new };
    let (sender, feed) = state::channel(state.clone());
    let mut cluster = Cluster::new(settings, SystemTime::now());
    // What is said of pods holds for the services of the cache, too.
    let (facts, heard_facts) = state::channel(cluster.facts());
    let progress = Arc::new(Progress::default());
    let connection = Connection::new(config);
    if let Some(warning) = connection.warning() {
        tracing::warn!("{warning}");
    }
    let follower = Follower {
        cluster,
        state,
        facts,
        progress: Arc::clone(&progress),
        down: BTreeMap::new(),
        lost: false,
        since: SystemTime::UNIX_EPOCH,
        withheld: BTreeMap::new(),
        heard: None,
        arrived: None,
        idle: Work::default(),
    };
    let common = Common { connection: connection.clone(), timing, back: Arc::default(), heard };
    let (watches, events) = watches(common, &node);
    tokio::spawn(follow(follower, events, watches, addresses, sender));
    Running { feed, facts: heard_facts, progress, connection }
}

/// One task for each kind of objects.
fn watches(common: Common, node: &str) -> (JoinSet<()>, Receiver<Event>) {
    let (events, receiver) = channel(BATCH);
    let mut tasks = JoinSet::new();
    let what = |resource, group| What {
        resource,
        group,
        labels: None,
        fields: None,
        optional: false,
        part: None,
    };
    let services = What {
        labels: Some("!service.kubernetes.io/service-proxy-name"),
        fields: Some("spec.clusterIP!=None".into()),
        part: Some(0),
        ..what("services", "")
    };
    let slices = What {
        labels: Some("!service.kubernetes.io/headless"),
        part: Some(1),
        ..what("endpointslices", "discovery.k8s.io")
    };
    let node =
        What { fields: Some(format!("metadata.name={node}")), optional: true, ..what("nodes", "") };
    let cidrs = What { optional: true, ..what("servicecidrs", "networking.k8s.io") };
    tasks.spawn(watch::follow(services, common.clone(), events.clone(), |news| {
        Event::Service(Box::new(news))
    }));
    tasks.spawn(watch::follow(slices, common.clone(), events.clone(), Event::Slice));
    tasks.spawn(watch::follow(node, common.clone(), events.clone(), |news| {
        Event::Node(Box::new(news))
    }));
    tasks.spawn(watch::follow(cidrs, common, events, Event::ServiceCidr));
    (tasks, receiver)
}

async fn follow(
    mut follower: Follower,
    mut events: Receiver<Event>,
    mut watches: JoinSet<()>,
    mut addresses: Addresses,
    sender: Sender<SourceState>,
) {
    let known = Arc::clone(&addresses.borrow_and_update());
    follower.cluster.set_addresses(known);
    let mut followed = true;
    loop {
        tokio::select! {
            biased;
            () = sender.closed() => break,
            changed = addresses.changed(), if followed => {
                followed = changed.is_ok();
                let known = Arc::clone(&addresses.borrow_and_update());
                block_in_place(|| follower.cluster.set_addresses(known));
            }
            // They end when we do, so one that ends has failed. The others go on.
            Some(ended) = watches.join_next() => follower.lost(ended),
            Some(event) = events.recv() => follower.take_all(event, &mut events),
        }
        if block_in_place(|| follower.publish()) {
            sender.send_replace(follower.state.clone());
        }
    }
}

// === impl Follower ===

impl Follower {
    /// Takes in an event and those that wait behind it: the more changes come, the more of them are
    /// worked on at a time, and a single one waits for nothing.
    fn take_all(&mut self, first: Event, events: &mut Receiver<Event>) {
        block_in_place(|| {
            let now = SystemTime::now();
            self.take(first, now);
            for _ in 1..BATCH {
                match events.try_recv() {
                    Ok(event) => self.take(event, now),
                    // Whether they have ended is for the next look to say.
                    Err(_) => return,
                }
            }
        });
    }

    fn take(&mut self, event: Event, now: SystemTime) {
        match event {
            Event::Service(news) => match *news {
                News::Change(change, arrived) => {
                    self.hear(&change, arrived, now);
                    self.cluster.service(change);
                }
                news => self.take_how("services", news, now),
            },
            Event::Slice(News::Change(change, arrived)) => {
                self.hear(&change, arrived, now);
                self.cluster.slice(change, now);
            }
            Event::Slice(news) => self.take_how("endpointslices", news, now),
            Event::Node(news) => match *news {
                News::Change(change, arrived) => {
                    self.arrive(&change, arrived);
                    self.cluster.node(change);
                }
                news => {
                    if matches!(news, News::Withheld(_)) {
                        self.cluster.without_node();
                    }
                    self.take_how("nodes", news, now);
                }
            },
            Event::ServiceCidr(News::Change(change, _)) => self.cluster.service_cidr(change),
            Event::ServiceCidr(news) => {
                if matches!(news, News::Withheld(_)) {
                    self.cluster.no_more_service_cidrs();
                }
                self.take_how("servicecidrs", news, now);
            }
        }
    }

    /// A change of what is served.
    fn hear<T>(&mut self, change: &Change<T>, arrived: Instant, now: SystemTime) {
        self.heard.get_or_insert((now, arrived));
        self.arrive(change, arrived);
    }

    fn arrive<T>(&mut self, change: &Change<T>, arrived: Instant) {
        // The parts of a list change nothing before it is complete.
        if !matches!(change, Change::Begin | Change::Listed(_)) {
            self.arrived.get_or_insert(arrived);
        }
    }

    /// How it goes with one of the watches.
    fn take_how<T>(&mut self, resource: &'static str, news: News<T>, now: SystemTime) {
        let source = Arc::clone(&self.state.name);
        match news {
            News::Change(..) => {}
            News::Up => {
                if self.withheld.remove(resource).is_some() {
                    tracing::info!(%source, resource, "the server lets us now");
                }
                if self.down.remove(resource).is_some() && self.down.is_empty() {
                    let away = now.duration_since(self.since).unwrap_or_default();
                    tracing::info!(%source, ?away, "the API server is back");
                }
            }
            News::Down(reason) => {
                if self.down.is_empty() {
                    self.since = now;
                }
                // Once for all watches, and again if the reason is another.
                let told =
                    self.down.values().any(|told| without_verb(told) == without_verb(&reason));
                if !told {
                    tracing::warn!(%source, error = %reason, "the cluster can't be followed; what \
                        was known keeps serving");
                }
                self.down.insert(resource, reason);
            }
            News::Withheld(reason) => {
                self.down.remove(resource);
                if self.withheld.get(resource) != Some(&reason) {
                    tracing::warn!(%source, "{reason}; going on without {resource}");
                }
                self.withheld.insert(resource, reason);
            }
            // Who reports rejections logs what is new of it.
            News::Unreadable { key, reason, changed } => {
                if let (Some(key), Some(arrived)) = (&key, changed) {
                    self.forget(resource, key.as_str().into(), arrived, now);
                }
                self.cluster.unreadable(kind(resource), key.as_deref(), reason);
            }
        }
    }

    /// What an object was is not what it is now, whatever that is.
    fn forget(&mut self, resource: &'static str, key: Arc<str>, arrived: Instant, now: SystemTime) {
        match resource {
            "services" => {
                let change = Change::Forget(key);
                self.hear(&change, arrived, now);
                self.cluster.service(change);
            }
            "endpointslices" => {
                let change = Change::Forget(key);
                self.hear(&change, arrived, now);
                self.cluster.slice(change, now);
            }
            "servicecidrs" => self.cluster.service_cidr(Change::Forget(key)),
            // Without a Node the agent would take it for deleted; it goes by what it knew.
            _ => {}
        }
    }

    /// A task that watches has ended.
    fn lost(&mut self, ended: Result<(), JoinError>) {
        let error = ended.err().map(|error| error.to_string()).unwrap_or_default();
        tracing::error!(source = %self.state.name, %error, "{LOST}");
        self.lost = true;
    }

    /// Brings the state to what was taken in; whether that changed it.
    fn publish(&mut self) -> bool {
        let before = self.state.clone();
        if self.cluster.is_synced() {
            self.translate();
        }
        let error = self.down.values().next().map(|reason| {
            let since = humantime::format_rfc3339_millis(self.since);
            format!("{reason} (away since {since}; what was known keeps serving)")
        });
        self.state.error = if self.lost { Some(LOST.to_owned()) } else { error };
        let facts = self.cluster.facts();
        self.facts.send_if_modified(|known| {
            let changed = !Arc::ptr_eq(known, &facts) && **known != *facts;
            *known = facts;
            changed
        });
        !self.state.says_the_same(&before)
            || !Arc::ptr_eq(&self.state.rejections, &before.rejections)
            || self.state.refused != before.refused
            || self.state.error != before.error
    }

    fn translate(&mut self) {
        let first = !std::mem::replace(&mut self.state.synced, true);
        let (heard, arrived) = (self.heard.take(), self.arrived.take());
        let mut work = self.cluster.take_work();
        let snapshot = self.cluster.snapshot();
        if snapshot.is_some() || first {
            self.state.revision += 1;
            self.state.delivered = Some(SystemTime::now());
            let idle = std::mem::take(&mut self.idle);
            work.services += idle.services;
            work.slices += idle.slices;
            let (heard, since) = heard.unwrap_or_else(|| (SystemTime::now(), Instant::now()));
            self.progress.note(Queued { revision: self.state.revision, heard, since, work });
            if let Some(arrived) = arrived {
                self.state.underway.note(self.state.revision, arrived);
            }
        } else {
            // Counted with the next that comes to something. What changes nothing in the tables needs no
            // programming, so the times of its slices say nothing about how long that takes.
            self.idle.services += work.services;
            self.idle.slices += work.slices;
        }
        if let Some(snapshot) = snapshot {
            if first {
                let services = snapshot.services.len();
                tracing::info!(source = %self.state.name, services, "the cluster is known");
            }
            self.state.snapshot = Some(snapshot);
        }
        let rejections = self.cluster.rejections();
        if self.state.rejections != rejections {
            self.state.rejections = rejections;
        }
        self.state.refused = self.cluster.refused();
    }
}

/// The kind of a resource's objects.
fn kind(resource: &str) -> &'static str {
    match resource {
        "services" => cluster::SERVICE,
        "endpointslices" => cluster::SLICE,
        "nodes" => cluster::NODE,
        _ => cluster::SERVICE_CIDR,
    }
}

/// A line about a failure without what was being done, which differs from watch to watch.
fn without_verb(line: &str) -> String {
    let resources = ["services", "endpointslices", "nodes", "servicecidrs"];
    let words = line.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| !resources.contains(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
