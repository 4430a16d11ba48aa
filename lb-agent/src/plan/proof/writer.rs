//! The agent in the model: the planner itself. It is deterministic, so each of its states is kept
//! once, by number, with what every call makes of it; the state of the model is numbers only.

use super::Mutation;
use super::tables::{Row, Tables, Word};
use super::wanted::{Wanted, frontend_of, number_of};
use crate::desired::Desired;
use crate::model::ServiceName;
use crate::plan::block::Block;
use crate::plan::{Action, Limits, Observed, Orphan, Plan, Planner, key_of};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// An [`Action`] in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    ResetBackend { id: u8 },
    ResetService { id: u8 },
    Write { base: u8, block: u16, length: u8 },
    Publish { index: u8, base: u8, rows: u8 },
    Insert { frontend: u8, index: u8 },
    Delete { frontend: u8 },
}

/// A plan's actions, and whether afterwards all is as desired.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) steps: Vec<Step>,
    pub(super) settled: bool,
}

/// What the planner is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    Plan(u8),
    StartGrace,
    EndGrace,
    /// Free all resting ids but those in this set of bits.
    Free(u8),
}

/// The planner after a call, and the plan that it made.
type Called = (u32, Option<Arc<Script>>);

/// Blocks that were written, by number.
#[derive(Debug, Default)]
pub(super) struct Blocks(Vec<Arc<Block>>);

/// A planner, and the number of what it was last asked for: from there on it is told changes.
#[derive(Clone, Debug)]
struct Known {
    planner: Planner,
    last: Option<u8>,
}

/// Planners by number, and what has been learnt of them.
#[derive(Debug)]
pub(super) struct Planners {
    limits: Limits,
    /// What is known of another layout's ids.
    recalled: BTreeMap<u32, Orphan>,
    pub(super) blocks: Blocks,
    planners: Vec<Arc<Known>>,
    numbers: HashMap<String, u32>,
    calls: HashMap<(u32, Call), Called>,
    adoptions: HashMap<(Tables, u8, bool), Option<u32>>,
}

// === impl Blocks ===

impl Blocks {
    /// Backends that may be picked.
    pub(super) fn usable(&self, block: u16) -> u8 {
        small(self.0[usize::from(block)].usable())
    }

    /// Id and number of the backend that is a part of the block, from 1 on.
    pub(super) fn backend(&self, block: u16, part: u8) -> (u8, u8) {
        let row = &self.0[usize::from(block)].rows[usize::from(part - 1)];
        let address = SocketAddr::new(row.address.into(), u16::from_be(row.port));
        (small(row.id), number_of(&address))
    }

    /// Ids and numbers of all its backends.
    pub(super) fn backends(&self, block: u16) -> impl Iterator<Item = (u8, u8)> {
        let parts = self.0[usize::from(block)].rows.len();
        (1..=parts).map(move |part| self.backend(block, part as u8))
    }

    /// The id of its service.
    pub(super) fn service(&self, block: u16) -> u8 {
        small(self.0[usize::from(block)].header.service_id)
    }

    fn number(&mut self, block: &Arc<Block>) -> u16 {
        let known = self.0.iter().position(|other| other == block);
        known.unwrap_or_else(|| {
            self.0.push(Arc::clone(block));
            self.0.len() - 1
        }) as u16
    }
}

// === impl Planners ===

impl Planners {
    pub(super) fn new(limits: Limits, recalled: BTreeMap<u32, Orphan>) -> Self {
        Self {
            limits,
            recalled,
            blocks: Blocks::default(),
            planners: Vec::new(),
            numbers: HashMap::new(),
            calls: HashMap::new(),
            adoptions: HashMap::new(),
        }
    }

    /// Plans for a state that is desired, one of these.
    pub(super) fn plan(
        &mut self,
        planner: u32,
        number: u8,
        wanted: &[Wanted],
        mutation: Mutation,
    ) -> (u32, Arc<Script>) {
        let (next, script) = self.call(planner, Call::Plan(number), |known, blocks| {
            let desired = |number: u8| &wanted[usize::from(number)].desired;
            let before = known.last.replace(number).map(desired);
            let planner = &mut known.planner;
            let users = users(planner);
            let plan = plan_both_ways(planner, before, desired(number));
            mutate(planner, mutation, &users);
            let mut steps: Vec<Step> =
                plan.actions.iter().map(|action| Step::new(action, blocks)).collect();
            mutation.reorder(&mut steps);
            let settled = plan.deferred.is_empty() && plan.rejections.is_empty();
            Some(Arc::new(Script { steps, settled }))
        });
        (next, script.expect("a plan has a script"))
    }

