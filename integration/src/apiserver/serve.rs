//! Requests and what they are answered.

use super::discovery;
use super::faults::Faults;
use super::kinds::Kind;
use super::patch::Style;
use super::selector::Selector;
use super::store::{Refusal, Store};
use super::watching::Watch;
use axum::body::Bytes;
use axum::extract::{Query, Request as HttpRequest, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Largest body of a request.
const MAX_BODY: usize = 64 << 20;
/// Longest watch.
const LONGEST: Duration = Duration::from_secs(600);

/// What the server's handle and its connections share. Outlives restarts.
#[derive(Debug)]
pub(super) struct Shared {
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    /// How often watches are sent bookmarks.
    bookmarks: Mutex<Duration>,
    requests: Mutex<Vec<String>>,
    /// Ticks with every change of store or faults.
    changed: watch::Sender<()>,
}

/// The parameters of a request that are heeded.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Parameters {
    watch: Option<String>,
    label_selector: String,
    field_selector: String,
    resource_version: String,
    resource_version_match: String,
    limit: usize,
    #[serde(rename = "continue")]
    next: String,
    timeout_seconds: Option<u64>,
    allow_watch_bookmarks: Option<String>,
    send_initial_events: Option<String>,
    field_manager: String,
    force: Option<String>,
}

/// Where a request points.
#[derive(Debug)]
struct Place {
    kind: &'static Kind,
    namespace: Option<String>,
    name: Option<String>,
    /// Of an object, its status only.
    status: bool,
}

type Answer = Result<Response, Refusal>;

// === impl Shared ===

impl Default for Shared {
    fn default() -> Self {
        Self {
            store: Mutex::default(),
            faults: Mutex::default(),
            bookmarks: Mutex::new(Duration::from_secs(60)),
            requests: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Shared {
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    pub(super) fn faults(&self) -> Faults {
        lock(&self.faults).clone()
    }

    pub(super) fn bookmark_interval(&self) -> Duration {
        *lock(&self.bookmarks)
    }

    pub(super) fn set_bookmark_interval(&self, interval: Duration) {
        *lock(&self.bookmarks) = interval;
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Changes the store, and tells the watches.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let changed = change(&mut self.store());
        self.changed.send_replace(());
        changed
    }

    pub(super) fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.faults));
        self.changed.send_replace(());
    }

    /// Every request so far: `GET /api/v1/services?limit=500`.
    pub(super) fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(answer).with_state(shared)
}

async fn answer(State(shared): State<Arc<Shared>>, request: HttpRequest) -> Response {
    lock(&shared.requests).push(format!("{} {}", request.method(), request.uri()));
    let delay = shared.faults().delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match handle(&shared, request).await {
        Ok(response) => response,
        Err(refusal) => {
            let code = StatusCode::from_u16(refusal.code).expect("a status code");
            (code, Json(refusal.status())).into_response()
        }
    }
}

async fn handle(shared: &Arc<Shared>, request: HttpRequest) -> Answer {
    let bad = |error: &dyn std::fmt::Display| Refusal::new(400, error.to_string());
    let (parts, body) = request.into_parts();
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let Query(parameters) =
        Query::<Parameters>::try_from_uri(&parts.uri).map_err(|error| bad(&error))?;
    let place = Place::of(parts.uri.path());
    let verb = match parts.method {
        Method::GET if is(&parameters.watch) => "watch",
        Method::GET if place.as_ref().is_some_and(|place| place.name.is_none()) => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => return Err(Refusal::new(405, "the server does not allow this method")),
    };
    let authorization = header(header::AUTHORIZATION).unwrap_or_default();
    let kind = place.as_ref().map(|place| place.kind);
    if let Some(refusal) = shared.faults().refusal(kind, verb, authorization) {
        return Err(refusal);
    }
    if parts.uri.path() == "/openapi/v2" {
        // What older clients check what they send by: a message of protobuf without any schema.
        return Ok(().into_response());
    }
    let Some(place) = place else {
        let found = discovery::answer(parts.uri.path()).filter(|_| parts.method == Method::GET);
        let found = found.ok_or_else(|| Refusal::new(404, "no such path"))?;
        return Ok(Json(found).into_response());
    };
    let content_type = header(header::CONTENT_TYPE).unwrap_or_default().to_owned();
    let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| bad(&error))?;
    match verb {
        "watch" => place.watch(shared, &parameters),
        "list" => place.list(shared, &parameters),
        "get" => place.get(shared),
        _ => place.write(shared, verb, &parameters, &content_type, &body),
    }
}

// === impl Place ===

