//! A state of the model: tables, agent, connects, and what is right at the moment.

use super::reader::{At, Reader};
use super::tables::{Element, FRONTENDS, Row, Tables, Word};
use super::wanted::{ABSENT, REFUSED, Wanted};
use super::writer::{Blocks, Planners, Script, Step};
use super::{READERS, Violation};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A state of the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) tables: Tables,
    /// Programs of another layout run, and none of ours.
    pub(super) replacing: bool,
    pub(super) agent: Agent,
    /// Sorted: they are alike.
    pub(super) readers: [Reader; READERS],
    /// For each frontend, what is right from when it was asked for until it is replaced for good.
    pub(super) right: [u8; FRONTENDS],
    pub(super) violation: Option<Violation>,
    /// Plans that there have been.
    pub(super) plans: u8,
    /// Deaths that there have been.
    pub(super) deaths: u8,
}

/// The agent, and what it is at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Agent {
    /// It has started, and waits for a grace period.
    Starting,
    /// It runs.
    Running {
        planner: u32,
        /// Whether a grace period is under way.
        grace: bool,
        work: Option<Work>,
    },
}

/// A plan that is being applied.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// What is desired.
    pub(super) wanted: u8,
    pub(super) script: Arc<Script>,
    /// The next step.
    pub(super) next: usize,
}

/// What a step does to those who read, or are counted.
pub(super) fn check(
    readers: &[Reader; READERS],
    planners: &Planners,
    step: &Step,
) -> Option<Violation> {
    let blocks = &planners.blocks;
    let counted = || readers.iter().filter_map(|reader| reader.counted(blocks));
    match *step {
        Step::ResetBackend { id } => {
            counted().any(|(other, _)| other == id).then_some(Violation::IdReused { id })
        }
        Step::ResetService { id } => {
            let uses = |reader: &Reader| match reader {
                Reader::Running { at, .. } => {
                    at.block().is_some_and(|block| blocks.service(block) == id)
                }
                _ => false,
            };
            readers.iter().any(uses).then_some(Violation::ServiceIdReused { id })
        }
        Step::Write { block, .. } => blocks.backends(block).find_map(|(id, backend)| {
            let taken = |(other, owner)| other == id && owner != backend;
            counted().any(taken).then_some(Violation::IdReused { id })
        }),
        Step::Publish { .. } | Step::Insert { .. } | Step::Delete { .. } => None,
    }
}

pub(super) fn wait_for_all(readers: &mut [Reader; READERS]) {
    for reader in readers {
        if let Reader::Running { waited_for, .. } = reader {
            *waited_for = true;
        }
    }
}

// === impl World ===

impl World {
    /// What is desired now is right from now on, besides what was. Where rows or ids are short until
    /// the next grace period has passed, a service may be without some backends, and a frontend that
    /// changes hands without a service.
    pub(super) fn allow(&mut self, work: &Work, wanted: &Wanted) {
        let short = if work.script.settled { 0 } else { ABSENT | REFUSED };
        let outcomes = wanted.outcomes.map(|right| right | short);
        for (right, more) in self.right.iter_mut().zip(outcomes) {
            *right |= more;
        }
        for reader in &mut self.readers {
            if let Reader::Running { frontend, allowed, .. } = reader {
                *allowed |= outcomes[usize::from(*frontend)];
            }
        }
    }

    /// Ids that sockets are counted on, as a set of bits.
    pub(super) fn counted(&self, planners: &Planners) -> u8 {
        let counted = self.readers.iter().filter_map(|reader| reader.counted(&planners.blocks));
        counted.fold(0, |sum, (id, _)| sum | 1 << id)
    }

    /// Whether a row leads from this id to another backend.
    pub(super) fn names_another(&self, blocks: &Blocks, id: u8, backend: u8) -> bool {
        self.tables.rows.iter().any(|row| match *row {
            Row::Part { block, part } if part > 0 => {
                let (other, leads_to) = blocks.backend(block, part);
                other == id && leads_to != backend
            }
            _ => false,
        })
    }

    /// Whether the next step leads a frontend away from a block that another goes on to share.
    pub(super) fn leaves_shared(&self) -> bool {
        let Agent::Running { work: Some(work), .. } = &self.agent else { return false };
        let Some((Step::Publish { index, .. }, rest)) = work.steps().split_first() else {
            return false;
        };
        let word = self.tables.words[usize::from(*index)];
        let stays = |element: &Element| {
            let moves = |step: &Step| match *step {
                Step::Publish { index, .. } => index == element.index,
                Step::Delete { frontend } => frontend == element.frontend,
                _ => false,
            };
            let same = self.tables.words[usize::from(element.index)] == word;
            element.linked && element.index != *index && same && !rest.iter().any(moves)
        };
        matches!(word, Word::Block { .. }) && self.tables.elements.iter().any(stays)
    }

    /// Whether a connect under way holds something of this kind.
    pub(super) fn holds(&self, holds: fn(&Tables, At) -> bool) -> bool {
        let running = |reader: &Reader| match reader {
            Reader::Running { at, .. } => holds(&self.tables, *at),
            _ => false,
        };
        self.readers.iter().any(running)
    }

    /// Makes states alike that differ in nothing that anybody could tell.
    pub(super) fn tidy(&mut self) {
        self.readers.sort_unstable();
        for (place, element) in (0..).zip(&mut self.tables.elements) {
            let held = |reader: &Reader| {
                matches!(reader, Reader::Running { at: At::Element { place: other }, .. }
                    if *other == place)
            };
            if !element.linked && !self.readers.iter().any(held) {
                *element = Default::default();
            }
        }
    }
}

// === impl Agent ===

impl Agent {
    /// The next step.
    pub(super) fn step(&self) -> Option<Step> {
        match self {
            Self::Running { work: Some(work), .. } => work.steps().first().copied(),
            _ => None,
        }
    }
}

// === impl Work ===

impl Work {
    /// The steps that are left.
    pub(super) fn steps(&self) -> &[Step] {
        &self.script.steps[self.next..]
    }

    /// All that matters from here on.
    fn rest(&self) -> (u8, bool, &[Step]) {
        (self.wanted, self.script.settled, self.steps())
    }
}

impl PartialEq for Work {
    fn eq(&self, other: &Self) -> bool {
        self.rest() == other.rest()
    }
}

impl Eq for Work {}

impl Hash for Work {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rest().hash(state);
    }
}
