//! The vocabulary of the agent: what sources say and what the plan works on.
//!
//! Pure data, ordered so that everything derived from it is deterministic. Kernel forms (rows, ids)
//! are not known here; see `lb_common::rows` and [`crate::plan`].

pub mod check;
mod frontend;
mod health;

pub use self::frontend::{
    Exposure, Frontend, Masquerade, Passage, Protocol, Reach, Scope, Way, parse_socket_addr,
};
pub use self::health::{EjectionPolicy, HealthPolicy, OnRemoval, Rule};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Name of a service, unique over all sources: `name` or `namespace/name[:port]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceName(Arc<str>);

/// Which frontends of its service lead to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lists {
    /// Those with [`Reach::Cluster`].
    #[default]
    Cluster,
    /// Those with [`Reach::Node`].
    Node,
    /// All of them.
    Both,
}

/// What the operator says of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// Gets its share of new connections.
    #[default]
    Ready,
    /// Gets no new connections; open ones live on.
    Drain,
    /// Out of service.
    Disabled,
}

/// Where connections end up, apart from its address (the key of [`Service::backends`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Share of new connections relative to the other backends; never 0.
    pub weight: u16,
    /// What the operator says.
    pub state: AdminState,
    /// The zone it runs in, where its source says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// Its level: backends of the lowest level that has a usable one serve.
    #[serde(default)]
    pub priority: u8,
    /// The lease its registration hangs on, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Which frontends lead to it.
    #[serde(default)]
    pub lists: Lists,
}

/// What keeps a registration alive: when it ends, the backend is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The source that says so.
    pub source: Arc<str>,
    /// The store's number for it.
    pub id: i64,
}

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Weighted random.
    #[default]
    Random,
    /// The less loaded of two weighted random candidates.
    LeastConnections,
}

/// What a caller sees when no backend is usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoBackend {
    /// `ECONNREFUSED`.
    #[default]
    Refuse,
    /// `EHOSTUNREACH`.
    Unreachable,
    /// The address is left alone.
    Pass,
}

/// Who counts as one client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// A network namespace: a pod.
    #[default]
    Netns,
    /// A user.
    Uid,
    /// A cgroup.
    Cgroup,
    /// A process.
    Process,
}

/// Session affinity: a client's connections go to one backend while it is usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Who counts as one client.
    pub client: Client,
    /// How long an entry lives after its last use, in whole seconds; never 0.
    pub timeout_seconds: u32,
}

/// A named set of frontends and the backends behind them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// What clients dial, and how each is offered.
    #[serde(with = "as_pairs")]
    pub frontends: BTreeMap<Frontend, Exposure>,
    /// Where connections end up; a frontend uses those of its own family and reach.
    #[serde(with = "as_pairs")]
    pub backends: BTreeMap<SocketAddr, Backend>,
    /// Further backends, kept by another source; a backend that stands above too is as it stands
    /// there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends_from: Vec<PoolRef>,
    /// How a backend is chosen.
    pub policy: Policy,
    /// Session affinity, if any.
    pub affinity: Option<Affinity>,
    /// What a caller sees when no backend is usable.
    pub no_backend: NoBackend,
    /// The same for frontends with [`Reach::Node`].
    #[serde(default)]
    pub no_node_backend: NoBackend,
    /// How its backends' health is told and what follows from it.
    #[serde(default, skip_serializing_if = "HealthPolicy::is_default")]
    pub health: HealthPolicy,
    /// The clients that may use the frontends that are restricted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<IpNet>,
}

/// What an operator says of a backend, over what its source says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AdminState>,
    /// Its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

/// What operators say of backends, by service.
pub type Overrides = BTreeMap<ServiceName, BTreeMap<SocketAddr, Override>>;

/// Everything a source says at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The services, by name.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// Backends that no service address is known for, by the name that the source has for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<Arc<str>, Arc<Pool>>,
    /// What operators say of backends, of whatever source they are.
    #[serde(default, with = "as_pairs_of_pairs", skip_serializing_if = "Overrides::is_empty")]
    pub overrides: Overrides,
}

/// Backends under a name, for the services that refer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The backends. Port 0: the port is for the service to say.
    #[serde(with = "as_pairs")]
    pub backends: BTreeMap<SocketAddr, Backend>,
}

/// A pool of another source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolRef {
    /// The source's name: `etcd:registry`.
    pub source: Arc<str>,
    /// The pool's name there.
    pub pool: Arc<str>,
    /// The port of backends that come without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// An item that was refused, with the reason in one line that says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rejection {
    /// Where it stands: `services.yaml:12:5`, or a key.
    pub origin: String,
    /// The service it concerns, where known.
    pub service: Option<String>,
    /// One line: what is wrong and what to do.
    pub reason: String,
}

/// Why a piece of text is not a frontend or a service name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

// === impl ServiceName ===

impl ServiceName {
    /// Longest name accepted, in bytes.
    pub const MAX_LEN: usize = 253;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ord for ServiceName {
    fn cmp(&self, other: &Self) -> Ordering {
        // Maps that share their names are compared without a look at the text.
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for ServiceName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for ServiceName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._/:".contains(c);
        if fits && text.chars().all(plain) {
            return Ok(Self(text.into()));
        }
        Err(ParseError(format!(
            "`{text}` is not a service name: use 1 to {} letters, digits and - . _ / :",
            Self::MAX_LEN
        )))
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

// === impl Lists ===

impl Lists {
    /// As long as a service has no frontends with [`Reach::Node`].
    pub fn is_cluster(&self) -> bool {
        *self == Self::Cluster
    }

    /// Whether a frontend of this reach leads there.
    pub const fn contains(self, reach: Reach) -> bool {
        matches!(
            (self, reach),
            (Self::Both, _) | (Self::Cluster, Reach::Cluster) | (Self::Node, Reach::Node)
        )
    }
}

// === impl Backend ===

impl Default for Backend {
    fn default() -> Self {
        Self {
            weight: 1,
            state: AdminState::Ready,
            zone: None,
            priority: 0,
            lease: None,
            lists: Lists::default(),
        }
    }
}

// === impl Service ===

impl Service {
    /// Whether this is a backend of the service that any of its frontends can lead to.
    pub fn uses(&self, address: &SocketAddr) -> bool {
        let leads = |(frontend, exposure): (&Frontend, &Exposure), backend: &Backend| {
            frontend.address.is_ipv4() == address.is_ipv4()
                && backend.lists.contains(exposure.reach)
        };
        let backend = self.backends.get(address);
        backend.is_some_and(|backend| self.frontends.iter().any(|f| leads(f, backend)))
    }

    /// The frontends that sockets which connect find.
    pub fn socket_frontends(&self) -> impl Iterator<Item = (&Frontend, &Exposure)> {
        self.frontends.iter().filter(|(_, exposure)| exposure.is_for_sockets())
    }

    /// Where a frontend leads: the backends of its family and reach.
    pub fn backends_for(
        &self,
        frontend: &Frontend,
    ) -> impl Iterator<Item = (&SocketAddr, &Backend)> {
        let reach = self.frontends.get(frontend).map_or(Reach::default(), |e| e.reach);
        self.backends_of(frontend.address.is_ipv4(), reach)
    }

    /// The backends of a family, IPv4 or IPv6, and a reach.
    pub fn backends_of(
        &self,
        v4: bool,
        reach: Reach,
    ) -> impl Iterator<Item = (&SocketAddr, &Backend)> + use<'_> {
        self.backends
            .iter()
            .filter(move |(a, backend)| a.is_ipv4() == v4 && backend.lists.contains(reach))
    }
}

/// The same, two deep.
mod as_pairs_of_pairs {
    use super::{Override, Overrides};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::net::SocketAddr;

    pub(super) fn serialize<S: Serializer>(
        overrides: &Overrides,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let all = overrides.iter().flat_map(|(service, backends)| {
            backends.iter().map(move |(backend, said)| (service, backend, said))
        });
        all.collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Overrides, D::Error> {
        let mut overrides = Overrides::new();
        for (service, backend, said) in Vec::<(_, SocketAddr, Override)>::deserialize(deserializer)?
        {
            overrides.entry(service).or_default().insert(backend, said);
        }
        Ok(overrides)
    }
}

/// Maps whose keys are not text, as lists of pairs.
mod as_pairs {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::collections::BTreeMap;

    pub(super) fn serialize<S, K, V>(map: &BTreeMap<K, V>, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
        K: Serialize,
        V: Serialize,
    {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        D: Deserializer<'de>,
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
