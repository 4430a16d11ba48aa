//! What only a look into the kernel answers, for the API: how an address is treated, which sockets
//! are open, and what is being decided right now.

use crate::dataplane::connections;
use crate::dataplane::pinned::Pinned;
use crate::explain::{Explanation, Known, explain};
use crate::model::{Frontend, Rejection};
use crate::sockets::{Listing, Order};
use crate::status::{Published, ServiceStatus};
use crate::trace::Tracer;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Looks into the tables of one agent.
pub struct Inspector {
    pin_dir: PathBuf,
    tracer: Tracer,
}

// === impl Inspector ===

impl Inspector {
    /// Looks into the tables below `pin_dir`, once somebody asks.
    pub fn new(pin_dir: &Path, published: watch::Receiver<Arc<Published>>) -> Self {
        let tracer = Tracer::new(pin_dir.to_owned(), published);
        Self { pin_dir: pin_dir.to_owned(), tracer }
    }

    /// What is being decided right now.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// How a socket that dials this address is treated.
    ///
    /// # Errors
    ///
    /// If the tables can't be opened, as [`Pinned::open`] says, or not be read, as [`explain_from`] says.
    pub fn explain(
        &self,
        frontend: Frontend,
        services: &[ServiceStatus],
        rejections: &[Rejection],
    ) -> anyhow::Result<Explanation> {
        explain_from(&Pinned::open(&self.pin_dir)?, frontend, services, rejections)
    }

    /// Sockets that are open, of one service or of all.
    ///
    /// # Errors
    ///
    /// As [`connections::list`].
    pub fn connections(
        &self,
        services: &[ServiceStatus],
        wanted: Option<&str>,
        order: Order,
    ) -> anyhow::Result<Listing> {
        Ok(connections::list(&self.pin_dir)?.named(services, wanted, order))
    }
}

/// How a socket that dials this address is treated, by these tables.
///
/// # Errors
///
/// As [`Pinned::walk`] and, if the address is no frontend, [`Pinned::all_frontends`].
pub fn explain_from(
    tables: &Pinned,
    frontend: Frontend,
    services: &[ServiceStatus],
    rejections: &[Rejection],
) -> anyhow::Result<Explanation> {
    let walk = tables.walk(frontend)?;
    let frontends = match &walk {
        Some(_) => Vec::new(),
        None => tables.all_frontends()?,
    };
    Ok(explain(frontend, walk, Known { services, rejections, frontends: &frontends }))
}
