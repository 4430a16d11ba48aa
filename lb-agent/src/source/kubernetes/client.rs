//! Reaching the API server: from a kubeconfig, or as a pod does.
//!
//! Connections go to the address that was given, whatever the tables say of it: were they translated,
//! a wrong endpoint of the API server's own Service could not be corrected by hearing of the right
//! one. Token files are read for every request, and everything else again after each failure.

mod authorization;
mod kubeconfig;
mod plugin;

use self::authorization::Authorization;
use super::arrival::{Arrival, noted};
use super::trouble::{Trouble, innermost, of_config};
use crate::config::KubernetesSource;
use crate::metrics::own;
use crate::tls::{self, Identity, Trust};
use hyper::header::AUTHORIZATION;
use hyper::{Request, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ConfigExt as _};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use lb_common::PROBE_MARK;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tower::{BoxError, ServiceBuilder, service_fn};

/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(5);
/// How long what we sent may go unacknowledged before the connection counts as dead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// A connection on which nothing happens is probed after this, and so often after that.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Where a pod finds its token.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Where a pod is told of the API server.
const POD_SERVER: &str = "KUBERNETES_SERVICE_HOST";

/// A way to the API server, shared by all who need one.
#[derive(Clone, Debug)]
pub struct Connection {
    source: Arc<KubernetesSource>,
    made: Arc<Mutex<Option<Made>>>,
}

/// A client, and what is known of whom it talks to.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) client: Client,
    pub(super) server: Arc<Server>,
}

/// For sentences about failures.
#[derive(Debug)]
pub(super) struct Server {
    /// `https://10.0.0.1:6443`.
    pub(super) url: String,
    /// Where its token is read, if it has one.
    pub(super) token: Option<PathBuf>,
    /// `the kubeconfig /etc/lb/kubeconfig`, `the pod's service account`.
    pub(super) origin: String,
}

/// Connects, past our own translation.
#[derive(Clone, Copy, Debug)]
struct Connector;

// === impl Connection ===

impl Connection {
    /// Nothing is read or connected yet.
    pub fn new(source: Arc<KubernetesSource>) -> Self {
        Self { source, made: Arc::default() }
    }

    /// The client, made anew if there is none.
    ///
    /// # Errors
    ///
    /// A line that says what to do: the kubeconfig or the pod's service account can't be read or used, its plugin
    /// for credentials fails, it asks for a proxy, or `server` is no URL. The API server is not asked.
    pub async fn client(&self) -> Result<Client, String> {
        self.made().await.map(|made| made.client).map_err(|trouble| trouble.text)
    }

    pub(super) async fn made(&self) -> Result<Made, Trouble> {
        let mut current = self.made.lock().await;
        if let Some(made) = &*current {
            return Ok(made.clone());
        }
        let made = make(&self.source).await?;
        Ok(current.insert(made).clone())
    }

    /// It did not go well: who asks next gets a client that is made anew, from files read anew.
    pub(super) async fn forget(&self, failed: &Made) {
        let same = |made: &mut Made| Arc::ptr_eq(&made.server, &failed.server);
        drop(self.made.lock().await.take_if(same));
    }

    /// What may go wrong later and can be told at the start.
    pub(super) fn warning(&self) -> Option<String> {
        let KubernetesSource { kubeconfig: None, server: None, .. } = &*self.source else {
            return None;
        };
        let host = std::env::var(POD_SERVER).ok()?;
        Some(format!(
            "the API server is reached at {host} ({POD_SERVER}), which usually is an address that \
             only works once this agent serves it; set `server` (or {POD_SERVER} and \
             KUBERNETES_SERVICE_PORT in the pod) to an address of the API server itself, or give a \
             kubeconfig that names one"
        ))
    }
}

