//! Wiring of the kube-proxy: the agent with one source, and what answers in kube-proxy's place beside
//! it.

use super::{Failure, Overrides, Started, host_name, overridden, serve, terminated};
use crate::config::{Config, KubernetesSource, Source};
use crate::kubeproxy::applied::Applied;
use crate::kubeproxy::decision::Decided;
use crate::kubeproxy::listen::Server;
use crate::kubeproxy::node;
use crate::kubeproxy::node_port_health::{self, Settings};
use crate::kubeproxy::pages::Start;
use crate::kubeproxy::servers::{self, Shown};
use crate::source::Feed;
use crate::source::kubernetes::Running;
use crate::source::kubernetes::cluster::Facts;
use crate::source::kubernetes::events::{self, Event, Events};
use anyhow::{Context, anyhow};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a Node with addresses is waited for before that is said.
const NODE_PATIENCE: Duration = Duration::from_secs(300);

/// How often the configuration file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A configuration file and what was in it when it was read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it held.
    pub text: String,
}

/// Runs until a signal, or until the file of `--config` says something else. Needs a multi-threaded runtime.
///
/// # Errors
///
/// As [`super::run`]; and [`Failure::Other`] with the reason to begin anew: the Node is not what it was at the
/// start, a server can't have its address and is to give up (`bindAddressHardFail`), or a task beside the loop has
/// ended. What is attached serves on.
pub async fn run(
    decided: Decided,
    overrides: &Overrides,
    file: Option<ConfigFile>,
) -> Result<(), Failure> {
    adjust_oom_score(decided.oom_score_adj);
    let node = decided.node.clone().unwrap_or_else(host_name);
    let source = KubernetesSource {
        kubeconfig: decided.kubeconfig.clone(),
        server: decided.server.clone(),
        node: Some(node.clone()),
        node_ports: decided.node_ports.clone(),
        scope: decided.scope,
        pods: decided.pods.clone(),
        masquerade_all: decided.masquerade_all,
        ..KubernetesSource::default()
    };
    let sources = vec![Source::Kubernetes(Arc::new(source))];
    let config = overridden(Config { sources, ..Config::default() }, overrides);
    let terminated = terminated()?;
    serve(None, &config, |started| beside(decided, node, file, terminated, started)).await
}

/// What runs beside the loop, in tasks of its own: the loop may be busy for a while, and whoever asks
/// for health must not wait for it. Ends when the agent is to end.
async fn beside(
    decided: Decided,
    node: String,
    file: Option<ConfigFile>,
    terminated: impl Future<Output = ()> + Send + 'static,
    started: Started,
) -> anyhow::Result<()> {
    let started_at = SystemTime::now();
    let Started { published, mut clusters, addresses } = started;
    let cluster = clusters.pop().context("the cluster is not followed")?;
    let Running { feed, facts, progress, connection } = cluster;
    let addresses = addresses.context("the node's addresses are not followed")?;
    let name = Arc::clone(&feed.borrow().name);
    let applied = Applied::new(name, progress, facts.clone(), decided.unhealthy_after);
    let applied = Arc::new(applied);
    let (events, told) = events::channel();

    // Those that end say how the agent ends; dropped, they all do.
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let mut endless: JoinSet<&str> = JoinSet::new();
    let following = Arc::clone(&applied).follow(published);
    endless.spawn(named("what follows the loop", following));
    endless.spawn(named("what writes events", events::write(connection, node.clone(), told)));
    let mut start = JoinSet::new();
    start.spawn(tell_of_start(feed, events.clone()));
    let health_checks = node_port_health::run(Settings {
        node: node.clone(),
        node_ports: decided.node_ports.clone(),
        facts: facts.clone(),
        addresses,
        applied: Arc::clone(&applied),
        events: events.clone(),
    });
    endless.spawn(named("what serves healthCheckNodePorts", health_checks));
    let hard_fail = decided.hard_fail;
    if let Some(address) = decided.healthz {
        let (what, setting) = ("the health server", "healthzBindAddress");
        let server = Server { what, setting, address, hard_fail };
        let router = servers::health(Arc::clone(&applied));
        tasks.spawn(listen(server, router, events.clone(), Event::health_failed));
    }
    if let Some(address) = decided.metrics {
        let (what, setting) = ("the metrics server", "metricsBindAddress");
        let server = Server { what, setting, address, hard_fail };
        let (mode, document) = (decided.mode.name(), Arc::new(decided.document));
        let start = Arc::new(Start { at: started_at, flags: decided.flags });
        let router = servers::metrics(Shown { applied, start, mode, document });
        tasks.spawn(listen(server, router, events, Event::metrics_failed));
    }
    let pod_ranges = decided.watch_pod_ranges;
    tasks.spawn(async move { Err(watch_node(node, pod_ranges, facts).await) });
    tasks.spawn(async move {
        terminated.await;
        Ok(())
    });
    if let Some(file) = file {
        tasks.spawn(async move {
            changed(&file).await;
            let path = file.path.display();
            tracing::info!("{path} has changed: the agent ends, to be started again with it");
            Ok(())
        });
    }
    tokio::select! {
        ended = tasks.join_next() => ended.context("nothing runs beside the loop")?.context("a task")?,
        ended = endless.join_next() => Err(unexpected(ended)),
    }
}

