//! Events on objects of the cluster: what operators see with `kubectl describe`.
//!
//! They are told, not promised: what can't be written is logged and forgotten.

use super::Connection;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Events that wait to be written; more than that are a flood that nobody reads.
const WAITING: usize = 64;

/// What to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of which object.
    pub about: About,
    /// Whether something is wrong.
    pub warning: bool,
    /// The reason, in one word.
    pub reason: &'static str,
    /// What was being done, in one word.
    pub action: &'static str,
    /// One line.
    pub note: String,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// The own Node.
    Node,
    /// A Service.
    Service {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
}

/// Takes events.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Event>);

/// A place for events, and where they come out.
pub fn channel() -> (Events, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Events(sender), receiver)
}

/// Writes what comes until nobody is left who tells anything. `node` is the name of the own Node.
pub async fn write(connection: Connection, node: String, mut events: mpsc::Receiver<Event>) {
    let mut recorder = None;
    while let Some(event) = events.recv().await {
        let reason = event.reason;
        if let Err(error) = write_one(&mut recorder, &connection, &node, event).await {
            // Made anew for the next one: what is known of the server may have changed.
            recorder = None;
            tracing::warn!(
                error,
                reason,
                "an event is not written; see that the API server is up and lets the service account \
                 create and patch events of events.k8s.io"
            );
        }
    }
}

async fn write_one(
    recorder: &mut Option<Recorder>,
    connection: &Connection,
    node: &str,
    Event { about, warning, reason, action, note }: Event,
) -> Result<(), String> {
    let recorder = match recorder {
        Some(recorder) => recorder,
        None => {
            let instance = Some(node.to_owned());
            let reporter = Reporter { controller: "kube-proxy".to_owned(), instance };
            recorder.insert(Recorder::new(connection.client().await?, reporter))
        }
    };
    let event = KubeEvent {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: reason.to_owned(),
        note: Some(note).filter(|note| !note.is_empty()),
        action: action.to_owned(),
        secondary: None,
    };
    recorder.publish(&event, &about.reference(node)).await.map_err(|error| error.to_string())
}

// === impl Event ===

impl Event {
    /// The agent has started.
    pub fn starting() -> Self {
        Self::of_node(false, "Starting", String::new())
    }

    /// The port for health can't be had.
    pub fn health_failed(note: String) -> Self {
        Self::of_node(true, "FailedToStartProxierHealthcheck", note)
    }

    /// The port for metrics can't be had.
    pub fn metrics_failed(note: String) -> Self {
        Self::of_node(true, "FailedToStartMetricServer", note)
    }

    /// A healthCheckNodePort can't be had.
    pub fn service_healthcheck_failed(namespace: Arc<str>, name: Arc<str>, note: String) -> Self {
        let about = About::Service { namespace, name };
        let reason = "FailedToStartServiceHealthcheck";
        Self { about, warning: true, reason, action: "Listen", note }
    }

    fn of_node(warning: bool, reason: &'static str, note: String) -> Self {
        Self { about: About::Node, warning, reason, action: "StartKubeProxy", note }
    }
}

// === impl About ===

impl About {
    fn reference(&self, node: &str) -> ObjectReference {
        let reference = |kind: &str, name: &str| ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        match self {
            // kubelet names a Node by its name for want of the uid, and so does `kubectl describe`.
            Self::Node => ObjectReference { uid: Some(node.to_owned()), ..reference("Node", node) },
            Self::Service { namespace, name } => {
                let namespace = Some(namespace.to_string());
                ObjectReference { namespace, ..reference("Service", name) }
            }
        }
    }
}

// === impl Events ===

impl Events {
    /// Tells something, without waiting.
    pub fn tell(&self, event: Event) {
        if let Err(error) = self.0.try_send(event) {
            tracing::debug!(%error, "an event is lost");
        }
    }
}
