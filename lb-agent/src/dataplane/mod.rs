//! The door to the kernel: what it holds is observed here, and actions are applied here. Everything
//! that names the kernel library lies below this module.

mod attach;
mod btf;
mod collect;
pub mod connections;
mod describe;
mod destroy;
pub mod exclude;
pub mod explain;
mod fake;
pub mod features;
mod generations;
mod inherit;
mod kernel;
mod lock;
mod outcomes;
pub mod pinned;
pub mod preflight;
mod selftest;
mod sys;
mod tables;
pub mod trace;

use crate::plan::{Action, Observed};
use crate::status::{EarlierTables, OtherProgram};
use std::collections::BTreeSet;

pub use attach::{AttachError, Attached, detach};
pub use collect::{Sweep, Swept};
pub use destroy::{Destroyed, Doomed};
pub use fake::Fake;
pub use kernel::{Kernel, Settings};
pub use lock::{LockError, PinLock};
pub use outcomes::{Failure, FailureKind, FailureReader, Outcomes, monotonic_now};
pub use sys::share_one_heap;
pub use tables::TableError;

/// A wait that may run on another thread.
pub type Grace = Box<dyn FnOnce() -> Result<(), DataplaneError> + Send>;

/// Ends sockets; may run on another thread.
pub type Destroy = Box<dyn FnOnce() -> Result<Destroyed, DataplaneError> + Send>;

/// What a self-test has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// What is not as it should be, and what to do about it.
    pub problems: Vec<String>,
    /// What was not as it should be, and is again.
    pub repairs: Vec<String>,
    /// What else has changed.
    pub notes: Vec<String>,
    /// Programs of others at our hooks.
    pub others: Vec<OtherProgram>,
    /// Tables of other layouts that still serve connections.
    pub earlier: Vec<EarlierTables>,
    /// What is attached now.
    pub attached: Attached,
}

/// Why the kernel could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct DataplaneError {
    /// What was being done.
    pub what: String,
    /// What the kernel said.
    pub reason: String,
}

/// What plans are applied to.
pub trait Dataplane {
    /// What the tables hold.
    ///
    /// # Errors
    ///
    /// If the kernel does not let the tables be read.
    fn observe(&mut self) -> Result<Observed, DataplaneError>;

    /// Takes the steps in order, and stops at the first that fails.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a step, or the step names an id, an index or a row that the tables don't have. Then
    /// they hold what the steps before it made of them; of frontends that follow each other, the first may be
    /// there.
    fn apply(&mut self, actions: &[Action]) -> Result<(), DataplaneError>;

    /// Those of these backend ids that no socket names. Affinity entries that name them are removed
    /// first, so that the ids may be given to other backends.
    ///
    /// # Errors
    ///
    /// If affinity entries can't be read or removed; some may be gone then.
    fn idle(&mut self, ids: &[u32]) -> Result<BTreeSet<u32>, DataplaneError>;

    /// Whether programs of another layout translate, until ours are attached.
    fn others_serve(&self) -> bool;

    /// Lets the programs run, in place of an earlier agent's where there are some. To be called once
    /// the tables hold what they should.
    ///
    /// # Errors
    ///
    /// If the cgroup can't be opened, a pin is another hook's, or the kernel refuses a link. What is attached by
    /// then stays.
    fn attach(&mut self) -> Result<Attached, DataplaneError>;

    /// Looks whether what was attached still is, and repairs what it can. To be called once the
    /// programs are attached.
    fn self_test(&mut self) -> Checked;

    /// Looks for rows of sockets that closed while no program was attached. The first time it finds
    /// suspects; some seconds later, given those, it collects what still is nobody's. `None` if
    /// there can't be any.
    fn sweep(&self, suspects: Option<BTreeSet<u64>>) -> Option<Sweep>;

    /// A wait after which no running program can still see what was there before the call.
    fn grace(&self) -> Grace;

    /// Ends what is connected to these backends through our frontends; `None` if nothing is. To be
    /// called after a grace period, so that no socket is on its way to them any more.
    fn destroy(&self, doomed: Vec<Doomed>) -> Option<Destroy>;
}

impl DataplaneError {
    pub(crate) fn new(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self { what: what.into(), reason: reason.to_string() }
    }
}
