//! TLS for probes: whom to trust, and the handshake.

use crate::model::check::ProbeTls;
use crate::tls;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;

/// How long what was read from files is used: a new authority counts after that.
const KEEP: Duration = Duration::from_secs(60);

/// Whom to trust, as it was last read. Reading the system's authorities takes milliseconds.
#[derive(Debug, Default)]
pub(super) struct Trust {
    configs: Mutex<HashMap<Key, (Instant, Arc<ClientConfig>)>>,
}

type Key = (ProbeTls, Vec<Vec<u8>>);

/// Shakes hands. The error is a code and a few words.
pub(super) async fn handshake<S>(
    stream: S,
    target: SocketAddr,
    name: Option<&str>,
    settings: &ProbeTls,
    protocols: &[&[u8]],
    trust: &Trust,
) -> Result<TlsStream<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = match name {
        None => ServerName::from(target.ip()),
        Some(name) => ServerName::try_from(host_of(name).to_owned())
            .map_err(|_| format!("L6RSP `{name}` is not a server name"))?,
    };
    let config = trust.config(settings, protocols)?;
    let connector = TlsConnector::from(config);
    connector.connect(name, stream).await.map_err(|error| format!("L6RSP {error}"))
}

/// The name in what may be a `Host` header: without a port, and without an address's brackets.
fn host_of(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.contains(':') => name,
        _ => host,
    }
}

// === impl Trust ===

impl Trust {
    fn config(
        &self,
        settings: &ProbeTls,
        protocols: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, String> {
        let key = (settings.clone(), protocols.iter().map(|p| p.to_vec()).collect::<Vec<_>>());
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        configs.retain(|_, (read, _)| read.elapsed() < KEEP);
        if let Some((_, config)) = configs.get(&key) {
            return Ok(Arc::clone(config));
        }
        let mut config = build(settings)?;
        config.alpn_protocols = key.1.clone();
        // A resumed session shows no certificate: one that has expired or changed would go unnoticed.
        config.resumption = Resumption::disabled();
        let config = Arc::new(config);
        configs.insert(key, (Instant::now(), Arc::clone(&config)));
        Ok(config)
    }
}

fn build(settings: &ProbeTls) -> Result<ClientConfig, String> {
    let trust = match &settings.ca {
        _ if !settings.verify => tls::Trust::Anybody,
        None => tls::Trust::System,
        Some(file) => authorities(file)?,
    };
    tls::client(trust, None).map_err(|error| format!("L6RSP {error}"))
}

fn authorities(file: &Path) -> Result<tls::Trust, String> {
    let bad = |error: &dyn std::fmt::Display| {
        format!("L6RSP {}: {error}; name a PEM file of certificates", file.display())
    };
    let text = std::fs::read(file).map_err(|error| bad(&error))?;
    let certificates = tls::certificates(&text).map_err(|error| bad(&error))?;
    if certificates.is_empty() {
        return Err(bad(&"there is no certificate in it"));
    }
    Ok(tls::Trust::Authorities(certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_host_headers() {
        for (host, name) in [
            ("example.org", "example.org"),
            ("example.org:8443", "example.org"),
            ("10.0.0.1:443", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
            ("[fd00::1]", "fd00::1"),
            ("[fd00::1]:443", "fd00::1"),
        ] {
            assert_eq!(host_of(host), name);
            assert!(ServerName::try_from(name.to_owned()).is_ok(), "{name}");
        }
    }
}
