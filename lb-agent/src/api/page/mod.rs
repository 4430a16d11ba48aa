//! The status page: what `/` answers. Its files are part of the program, nothing comes from elsewhere.
//!
//! | endpoint | answers |
//! |---|---|
//! | `GET /` | the page; `GET /style.css`, `/page.js`, ... its parts |
//! | `GET /v1/events` | server-sent events: `whole`, then `change` every second; see [`view`] |
//! | `GET /v1/details?name=` | all there is to know about a service, for the page |
//!
//! However many look, the tables are read once a second by one task, and only while somebody does.

mod view;
mod watcher;

use super::{Failure, Parts, unknown_service};
use crate::status::ServiceStatus;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::body::Bytes;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use watcher::{Told, Watcher};

/// Scripts and styles of our own only, no markup from text, no frames, nothing sent elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// After so long without an event something is sent all the same.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const SCRIPT: &str = "text/javascript; charset=utf-8";

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The status page and those who look at it.
#[derive(Clone)]
pub struct Page {
    parts: Parts,
    watcher: Arc<Watcher>,
}

/// Whose details.
#[derive(Deserialize)]
struct Asked {
    name: String,
}

// === impl Page ===

impl Page {
    /// A page of what `parts` show; nobody looks yet.
    pub fn new(parts: Parts) -> Self {
        let watcher = Arc::new(Watcher::new(parts.clone()));
        Self { parts, watcher }
    }

    /// What the page needs from the server that serves it.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/", get(|| asset("text/html; charset=utf-8", include_str!("index.html"))))
            .route(
                "/style.css",
                get(|| asset("text/css; charset=utf-8", include_str!("style.css"))),
            )
            .route("/icon.svg", get(|| asset("image/svg+xml", include_str!("icon.svg"))))
            .route("/page.js", get(|| asset(SCRIPT, include_str!("page.js"))))
            .route("/model.js", get(|| asset(SCRIPT, include_str!("model.js"))))
            .route("/list.js", get(|| asset(SCRIPT, include_str!("list.js"))))
            .route("/details.js", get(|| asset(SCRIPT, include_str!("details.js"))))
            .route("/side.js", get(|| asset(SCRIPT, include_str!("side.js"))))
            .route("/dom.js", get(|| asset(SCRIPT, include_str!("dom.js"))))
            .route("/v1/events", get(events))
            .route("/v1/details", get(details))
            .with_state(self.clone())
    }

    /// Ends the streams of all who look, so that a server can stop.
    pub fn close(&self) {
        self.watcher.close();
    }
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
        // Another agent may have another page.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

async fn events(State(page): State<Page>) -> Result<Response, Failure> {
    let told = page.watcher.join().ok_or_else(|| Failure {
        status: StatusCode::SERVICE_UNAVAILABLE,
        error: "too many look at the page, or the agent stops; close other windows".to_owned(),
    })?;
    let stream = futures_util::stream::unfold(told, |mut told: Told| async move {
        let event = match timeout(KEEP_ALIVE, told.next()).await {
            Ok(event) => event?,
            // A comment, by which one sees whether anybody is there.
            Err(_) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok::<_, Infallible>(event), told))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(stream)).into_response())
}

async fn details(
    State(page): State<Page>,
    Query(Asked { name }): Query<Asked>,
) -> Result<Response, Failure> {
    let published = page.parts.now();
    let found = published.state.service(&name);
    let found = found.ok_or_else(|| unknown_service(&published, &name))?;
    let mut services = vec![ServiceStatus::clone(found)];
    let services = page
        .parts
        .read_kernel(move |counters| {
            counters.fill(&mut services)?;
            Ok(services)
        })
        .await?;
    let details = services.into_iter().next().map(|s| view::details(s, &published.agent));
    Ok(Json(details).into_response())
}
