//! What a client dials, and how it is offered.

use super::ParseError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The number of SCTP, which the programs never see.
const SCTP: u8 = 132;

/// Layer-4 protocol of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, MPTCP included.
    Tcp,
    /// UDP, connected and unconnected sockets.
    Udp,
    /// SCTP, for packets only: connects don't show it.
    Sctp,
}

/// What a client dials: `10.96.0.10:53/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Address and port. Never a v4-mapped IPv6 address: those are IPv4.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// Whose sockets a frontend is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every socket under the cgroup.
    #[default]
    Everywhere,
    /// Sockets of the host's network namespace only. Loopback frontends always are.
    Host,
}

/// Which of a service's backends a frontend leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Those that any node may use. All there are, unless the service's source says otherwise.
    #[default]
    Cluster,
    /// Those on this node.
    Node,
}

/// How a frontend is offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exposure {
    /// Whose sockets it is for.
    pub scope: Scope,
    /// Which backends it leads to.
    #[serde(default)]
    pub reach: Reach,
    /// Who finds it.
    #[serde(default)]
    pub way: Way,
}

/// How connections come to a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By sockets of this host.
    #[default]
    Sockets,
    /// By packets that come to this host, too.
    Both(Passage),
    /// By packets only: who may use it, or what is spoken there, does not show in a connect.
    Packets(Passage),
}

/// What becomes of packets that come for a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Passage {
    /// Which backends those get who are neither a pod nor this host; the others get those of
    /// [`Exposure::reach`].
    pub outside: Reach,
    /// Whose address the backends see.
    pub masquerade: Masquerade,
    /// Whether only clients in [`Service::source_ranges`](super::Service) may use it.
    #[serde(default)]
    pub restricted: bool,
    /// Whether the address is the service's alone: connections to other ports of it are refused.
    #[serde(default)]
    pub whole_address: bool,
}

/// When this host's address takes the place of a client's. Where a backend would answer itself, it
/// always does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Masquerade {
    /// Never.
    Never,
    /// Unless the client is a pod.
    UnlessPod,
    /// If the client is this host.
    IfLocal,
    /// Always.
    #[default]
    Always,
}

// === impl Protocol ===

impl Protocol {
    /// The number in a frontend key.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => lb_common::protocol::TCP,
            Self::Udp => lb_common::protocol::UDP,
            Self::Sctp => SCTP,
        }
    }

    /// The protocol with this number, if it is one of ours.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            lb_common::protocol::TCP => Some(Self::Tcp),
            lb_common::protocol::UDP => Some(Self::Udp),
            SCTP => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

// === impl Frontend ===

impl Frontend {
    /// A frontend; a v4-mapped address becomes IPv4, which is what the kernel makes of it.
    pub fn new(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self { address: SocketAddr::new(address.to_canonical(), port), protocol }
    }

    /// The scope this frontend has when `asked` is configured: loopback belongs to the host, since
    /// a pod's own loopback is another one.
    pub fn scope(&self, asked: Scope) -> Scope {
        if self.address.ip().is_loopback() { Scope::Host } else { asked }
    }

    /// How this frontend is offered when `asked` is configured.
    pub fn exposure(&self, asked: Exposure) -> Exposure {
        Exposure { scope: self.scope(asked.scope), ..asked }
    }
}

/// `10.96.0.10:53/udp`, `[fd00::1]:80/tcp`; without a protocol it is TCP.
impl FromStr for Frontend {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (address, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((address, "tcp")) => (address, Protocol::Tcp),
            Some((address, "udp")) => (address, Protocol::Udp),
            // Written by ourselves only.
            Some((address, "sctp")) => (address, Protocol::Sctp),
            Some((_, other)) => {
                return Err(ParseError(format!(
                    "`{text}`: protocol `{other}` is not supported; use /tcp or /udp"
                )));
            }
        };
        let address = parse_socket_addr(address)?;
        Ok(Self::new(address.ip(), address.port(), protocol))
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.address, self.protocol))
    }
}

impl Serialize for Frontend {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Frontend {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An address and a port other than 0, in numbers: names are not looked up.
///
/// # Errors
///
/// What is wrong and how to write it: no port, port 0, an IPv6 address without brackets, or a name in place of an
/// address.
pub fn parse_socket_addr(text: &str) -> Result<SocketAddr, ParseError> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            Err(ParseError(format!("`{text}`: port 0 is not a port; use 1 to 65535")))
        }
        Ok(address) => Ok(SocketAddr::new(address.ip().to_canonical(), address.port())),
        Err(_) => Err(ParseError(explain_address(text))),
    }
}

/// Why `text` is no `address:port`, as exactly as can be told.
fn explain_address(text: &str) -> String {
    let example = "write it as 10.0.0.1:80 or [fd00::1]:80";
    if text.parse::<IpAddr>().is_ok() {
        return format!("`{text}` has no port; {example}");
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return format!("`{text}` is not an address and a port; {example}");
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host_is_ip = bare.parse::<IpAddr>().is_ok();
    if host_is_ip && !port.parse::<u16>().is_ok_and(|p| p > 0) {
        return format!("`{text}`: `{port}` is not a port; use 1 to 65535");
    }
    if host_is_ip {
        return format!("`{text}`: an IPv6 address needs brackets; {example}");
    }
    format!("`{text}`: `{host}` is not an IP address and names are not looked up; {example}")
}

// === impl Exposure ===

impl Exposure {
    /// Whether sockets that connect are sent on.
    pub const fn is_for_sockets(&self) -> bool {
        !matches!(self.way, Way::Packets(_))
    }

    /// What becomes of packets, if anything.
    pub const fn passage(&self) -> Option<Passage> {
        match self.way {
            Way::Sockets => None,
            Way::Both(passage) | Way::Packets(passage) => Some(passage),
        }
    }
}

impl From<Scope> for Exposure {
    fn from(scope: Scope) -> Self {
        Self { scope, ..Self::default() }
    }
}

// === impl Reach ===

impl Reach {
    /// Whether it is what all frontends have, unless their source says otherwise.
    pub fn is_cluster(&self) -> bool {
        *self == Self::Cluster
    }
}
