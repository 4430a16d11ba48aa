//! `/v1/backends`: the table of all backends as `lbctl backends` shows it. With 100,000 of them
//! everything else would take longer: writing them as JSON, reading that, and then drawing this.

use super::{Besides, Failure, Parts, note};
use crate::ctl::backends::Backends;
use crate::ctl::render::Look;
use crate::ctl::report::{backend_lines, sort_parts};
use crate::status::{Counters, ServiceStatus, State};
use anyhow::Context as _;
use axum::extract;
use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;
use tokio::sync::Semaphore;

/// Services whose counters are read at a time.
const AT_ONCE: usize = 256;
/// Threads that draw a table: more would take the processors from others.
const THREADS: usize = 2;
/// Tables that are drawn at the same time: each is some ten megabytes.
static DRAWN: Semaphore = Semaphore::const_new(2);

/// How the table is to look.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    wide: Option<String>,
    no_headers: Option<String>,
    leases: Option<String>,
}

pub(super) async fn table(
    extract::State(parts): extract::State<Parts>,
    Query(Asked { wide, no_headers, leases }): Query<Asked>,
) -> Result<Response, Failure> {
    let look = Look { wide: wide.is_some(), headers: no_headers.is_none(), now: SystemTime::now() };
    // Nobody closes it.
    let _turn = DRAWN.acquire().await.ok();
    let (state, notes) = match leases {
        None => (Arc::clone(&parts.now().state), Vec::new()),
        Some(_) => {
            let (services, notes) = parts.leased(&Besides { leases }).await;
            (Arc::new(State { services }), notes)
        }
    };
    let text = parts.read_kernel(move |counters| draw(&state.services, counters, look)).await?;
    Ok(note(text.into_response(), &notes))
}

fn draw(
    services: &[Arc<ServiceStatus>],
    counters: &dyn Counters,
    look: Look,
) -> anyhow::Result<String> {
    let each = services.len().div_ceil(THREADS).max(AT_ONCE);
    let parts = at_once(services.chunks(each), |some| part(some, counters, look))?;
    let mut parts: Vec<Backends> = parts.into_iter().collect::<anyhow::Result<_>>()?;
    if parts.is_empty() {
        parts.push(Backends::new(look));
    }
    Backends::align(&mut parts);
    let mut texts = at_once(parts, Backends::text)?.into_iter();
    // The first is large: it grows without being copied.
    let mut text = texts.next().unwrap_or_default();
    text.reserve_exact(texts.as_slice().iter().map(String::len).sum());
    texts.for_each(|part| text.push_str(&part));
    Ok(text)
}

fn part(
    services: &[Arc<ServiceStatus>],
    counters: &dyn Counters,
    look: Look,
) -> anyhow::Result<Backends> {
    let mut table = Backends::new(look);
    for some in services.chunks(AT_ONCE) {
        let mut some: Vec<_> = some.iter().map(|s| ServiceStatus::clone(s)).collect();
        counters.fill_backends(&mut some, look.wide)?;
        for service in &mut some {
            sort_parts(service);
            backend_lines(service).for_each(|line| table.add(&line));
        }
    }
    Ok(table)
}

/// What comes of each item, each on a thread of its own.
fn at_once<T: Send, R: Send>(
    items: impl IntoIterator<Item = T>,
    make: impl Fn(T) -> R + Sync,
) -> anyhow::Result<Vec<R>> {
    let make = &make;
    thread::scope(|scope| {
        let run = |item| thread::Builder::new().spawn_scoped(scope, move || make(item));
        let threads: Vec<_> = items.into_iter().map(run).collect::<Result<_, _>>()?;
        let made = threads.into_iter().map(|thread| thread.join().ok());
        made.collect::<Option<_>>().context("a thread that drew the table has panicked")
    })
}
