//! The agent's HTTP API on a Unix socket. JSON everywhere, errors included: `{"error": "..."}`.
//!
//! | endpoint | answers |
//! |---|---|
//! | `GET /v1/status` | [`AgentStatus`]: readiness, hooks, sources, work, warnings, rejections |
//! | `GET /v1/services` | every [`ServiceStatus`], by name, counters read now |
//! | `GET /v1/services/{name}` | one [`ServiceStatus`]; a name may contain `/` and `:`. 404 names the closest service, or why it was refused |
//! | `.../services?leases`, `.../{name}?leases` | the same with `lease_left`; what could not be told, and why, is in the header `lb-note` |
//! | `GET /v1/backends`, `...?wide`, `?no_headers`, `?leases` | the table of all backends as text, as `lbctl backends` shows it |
//! | `GET /v1/maps` | every [`TableStatus`](crate::status::TableStatus), in the order of the contract |
//! | `POST /v1/overrides` | takes a [`Change`], something an operator says of a backend; answers where it is kept |
//! | `GET /v1/log-level` | what is logged, and what was at the start |
//! | `POST /v1/log-level` | logs by another filter; `{"filter": null}`: by that of the start |
//! | `GET /v1/explain/{address}` | an [`Explanation`](crate::explain::Explanation) of what a connect to `10.96.0.10:53/udp` does |
//! | `GET /v1/connections`, `...?service=&sort=` | a [`Listing`](crate::sockets::Listing) of open sockets |
//! | `GET /v1/trace?service=..` | a [`Line`](crate::trace::line::Line) of JSON for each decision from now on, without end; the parameters are those of a [`Filter`](crate::trace::line::Filter) |
//! | `GET /livez` | 200 while the agent answers at all |
//! | `GET /readyz` | 200, or 503 with what is pending; both as `{"ready": .., "pending": [..], "others": [..]}`, with programs of others at our hooks, which are no fault, as [`OtherProgram`](crate::status::OtherProgram) |
//!
//! The API decides nothing: it passes on what operators say, and shows what the reconcile loop published last, with counters read from
//! the kernel at the moment of asking. Who may ask is the socket's file mode, see [`bind`]; who may change something is
//! also looked at, see [`peer`]; what clients may cost is bounded, see [`serving`]. What only shows
//! is served by [`http`], too.

mod backends;
mod budget;
mod closest;
pub mod http;
mod inspect;
mod listing;
mod log_level;
mod page;
mod peer;
mod socket;

pub(crate) use closest::closest;
pub(crate) use log_level::NewFilter;
pub use page::Page;
pub use socket::{BindError, Bound, bind};