/// A task that says its name when it ends.
async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// Why the agent ends when a task did that never ends by itself.
fn unexpected(ended: Option<Result<&str, JoinError>>) -> anyhow::Error {
    let what = match ended {
        Some(Ok(name)) => format!("{name} has ended"),
        Some(Err(error)) => format!("a task beside the loop has failed: {error}"),
        None => "nothing runs beside the loop".to_owned(),
    };
    anyhow!("{what}, which must not happen: the agent ends, to be started again")
}

/// Serves for ever, or fails.
async fn listen(
    server: Server,
    router: axum::Router,
    events: Events,
    event: fn(String) -> Event,
) -> anyhow::Result<()> {
    let complain = |error: &crate::kubeproxy::listen::ListenError| {
        tracing::warn!("{error}");
        events.tell(event(error.to_string()));
    };
    Err(server.serve(router, complain).await.into())
}

/// Once the cluster can be read, events can be written.
async fn tell_of_start(mut feed: Feed, events: Events) {
    if feed.wait_for(|state| state.synced).await.is_ok() {
        events.tell(Event::starting());
    }
}

/// Ends with the reason to begin anew.
async fn watch_node(
    name: String,
    pod_ranges: bool,
    mut facts: watch::Receiver<Arc<Facts>>,
) -> anyhow::Error {
    let mut deadline = Some(Instant::now() + NODE_PATIENCE);
    loop {
        let now = Arc::clone(&facts.borrow_and_update());
        if let Some(reason) = node::reason(&now, pod_ranges) {
            return anyhow!("{reason}: the agent ends, to be started again (Node {name})");
        }
        deadline = deadline.filter(|_| !node::is_known(&now));
        let late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = facts.changed() => if changed.is_err() {
                return anyhow!("the cluster is not followed any more");
            },
            () = late => {
                deadline = None;
                tracing::warn!(
                    node = name,
                    "no Node of this name has had an address for {NODE_PATIENCE:?}: going on \
                     without; give the name that `kubectl get nodes` shows with --hostname-override"
                );
            }
        }
    }
}

/// Ends when the file says something else. A mounted `ConfigMap` is replaced by changing a symbolic
/// link, so for a moment there may be no file.
async fn changed(file: &ConfigFile) {
    loop {
        sleep(LOOK).await;
        match tokio::fs::read_to_string(&file.path).await {
            Ok(text) if text != file.text => return,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, path = %file.path.display(), "not readable now"),
        }
    }
}

fn adjust_oom_score(score: i64) {
    let path = Path::new("/proc/self/oom_score_adj");
    if let Err(error) = std::fs::write(path, score.to_string()) {
        tracing::warn!(
            %error,
            "oom_score_adj can't be set to {score}: when memory runs out, the agent may be among the \
             first to go; run it privileged, or set oomScoreAdj to 0 or more"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endless_task_that_ends_is_told() {
        let mut endless: JoinSet<&str> = JoinSet::new();
        endless.spawn(named("it", async {}));
        let said = unexpected(endless.join_next().await).to_string();
        assert!(said.starts_with("it has ended, which must not happen"), "{said}");
        endless.spawn(named("it", async { panic!("for the test") }));
        let said = unexpected(endless.join_next().await).to_string();
        assert!(said.starts_with("a task beside the loop has failed"), "{said}");
    }
}
