//! TLS for probes: whom to trust, and the handshake.

use crate::model::check::ProbeTls;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio_rustls::{TlsConnector, rustls};

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
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("L6RSP {error}"))?;
    if !settings.verify {
        let verifier = Arc::new(Anybody(provider));
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        return Ok(builder.with_no_client_auth());
    }
    let roots = match &settings.ca {
        Some(file) => authorities(file)?,
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let bad = |error: &dyn std::fmt::Display| {
        format!("L6RSP {}: {error}; name a PEM file of certificates", file.display())
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| bad(&error))? {
        let certificate = certificate.map_err(|error| bad(&error))?;
        roots.add(certificate).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() {
        return Err(bad(&"there is no certificate in it"));
    }
    Ok(roots)
}

/// Takes any certificate, as `verify: false` asks for; signatures are still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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