    pub(super) fn start_grace(&mut self, planner: u32) -> u32 {
        let start = |known: &mut Known, _: &mut Blocks| {
            known.planner.start_grace();
            None
        };
        self.call(planner, Call::StartGrace, start).0
    }

    pub(super) fn end_grace(&mut self, planner: u32) -> u32 {
        let end = |known: &mut Known, _: &mut Blocks| {
            known.planner.end_grace();
            None
        };
        self.call(planner, Call::EndGrace, end).0
    }

    /// Frees the ids that rest and are not in `counted`, a set of bits.
    pub(super) fn free(&mut self, planner: u32, counted: u8) -> u32 {
        let free = |Known { planner, .. }: &mut Known, _: &mut Blocks| {
            let resting = planner.resting_backends().into_iter();
            planner.free_backends(&resting.filter(|id| counted & 1 << id == 0).collect());
            None
        };
        self.call(planner, Call::Free(counted), free).0
    }

    /// A planner that adopts what the tables hold, and while another layout's programs are being
    /// replaced what is recalled; `None` if it refuses.
    pub(super) fn adopt(&mut self, tables: &Tables, counted: u8, replacing: bool) -> Option<u32> {
        let key = (tables.clone(), counted, replacing);
        if let Some(known) = self.adoptions.get(&key) {
            return *known;
        }
        let mut observed = self.observe(tables, counted);
        if let Some(observed) = observed.as_mut().filter(|_| replacing) {
            observed.inherited = true;
            observed.recalled.clone_from(&self.recalled);
        }
        let adopted = observed.and_then(|observed| Planner::adopt(self.limits, observed).ok());
        let number = adopted.map(|planner| self.number(Known { planner, last: None }));
        self.adoptions.insert(key, number);
        number
    }

    /// What the planner's first state is: new tables.
    pub(super) fn fresh(&mut self) -> u32 {
        let observed = Observed { fresh: true, ..Observed::default() };
        let planner = Planner::adopt(self.limits, observed).expect("empty tables are sound");
        self.number(Known { planner, last: None })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.planners.len()
    }

    pub(super) fn planner(&self, number: u32) -> &Planner {
        &self.planners[number as usize].planner
    }

    /// Indexes and rows that the planner would not hand out.
    pub(super) fn held(&self, number: u32) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let Planner { frontends, blocks, retired, waiting, .. } = self.planner(number);
        let indexes = frontends.values().map(|held| held.index);
        let indexes = indexes.chain(retired.indexes.iter().chain(&waiting.indexes).copied());
        let live = blocks.iter().map(|(base, held)| (*base, held.block.length()));
        let left = retired.blocks.iter().chain(&waiting.blocks).copied();
        let rows = live.chain(left).flat_map(|(base, length)| base..base + length);
        (indexes.collect(), rows.collect())
    }

    fn call(
        &mut self,
        planner: u32,
        call: Call,
        act: impl FnOnce(&mut Known, &mut Blocks) -> Option<Arc<Script>>,
    ) -> Called {
        if let Some(known) = self.calls.get(&(planner, call)) {
            return known.clone();
        }
        let mut next = (*self.planners[planner as usize]).clone();
        let script = act(&mut next, &mut self.blocks);
        let result = (self.number(next), script);
        self.calls.insert((planner, call), result.clone());
        result
    }

    /// The number of a planner: those that look alike in every field are the same.
    fn number(&mut self, known: Known) -> u32 {
        let next = self.planners.len() as u32;
        let number = *self.numbers.entry(format!("{known:?}")).or_insert(next);
        if number == next {
            self.planners.push(Arc::new(known));
        }
        number
    }

    /// What the dataplane would say of the tables; `None` if a word leads to no block.
    fn observe(&self, tables: &Tables, counted: u8) -> Option<Observed> {
        let mut observed = Observed {
            active: (0..self.limits.backends).filter(|id| counted & 1 << id != 0).collect(),
            ..Observed::default()
        };
        for element in tables.elements.iter().filter(|element| element.linked) {
            let key = key_of(&frontend_of(element.frontend));
            let base = match tables.words[usize::from(element.index)] {
                Word::Zero => None,
                Word::Freed => return None,
                Word::Block { base, .. } => {
                    let Row::Part { block, part: 0 } = tables.rows[usize::from(base)] else {
                        return None;
                    };
                    let block = (*self.blocks.0[usize::from(block)]).clone();
                    observed.blocks.insert(u32::from(base), block);
                    Some(u32::from(base))
                }
            };
            observed.frontends.push((key, u32::from(element.index), base));
        }
        Some(observed)
    }
}

