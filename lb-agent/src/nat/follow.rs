//! Keeps the tables as they should be, beside the agent's loop: a slow kernel must not hold up what
//! sockets find.
//!
//! What is wanted arrives whole. A change costs what it changes; after a failure, at the start and
//! when somebody else has changed the tables, they are read and the difference is made good, each time
//! in one transaction for each family, so that no packet sees half of it.

use super::Family;
use super::chains::{self, Chains, Surroundings, chains};
use super::contents::{Contents, Wanted};
use super::draws::{draw_chain, draw_of};
use super::kernel::{Nat, NatError};
use super::passes::Passes;
use super::preflight::{self, Claim};
use super::rows::Draw;
use crate::metrics::own;
use crate::source::kubernetes::cluster::Facts;
use crate::status::{PacketPathState, PacketPathStatus};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

/// How often it is looked whether somebody has changed the ruleset, and what failed is tried again.
const LOOK: Duration = Duration::from_secs(1);
/// The tables are read at most so often because of that: others may change theirs all the time.
const READ: Duration = Duration::from_secs(5);

/// How long the packet path is left to others before it is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// What is followed.
#[derive(Debug)]
pub struct Inputs {
    /// What is to be served.
    pub wanted: watch::Receiver<Arc<Wanted>>,
    /// What clusters say besides.
    pub facts: Vec<watch::Receiver<Arc<Facts>>>,
    /// The packet path, if it is to serve from the start; else it is claimed when there is something
    /// for it to serve.
    pub claim: Option<Claim>,
    /// Why it can't be claimed, where that was tried.
    pub problem: Option<String>,
}

/// Keeps the tables until nobody hears of it any more or what is to be served has no sender left.
/// Needs a multi-threaded runtime.
pub async fn follow(inputs: Inputs, status: watch::Sender<PacketPathStatus>) {
    let Inputs { mut wanted, mut facts, claim, problem } = inputs;
    let mut keeper = Keeper::new(claim, problem);
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => {
                    let now = Arc::clone(&wanted.borrow_and_update());
                    // A cluster tells its facts before its services.
                    let around = surroundings(&facts);
                    block_in_place(|| {
                        keeper.surround(around);
                        keeper.take(now);
                    });
                }
                Err(_) => return,
            },
            () = any_changed(&mut facts) => {
                let around = surroundings(&facts);
                block_in_place(|| keeper.surround(around));
            }
            () = at(keeper.next_pass()) => block_in_place(|| keeper.end_flows()),
            _ = tick.tick() => block_in_place(|| keeper.look()),
        }
        status.send_if_modified(|known| {
            let changed = *known != keeper.status;
            known.clone_from(&keeper.status);
            changed
        });
    }
}

/// Never, if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Never, if there is none. One whose sender is gone says nothing any more.
async fn any_changed(facts: &mut Vec<watch::Receiver<Arc<Facts>>>) {
    loop {
        if facts.is_empty() {
            return std::future::pending().await;
        }
        let changes = facts.iter_mut().map(|facts| Box::pin(facts.changed()));
        let (changed, at, _) = futures_util::future::select_all(changes).await;
        if changed.is_ok() {
            facts[at].mark_unchanged();
            return;
        }
        facts.remove(at);
    }
}

fn surroundings(facts: &[watch::Receiver<Arc<Facts>>]) -> Surroundings {
    let facts: Vec<_> = facts.iter().map(|facts| Arc::clone(&facts.borrow())).collect();
    let pods = facts.iter().flat_map(|facts| &facts.pods);
    let services = facts.iter().flat_map(|facts| &facts.service_cidrs);
    let interfaces = facts.iter().filter_map(|facts| facts.pod_interface.clone());
    Surroundings {
        pods: pods.copied().collect(),
        interfaces: interfaces.collect(),
        services: services.copied().collect(),
        services_are_late: facts.iter().any(|facts| !facts.service_cidrs_heard),
    }
}

/// The tables, and what is known of them.
struct Keeper {
    nat: Option<Nat>,
    tables: [Table; 2],
    around: Surroundings,
    wanted: Arc<Wanted>,
    claim: Option<Claim>,
    /// When it was last tried in vain to claim the packet path.
    tried: Option<Instant>,
    /// The generation of the ruleset after our last change or look.
    generation: Option<u32>,
    /// When the tables were last read because somebody had changed something.
    read: Option<Instant>,
    /// Whether somebody has changed something since.
    suspicious: bool,
    /// What flows are looked for, and when.
    passes: Passes,
    begun: Instant,
    status: PacketPathStatus,
}

struct Table {
    contents: Contents,
    /// The draws that it has chains for, if it is as it should be.
    draws: Option<BTreeSet<Draw>>,
    /// Whether it is another build's that serves, and stays as it is until everything has been heard.
    waits: bool,
}

/// Why a table is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It is not known how it is.
    Unknown,
    /// Somebody has changed something.
    Suspicious,
}

