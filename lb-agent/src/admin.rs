//! What operators say of backends while the agent runs: kept where it outlives the agent, and where
//! everybody it concerns can see it.
//!
//! A service of our own layout in etcd is every host's, so what is said of its backends is written
//! beside it, as `<prefix>overrides/<service>/<address>`, and comes back through the source. What is
//! said of others is this host's, and kept in a file. What it means is left to [`crate::health`].

use crate::etcd::{Client, EtcdError, Settings};
use crate::model::{AdminState, Override, Overrides, ServiceName};
use crate::monitor::{SharedBoard, lock};
use crate::store::{self, StoreError};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// Something an operator says of a backend. What is left out stays as it was; `null` takes back what
/// was said before.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The service.
    pub service: ServiceName,
    /// The backend's address.
    pub backend: SocketAddr,
    /// Its state.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub state: Option<Option<AdminState>>,
    /// Its weight; not 0.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub weight: Option<Option<u16>>,
}

/// Where a change was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// A file, or a source and its key.
    pub place: String,
}

/// A store that keeps what is said of the services in it.
#[derive(Clone, Debug)]
pub struct Store {
    /// How it is reached.
    pub settings: Arc<Settings>,
    /// What all keys begin with.
    pub prefix: String,
}

/// Why a change could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The file.
    #[error(transparent)]
    File(#[from] StoreError),
    /// The store.
    #[error("{name} was not told: {reason}")]
    Store {
        /// The source's name.
        name: Arc<str>,
        /// Why, and what to do.
        reason: String,
    },
}

/// Takes changes and keeps them.
#[derive(Debug)]
pub struct Admin {
    file: PathBuf,
    own: watch::Sender<Arc<Overrides>>,
    stores: BTreeMap<Arc<str>, Store>,
    board: SharedBoard,
    /// One change at a time: each is made to what the last one left.
    turn: Mutex<()>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    service: ServiceName,
    backend: SocketAddr,
    #[serde(flatten)]
    said: Override,
}

/// What the file says. One that can't be read is as good as none: it must not keep the agent from
/// serving.
pub fn load(file: &std::path::Path) -> Overrides {
    let lines = store::load(file).unwrap_or_else(|error| {
        tracing::error!(%error, "what was said of backends is forgotten");
        None
    });
    collect(lines.unwrap_or_default())
}

/// The same for the file's bytes.
pub(crate) fn read(text: &[u8]) -> Result<Overrides, serde_json::Error> {
    serde_json::from_slice(text).map(collect)
}

fn collect(lines: Vec<Line>) -> Overrides {
    let mut overrides = Overrides::new();
    for Line { service, backend, said } in lines {
        overrides.entry(service).or_default().insert(backend, said);
    }
    overrides
}

/// A field that is there, even if it is `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

// === impl Admin ===

impl Admin {
    /// Keeps what concerns this host alone in `file`, whose content `own` has.
    pub fn new(
        file: PathBuf,
        own: watch::Sender<Arc<Overrides>>,
        stores: BTreeMap<Arc<str>, Store>,
        board: SharedBoard,
    ) -> Self {
        Self { file, own, stores, board, turn: Mutex::new(()) }
    }

    /// Keeps a change about a backend of a service from `source`.
    ///
    /// # Errors
    ///
    /// [`AdminError::File`] if the file can't be written, [`AdminError::Store`] if the source's store does not take
    /// the change. Nothing changes here then; a store that did not answer may have taken it all the same.
    pub async fn change(&self, source: &str, change: &Change) -> Result<Kept, AdminError> {
        let _turn = self.turn.lock().await;
        let Change { service, backend, state, weight } = change;
        let before = lock(&self.board).override_of(service, backend);
        let said = Override {
            state: state.unwrap_or(before.state),
            weight: weight.unwrap_or(before.weight),
        };
        match self.stores.get_key_value(source) {
            Some((source, store)) => tell(source, store, service, *backend, said).await,
            None => self.save(service, *backend, said),
        }
    }

    fn save(
        &self,
        service: &ServiceName,
        backend: SocketAddr,
        said: Override,
    ) -> Result<Kept, AdminError> {
        let mut overrides = Overrides::clone(&self.own.borrow());
        let backends = overrides.entry(service.clone()).or_default();
        if said == Override::default() {
            backends.remove(&backend);
        } else {
            backends.insert(backend, said);
        }
        overrides.retain(|_, backends| !backends.is_empty());
        let lines = overrides.iter().flat_map(|(service, backends)| {
            backends.iter().map(|(backend, said)| Line {
                service: service.clone(),
                backend: *backend,
                said: *said,
            })
        });
        store::save(&self.file, &lines.collect::<Vec<_>>())?;
        self.own.send_replace(Arc::new(overrides));
        Ok(Kept { place: self.file.display().to_string() })
    }
}

async fn tell(
    source: &Arc<str>,
    store: &Store,
    service: &ServiceName,
    backend: SocketAddr,
    said: Override,
) -> Result<Kept, AdminError> {
    let failed = |reason: String| AdminError::Store { name: Arc::clone(source), reason };
    let key = format!("{}overrides/{service}/{backend}", store.prefix);
    let mut client = Client::new(Arc::clone(&store.settings));
    let told: Result<(), EtcdError> = if said == Override::default() {
        client.delete(&key).await.map(drop)
    } else {
        let value = serde_json::to_vec(&said).map_err(|error| failed(error.to_string()))?;
        client.put(&key, value, None).await.map(drop)
    };
    told.map_err(|error| failed(error.to_string()))?;
    Ok(Kept { place: format!("{source} {key}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::board::Board;

    fn change(json: &str) -> Change {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn left_out_and_null_are_different() {
        let text = r#"{"service":"web","backend":"10.0.0.1:80","state":null}"#;
        let taken_back = change(text);
        assert_eq!((taken_back.state, taken_back.weight), (Some(None), None));
        assert_eq!(serde_json::to_string(&taken_back).unwrap(), text);
        let wrong = r#"{"service":"web","backend":"10.0.0.1:80","weigth":3}"#;
        assert!(serde_json::from_str::<Change>(wrong).is_err());
    }

    #[tokio::test]
    async fn what_is_said_is_kept_until_it_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("overrides.json");
        let (own, mut told) = watch::channel(Arc::new(load(&file)));
        let board = SharedBoard::default();
        let admin = Admin::new(file.clone(), own, BTreeMap::new(), Arc::clone(&board));
        let mut say = async |json: &str| {
            admin.change("file:x", &change(json)).await.unwrap();
            let now = Arc::clone(&told.borrow_and_update());
            assert_eq!(*now, load(&file), "the file says the same");
            let mut fresh = Board::default();
            fresh.set_overrides(Arc::clone(&now));
            *lock(&board) = fresh;
            now
        };
        let backend: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let web: ServiceName = "web".parse().unwrap();
        let drained = say(r#"{"service":"web","backend":"10.0.0.1:80","state":"drain"}"#).await;
        let said = Override { state: Some(AdminState::Drain), weight: None };
        assert_eq!(drained[&web][&backend], said);
        let both = say(r#"{"service":"web","backend":"10.0.0.1:80","weight":7}"#).await;
        assert_eq!(both[&web][&backend], Override { weight: Some(7), ..said });
        let back = say(r#"{"service":"web","backend":"10.0.0.1:80","state":null}"#).await;
        assert_eq!(back[&web][&backend], Override { state: None, weight: Some(7) });
        assert!(say(r#"{"service":"web","backend":"10.0.0.1:80","weight":null}"#).await.is_empty());
    }
}
