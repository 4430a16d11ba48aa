//! The tables as the model has them: small, and every entry by itself.

use super::writer::Step;
use std::collections::BTreeSet;

/// Frontends; elements of `FRONTENDS`, and entries of `BLOCKS`, at most.
pub(super) const FRONTENDS: usize = 2;
/// Rows of `BACKENDS`, at most.
pub(super) const ROWS: usize = 9;

/// What the kernel holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tables {
    /// `FRONTENDS`.
    pub(super) elements: [Element; FRONTENDS],
    /// `BLOCKS`.
    pub(super) words: [Word; FRONTENDS],
    /// `BACKENDS`.
    pub(super) rows: [Row; ROWS],
}

/// An element of a hash table. What it holds stays after it was deleted, until an insertion takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Element {
    /// Whether a look-up finds it.
    pub(super) linked: bool,
    /// Which frontend it is.
    pub(super) frontend: u8,
    /// The frontend's index.
    pub(super) index: u8,
}

/// An entry of `BLOCKS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Word {
    /// Nothing was published since the table was made.
    #[default]
    Zero,
    /// The index is free: whatever stands there is nobody's.
    Freed,
    /// A block.
    Block { base: u8, rows: u8 },
}

/// A row of `BACKENDS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Row {
    /// Nothing was written since the table was made.
    #[default]
    Zero,
    /// The row is free: whatever stands there is nobody's.
    Freed,
    /// Part of a block, by its number; 0 is its header.
    Part { block: u16, part: u8 },
}

impl Tables {
    pub(super) fn new() -> Self {
        Self { elements: Default::default(), words: Default::default(), rows: [Row::Zero; ROWS] }
    }

    /// The element that a look-up finds.
    pub(super) fn find(&self, frontend: u8) -> Option<u8> {
        let found = |element: &Element| element.linked && element.frontend == frontend;
        self.elements.iter().position(found).map(|place| place as u8)
    }

    /// Does what a step says, as the kernel does it: an insertion takes a deleted element at once.
    pub(super) fn apply(&mut self, step: &Step) {
        match *step {
            Step::ResetBackend { .. } | Step::ResetService { .. } => {}
            Step::Write { base, block, length } => {
                for part in 0..length {
                    self.rows[usize::from(base + part)] = Row::Part { block, part };
                }
            }
            Step::Publish { index, base, rows } => {
                self.words[usize::from(index)] = Word::Block { base, rows };
            }
            Step::Insert { frontend, index } => {
                let free = self.elements.iter_mut().find(|element| !element.linked);
                *free.expect("as many elements as indexes") =
                    Element { linked: true, frontend, index };
            }
            Step::Delete { frontend } => {
                let place = self.find(frontend).expect("what is deleted is there");
                self.elements[usize::from(place)].linked = false;
            }
        }
    }

    /// Marks as free what the planner may hand out again, which is all but these.
    pub(super) fn free_others(&mut self, indexes: &BTreeSet<u32>, rows: &BTreeSet<u32>) {
        for (index, word) in (0..).zip(&mut self.words) {
            if !indexes.contains(&index) && *word != Word::Zero {
                *word = Word::Freed;
            }
        }
        for (number, row) in (0..).zip(&mut self.rows) {
            if !rows.contains(&number) && *row != Row::Zero {
                *row = Row::Freed;
            }
        }
    }
}
