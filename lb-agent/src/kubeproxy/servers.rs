//! kube-proxy's two ports: what is answered where.
//!
//! | port | path | answer |
//! |---|---|---|
//! | 10256 | `/healthz` | 200, or 503 if updates wait too long or the node is leaving |
//! | | `/livez` | the same without the node |
//! | 10249 | `/metrics` | metrics, in Prometheus' text format |
//! | | `/metrics/slis` | what checks came to, in the same format |
//! | | `/healthz` | `ok` |
//! | | `/proxyMode` | the configured mode |
//! | | `/configz` | the configuration, as JSON |
//! | | `/flagz` | the flags, as text |
//! | | `/statusz` | version, age and paths, as text |
//! | | `/debug/pprof` | 404: there is no profiler |

use super::applied::Applied;
use super::health::Health;
use super::pages::{self, Start};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use prometheus_client::encoding::prometheus_text;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// What the metrics port shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Where things stand.
    pub applied: Arc<Applied>,
    /// How it was started.
    pub start: Arc<Start>,
    /// The proxy mode.
    pub mode: &'static str,
    /// The configuration.
    pub document: Arc<Value>,
}

/// Port 10256.
pub fn health(applied: Arc<Applied>) -> Router {
    Router::new().route("/healthz", any(healthz)).route("/livez", any(livez)).with_state(applied)
}

/// Port 10249.
pub fn metrics(shown: Shown) -> Router {
    Router::new()
        .route("/metrics", any(scraped))
        .route("/metrics/slis", any(checks))
        .route("/healthz", any(pinged))
        .route("/proxyMode", any(async |State(shown): State<Shown>| plain(shown.mode)))
        .route("/configz", any(configz))
        .route("/flagz", any(async |State(shown): State<Shown>| plain(shown.start.flagz())))
        .route("/statusz", any(statusz))
        .route("/debug/pprof", any(no_profiler))
        .route("/debug/pprof/", any(no_profiler))
        .route("/debug/pprof/{*what}", any(no_profiler))
        .with_state(shown)
}

async fn healthz(State(applied): State<Arc<Applied>>) -> Response {
    let (good, health) = applied.standing(SystemTime::now(), Instant::now()).healthz();
    applied.metrics().answered_healthz(good);
    answer(good, health)
}

async fn livez(State(applied): State<Arc<Applied>>) -> Response {
    let (good, health) = applied.standing(SystemTime::now(), Instant::now()).livez();
    applied.metrics().answered_livez(good);
    answer(good, health)
}

fn answer(good: bool, health: Health) -> Response {
    (code(good), [(X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(health)).into_response()
}

/// 200 or 503.
pub(super) fn code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn scraped(State(shown): State<Shown>) -> Response {
    text(shown.applied.metrics().text(shown.applied.changes()))
}

async fn checks(State(shown): State<Shown>) -> Response {
    text(shown.applied.metrics().checks())
}

fn text(text: Result<String, fmt::Error>) -> Response {
    match text {
        Ok(text) => ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn pinged(State(shown): State<Shown>) -> Response {
    shown.applied.metrics().answered_ping();
    plain("ok")
}

async fn statusz(State(shown): State<Shown>) -> Response {
    plain(shown.start.statusz(SystemTime::now()))
}

async fn no_profiler() -> Response {
    (StatusCode::NOT_FOUND, plain(pages::NO_PROFILER)).into_response()
}

async fn configz(State(shown): State<Shown>) -> Response {
    Json(json!({ "kubeproxy.config.k8s.io": *shown.document })).into_response()
}

fn plain(text: impl IntoResponse) -> Response {
    let headers =
        [(CONTENT_TYPE, "text/plain; charset=utf-8"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (headers, text).into_response()
}

#[cfg(test)]
pub(super) mod tests;
