//! `/v1/log-level`: what the agent logs, and changing it while it runs.

use super::Failure;
use crate::telemetry::{self, Filters};
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

/// What is to be logged.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewFilter {
    /// A level or a filter; absent: what was logged at the start.
    pub(crate) filter: Option<String>,
}

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/v1/log-level", get(show).post(change))
}

async fn show() -> Result<Json<Filters>, Failure> {
    telemetry::filters().map(Json).ok_or_else(no_log)
}

async fn change(new: Result<Json<NewFilter>, JsonRejection>) -> Result<Json<Filters>, Failure> {
    let bad = |error: String| Failure { status: StatusCode::BAD_REQUEST, error };
    let Json(NewFilter { filter }) = new.map_err(|rejection| bad(rejection.body_text()))?;
    let filters = telemetry::change(filter.as_deref()).ok_or_else(no_log)?.map_err(bad)?;
    tracing::info!(filter = filters.filter, "what is logged was changed");
    Ok(Json(filters))
}

fn no_log() -> Failure {
    let error = "this process logs nothing".to_owned();
    Failure { status: StatusCode::NOT_FOUND, error }
}
