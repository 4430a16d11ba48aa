//! Logging: structured, to standard error.

use clap::ValueEnum;
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `level` is the level of the agent's own lines (libraries stay at `warn`), or a
/// filter such as `info,lb_agent::reconcile=debug`.
pub fn start(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let filter = match level.parse::<LevelFilter>() {
        Ok(level) => EnvFilter::try_new(format!("warn,lb_agent={level}"))?,
        Err(_) => EnvFilter::try_new(level)?,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match format {
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
