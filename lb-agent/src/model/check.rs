//! How a backend's health is told: what to try, how often, and how many results in a row count.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Something that is tried again and again on a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Check {
    /// What is tried.
    pub probe: Probe,
    /// The port it is tried on, if not the backend's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// From the begin of one try to the begin of the next.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// The same while results in a row are being counted.
    #[serde(with = "humantime_serde")]
    pub fast_interval: Duration,
    /// When a try has failed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Successes in a row that bring a failed backend back.
    pub rise: u32,
    /// Failures in a row that take a backend out.
    pub fall: u32,
    /// What holds before the first result.
    pub initial: Initial,
    /// By how much intervals vary, in percent.
    pub jitter: u8,
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// A TCP connection is accepted.
    Tcp,
    /// An HTTP response is as expected.
    Http(HttpProbe),
    /// The standard health service says `SERVING`.
    Grpc(GrpcProbe),
    /// A program ends with 0 (passing) or 1 (passing, with a warning).
    Exec(ExecProbe),
}

/// What holds before the first result, which decides by itself whatever `rise` and `fall` say.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Initial {
    /// New connections are sent before the first result.
    #[default]
    Up,
    /// None are.
    Down,
}

/// An HTTP request and what is expected of the response.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HttpProbe {
    /// Over TLS, and whom to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ProbeTls>,
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Host` header, if not the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Good statuses, as ranges with both ends.
    pub status: Vec<(u16, u16)>,
    /// Text that the body's first part must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// A call of the standard gRPC health service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GrpcProbe {
    /// Over TLS, and whom to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ProbeTls>,
    /// The service asked for; empty: the server as a whole.
    pub service: String,
}

/// A program that is run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExecProbe {
    /// The program and its arguments. It finds the backend in `LB_BACKEND` (`10.0.0.5:8080`).
    pub command: Vec<String>,
}

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProbeTls {
    /// Whether the certificate is verified.
    pub verify: bool,
    /// The name it must have, if not the `Host` header or the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// PEM file of the authorities it must come from, if not the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

// === impl Check ===

impl Check {
    /// A check with the defaults.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            port: None,
            interval: Duration::from_secs(2),
            fast_interval: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            initial: Initial::default(),
            jitter: 10,
        }
    }

    /// Where a backend is tried.
    pub fn target(&self, backend: SocketAddr) -> SocketAddr {
        SocketAddr::new(backend.ip(), self.port.unwrap_or(backend.port()))
    }
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self {
            tls: None,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            status: vec![(200, 399)],
            body: None,
        }
    }
}

impl Default for ProbeTls {
    fn default() -> Self {
        Self { verify: true, server_name: None, ca: None }
    }
}

/// `tcp`, `http /healthz`, `grpc`, `exec check-db`: for people.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.probe {
            Probe::Tcp => f.write_str("tcp")?,
            Probe::Http(http) => {
                let scheme = if http.tls.is_some() { "https" } else { "http" };
                write!(f, "{scheme} {}", http.path)?;
            }
            Probe::Grpc(grpc) if grpc.service.is_empty() => f.write_str("grpc")?,
            Probe::Grpc(grpc) => write!(f, "grpc {}", grpc.service)?,
            Probe::Exec(exec) => {
                write!(f, "exec {}", exec.command.first().map_or("", String::as_str))?;
            }
        }
        match self.port {
            Some(port) => write!(f, " on port {port}"),
            None => Ok(()),
        }
    }
}
