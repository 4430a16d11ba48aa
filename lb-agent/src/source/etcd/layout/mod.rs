//! From keys and values to the model, for each way of writing them that people use.
//!
//! Pure and incremental: a key that changes costs the parsing of its value and the services or
//! pools it belongs to, whatever else is stored. A malformed value costs only its own item, which is
//! reported with key, revision and reason. What changed is for [`super`] to find out.
//!
//! [`native`] is our own layout; the others belong to other programs, are read as those write
//! them, and deliver pools of backends: they know no service addresses.

mod addresses;
mod build;
mod coredns;
mod grpc;
mod kratos;
mod native;
mod notes;
mod patroni;
mod plain;
mod pools;
mod shared;
mod text;
mod tree;

pub use self::addresses::{Addresses, Allocation, Given, Vip, Wanted};

use self::pools::Pools;
use self::shared::Shared;
use crate::claims::Claims;
use crate::etcd::KeyValue;
use crate::model::{Rejection, Snapshot};
use crate::source::spec;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest value that is read, in bytes.
pub const MAX_VALUE: usize = 256 << 10;
/// Values with which other programs mark a directory.
const MARKERS: [&[u8]; 2] = [b"init_dir", b"rpcx_path"];

/// A way of writing services or backends into a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayoutKind {
    /// Our own.
    #[default]
    Native,
    /// gRPC's naming and endpoints.
    Grpc,
    /// Records of SkyDNS and CoreDNS.
    Coredns,
    /// `<service>/<id>` = `host:port`: go-zero, confd and hand-made keys.
    Plain,
    /// The registry of Kratos.
    Kratos,
    /// Patroni's clusters of PostgreSQL.
    Patroni,
}

/// Translates the keys under a prefix; it keeps what it needs of them.
pub struct Translator {
    kind: LayoutKind,
    shared: Shared,
    layout: Box<dyn Layout + Send>,
}

/// One layout.
trait Layout {
    /// What the key at `path` (below the prefix) says now. `None`: nothing.
    fn set(&mut self, shared: &mut Shared, path: &str, value: Option<&KeyValue>);

    /// Whether nothing is marked as changed.
    fn idle(&self) -> bool;

    /// Translates what changed since the last call.
    fn refresh(&mut self, shared: &mut Shared);

    /// What a refused service falls back to if no good value of it was seen.
    fn remember(&mut self, _cached: Snapshot) {}

    /// Everything that was stored has been seen: what was remembered and not needed is gone.
    fn listed(&mut self) {}

    /// What is known of service addresses, where the layout has them.
    fn addresses(&self) -> Option<&Addresses> {
        None
    }
}

// === impl LayoutKind ===

impl LayoutKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Native, Self::Grpc, Self::Coredns, Self::Plain, Self::Kratos, Self::Patroni];

    /// The word for it in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Grpc => "grpc",
            Self::Coredns => "coredns",
            Self::Plain => "plain",
            Self::Kratos => "kratos",
            Self::Patroni => "patroni",
        }
    }

    /// Where its keys are unless somebody says otherwise; `None` if there is no custom.
    pub const fn default_prefix(self) -> Option<&'static str> {
        match self {
            Self::Native => Some("/lb/"),
            Self::Coredns => Some("/skydns/"),
            Self::Kratos => Some("/microservices/"),
            Self::Patroni => Some("/service/"),
            Self::Grpc | Self::Plain => None,
        }
    }
}

impl FromStr for LayoutKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.word() == text).ok_or_else(|| {
            let words = Self::ALL.map(Self::word).join(", ");
            format!("`{text}` is no layout; use one of {words}")
        })
    }
}

impl fmt::Display for LayoutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

// === impl Translator ===

impl Translator {
    /// A translator that has seen no key yet. `prefix` ends in `/`; `claims` is what native
    /// services may claim.
    pub fn new(kind: LayoutKind, source: Arc<str>, prefix: String, claims: Claims) -> Self {
        let layout: Box<dyn Layout + Send> = match kind {
            LayoutKind::Grpc => Box::new(Pools::new(grpc::Grpc::new(&prefix))),
            LayoutKind::Coredns => Box::new(Pools::new(coredns::Coredns)),
            LayoutKind::Kratos => Box::new(Pools::new(kratos::Kratos)),
            LayoutKind::Patroni => Box::new(Pools::new(patroni::Patroni)),
            LayoutKind::Native => Box::new(native::Native::default()),
            LayoutKind::Plain => Box::new(Pools::new(plain::Plain::new(&prefix))),
        };
        Self { kind, shared: Shared::new(source, prefix, claims), layout }
    }

    /// The layout.
    pub fn kind(&self) -> LayoutKind {
        self.kind
    }

    /// What a key says now; `None`: it is gone. Parses that value only and marks what it belongs to
    /// as changed, unless it means what it meant before.
    pub fn set(&mut self, key: &str, value: Option<&KeyValue>) {
        let Some(path) = key.strip_prefix(self.shared.prefix()) else { return };
        let value = value.filter(|found| !is_marker(path, &found.value));
        if let Some(large) = value.filter(|found| found.value.len() > MAX_VALUE) {
            let reason = format!(
                "the value has {} bytes and was not read; the most is {MAX_VALUE}",
                large.value.len()
            );
            self.layout.set(&mut self.shared, path, None);
            self.shared.refuse_key(path, large.modified, reason);
            return;
        }
        self.layout.set(&mut self.shared, path, value);
    }

    /// Native: what was served before this agent started. A service whose value is refused goes on
    /// as it was, as far as it may still claim it. To be called before anything is `set`; it counts
    /// until the first snapshot.
    pub fn remember(&mut self, cached: &Snapshot) {
        self.layout.remember(spec::allowed(cached, self.shared.claims()));
    }

    /// Translates again what changed since the last call. `None`: the snapshot is as before; the
    /// first call, after the first list, always gives one. What did not change is shared with the
    /// snapshot before.
    pub fn snapshot(&mut self) -> Option<Arc<Snapshot>> {
        self.layout.listed();
        self.layout.refresh(&mut self.shared);
        self.shared.changed_snapshot()
    }

    /// Everything that is wrong as it stands, sorted; the same list if nothing changed about it.
    pub fn rejections(&mut self) -> Arc<Vec<Rejection>> {
        self.layout.refresh(&mut self.shared);
        self.shared.rejections()
    }

    /// Whether there is nothing to translate again.
    pub fn idle(&self) -> bool {
        self.layout.idle()
    }

    /// Native: what services ask for and what is allocated, as of the last `set`. `None` for the
    /// layouts that have no service addresses.
    pub fn addresses(&self) -> Option<&Addresses> {
        self.layout.addresses()
    }

    /// Items refused since the start, each as often as it was.
    pub fn refused(&self) -> u64 {
        self.shared.refused()
    }
}

impl fmt::Debug for Translator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Translator").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Whether this only marks a directory: a word that is known for it, or nothing in a key that ends
/// in `/`.
fn is_marker(path: &str, value: &[u8]) -> bool {
    MARKERS.contains(&value) || (value.is_empty() && (path.is_empty() || path.ends_with('/')))
}

#[cfg(test)]
mod tests;
