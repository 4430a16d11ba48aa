//! The key while it is in the store: a keeper, and what is wanted of it.

use crate::etcd::{Keeper, KeeperState, Settings, TakeOver};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Keys and their values.
type Keys = Arc<BTreeMap<String, Vec<u8>>>;

/// A key in the store.
pub(super) struct Keeping {
    pub(super) wanted: watch::Sender<Keys>,
    pub(super) keeper: Keeper,
    pub(super) state: watch::Receiver<KeeperState>,
}

// === impl Keeping ===

impl Keeping {
    /// Puts the keys, and keeps them there.
    pub(super) fn begin(
        settings: &Arc<Settings>,
        ttl: Duration,
        keys: Keys,
        take_over: TakeOver,
    ) -> Self {
        let (wanted, keys) = watch::channel(keys);
        let keeper = Keeper::spawn(Arc::clone(settings), ttl, keys, take_over);
        let state = keeper.state();
        Self { wanted, keeper, state }
    }

    /// From now on the keys are to have these values.
    pub(super) fn want(&self, keys: Keys) {
        self.wanted.send_if_modified(|wanted| {
            let new = *wanted != keys;
            *wanted = keys;
            new
        });
    }
}