/// Plans as the loop does, for what is not as it was `before`, and for all, which must come to the same:
/// in its steps, and in what the planner makes of them.
fn plan_both_ways(planner: &mut Planner, before: Option<&Desired>, desired: &Desired) -> Plan {
    let mut other = planner.clone();
    let all = other.plan(desired);
    // One that has just adopted looks at all, whatever it is told.
    let changed = before.map_or_else(BTreeSet::new, |before| changes(before, desired));
    let plan = planner.plan_changes(desired, &changed);
    let said = |plan: &Plan| format!("{:?}", (&plan.actions, &plan.rejections, &plan.deferred));
    assert_eq!(said(&plan), said(&all), "changes are planned otherwise than all");
    // What only serves to find changes.
    other.outlook.clone_from(&planner.outlook);
    other.unfinished.clone_from(&planner.unfinished);
    assert_eq!(format!("{planner:?}"), format!("{other:?}"), "the planner remembers otherwise");
    plan
}

/// The services that are not the same in both.
fn changes(before: &Desired, now: &Desired) -> BTreeSet<ServiceName> {
    let names = before.services.keys().chain(now.services.keys());
    names.filter(|name| before.services.get(*name) != now.services.get(*name)).cloned().collect()
}

/// How many frontends each block has.
fn users(planner: &Planner) -> BTreeMap<u32, u32> {
    planner.blocks.iter().map(|(base, held)| (*base, held.users)).collect()
}

/// What a planner would do that has forgotten a rule; `before` are the users of blocks before the plan.
fn mutate(planner: &mut Planner, mutation: Mutation, before: &BTreeMap<u32, u32>) {
    match mutation {
        Mutation::IndexReusedAtOnce => {
            for index in std::mem::take(&mut planner.retired.indexes) {
                planner.indexes.free(index);
            }
        }
        Mutation::RowsReusedAtOnce => {
            for (base, length) in std::mem::take(&mut planner.retired.blocks) {
                planner.rows.free(base, length);
            }
        }
        Mutation::FirstUserRetires => {
            let Planner { blocks, retired, .. } = planner;
            let left =
                |base: &u32, users: u32| before.get(base).is_some_and(|before| users < *before);
            for (base, held) in blocks.extract_if(.., |base, held| left(base, held.users)) {
                retired.blocks.push((base, held.block.length()));
            }
        }
        _ => {}
    }
}

impl Step {
    fn new(action: &Action, blocks: &mut Blocks) -> Self {
        match action {
            Action::ResetBackend { id } => Self::ResetBackend { id: small(*id) },
            Action::ResetService { id } => Self::ResetService { id: small(*id) },
            Action::WriteBlock { base, block } => Self::Write {
                base: small(*base),
                block: blocks.number(block),
                length: small(block.length()),
            },
            Action::Publish { index, word } => Self::Publish {
                index: small(*index),
                base: small(word.base()),
                rows: small(word.rows()),
            },
            Action::InsertFrontend { key, index } => {
                Self::Insert { frontend: number_of(&key.socket_addr()), index: small(*index) }
            }
            Action::DeleteFrontend { key } => {
                Self::Delete { frontend: number_of(&key.socket_addr()) }
            }
        }
    }
}

fn small(number: u32) -> u8 {
    u8::try_from(number).expect("the model's tables are small")
}