use crate::admin::{Admin, Change};
use crate::inspect::Inspector;
use crate::leases::Leases;
use crate::metrics::own::{self, ErrorKind};
use crate::nat::contents::Wanted;
use crate::pulse::Pulse;
use crate::serving::{self, Endless, Patience, Precedence};
use crate::shown::line;
use crate::status::{
    AgentStatus, Counters, NamesStatus, PacketPathStatus, Published, ServiceStatus,
};
use axum::body::{Body, to_bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use budget::Budget;
use listing::Listing;
use nix::unistd::getegid;
use peer::{Peer, Rights};
use serde::Deserialize;
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// Most bytes of a request's body.
const BODY_BYTES: usize = 64 * 1024;
/// For the body of a request, which is there at once or never.
const BODY_TIME: Duration = Duration::from_secs(3);
/// Until an answer begins; longer than `lbctl` waits.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// Shorter than `lbctl` waits for those who say nothing; `lbctl trace` may be paused for a while.
const PATIENCE: Patience = Patience {
    head: Duration::from_secs(3),
    take: Duration::from_secs(60),
    last_answers: Duration::from_secs(2),
};

/// The header that says what an answer does not have, and why.
pub(crate) const NOTE: &str = "lb-note";

const ENDPOINTS: &str = "/v1/status, /v1/services, /v1/services/{name}, /v1/backends, /v1/maps, /v1/overrides, /v1/log-level, /v1/explain/{address}, /v1/connections, /v1/trace, /livez and /readyz";

/// What is shown, and who takes what operators say.
#[derive(Clone)]
pub struct Parts {
    /// What the reconcile loop publishes.
    pub published: watch::Receiver<Arc<Published>>,
    /// What only the kernel knows.
    pub counters: Arc<dyn Counters>,
    /// What is left of leases.
    pub leases: Leases,
    /// Keeps what operators say.
    pub admin: Arc<Admin>,
    /// How the writers of names do.
    pub names: watch::Receiver<Vec<NamesStatus>>,
    /// How the packet path fares,
    pub packets: watch::Receiver<PacketPathStatus>,
    /// and what it is to serve.
    pub wanted: watch::Receiver<Arc<Wanted>>,
    /// Whether the loop still comes round.
    pub pulse: Pulse,
    /// Looks into the kernel.
    pub inspector: Arc<Inspector>,
}

/// What may be asked for besides.
#[derive(Debug, Deserialize)]
struct Besides {
    leases: Option<String>,
}

/// An error as the client gets it.
struct Failure {
    status: StatusCode,
    error: String,
}

/// Answers requests on the socket until `shutdown` completes; answers that are under way then get
/// a moment to finish, idle connections do not hold it up.
pub async fn serve(bound: Bound, parts: Parts, shutdown: impl Future<Output = ()>) {
    let Bound { listener, group } = bound;
    let router = router(parts, Rights::new(group));
    let of_peer = |stream: &UnixStream| match Peer::of(stream) {
        Some(peer) => router.clone().layer(Extension(peer)),
        None => router.clone(),
    };
    // Whoever floods the socket does not keep the operator out.
    let first = Precedence::Of(|stream| Peer::of(stream).is_some_and(Peer::is_ours));
    serving::serve_each(listener, of_peer, first, PATIENCE, shutdown).await;
}

/// What a client of this process's own user gets.
pub(crate) fn of_own_user(parts: Parts) -> Router {
    let router = router(parts, Rights::new(getegid()));
    router.layer(Extension(Peer::own())).layer(Extension(Endless::default()))
}

fn router(parts: Parts, rights: Rights) -> Router {
    reading()
        .route("/v1/overrides", post(say))
        .route("/v1/backends", get(backends::table))
        // Processes and users are not for everybody to see.
        .route("/v1/explain/{*address}", get(inspect::explain))
        .route("/v1/connections", get(inspect::connections))
        .route("/v1/trace", get(inspect::trace))
        .merge(log_level::routes())
        .fallback(no_such_endpoint)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Budget::new(), budget::counted))
        .layer(from_fn_with_state(rights, peer::checked))
        .layer(from_fn(in_time))
        .with_state(parts)
}

/// Takes small bodies that come in time only, and begins to answer in time.
async fn in_time(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let (status, error) = match timeout(BODY_TIME, to_bytes(body, BODY_BYTES)).await {
        Ok(Ok(body)) => {
            let answer = next.run(Request::from_parts(head, Body::from(body)));
            match timeout(ANSWER_TIME, answer).await {
                Ok(answer) => return answer,
                Err(_) => {
                    (StatusCode::GATEWAY_TIMEOUT, "no answer in time; the host may be overloaded")
                }
            }
        }
        Ok(Err(_)) => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request has no whole body, or one that is too large",
        ),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request's body did not come in time"),
    };
    Failure { status, error: error.to_owned() }.into_response()
}

/// What only shows, and may be shown anywhere.
fn reading() -> Router<Parts> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/services/{*name}", get(service))
        .route("/v1/maps", get(maps))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
}

// === handlers ===

async fn status(State(shared): State<Parts>) -> Response {
    let names = shared.names.borrow().clone();
    let packet_path = shared.packets.borrow().clone();
    Json(AgentStatus { names, packet_path, ..shared.now().agent.clone() }).into_response()
}

async fn services(
    State(shared): State<Parts>,
    Query(besides): Query<Besides>,
) -> Result<Response, Failure> {
    let (services, notes) = shared.leased(&besides).await;
    Ok(note(Listing::new(services).answer(shared).await?, &notes))
}

async fn service(
    State(shared): State<Parts>,
    Path(name): Path<String>,
    Query(besides): Query<Besides>,
) -> Result<Response, Failure> {
    let published = shared.now();
    let found = published.state.service(&name).ok_or_else(|| unknown_service(&published, &name))?;
    let mut services = vec![ServiceStatus::clone(found)];
    let asked = besides.leases.is_some();
    let notes = if asked { shared.leases.fill(&mut services).await } else { Vec::new() };
    let filled = shared.read_kernel(move |counters| {
        counters.fill(&mut services)?;
        Ok(services)
    });
    Ok(note(Json(filled.await?.first()).into_response(), &notes))
}

/// An answer of which parts are missing for these reasons.
fn note(mut response: Response, notes: &[String]) -> Response {
    // A header holds no other characters.
    let plain = |c: char| if c.is_ascii() && !c.is_ascii_control() { c } else { '?' };
    let note: String = notes.join("; ").chars().map(plain).collect();
    if let Some(note) = HeaderValue::try_from(note).ok().filter(|note| !note.is_empty()) {
        response.headers_mut().insert(NOTE, note);
    }
    response
}

