//! The answers that take a look into the kernel: `explain`, `connections`, `trace`.

use super::{Failure, Parts, unknown_service};
use crate::model::Frontend;
use crate::nat::said::said;
use crate::serving::Endless;
use crate::sockets::Order;
use crate::status::ServiceStatus;
use crate::trace::TraceError;
use crate::trace::line::Filter;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hyper::body::{Bytes, Frame};
use serde::Deserialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Which sockets.
#[derive(Debug, Deserialize)]
pub(super) struct Which {
    service: Option<String>,
    #[serde(default)]
    sort: Order,
}

/// Lines as they come.
struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

fn bad(error: impl ToString) -> Failure {
    Failure { status: StatusCode::BAD_REQUEST, error: error.to_string() }
}

pub(super) async fn explain(
    State(shared): State<Parts>,
    Path(address): Path<String>,
) -> Result<Response, Failure> {
    let frontend: Frontend = address.parse().map_err(bad)?;
    let published = shared.now();
    let inspector = Arc::clone(&shared.inspector);
    let by_packets = said(&frontend, &shared.wanted.borrow(), &shared.packets.borrow());
    let explained = shared.read_kernel(move |counters| {
        let mut services: Vec<ServiceStatus> = Vec::with_capacity(published.state.services.len());
        for service in &published.state.services {
            let mut service = ServiceStatus::clone(service);
            if service.frontends.iter().any(|status| status.frontend == frontend) {
                counters.fill(std::slice::from_mut(&mut service))?;
            }
            services.push(service);
        }
        let mut explained = inspector.explain(frontend, &services, &published.agent.rejections)?;
        explained.notes.extend(by_packets);
        Ok(explained)
    });
    Ok(Json(explained.await?).into_response())
}

pub(super) async fn connections(
    State(shared): State<Parts>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(Which { service: wanted, sort }) =
        which.map_err(|rejection| bad(rejection.body_text()))?;
    let published = shared.now();
    if let Some(name) = &wanted
        && published.state.service(name).is_none()
    {
        return Err(unknown_service(&published, name));
    }
    let inspector = Arc::clone(&shared.inspector);
    let listing = shared.read_kernel(move |_| {
        let services = published.state.services.iter();
        let services: Vec<_> = services.map(|service| ServiceStatus::clone(service)).collect();
        inspector.connections(&services, wanted.as_deref(), sort)
    });
    Ok(Json(listing.await?).into_response())
}

pub(super) async fn trace(
    State(shared): State<Parts>,
    Extension(endless): Extension<Endless>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(filter) = filter.map_err(|rejection| bad(rejection.body_text()))?;
    if let Some(name) = &filter.service {
        let published = shared.now();
        if published.state.service(name.as_str()).is_none() {
            return Err(unknown_service(&published, name.as_str()));
        }
    }
    let tracer = shared.inspector.tracer().clone();
    // Opening the ring is system calls.
    let lines = tokio::task::spawn_blocking(move || tracer.subscribe(filter)).await;
    let lines = match lines {
        Ok(lines) => lines,
        Err(panicked) => Err(TraceError::Unreadable(panicked.to_string())),
    };
    let lines = lines.map_err(|error| {
        let status = match error {
            TraceError::Full | TraceError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            TraceError::Unreadable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure { status, error: error.to_string() }
    })?;
    // Who stops to read a page of it misses lines, which is told.
    endless.say();
    let kind = [(CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::new(Lines(lines))).into_response())
}
