//! `GET /metrics`.

use super::refusal;
use crate::api::Parts;
use crate::config;
use crate::metrics::{Format, Metrics, Sources};
use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::task::spawn_blocking;

pub(super) fn routes(parts: &Parts, settings: config::Metrics) -> Router {
    let Parts { published, counters, names, packets, pulse, .. } = parts.clone();
    let metrics = Metrics::new(Sources { published, counters, names, packets, pulse }, settings);
    Router::new().route("/metrics", get(metrics_text)).with_state(metrics)
}

async fn metrics_text(State(metrics): State<Metrics>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    let text = match spawn_blocking(move || metrics.text(format)).await {
        Ok(text) => text,
        Err(panicked) => Err(panicked.into()),
    };
    match text {
        Ok(text) => ([(CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            let error = format!("cannot read the kernel tables: {error:#}; see the agent's log");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, &error)
        }
    }
}
