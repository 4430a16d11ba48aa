//! Services, their frontends and backends, as they are shown.

use crate::health::board::CheckResult;
use crate::health::effective::Why;
use crate::model::{
    AdminState, Affinity, Frontend, Lease, Lists, NoBackend, Override, Policy, Reach, Scope, Way,
};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A service with all that belongs to it: `/v1/services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its id in the kernel tables, if it is there.
    pub id: Option<u32>,
    /// Which source said so.
    pub source: String,
    /// What clients dial.
    pub frontends: Vec<FrontendStatus>,
    /// How a backend is chosen.
    pub policy: Policy,
    /// Session affinity.
    pub affinity: Option<Affinity>,
    /// What a caller sees when no backend is usable.
    pub no_backend: NoBackend,
    /// The same for frontends that lead to backends on this node only, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_node_backend: Option<NoBackend>,
    /// Whether it sends connections to backends that are not healthy, for want of others; read when
    /// asked.
    #[serde(default)]
    pub fails_open: bool,
    /// Where connections end up.
    pub backends: Vec<BackendStatus>,
    /// Counters, read when asked.
    pub counters: ServiceCounts,
}

impl ServiceStatus {
    /// The frontends that sockets which connect find.
    pub fn socket_frontends(&self) -> impl Iterator<Item = &FrontendStatus> {
        self.frontends.iter().filter(|frontend| frontend.comes != Comes::Packets)
    }
}

/// A frontend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendStatus {
    /// Address, port and protocol.
    pub frontend: Frontend,
    /// Whose sockets it is for.
    pub scope: Scope,
    /// Which backends it leads to.
    #[serde(default, skip_serializing_if = "Reach::is_cluster")]
    pub reach: Reach,
    /// By which way connections come to it.
    #[serde(default, skip_serializing_if = "Comes::is_by_sockets")]
    pub comes: Comes,
    /// Whether the kernel has it, for sockets that connect. If it is for packets only, the packet path's
    /// state tells, and this is true.
    pub installed: bool,
    /// Backends of its family and reach that get new connections.
    pub usable: usize,
}

/// By which way connections come to a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comes {
    /// By sockets of this host.
    #[default]
    Sockets,
    /// By packets only.
    Packets,
    /// By both.
    Both,
}

impl Comes {
    /// Whether by sockets only.
    pub const fn is_by_sockets(&self) -> bool {
        matches!(self, Self::Sockets)
    }

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::Packets => "packets",
            Self::Both => "both",
        }
    }
}

impl From<Way> for Comes {
    fn from(way: Way) -> Self {
        match way {
            Way::Sockets => Self::Sockets,
            Way::Packets(_) => Self::Packets,
            Way::Both(_) => Self::Both,
        }
    }
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Address and port.
    pub address: SocketAddr,
    /// Its id in the kernel tables, if it is there.
    pub id: Option<u32>,
    /// What the operator says.
    pub state: AdminState,
    /// Relative share of new connections.
    pub weight: u16,
    /// Which frontends lead to it.
    #[serde(default, skip_serializing_if = "Lists::is_cluster")]
    pub lists: Lists,
    /// The zone it runs in, where its source says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// The lease its registration hangs on, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// What is left of the lease, read when asked for.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub lease_left: Option<Duration>,
    /// What operators say of it, over its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Override>,
    /// What is known of its health, read when asked; nothing but what its source says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // Few have it at any time, and there are many backends.
    pub health: Option<Box<HealthStatus>>,
    /// Since when it is in this state.
    #[serde(with = "humantime_serde")]
    pub since: Option<SystemTime>,
    /// Sockets open to it through the service, read when asked.
    pub active: u64,
    /// Sockets sent to it since it was added, read when asked.
    pub connects: u64,
    /// What became of TCP connects, read when asked; absent where nobody follows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcomes: Option<Box<OutcomeCounts>>,
}

/// What became of TCP connects to a backend since it was added. An attempt counts under the way it
/// ended, and under `unanswered` besides if its first packet was not answered within a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeCounts {
    /// Connections that came about.
    pub established: u64,
    /// Attempts that were refused.
    pub refused: u64,
    /// Attempts that were not answered, or only by a router that knows no way.
    pub unanswered: u64,
    /// Attempts that the application gave up: no failures.
    pub abandoned: u64,
    /// Attempts that failed since one last succeeded.
    pub consecutive: u64,
    /// Round-trip time, a mean over the last handshakes; absent before the first.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub srtt: Option<Duration>,
}

/// What is known of a backend's health, and what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// Why it gets new connections or not.
    pub why: Why,
    /// Its share of new connections beside the others'; 0: none.
    pub share: u16,
    /// What its worst check says.
    pub check: Option<CheckStatus>,
    /// For how much longer it is ejected.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub ejected_for: Option<Duration>,
}

/// What a check says of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Which: `http /healthz`.
    pub check: String,
    /// Whether it holds the backend to be up.
    pub up: bool,
    /// Results still in favour of that, of how many: `2/3`.
    pub standing: String,
    /// Whether the last try spoke for the backend; none yet if absent.
    pub result: Option<CheckResult>,
    /// What the last try came to: `L7OK 200`.
    pub text: Option<String>,
    /// How long it took.
    #[serde(with = "humantime_serde")]
    pub took: Option<Duration>,
    /// When it ended.
    #[serde(with = "humantime_serde")]
    pub at: Option<SystemTime>,
}

/// Counters of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounts {
    /// Sockets translated.
    pub connects: u64,
    /// Connects and datagrams that found no backend.
    pub no_backend: u64,
    /// Sockets translated but not remembered: the overflow table was full.
    pub untracked: u64,
}
