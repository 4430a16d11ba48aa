//! Reaching the API server: from a kubeconfig, or as a pod does.
//!
//! Connections go to the address that was given, whatever the tables say of it: were they translated,
//! a wrong endpoint of the API server's own Service could not be corrected by hearing of the right
//! one. Token files are read for every request, and everything else again after each failure.

use super::arrival::{Arrival, noted};
use super::trouble::{Trouble, innermost, of_config};
use crate::config::KubernetesSource;
use crate::metrics::own;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
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

    /// The client, made anew if there is none. An error is a line that says what to do.
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
    let (mut config, origin) = read_config(source).await?;
    if config.proxy_url.is_some() {
        return Err(Trouble::unreachable(format!(
            "{origin} asks for a proxy (proxy-url), and connections through one are not made; \
             remove it there, or name a server that is reached directly"
        )));
    }
    let token = config.auth_info.token_file.take().map(PathBuf::from);
    // A token that is given as text takes precedence.
    let token = token.filter(|_| config.auth_info.token.is_none());
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client =
        build(&config, token.clone()).map_err(|error| of_config(&origin, &innermost(&error)))?;
    Ok(Made { client, server: Arc::new(Server { url, token, origin }) })
}

async fn read_config(source: &KubernetesSource) -> Result<(Config, String), Trouble> {
    let (mut config, origin) = match &source.kubeconfig {
        Some(path) => {
            let origin = format!("the kubeconfig {}", path.display());
            let bad = |error: &(dyn Error + 'static)| of_config(&origin, &innermost(error));
            let read = tokio::task::spawn_blocking({
                let path = path.clone();
                move || Kubeconfig::read_from(path)
            });
            let kubeconfig = read.await.map_err(|error| bad(&error))?.map_err(|e| bad(&e))?;
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
    Kubeconfig::from_yaml(text).map(drop).map_err(|error| innermost(&error))
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

fn build(config: &Config, token: Option<PathBuf>) -> Result<Client, kube::Error> {
    let https =
        config.rustls_https_connector_with_connector(service_fn(|uri| Connector.dial(uri)))?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(https);
    let token = token.map(|path| Arc::new(Token { path, last: Mutex::default() }));
    let send = service_fn(move |mut request: Request<Body>| {
        let (http, token) = (http.clone(), token.clone());
        async move {
            if let Some(token) = token {
                request.headers_mut().insert(AUTHORIZATION, token.header().await?);
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
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .service(send);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// A file that holds a token, and what it held last.
struct Token {
    path: PathBuf,
    last: Mutex<Option<HeaderValue>>,
}

// === impl Token ===

impl Token {
    /// Reads the file. One that can't be read or is no token, as while it is being replaced, leaves
    /// the last token in place.
    async fn header(&self) -> Result<HeaderValue, BoxError> {
        let mut last = self.last.lock().await;
        let problem = match tokio::fs::read_to_string(&self.path).await {
            Ok(text) => match HeaderValue::try_from(format!("Bearer {}", text.trim())) {
                Ok(mut header) if !text.trim().is_empty() => {
                    header.set_sensitive(true);
                    *last = Some(header.clone());
                    return Ok(header);
                }
                _ => "it does not hold a token".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        let path = self.path.display();
        last.clone().ok_or_else(|| format!("the token file {path} can't be used: {problem}").into())
    }
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
    async fn a_token_file_that_is_gone_leaves_the_last_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = Token { path: file.path().to_owned(), last: Mutex::default() };
        let missing = token.header().await.unwrap_err().to_string();
        assert!(missing.contains("does not hold a token"), "{missing}");
        std::fs::write(file.path(), "one\n").unwrap();
        assert_eq!(token.header().await.unwrap(), "Bearer one");
        drop(file);
        assert_eq!(token.header().await.unwrap(), "Bearer one");
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