/// Reads files, but does not connect yet.
async fn make(source: &KubernetesSource) -> Result<Made, Trouble> {
    let (config, origin) = read_config(source).await?;
    if config.proxy_url.is_some() {
        return Err(Trouble::unreachable(format!(
            "{origin} asks for a proxy (proxy-url), and connections through one are not made; \
             remove it there, or name a server that is reached directly"
        )));
    }
    let bad = |error: String| of_config(&origin, &error);
    let (authorization, identity) = authorization::of(&config.auth_info).await.map_err(bad)?;
    let token = authorization.file().map(Path::to_owned);
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = build(&config, authorization, identity).map_err(bad)?;
    Ok(Made { client, server: Arc::new(Server { url, token, origin }) })
}

async fn read_config(source: &KubernetesSource) -> Result<(Config, String), Trouble> {
    let (mut config, origin) = match &source.kubeconfig {
        Some(path) => {
            let origin = format!("the kubeconfig {}", path.display());
            let bad = |error: &(dyn Error + 'static)| of_config(&origin, &innermost(error));
            let read = tokio::task::spawn_blocking({
                let path = path.clone();
                move || kubeconfig::read(&path)
            });
            let kubeconfig = read.await.map_err(|error| bad(&error))?;
            let kubeconfig = kubeconfig.map_err(|error| of_config(&origin, &error))?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            (config.map_err(|error| bad(&error))?, origin)
        }
        None => pod(source.server.as_deref())?,
    };
    if let Some(server) = &source.server {
        config.cluster_url = parse(server)?;
    }
    Ok((config, origin))
}

/// Whether this is the text of a kubeconfig, as far as that can be told without the files that it names.
pub(crate) fn try_kubeconfig(text: &str) -> Result<(), String> {
    kubeconfig::parse(text).map(drop)
}

/// Whether this is what a credential plugin should write.
pub(crate) fn try_credential(written: &[u8]) -> Result<(), String> {
    plugin::credential(written).map(drop)
}

/// As a pod, if this is one.
fn pod(server: Option<&str>) -> Result<(Config, String), Trouble> {
    let origin = "the pod's service account".to_owned();
    let bad = |error: &kube::config::InClusterError| {
        let cause = innermost(error);
        Trouble::unreachable(format!(
            "{origin} can't be used: {cause}; outside of a pod, set `kubeconfig` to a file that \
             says how to reach the API server"
        ))
    };
    match server {
        // Where it is, we are told; who we are may be found all the same.
        Some(_) if Path::new(POD_TOKEN).exists() => {
            Config::incluster_dns().map(|config| (config, origin.clone())).map_err(|e| bad(&e))
        }
        Some(server) => Ok((Config::new(parse(server)?), "`server`, without credentials".into())),
        None => Config::incluster_env().map(|config| (config, origin.clone())).map_err(|e| bad(&e)),
    }
}

fn parse(server: &str) -> Result<Uri, Trouble> {
    let bad = |error| {
        Trouble::unreachable(format!(
            "`{server}` is not a URL ({error}); write `server` as https://10.0.0.1:6443"
        ))
    };
    server.parse().map_err(bad)
}

/// The error is a cause, for [`of_config`].
fn build(
    config: &Config,
    authorization: Authorization,
    identity: Option<Identity>,
) -> Result<Client, String> {
    let trust = match &config.root_cert {
        _ if config.accept_invalid_certs => Trust::Anybody,
        None => Trust::System,
        Some(authorities) => {
            Trust::Authorities(authorities.iter().cloned().map(CertificateDer::from).collect())
        }
    };
    let mut https =
        HttpsConnectorBuilder::new().with_tls_config(tls::client(trust, identity)?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let other = ServerName::try_from(name.clone())
            .map_err(|_| format!("`tls-server-name` {name:?} is not a server name"))?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(other));
    }
    let https = https.enable_http1().wrap_connector(service_fn(|uri| Connector.dial(uri)));
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(https);
    let authorization = Arc::new(authorization);
    let send = service_fn(move |mut request: Request<Body>| {
        let (http, authorization) = (http.clone(), Arc::clone(&authorization));
        async move {
            if let Some(header) = authorization.header().await? {
                request.headers_mut().insert(AUTHORIZATION, header);
            }
            let arrival = request.extensions().get::<Arrival>().cloned();
            let method = request.method().clone();
            let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
            let begin = Instant::now();
            let answer = http.request(request).await;
            let code = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            own::request(code, method.as_str(), &host, begin.elapsed());
            Ok::<_, BoxError>(noted(arrival, answer.map_err(BoxError::from)?))
        }
    });
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(config.extra_headers_layer().map_err(|error| innermost(&error))?)
        .service(send);
    Ok(Client::new(service, config.default_namespace.clone()))
}

