//! TLS to a member, by a connector of our own: the client library's would lose the member's reason.
//!
//! A member looks at our certificate after we think that we are connected. If it does not take it, it
//! says so in an alert and hangs up. Whoever has sent something by then has its connection reset
//! while the alert is unread, or gets an error that has forgotten it. So a connection is handed on
//! only when the member has begun to talk, which it does at once, or has kept silent for a while.

use super::settings::Endpoint;
use crate::tls::{self, Identity, Trust};
use etcd_client::{Channel, Error};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncBufReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{self, Uri};
use tower::service_fn;

/// A proxy in front of the member may wait for us to begin.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// Whom to trust and who we are, from the text of PEM files. Has no `Debug`: there may be a key in it.
#[derive(Clone)]
pub(super) struct Identities {
    config: Arc<ClientConfig>,
    /// The name that the member's certificate must have.
    name: ServerName<'static>,
    /// Whether we show a certificate.
    shown: bool,
}

// === impl Identities ===

impl Identities {
    /// `own` is our certificate with its chain, and its key. The error says what can't be used.
    pub(super) fn new(
        authorities: &[u8],
        own: Option<(&[u8], &[u8])>,
        name: &str,
    ) -> Result<Self, String> {
        let trust = Trust::Authorities(tls::certificates(authorities)?);
        let shown = own.is_some();
        let own = own.map(|(chain, key)| Identity::from_pem(chain, key)).transpose()?;
        let mut config = tls::client(trust, own)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let name = ServerName::try_from(bare.unwrap_or(name).to_owned())
            .map_err(|_| format!("`{name}` is not a server name"))?;
        Ok(Self { config: Arc::new(config), name, shown })
    }

    /// A channel to the member that connects when it is used; `tuned` sets its limits.
    pub(super) fn channel(
        self,
        to: &Endpoint,
        tuned: impl FnOnce(transport::Endpoint) -> transport::Endpoint,
    ) -> Result<Channel, Error> {
        let Endpoint { host, port, .. } = to;
        // The scheme tells the library to leave TLS to us; the origin is what the member sees.
        let origin: Uri = to.to_string().parse()?;
        let endpoint = transport::Endpoint::from_shared(format!("http://{host}:{port}"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = *port;
        let connector = service_fn(move |_: Uri| {
            let (identities, host) = (self.clone(), host.clone());
            async move { identities.connect(&host, port).await.map(TokioIo::new) }
        });
        let channel = tuned(endpoint.origin(origin)).connect_with_connector_lazy(connector);
        Ok(Channel::Tonic(channel))
    }

    async fn connect(
        &self,
        host: &str,
        port: u16,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let mut stream = connector.connect(self.name.clone(), stream).await?;
        if self.shown {
            // Silence is no error; an alert is.
            timeout(FIRST_WORD, stream.fill_buf()).await.unwrap_or(Ok(&[]))?;
        }
        Ok(stream)
    }
}
