//! `lbctl log-level`: what the agent logs, and changing it while it runs.

use super::client::Client;
use super::{Places, show};
use crate::api::NewFilter;
use crate::telemetry::Filters;
use clap::Args;
use std::process::ExitCode;

const PATH: &str = "/v1/log-level";

/// What is to be logged.
#[derive(Debug, Args)]
pub(super) struct LogLevel {
    /// error, warn, info, debug, trace, off, a filter such as info,lb_agent::reconcile=debug, or
    /// `reset` for what the agent was started with; without one, shows what is logged
    filter: Option<String>,
}

// === impl LogLevel ===

impl LogLevel {
    /// Asks or tells the agent.
    pub(super) async fn run(self, places: Places) -> anyhow::Result<ExitCode> {
        let client = Client::new(places.socket);
        let filters: Filters = match self.filter {
            None => client.get(PATH).await?,
            Some(filter) => {
                let filter = Some(filter).filter(|filter| filter != "reset");
                client.post(PATH, &NewFilter { filter }).await?
            }
        };
        let Filters { filter, started_with } = filters;
        let was = if filter == started_with {
            String::new()
        } else {
            format!(" (started with {started_with}; `lbctl log-level reset` goes back)")
        };
        show(&format!("{filter}{was}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}