// === impl Connector ===

impl Connector {
    async fn dial(self, uri: Uri) -> io::Result<TokioIo<TcpStream>> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host");
        let host = uri.host().ok_or_else(missing)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port =
            uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in lookup_host((host, port)).await? {
            match timeout(CONNECT, Self::connect(address)).await {
                Ok(Ok(stream)) => return Ok(TokioIo::new(stream)),
                Ok(Err(error)) => failure = error,
                Err(_) => {
                    let text = format!("{address}: no connection within {CONNECT:?}");
                    failure = io::Error::new(io::ErrorKind::TimedOut, text);
                }
            }
        }
        Err(failure)
    }

    async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        let options = socket2::SockRef::from(&socket);
        // Without CAP_NET_ADMIN nothing is translated by us either.
        if let Err(error) = options.set_mark(PROBE_MARK) {
            tracing::debug!(%error, "the connection to the API server bears no mark");
        }
        let keepalive =
            socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
        options.set_tcp_keepalive(&keepalive)?;
        options.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        socket.set_nodelay(true)?;
        socket.connect(address).await
    }
}

// === impl Made ===

impl std::fmt::Debug for Made {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Made").field("server", &self.server).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn connections_bear_the_mark_and_are_watched() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = Connector::connect(listener.local_addr().unwrap()).await.unwrap();
        let options = socket2::SockRef::from(&stream);
        assert_eq!(options.mark().unwrap(), PROBE_MARK);
        assert!(options.keepalive().unwrap());
        assert_eq!(options.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }

    #[tokio::test]
    async fn a_proxy_is_refused_in_words() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kubeconfig = serde_json::json!({
            "current-context": "c", "users": [{"name": "u", "user": {}}],
            "clusters": [{"name": "c", "cluster": {
                "server": "https://192.0.2.1", "proxy-url": "http://192.0.2.2"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
        let source = KubernetesSource {
            kubeconfig: Some(file.path().to_owned()),
            ..KubernetesSource::default()
        };
        let problem = Connection::new(Arc::new(source)).client().await.err().unwrap();
        assert!(problem.contains("asks for a proxy (proxy-url)"), "{problem}");
    }

    #[tokio::test]
    async fn no_line_of_a_kubeconfig_is_quoted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = KubernetesSource {
            kubeconfig: Some(file.path().to_owned()),
            ..KubernetesSource::default()
        };
        for (text, part) in [
            ("users: [{name: u, user: {token: s3cret}}]\na: [", ": not a kubeconfig"),
            ("s3cret", "not a kubeconfig"),
            ("s3cret\n", "not a kubeconfig"),
            ("users: [{name: u, user: {token: [s3cret]}}]", "line 1: not a kubeconfig"),
            ("users: [{name: u, user: s3cret}]", "line 1: not a kubeconfig"),
            ("current-context: c\nusers: s3cret", "line 2: not a kubeconfig"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let connection = Connection::new(Arc::new(source.clone()));
            let problem = connection.client().await.err().unwrap();
            assert!(problem.contains(part), "{text}: {problem}");
            assert!(!problem.contains("s3cret"), "{text}: {problem}");
        }
    }
}
