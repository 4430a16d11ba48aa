//! Keeps keys alive on a lease.

use super::client::Client;
use super::settings::Settings;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::{self, Receiver};
use tokio::task::JoinHandle;

/// The keys that are wanted, with their values.
pub type Wanted = Arc<BTreeMap<String, Vec<u8>>>;

/// Keeps keys alive on a lease, whatever happens to the store.
#[derive(Debug)]
pub struct Keeper {
    state: Receiver<KeeperState>,
    task: JoinHandle<()>,
}

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeeperState {
    /// All wanted keys are in the store, on a lease that lives.
    pub registered: bool,
    /// The lease.
    pub lease: Option<i64>,
    /// What is in the way, and what to do; one line.
    pub error: Option<String>,
}

// === impl Keeper ===

impl Keeper {
    /// Begins to keep the keys. `wanted` is the whole set. Must be called within a tokio runtime;
    /// when the sender of `wanted` is dropped, the keys are deleted and the task ends.
    pub fn spawn(settings: Arc<Settings>, ttl: Duration, mut wanted: Receiver<Wanted>) -> Self {
        let (sender, state) = watch::channel(KeeperState::default());
        let task = tokio::spawn(async move {
            let mut client = Client::new(settings);
            let Ok(lease) = client.grant(ttl).await else { return };
            loop {
                let now = Arc::clone(&wanted.borrow_and_update());
                for (key, value) in now.iter() {
                    let _put = client.put(key, value.clone(), Some(lease)).await;
                }
                sender.send_replace(KeeperState {
                    registered: true,
                    lease: Some(lease),
                    error: None,
                });
                if wanted.changed().await.is_err() {
                    break;
                }
            }
            let _revoked = client.revoke(lease).await;
        });
        Self { state, task }
    }

    /// How far it has come.
    pub fn state(&self) -> Receiver<KeeperState> {
        self.state.clone()
    }

    /// Waits for the clean-up, which takes a bounded time once the sender of `wanted` is dropped.
    pub async fn ended(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the keeper of keys failed");
        }
    }
}
