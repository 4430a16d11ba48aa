//! The agent over HTTP: what may be shown to whoever can reach the address. It changes nothing.
//!
//! | endpoint | answers |
//! |---|---|
//! | `GET /metrics` | [metrics](crate::metrics) for Prometheus |
//! | `GET /livez`, `/readyz`, `/v1/...` | as on the [Unix socket](super), what changes something left out |
//! | `GET /` and what belongs to it | the status page, see [`super::page`] |
//!
//! Clients are not trusted: requests are GET or HEAD, what [`crate::serving`] says holds for them, and what waits to be taken is bounded. A listener on loopback answers to addresses and `localhost` only, so that no web page
//! can read it by giving its own name this address.
//!
//! A module that serves something here has its routes merged in [`router`].

mod exposition;

use super::budget::{self, Budget};
use super::{Page, Parts, reading};
use crate::config::{self, Http};
use crate::leases::Leases;
use crate::serving::{self, Patience};
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, HOST, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Until an answer begins.
const ANSWER_TIME: Duration = Duration::from_secs(20);
const PATIENCE: Patience = Patience {
    head: Duration::from_secs(10),
    take: Duration::from_secs(30),
    last_answers: Duration::from_secs(1),
};

const ENDPOINTS: &str =
    "/, /metrics, /livez, /readyz, /v1/status, /v1/services, /v1/services/{name} and /v1/maps";

/// A configured address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {source}; set `http` to a free address of this host, or to `off`"
)]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Listens where it is asked to. Needs a tokio runtime.
///
/// # Errors
///
/// If a configured address can't be listened on: it is taken or not this host's, or the port needs a privilege.
/// That the default address can't be had is no error but a warning, in place of a listener.
pub fn bind(http: Http) -> Result<(Option<TcpListener>, Option<String>), BindError> {
    let Some(address) = http.address() else { return Ok((None, None)) };
    match listen(address) {
        Ok(listener) => Ok((Some(listener), None)),
        Err(source) if http == Http::Default => {
            let reason = format!(
                "no metrics and no status page: cannot listen on {address}: {source}; set `http` \
                 to another address, or to `off`"
            );
            Ok((None, Some(reason)))
        }
        Err(source) => Err(BindError { address, source }),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// All that is served over HTTP.
pub fn router(parts: Parts, metrics: config::Metrics, page: &Page) -> Router {
    // Whoever may read is not to make the agent ask its stores.
    let parts = Parts { leases: Leases::new(BTreeMap::new()), ..parts };
    Router::new()
        .merge(exposition::routes(&parts, metrics))
        .merge(reading().with_state(parts))
        // Routes of other modules are merged here, each with its own state.
        .merge(page.routes())
        .fallback(no_such_endpoint)
        .layer(from_fn_with_state(Budget::new(), budget::counted))
        .layer(from_fn(bounded))
}

/// Answers requests on `listener` until `shutdown` completes; answers that are under way then get
/// a moment to finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let router = router.layer(from_fn_with_state(local, known_host));
    serving::serve(listener, router, PATIENCE, shutdown).await;
}

// === for every request ===

/// Only what reads is answered, within a limit of time.
async fn bounded(request: Request, next: Next) -> Response {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let error =
            "this address only shows; use GET, or lbctl on the agent's host to change something";
        let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, error);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let mut response = timeout(ANSWER_TIME, next.run(request)).await.unwrap_or_else(|_| {
        refusal(StatusCode::GATEWAY_TIMEOUT, "no answer in time; the host may be overloaded")
    });
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A listener on loopback is for this host: a foreign name that leads here is a web page's trick.
async fn known_host(State(local): State<bool>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default());
    if local && host.is_some_and(|host| !is_of_this_host(host)) {
        let error = "unknown host; use the address, or localhost, in place of the name";
        return refusal(StatusCode::MISDIRECTED_REQUEST, error);
    }
    next.run(request).await
}

/// Whether the value of a `Host` header is an address or this host's own name for itself.
fn is_of_this_host(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    address.is_some_and(|text| text.parse::<IpAddr>().is_ok())
        || name.eq_ignore_ascii_case("localhost")
}

async fn no_such_endpoint(uri: Uri) -> Response {
    let error = format!("no endpoint `{}`; there are {ENDPOINTS}", uri.path());
    refusal(StatusCode::NOT_FOUND, &error)
}

fn refusal(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::{bind, is_of_this_host};
    use crate::config::Http;

    #[test]
    fn names_that_lead_here_by_a_trick_are_told_from_our_own() {
        for host in
            ["127.0.0.1:9777", "127.0.0.1", "[::1]:9777", "[::1]", "localhost:80", "LocalHost"]
        {
            assert!(is_of_this_host(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9777", "127.0.0.1.evil.example", "", "localhost.x:1"]
        {
            assert!(!is_of_this_host(host), "{host}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_if_it_was_asked_for() {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(Http::At(address)).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(
            error.ends_with("set `http` to a free address of this host, or to `off`"),
            "{error}"
        );
        let (listener, warning) = bind(Http::Off).unwrap();
        assert!(listener.is_none() && warning.is_none());
    }
}