impl Place {
    /// Of a path such as `/apis/GROUP/v1/namespaces/NAMESPACE/PLURAL/NAME/status`.
    fn of(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..]
                if !rest.is_empty() && !["status", "finalize"].contains(&rest[0]) =>
            {
                (Some((*namespace).to_owned()), rest)
            }
            rest => (None, rest),
        };
        let (plural, name, status) = match rest {
            [plural] => (plural, None, false),
            [plural, name] => (plural, Some((*name).to_owned()), false),
            [plural, name, "status"] => (plural, Some((*name).to_owned()), true),
            _ => return None,
        };
        let kind = Kind::at(group, version, plural)?;
        Some(Self { kind, namespace, name, status })
    }

    fn selector(&self, parameters: &Parameters) -> Result<Selector, Refusal> {
        let Parameters { label_selector, field_selector, .. } = parameters;
        let selector = Selector::parse(self.namespace.as_deref(), label_selector, field_selector);
        selector.map_err(|problem| Refusal::new(400, problem))
    }

    fn watch(self, shared: &Arc<Shared>, parameters: &Parameters) -> Answer {
        let initial = is(&parameters.send_initial_events);
        if initial && shared.faults().no_streaming_lists {
            return Err(Refusal::new(
                422,
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless \
                 the WatchList feature gate is enabled",
            ));
        }
        if initial && parameters.resource_version_match != "NotOlderThan" {
            return Err(Refusal::new(422, "resourceVersionMatch: Forbidden"));
        }
        let since = match parameters.resource_version.as_str() {
            "" | "0" => None,
            _ if initial => None,
            version => {
                let parsed = version.parse();
                Some(parsed.map_err(|_| Refusal::new(400, "resourceVersion: Invalid value"))?)
            }
        };
        let asked = parameters.timeout_seconds.map_or(LONGEST, Duration::from_secs);
        let watch = Watch {
            kind: self.kind,
            selector: self.selector(parameters)?,
            since,
            mark_initial: initial,
            bookmarks: is(&parameters.allow_watch_bookmarks),
            timeout: asked.min(LONGEST),
        };
        let body = watch.start(Arc::clone(shared));
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    fn list(&self, shared: &Shared, parameters: &Parameters) -> Answer {
        let selector = self.selector(parameters)?;
        let Parameters { limit, next, .. } = parameters;
        let page = shared.store().list(self.kind, &selector, *limit, next)?;
        let mut metadata = json!({"resourceVersion": page.version.to_string()});
        if let Some(next) = page.next {
            metadata["continue"] = json!(next);
            metadata["remainingItemCount"] = json!(page.remaining);
        }
        // Items don't say what they are: the list does.
        let items = page.items.iter().map(|object| {
            let fields = object.as_object().expect("objects are objects").iter();
            let kept = fields.filter(|(key, _)| !["apiVersion", "kind"].contains(&key.as_str()));
            kept.map(|(key, value)| (key.clone(), value.clone())).collect::<Value>()
        });
        let answer = json!({
            "kind": format!("{}List", self.kind.kind), "apiVersion": self.kind.api_version(),
            "metadata": metadata, "items": items.collect::<Vec<_>>(),
        });
        Ok(Json(answer).into_response())
    }

    fn get(&self, shared: &Shared) -> Answer {
        let name = self.name.as_deref().unwrap_or_default();
        let found = shared.store().get(self.kind, self.namespace(), name)?;
        Ok(Json(&*found).into_response())
    }

    fn write(
        &self,
        shared: &Shared,
        verb: &str,
        parameters: &Parameters,
        content_type: &str,
        body: &Bytes,
    ) -> Answer {
        let (kind, namespace) = (self.kind, self.namespace());
        let named = || {
            let missing = || Refusal::new(405, "the server does not allow this method");
            self.name.as_deref().ok_or_else(missing)
        };
        if verb == "delete" {
            let name = named()?;
            shared.change(|store| store.delete(kind, namespace, name))?;
            let done = json!({"kind": "Status", "apiVersion": "v1", "status": "Success",
                "details": {"name": name, "kind": kind.plural}});
            return Ok(Json(done).into_response());
        }
        let mut object: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::new(400, format!("the body is not JSON: {error}")))?;
        if kind.namespaced && verb != "patch" && object["metadata"].is_object() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        let (code, object) = match verb {
            "create" => (StatusCode::CREATED, shared.change(|store| store.create(kind, object))?),
            "update" => {
                object["metadata"]["name"] = json!(named()?);
                (StatusCode::OK, shared.change(|store| self.update(store, object))?)
            }
            _ => {
                let style = Style::of(content_type).ok_or_else(|| {
                    Refusal::new(415, format!("patches of type {content_type} are not understood"))
                })?;
                let name = named()?;
                let by = (parameters.field_manager.as_str(), is(&parameters.force));
                let patch = |store: &mut Store| match style {
                    Style::Apply => store.apply(kind, namespace, name, &object, by),
                    style => store.patch(kind, namespace, name, &object, style),
                };
                (StatusCode::OK, shared.change(patch)?)
            }
        };
        Ok((code, Json(&*object)).into_response())
    }

    /// Of an object with a status, a write changes either that or the rest.
    fn update(&self, store: &mut Store, mut object: Value) -> Result<Arc<Value>, Refusal> {
        let name = self.name.as_deref().unwrap_or_default();
        let before = store.get(self.kind, self.namespace(), name)?;
        if self.status {
            let mut whole = (*before).clone();
            whole["status"] = object["status"].take();
            whole["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].take();
            object = whole;
        } else if let Some(status) = before.get("status") {
            object["status"] = status.clone();
        }
        store.update(self.kind, object)
    }

    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

/// A flag of a query: there, and not switched off.
fn is(flag: &Option<String>) -> bool {
    flag.as_deref().is_some_and(|value| !["false", "0"].contains(&value))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
