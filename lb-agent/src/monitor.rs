//! Health in the loop: feeds the board with what probes, real connects and operators say, and writes
//! what follows into the desired state.
//!
//! What follows is decided by [`crate::health::board`]; who is told is [`crate::reconcile`]'s to decide.

mod changes;
mod view;

pub use view::WithHealth;

use changes::Changes;

use crate::dataplane::Failure;
use crate::desired::{Desired, Merger};
use crate::health::board::{Board, Wanted};
use crate::health::ejection::Decision;
use crate::health::prober::Reports;
use crate::metrics::own;
use crate::model::{Overrides, ServiceName, Snapshot};
use crate::plan::Planner;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

/// The board, as the loop and whoever shows it share it.
pub type SharedBoard = Arc<Mutex<Board>>;

/// What the monitor is connected to. A channel whose other end is gone is silent.
#[derive(Debug)]
pub struct Links {
    /// To the prober.
    pub wanted: mpsc::UnboundedSender<Wanted>,
    /// From the prober.
    pub reports: mpsc::Receiver<Reports>,
    /// Connects that failed, from the kernel.
    pub failures: mpsc::Receiver<Vec<Failure>>,
    /// What operators say.
    pub overrides: watch::Receiver<Arc<Overrides>>,
}

/// Something that may change what backends get.
#[derive(Debug)]
pub enum News {
    /// Probes ended.
    Reports(Reports),
    /// Connects failed.
    Failures(Vec<Failure>),
    /// Operators said something.
    Overrides,
    /// It is time.
    Due,
}

/// Health, as the loop drives it.
#[derive(Debug)]
pub struct Monitor {
    board: SharedBoard,
    links: Links,
    /// What operators say through the sources.
    told: Vec<Arc<Snapshot>>,
    /// Whose backend ids these were when last looked for.
    owners: HashMap<u32, (ServiceName, SocketAddr)>,
    changes: Changes,
}

/// Takes the board; what a panic elsewhere left of it is whole, since every change is one call.
pub fn lock(board: &SharedBoard) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Monitor ===

impl Monitor {
    /// For a host in this zone.
    pub fn new(zone: Option<Arc<str>>, mut links: Links) -> Self {
        let mut board = Board::new(zone);
        board.set_overrides(Arc::clone(&links.overrides.borrow_and_update()));
        let board = Arc::new(Mutex::new(board));
        Self { board, links, told: Vec::new(), owners: HashMap::new(), changes: Changes::default() }
    }

    /// One that hears of nothing.
    pub fn deaf() -> Self {
        let links = Links {
            wanted: mpsc::unbounded_channel().0,
            reports: mpsc::channel(1).1,
            failures: mpsc::channel(1).1,
            overrides: watch::channel(Arc::default()).1,
        };
        Self::new(None, links)
    }

    /// The board.
    pub fn board(&self) -> SharedBoard {
        Arc::clone(&self.board)
    }

    /// Waits for news. Nothing is lost if the future is dropped.
    pub async fn news(&mut self) -> News {
        let due = lock(&self.board).next();
        let Links { wanted: _, reports, failures, overrides } = &mut self.links;
        tokio::select! {
            Some(failures) = failures.recv() => News::Failures(failures),
            Some(reports) = reports.recv() => News::Reports(reports),
            Ok(()) = overrides.changed() => News::Overrides,
            () = at(due) => News::Due,
        }
    }

    /// Takes in news at `now`.
    pub fn absorb(&mut self, news: News, planner: &Planner, desired: &Desired, now: Instant) {
        let mut board = lock(&self.board);
        match news {
            News::Reports(reports) => {
                reports.into_iter().for_each(|(target, report)| board.record(&target, report));
            }
            News::Failures(failures) => {
                for failure in failures {
                    let id = failure.backend;
                    let Some((name, backend)) = owner(&mut self.owners, planner, id) else {
                        continue;
                    };
                    let Some(entry) = desired.services.get(&name) else { continue };
                    let count = failure.consecutive;
                    match board.failed(&name, &entry.service, backend, count, now) {
                        Decision::Stays => {}
                        Decision::Ejected(until) => {
                            own::ejection();
                            let time = humantime::format_duration(until.duration_since(now));
                            tracing::warn!(service = %name, %backend, %time, failures = count, kind = ?failure.kind, "ejected: connects to it fail");
                        }
                        Decision::TooMany => {
                            tracing::debug!(service = %name, %backend, "not ejected: too many of the service are");
                        }
                    }
                }
            }
            News::Overrides => {
                let own = Arc::clone(&self.links.overrides.borrow_and_update());
                board.set_overrides(all_overrides(own, &self.told));
            }
            News::Due => board.tick(now),
        }
    }

