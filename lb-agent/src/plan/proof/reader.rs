//! A connect in the kernel, load by load, in the order of `lb-bpf`'s `block_of`, `choose` and
//! `translate`.

use super::Violation;
use super::tables::{Row, Tables, Word};
use super::wanted::{ABSENT, REFUSED};
use super::writer::Blocks;

/// A socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reader {
    /// There is none, or one that has not dialled.
    #[default]
    Idle,
    /// Its connect is under way.
    Running {
        /// What it dials.
        frontend: u8,
        /// What it holds.
        at: At,
        /// Outcomes that were right at some time since it began.
        allowed: u8,
        /// Whether a grace period waits for it.
        waited_for: bool,
    },
    /// It is connected, and counted.
    Open {
        /// The id it is counted on.
        id: u8,
        /// Where it is connected to.
        backend: u8,
    },
}

/// What a program that runs has loaded last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum At {
    /// The place of the element that the look-up found.
    Element { place: u8 },
    /// The index in it.
    Index { index: u8 },
    /// The word of the index.
    Word { base: u8, rows: u8 },
    /// The header.
    Header { base: u8, block: u16 },
    /// The row that it has drawn, and the id in it, on which it is counted.
    Row { base: u8, block: u16, part: u8 },
}

/// What a load has led to.
pub(super) enum Loaded {
    /// The program goes on.
    On(At),
    /// It has ended without a backend.
    Ended(u8),
    /// It has ended, and the socket is connected.
    Connected { id: u8, backend: u8 },
}

impl At {
    /// The block that the program is in, if it has got that far.
    pub(super) fn block(self) -> Option<u16> {
        match self {
            Self::Header { block, .. } | Self::Row { block, .. } => Some(block),
            Self::Element { .. } | Self::Index { .. } | Self::Word { .. } => None,
        }
    }

    /// Takes the next load; `part` is the row that is drawn, where one is.
    pub(super) fn load(
        self,
        tables: &Tables,
        blocks: &Blocks,
        part: u8,
    ) -> Result<Loaded, Violation> {
        Ok(Loaded::On(match self {
            Self::Element { place } => {
                Self::Index { index: tables.elements[usize::from(place)].index }
            }
            Self::Index { index } => match tables.words[usize::from(index)] {
                // The program takes it that the address is no frontend.
                Word::Zero => return Ok(Loaded::Ended(ABSENT)),
                Word::Freed => return Err(Violation::FreedIndex),
                Word::Block { base, rows } => Self::Word { base, rows },
            },
            Self::Word { base, rows } => match tables.rows[usize::from(base)] {
                Row::Zero | Row::Freed => return Err(Violation::FreedRow),
                // Whatever the program finds from here on must be of this block.
                Row::Part { block, part: 0 } if blocks.usable(block) == rows => {
                    Self::Header { base, block }
                }
                Row::Part { .. } => return Err(Violation::NoHeader),
            },
            Self::Header { block, .. } if blocks.usable(block) == 0 => {
                return Ok(Loaded::Ended(REFUSED));
            }
            Self::Header { base, block } => {
                intact(tables, base, block, part)?;
                Self::Row { base, block, part }
            }
            Self::Row { base, block, part } => {
                intact(tables, base, block, part)?;
                // What tells of the decision looks into the header once more.
                intact(tables, base, block, 0)?;
                let (id, backend) = blocks.backend(block, part);
                return Ok(Loaded::Connected { id, backend });
            }
        }))
    }

    /// The id that the program has counted a connection on, and whose it was.
    pub(super) fn counted(self, blocks: &Blocks) -> Option<(u8, u8)> {
        match self {
            Self::Row { block, part, .. } => Some(blocks.backend(block, part)),
            _ => None,
        }
    }
}

/// Whether a row still is the part of the block that the program takes it for.
fn intact(tables: &Tables, base: u8, block: u16, part: u8) -> Result<(), Violation> {
    match tables.rows[usize::from(base + part)] {
        Row::Zero | Row::Freed => Err(Violation::FreedRow),
        found if found == (Row::Part { block, part }) => Ok(()),
        Row::Part { .. } => Err(Violation::ChangedRow),
    }
}

impl Reader {
    /// The id it is counted on, and whose that is.
    pub(super) fn counted(self, blocks: &Blocks) -> Option<(u8, u8)> {
        match self {
            Self::Idle => None,
            Self::Running { at, .. } => at.counted(blocks),
            Self::Open { id, backend } => Some((id, backend)),
        }
    }
}