async fn maps(State(shared): State<Parts>) -> Result<Response, Failure> {
    let tables = shared.read_kernel(|counters| counters.tables()).await?;
    Ok(Json(tables).into_response())
}

async fn say(
    State(shared): State<Parts>,
    change: Result<Json<Change>, JsonRejection>,
) -> Result<Response, Failure> {
    let bad = |error: String| Failure { status: StatusCode::BAD_REQUEST, error };
    let Json(change) = change.map_err(|rejection| bad(rejection.body_text()))?;
    if change.weight == Some(Some(0)) {
        return Err(bad("weight 0 is not a share; drain the backend instead".to_owned()));
    }
    let published = shared.now();
    let name = change.service.as_str();
    let service = published.state.service(name);
    let service = service.ok_or_else(|| unknown_service(&published, name))?;
    if !service.backends.iter().any(|backend| backend.address == change.backend) {
        let error = format!("service `{name}` has no backend {}", change.backend);
        return Err(Failure { status: StatusCode::NOT_FOUND, error });
    }
    let kept = shared.admin.change(&service.source, &change).await;
    let kept = kept
        .map_err(|error| Failure { status: StatusCode::BAD_GATEWAY, error: error.to_string() })?;
    tracing::info!(service = name, backend = %change.backend, state = ?change.state.flatten(), weight = ?change.weight.flatten(), place = kept.place, "an operator has spoken");
    Ok(Json(kept).into_response())
}

async fn livez() -> Response {
    Json(json!({ "live": true })).into_response()
}

async fn readyz(State(shared): State<Parts>) -> Response {
    let pending = shared.pending();
    let ready = pending.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let others = &shared.now().agent.self_test.others;
    (status, Json(json!({ "ready": ready, "pending": pending, "others": others }))).into_response()
}

async fn no_such_endpoint(uri: Uri) -> Failure {
    let error = format!("no endpoint `{}`; there are {ENDPOINTS}", uri.path());
    Failure { status: StatusCode::NOT_FOUND, error }
}

async fn wrong_method(uri: Uri) -> Failure {
    let error = format!("`{}` is read-only: use GET", uri.path());
    Failure { status: StatusCode::METHOD_NOT_ALLOWED, error }
}

// === impl Parts ===

impl Parts {
    /// What was published last.
    fn now(&self) -> Arc<Published> {
        Arc::clone(&self.published.borrow())
    }

    /// What readiness waits for.
    fn pending(&self) -> Vec<String> {
        let mut pending = self.now().agent.pending.clone();
        pending.extend(self.pulse.complaint());
        pending
    }

    /// All services, by name, without counters; what is left of leases if it was asked for, and what of
    /// that could not be told.
    async fn leased(&self, besides: &Besides) -> (Vec<Arc<ServiceStatus>>, Vec<String>) {
        let services = self.now().state.services.clone();
        if besides.leases.is_none() {
            return (services, Vec::new());
        }
        let mut services: Vec<_> = services.into_iter().map(Arc::unwrap_or_clone).collect();
        let notes = self.leases.fill(&mut services).await;
        (services.into_iter().map(Arc::new).collect(), notes)
    }

    /// Reading tables is system calls, many of them: it must not hold up a runtime thread.
    async fn read_kernel<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Counters) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let counters = Arc::clone(&self.counters);
        let result = match tokio::task::spawn_blocking(move || read(&*counters)).await {
            Ok(result) => result,
            Err(panicked) => Err(panicked.into()),
        };
        result.inspect_err(|_| own::error(ErrorKind::Read)).map_err(|error| Failure {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            error: format!("cannot read the kernel tables: {error:#}"),
        })
    }
}

// === impl Failure ===

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { status, error } = self;
        // What the client sent may be in it, and is shown in a terminal.
        let error = line(&error);
        (status, Json(json!({ "error": error }))).into_response()
    }
}

/// A service may be unknown because it was refused, or because it was misspelt: say which.
fn unknown_service(published: &Published, name: &str) -> Failure {
    let refused = published.agent.rejections.iter().find(|r| r.service.as_deref() == Some(name));
    let names = published.state.services.iter().map(|service| service.name.as_str());
    let error = match (refused, closest(name, names)) {
        (Some(rejection), _) => {
            format!("service `{name}` was refused: {}: {}", rejection.origin, rejection.reason)
        }
        (None, Some(other)) => format!("no service `{name}`; did you mean `{other}`?"),
        (None, None) => format!("no service `{name}`"),
    };
    Failure { status: StatusCode::NOT_FOUND, error }
}