    /// Takes in what operators say through the sources, in order of precedence.
    pub fn hear_sources(&mut self, snapshots: impl Iterator<Item = Arc<Snapshot>>) {
        let told: Vec<_> = snapshots.filter(|s| !s.overrides.is_empty()).collect();
        let same = |(a, b): (&Arc<Snapshot>, &Arc<Snapshot>)| a.overrides == b.overrides;
        if told.len() == self.told.len() && told.iter().zip(&self.told).all(same) {
            return;
        }
        self.told = told;
        let own = Arc::clone(&self.links.overrides.borrow());
        lock(&self.board).set_overrides(all_overrides(own, &self.told));
    }

    /// Follows the services that have changed, and writes what their backends get into `merger`'s
    /// result.
    pub fn follow(&mut self, merger: &mut Merger, now: Instant) {
        let mut board = lock(&self.board);
        let changed = merger.changed().clone();
        follow(&mut board, merger, &self.links, &changed);
        let stale: BTreeSet<ServiceName> = board.stale().cloned().collect();
        let gone = changed.iter().filter(|name| !board.is_watched(name));
        gone.for_each(|name| self.changes.forget(name));
        settle(&mut board, merger, changed.iter().chain(stale.difference(&changed)), now);
        stale.iter().for_each(|name| self.changes.look(&board, name, now));
    }

    /// Writes what changed by itself into `merger`'s result. The services that may look different.
    pub fn settle(&mut self, merger: &mut Merger, now: Instant) -> BTreeSet<ServiceName> {
        let mut board = lock(&self.board);
        follow(&mut board, merger, &self.links, &BTreeSet::new());
        let names: BTreeSet<ServiceName> = board.stale().cloned().collect();
        settle(&mut board, merger, names.iter(), now);
        names.iter().for_each(|name| self.changes.look(&board, name, now));
        names
    }
}

/// This host's word comes first.
fn all_overrides(own: Arc<Overrides>, told: &[Arc<Snapshot>]) -> Arc<Overrides> {
    if told.is_empty() {
        return own;
    }
    let mut all = Overrides::clone(&own);
    for (name, backends) in told.iter().flat_map(|snapshot| &snapshot.overrides) {
        let known = all.entry(name.clone()).or_default();
        for (backend, said) in backends {
            known.entry(*backend).or_insert(*said);
        }
    }
    Arc::new(all)
}

/// These, and those that operators have said something new of.
fn follow(board: &mut Board, merger: &Merger, links: &Links, changed: &BTreeSet<ServiceName>) {
    let names: BTreeSet<ServiceName> = board.overridden().union(changed).cloned().collect();
    let services = &merger.desired().services;
    let service = |name| services.get(name).map(|entry| &entry.service);
    let wanted = board.follow(names.iter().map(|name| (name, service(name))));
    if !wanted.start.is_empty() || !wanted.stop.is_empty() {
        // Without a prober, nothing is probed; whoever started none knows.
        drop(links.wanted.send(wanted));
    }
}

fn settle<'a>(
    board: &mut Board,
    merger: &mut Merger,
    names: impl Iterator<Item = &'a ServiceName>,
    now: Instant,
) {
    for name in names {
        let Some(entry) = merger.desired().services.get(name) else { continue };
        let effective = board.effective(name, &entry.service, now);
        let said = board.overrides_of(name);
        merger.set_effective(name, effective, said);
    }
}

/// Whose backend an id is. The planner can't be asked that way round, so what was found is kept,
/// and looked at again each time: ids are given to others.
fn owner(
    owners: &mut HashMap<u32, (ServiceName, SocketAddr)>,
    planner: &Planner,
    id: u32,
) -> Option<(ServiceName, SocketAddr)> {
    let holds = |(name, backend): &(ServiceName, SocketAddr)| {
        planner.backend_ids(name).and_then(|ids| ids.get(backend)) == Some(&id)
    };
    if let Some(known) = owners.get(&id).filter(|known| holds(known)) {
        return Some(known.clone());
    }
    let found = planner.owner_of(id)?;
    owners.insert(id, found.clone());
    Some(found)
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
