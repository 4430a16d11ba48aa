//! Requests of clients.

use crate::admin::Admin;
use crate::api::{self, Page, Parts};
use crate::config::Metrics;
use crate::inspect::Inspector;
use crate::leases::Leases;
use crate::monitor::SharedBoard;
use crate::pulse::Pulse;
use crate::report::empty_status;
use crate::status::{Counters, Published, ServiceStatus, TableStatus};
use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tower::ServiceExt as _;

/// A kernel without tables.
struct Nothing;

type Headers = Vec<(HeaderName, HeaderValue)>;

/// A request: a line with method and target, lines with headers, an empty one, and the body. An agent that
/// serves nothing gets it on its Unix socket and over HTTP.
pub fn requests(data: &[u8]) {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.unwrap_or_else(|error| panic!("{error}"))
    });
    let Some((method, target, headers, body)) = split(data) else { return };
    RUNTIME.block_on(async {
        let parts = parts();
        let page = Page::new(parts.clone());
        let shows = api::http::router(parts.clone(), Metrics::default(), &page);
        for (router, only_shows) in [(api::of_own_user(parts), false), (shows, true)] {
            let mut request = Request::builder().method(method.clone()).uri(target);
            for (name, value) in &headers {
                request = request.header(name, value);
            }
            let Ok(request) = request.body(Body::from(body.to_vec())) else { return };
            let status = answer(router, request).await;
            if only_shows && ![Method::GET, Method::HEAD].contains(&method) {
                assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "HTTP changes nothing");
            }
        }
        page.close();
    });
}

fn split(data: &[u8]) -> Option<(Method, &str, Headers, &[u8])> {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, target) = first.split_once(' ')?;
    let (mut headers, mut rest) = (Vec::new(), lines.next().unwrap_or_default());
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let (line, after) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
        if line.is_empty() {
            return Some((method.parse().ok()?, target, headers, after));
        }
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(halves.next()?).ok()?;
        let value = halves.next().unwrap_or_default().trim_ascii();
        headers.push((name, HeaderValue::from_bytes(value).ok()?));
        rest = after;
    }
}

async fn answer(router: Router, request: Request<Body>) -> StatusCode {
    let uri = request.uri().clone();
    let Ok(response) = router.oneshot(request).await;
    let (status, headers) = (response.status(), response.headers().clone());
    // What the kernel would have to tell can't be told; everything else can.
    let of_tables = ["/v1/trace", "/v1/connections", "/v1/explain/"];
    let of_tables = of_tables.iter().any(|path| uri.path().starts_with(path));
    assert!(!status.is_server_error() || of_tables || uri.path() == "/readyz", "{status}: {uri}");
    if response.body().size_hint().exact().is_none() {
        return status;
    }
    let Ok(body) = response.into_body().collect().await else { panic!("no whole body: {uri}") };
    let body = body.to_bytes();
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !body.is_empty() && is_json {
        let Ok(value) = serde_json::from_slice::<Value>(&body) else { panic!("{uri}: {body:?}") };
        if !status.is_success() && uri.path() != "/readyz" {
            let error = value.get("error").and_then(Value::as_str).unwrap_or_default();
            assert!(!error.is_empty(), "{status} without a word: {uri}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
    status
}

fn parts() -> Parts {
    let agent = empty_status(SystemTime::UNIX_EPOCH);
    let (_, published) = watch::channel(Arc::new(Published { agent, state: Arc::default() }));
    let nowhere = Path::new("/nonexistent");
    let admin = Admin::new(
        nowhere.join("overrides.json"),
        watch::Sender::default(),
        BTreeMap::new(),
        SharedBoard::default(),
    );
    Parts {
        published: published.clone(),
        counters: Arc::new(Nothing),
        leases: Leases::new(BTreeMap::new()),
        admin: Arc::new(admin),
        names: watch::Sender::default().subscribe(),
        packets: watch::Sender::default().subscribe(),
        wanted: watch::Sender::default().subscribe(),
        pulse: Pulse::default(),
        inspector: Arc::new(Inspector::new(nowhere, published)),
    }
}

// === impl Nothing ===

impl Counters for Nothing {
    fn fill(&self, _services: &mut [ServiceStatus]) -> anyhow::Result<()> {
        Ok(())
    }

    fn tables(&self) -> anyhow::Result<Vec<TableStatus>> {
        Ok(Vec::new())
    }
}