// === impl Keeper ===

impl Keeper {
    fn new(claim: Option<Claim>, problem: Option<String>) -> Self {
        let table = |family| Table { contents: Contents::new(family), draws: None, waits: false };
        let state = match (&claim, &problem) {
            (Some(_), _) => PacketPathState::Waiting,
            (None, Some(_)) => PacketPathState::Unavailable,
            (None, None) => PacketPathState::Off,
        };
        Self {
            nat: None,
            tables: Family::ALL.map(table),
            around: Surroundings::default(),
            wanted: Arc::default(),
            claim,
            tried: None,
            generation: None,
            read: None,
            suspicious: false,
            passes: Passes::default(),
            begun: Instant::now(),
            status: PacketPathStatus { state, error: problem, ..PacketPathStatus::default() },
        }
    }

    fn take(&mut self, wanted: Arc<Wanted>) {
        let completed = wanted.complete && !self.wanted.complete;
        self.wanted = wanted;
        if !self.is_claimed() {
            return;
        }
        if completed {
            // What was kept because it might only be late can go now.
            self.tables.iter_mut().for_each(|table| table.draws = None);
        }
        self.work(Why::Unknown);
    }

    /// Claims the packet path if there is something to serve.
    fn is_claimed(&mut self) -> bool {
        if self.claim.is_some() {
            return true;
        }
        let tried = self.tried.is_some_and(|tried| tried.elapsed() < AGAIN);
        if self.wanted.services.is_empty() || tried {
            return false;
        }
        self.tried = Some(Instant::now());
        match preflight::claim() {
            Ok(claim) => self.claim = Some(claim),
            Err(problem) => {
                if self.status.error.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}");
                }
                self.status.state = PacketPathState::Unavailable;
                self.status.error = Some(problem);
            }
        }
        self.claim.is_some()
    }

    fn surround(&mut self, around: Surroundings) {
        if self.around == around {
            return;
        }
        self.around = around;
        self.tables.iter_mut().for_each(|table| table.draws = None);
        if self.status.since.is_some() {
            self.work(Why::Unknown);
        }
    }

    /// Tries again what failed, and looks whether somebody has changed something.
    fn look(&mut self) {
        // Before there is anything to serve there is nothing to look after.
        if (self.status.since.is_none() && self.status.error.is_none()) || !self.is_claimed() {
            return;
        }
        if self.tables.iter().any(|table| table.draws.is_none() && !table.waits) {
            self.work(Why::Unknown);
            return;
        }
        self.end_flows();
        match self.nat().and_then(|nat| nat.generation()) {
            Ok(generation) if self.generation == Some(generation) && !self.suspicious => {}
            Ok(generation) => {
                self.generation = Some(generation);
                self.suspicious = true;
                if self.read.is_none_or(|read| read.elapsed() >= READ) {
                    self.read = Some(Instant::now());
                    self.suspicious = false;
                    self.tables.iter_mut().for_each(|table| table.draws = None);
                    self.work(Why::Suspicious);
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn work(&mut self, mut why: Why) {
        let begin = Instant::now();
        let mut brought = self.bring_all(why);
        if brought.is_err() && why == Why::Unknown && self.is_changed() {
            // What the change was made for may not be there any more.
            self.nat = None;
            self.tables.iter_mut().for_each(|table| table.draws = None);
            why = Why::Suspicious;
            brought = self.bring_all(why);
        }
        match brought {
            Ok(changed) => {
                let now = SystemTime::now();
                let since = match self.status.state {
                    PacketPathState::On => self.status.since,
                    _ => None,
                };
                if since.is_none() {
                    tracing::info!(elements = self.elements(), "the packet path serves");
                }
                self.status.since = since.or(Some(now));
                self.status.state = PacketPathState::On;
                self.status.elements = self.elements();
                self.status.error = None;
                self.status.kept = self.tables.iter().find(|table| table.waits).map(Table::kept);
                if changed && (why == Why::Suspicious || since.is_none()) {
                    // Flows may have begun while there was no table.
                    self.passes.again();
                }
                self.passes.take(&self.wanted.services);
                self.end_flows();
                if changed {
                    self.status.changes += 1;
                    self.status.last_change = Some(begin.elapsed());
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// When flows are to be looked through next. After a failure that waits for another try.
    fn next_pass(&self) -> Option<Instant> {
        self.nat.as_ref()?;
        Some(self.begun + self.passes.due()?)
    }

    /// Ends flows that lead nowhere, if it is time to look for some.
    fn end_flows(&mut self) {
        let Some(nat) = &self.nat else { return };
        let now = self.begun.elapsed();
        let Some(flows) = self.passes.next(&self.wanted.services, now) else { return };
        let mut ended = 0;
        for family in Family::ALL {
            let begin = Instant::now();
            match nat.end_stale(family, &flows) {
                Ok(count) => {
                    let name = if family.is_v4() { "IPv4" } else { "IPv6" };
                    own::flows(name, begin.elapsed(), count);
                    ended += count;
                }
                Err(error) => {
                    self.passes.again();
                    self.failed(&error);
                    return;
                }
            }
        }
        self.passes.looked(self.begun.elapsed());
        if ended > 0 {
            tracing::info!(ended, "ended flows that led nowhere any more");
            self.status.ended_flows += ended;
        }
    }

    fn elements(&self) -> usize {
        self.tables.iter().map(|table| table.contents.len()).sum()
    }

    fn failed(&mut self, error: &NatError) {
        // What it says next may belong to what was asked before.
        self.nat = None;
        self.status.failures += 1;
        own::packets_failed();
        self.status.state = PacketPathState::Failing;
        let text = error.to_string();
        if self.status.error.as_ref() != Some(&text) {
            tracing::error!(error = text, "the packet path is not as it should be; trying again");
        }
        self.status.error = Some(text);
        for table in &mut self.tables {
            (table.draws, table.waits) = (None, false);
        }
    }

    fn nat(&mut self) -> Result<&Nat, NatError> {
        match &mut self.nat {
            Some(nat) => Ok(nat),
            none => Ok(none.insert(Nat::open()?)),
        }
    }

    /// Whether somebody has changed something since the last look, as far as that can be told after a
    /// failure.
    fn is_changed(&self) -> bool {
        let now = || Nat::open().and_then(|nat| nat.generation()).ok();
        self.generation.is_some_and(|known| now().is_some_and(|now| now != known))
    }

    /// Whether anything was changed.
    fn bring_all(&mut self, why: Why) -> Result<bool, NatError> {
        self.nat()?;
        let Some(nat) = &self.nat else { return Ok(false) };
        let before = nat.generation()?;
        let since = self.generation.is_some_and(|generation| generation != before);
        let mut own = 0;
        for table in &mut self.tables {
            let done = table.bring(nat, &self.wanted, &self.around)?;
            own += u32::from(done);
            if let Some(known) = &mut self.generation {
                // Should the other one fail, this change was still ours.
                *known = known.wrapping_add(u32::from(done));
            }
            if done && why == Why::Suspicious {
                self.status.repairs += 1;
                let family = table.contents.family().word();
                tracing::warn!("somebody changed the table `{family} {}`: repaired", super::TABLE);
            }
        }
        let now = nat.generation()?;
        // Somebody else was at work meanwhile, or since the last look, which this may be.
        let during = now.wrapping_sub(before) != own;
        self.suspicious |= during || (since && why != Why::Suspicious);
        self.generation = Some(now);
        Ok(own > 0)
    }
}

// === impl Table ===

impl Table {
    /// What is said of a table that waits.
    fn kept(&self) -> String {
        format!(
            "the table `{} {}` is another build's: it serves as it is until every source has been heard; \
             `lbctl status` says which are missing",
            self.contents.family().word(),
            super::TABLE
        )
    }

    fn bring(
        &mut self,
        nat: &Nat,
        wanted: &Wanted,
        around: &Surroundings,
    ) -> Result<bool, NatError> {
        let family = self.contents.family();
        let Some(known) = self.draws.take() else {
            self.contents.take(&wanted.services);
            let found = nat.find(family)?;
            if wanted.complete {
                self.contents.forget_idle_draws();
            } else {
                self.contents.adopt(found.draws());
            }
            let chains = chains(family, around, self.contents.draws());
            // What is late can't be taken over into another layout, and would not be served meanwhile.
            let waits = !wanted.complete && found.serves() && !found.fits(family, &chains);
            if waits && !self.waits {
                tracing::warn!("{}", self.kept());
            }
            self.waits = waits;
            if waits {
                return Ok(false);
            }
            let late = chains::late(around, wanted.complete);
            let done = nat.bring(&found, &chains, &late, &self.contents, wanted.complete)?;
            self.draws = Some(self.contents.draws().clone());
            self.say_refused();
            return Ok(done);
        };
        let change = self.contents.update(&wanted.services);
        self.say_refused();
        if change.is_empty() {
            self.draws = Some(known);
            return Ok(false);
        }
        // Before everything has been heard, what is late may need them.
        if wanted.complete && self.contents.has_idle_draws() {
            self.contents.forget_idle_draws();
        }
        let draws = self.contents.draws();
        let gone: Vec<_> = known.difference(draws).copied().map(draw_chain).collect();
        let mut new = Chains::new();
        if !draws.is_subset(&known) {
            new = chains(family, around, draws);
            new.retain(|name, _| draw_of(name).is_some_and(|draw| !known.contains(&draw)));
        }
        nat.apply(family, &new, &change, &gone)?;
        self.draws = Some(draws.clone());
        Ok(true)
    }

    fn say_refused(&self) {
        for (name, other) in self.contents.refused() {
            tracing::debug!(%name, %other, "services that can't be told apart");
        }
    }
}
