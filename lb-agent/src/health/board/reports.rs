//! What the board is told, and what it tells.

use crate::health::effective::Share;
use crate::model::check::Check;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A check on a target: probed once, however many services want it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Where it is tried.
    pub address: SocketAddr,
    /// The backend whose health it tells.
    pub backend: SocketAddr,
    /// What is tried.
    pub check: Arc<Check>,
}

/// What a try came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether it speaks for the backend.
    pub result: CheckResult,
    /// A code and a few words: `L7OK 200`, `L4CON connection refused`.
    pub text: Arc<str>,
    /// How long it took.
    pub took: Duration,
    /// When it ended.
    pub at: SystemTime,
}

/// Whether a try speaks for the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// It does.
    Passing,
    /// It does, with a warning.
    Warning,
    /// It does not.
    Failing,
}

/// What is to be probed from now on.
#[derive(Debug, Default)]
pub struct Wanted {
    /// New targets.
    pub start: Vec<Target>,
    /// Targets that nobody wants any more.
    pub stop: Vec<Target>,
}

/// What a backend gets and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its share.
    pub share: Share,
    /// What its worst check last said.
    pub check: Option<CheckVerdict>,
    /// Until when it is ejected.
    pub ejected: Option<Instant>,
}

/// What a check says of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckVerdict {
    /// Which.
    pub check: Arc<Check>,
    /// Whether it holds the backend to be up.
    pub up: bool,
    /// Results still in favour of that, of how many.
    pub standing: (u32, u32),
    /// The last result; none yet if absent.
    pub last: Option<Report>,
}
