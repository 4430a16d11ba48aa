//! `/v1/backends`: the table of all backends as `lbctl backends` shows it. With 100,000 of them
//! everything else would take longer: writing them as JSON, reading that, and then drawing this.

use super::{Besides, Failure, Parts, note};
use crate::ctl::backends::Backends;
use crate::ctl::render::Look;
use crate::ctl::report::{backend_lines, sort_parts};
use crate::status::{Counters, ServiceStatus};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::time::SystemTime;
use tokio::sync::Semaphore;

/// Services whose counters are read at a time.
const AT_ONCE: usize = 256;
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
    State(parts): State<Parts>,
    Query(Asked { wide, no_headers, leases }): Query<Asked>,
) -> Result<Response, Failure> {
    let look = Look { wide: wide.is_some(), headers: no_headers.is_none(), now: SystemTime::now() };
    // Nobody closes it.
    let _turn = DRAWN.acquire().await.ok();
    let (services, notes) = parts.leased(&Besides { leases }).await;
    let text = parts.read_kernel(move |counters| draw(services, counters, look)).await?;
    Ok(note(text.into_response(), &notes))
}

fn draw(
    mut services: impl ExactSizeIterator<Item = ServiceStatus>,
    counters: &dyn Counters,
    look: Look,
) -> anyhow::Result<String> {
    let mut table = Backends::new(look);
    while services.len() > 0 {
        let mut some: Vec<_> = services.by_ref().take(AT_ONCE).collect();
        counters.fill_backends(&mut some)?;
        for service in &mut some {
            sort_parts(service);
            backend_lines(service).for_each(|line| table.add(&line));
        }
    }
    Ok(table.text())
}
