//! Aligned columns as `kubectl get` has them: three spaces between, no borders, nothing cut off or
//! wrapped, no spaces at the end of a line. Pure.

use crate::shown::clean;
use std::fmt::{Display, Write as _};
use std::net::SocketAddr;

/// Most of a cell, in bytes, that is not fit to be shown as it is.
const LONGEST: usize = 4096;
/// Space between two columns.
const GAP: usize = 3;
const SPACES: &str = "                                ";

/// Rows under column names.
#[derive(Debug)]
pub(super) struct Table {
    names: Vec<&'static str>,
    /// Columns that are left out.
    hidden: Vec<usize>,
    /// The texts of all cells, one after the other: a table may have a million.
    cells: String,
    /// Where each cell ends, and how many characters it has.
    ends: Vec<(usize, usize)>,
    /// How many cells there are up to the end of each row.
    rows: Vec<usize>,
    /// Characters of the longest cell of each column.
    widths: Vec<usize>,
}

/// A text that many cells have.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    text: String,
    width: usize,
}

// === impl Shared ===

impl Shared {
    /// What a cell holds stays in its line.
    pub(super) fn new(mut text: String) -> Self {
        let width = fit(&mut text, 0);
        Self { text, width }
    }
}

// === impl Table ===

impl Table {
    /// A table with these columns.
    pub(super) fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            names: names.into_iter().collect(),
            hidden: Vec::new(),
            cells: String::new(),
            ends: Vec::new(),
            rows: Vec::new(),
            widths: Vec::new(),
        }
    }

    /// Adds a row; a cell for each column. What a cell holds stays in its line.
    pub(super) fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        cells.into_iter().for_each(|cell| self.word(&cell));
        self.end_row();
    }

    /// Adds a cell to the row that [`Table::end_row`] ends.
    pub(super) fn cell(&mut self, cell: impl Display) {
        let begin = self.cells.len();
        // Writing to a text fails only where a type's own `Display` does; what it wrote is shown.
        let _ = write!(self.cells, "{cell}");
        self.end_cell(begin);
    }

    /// The same for what is a text already, which is quicker.
    pub(super) fn word(&mut self, cell: &str) {
        let begin = self.cells.len();
        self.cells.push_str(cell);
        self.end_cell(begin);
    }

    /// The same for what many cells have, which is looked at only once.
    pub(super) fn shared(&mut self, cell: &Shared) {
        self.cells.push_str(&cell.text);
        self.note_cell(cell.width);
    }

    /// The same for numbers, without the ways of formatting that nobody asks for here.
    pub(super) fn number(&mut self, number: u64) {
        let begin = self.cells.len();
        push_number(&mut self.cells, number);
        self.note_cell(self.cells.len() - begin);
    }

    /// The same for addresses.
    pub(super) fn address(&mut self, address: SocketAddr) {
        let SocketAddr::V4(address) = address else { return self.cell(address) };
        let begin = self.cells.len();
        let [first, others @ ..] = address.ip().octets();
        push_number(&mut self.cells, first.into());
        for octet in others {
            self.cells.push('.');
            push_number(&mut self.cells, octet.into());
        }
        self.cells.push(':');
        push_number(&mut self.cells, address.port().into());
        self.note_cell(self.cells.len() - begin);
    }

    fn end_cell(&mut self, begin: usize) {
        let width = fit(&mut self.cells, begin);
        self.note_cell(width);
    }

    /// A cell was written that is this wide.
    fn note_cell(&mut self, width: usize) {
        let column = self.ends.len() - self.rows.last().copied().unwrap_or_default();
        if self.widths.len() <= column {
            self.widths.resize(column + 1, 0);
        }
        self.widths[column] = self.widths[column].max(width);
        self.ends.push((self.cells.len(), width));
    }

    /// Ends a row.
    pub(super) fn end_row(&mut self) {
        self.rows.push(self.ends.len());
    }

    /// Leaves a column out.
    pub(super) fn hide(&mut self, name: &str) {
        self.hidden.extend(self.names.iter().position(|known| *known == name));
    }

    /// Whether there is nothing to show.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Gives the parts of a table the same widths; with names above if `headers`.
    pub(super) fn align<'t>(parts: impl IntoIterator<Item = &'t mut Self>, headers: bool) {
        let mut parts: Vec<_> = parts.into_iter().collect();
        let mut widths: Vec<usize> = Vec::new();
        for part in &parts {
            widen(&mut widths, part.widths.iter().copied());
            if headers {
                widen(&mut widths, part.names.iter().map(|name| name.chars().count()));
            }
        }
        parts.iter_mut().for_each(|part| part.widths.clone_from(&widths));
    }

    /// The table as text, every line indented by `indent`, with a line of column names if asked.
    pub(super) fn text(&self, headers: bool, indent: usize) -> String {
        let mut widths = self.widths.clone();
        if headers {
            widen(&mut widths, self.names.iter().map(|name| name.chars().count()));
        }
        let line = widths.iter().map(|width| width + GAP).sum::<usize>() + indent;
        let mut text = String::with_capacity(line * (self.rows.len() + 1));
        if headers {
            let names = self.names.iter().map(|name| (*name, name.chars().count()));
            self.line(&mut text, names, &widths, indent);
        }
        let mut begin = 0;
        for end in &self.rows {
            let cells = (begin..*end).map(|at| {
                let from = if at == 0 { 0 } else { self.ends[at - 1].0 };
                let (to, width) = self.ends[at];
                (&self.cells[from..to], width)
            });
            self.line(&mut text, cells, &widths, indent);
            begin = *end;
        }
        text
    }

    fn line<'c>(
        &self,
        text: &mut String,
        cells: impl Iterator<Item = (&'c str, usize)>,
        widths: &[usize],
        indent: usize,
    ) {
        let mut owed = indent;
        for (column, ((cell, length), width)) in cells.zip(widths).enumerate() {
            if self.hidden.contains(&column) {
                continue;
            }
            // Spaces are written only once something follows them.
            if !cell.is_empty() {
                pad(text, owed);
                text.push_str(cell);
                owed = 0;
            }
            owed += width - length + GAP;
        }
        text.push('\n');
    }
}

/// Makes what stands from `begin` on fit for a line; how many characters that is.
fn fit(text: &mut String, begin: usize) -> usize {
    let written = &text[begin..];
    // Most cells are plain, and that is seen fastest by their bytes.
    let plain = written.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    if plain {
        return written.len();
    }
    if written.contains(char::is_control) {
        let cleaned = clean(written, LONGEST);
        text.replace_range(begin.., &cleaned);
    }
    text[begin..].chars().count()
}

fn push_number(text: &mut String, number: u64) {
    if number >= 10 {
        push_number(text, number / 10);
    }
    let digit = u8::try_from(number % 10).unwrap_or_default();
    text.push(char::from(b'0' + digit));
}

/// Makes room in each column for a cell.
fn widen(widths: &mut Vec<usize>, cells: impl ExactSizeIterator<Item = usize>) {
    widths.resize(widths.len().max(cells.len()), 0);
    for (width, cell) in widths.iter_mut().zip(cells) {
        *width = (*width).max(cell);
    }
}

fn pad(text: &mut String, mut spaces: usize) {
    while spaces > 0 {
        let now = spaces.min(SPACES.len());
        text.push_str(&SPACES[..now]);
        spaces -= now;
    }
}

#[cfg(test)]
mod tests {
    use super::{Shared, Table};
    use proptest::prelude::*;

    fn table(rows: &[[&str; 3]]) -> Table {
        let mut table = Table::new(["A", "LONG", "C"]);
        for row in rows {
            table.push(row.map(str::to_owned));
        }
        table
    }

    #[test]
    fn columns_are_left_out_and_cells_stay_in_their_line() {
        let mut rows = table(&[["x", "y\n\x1b[2J", "z"]]);
        assert_eq!(rows.text(false, 0), "x   y\\n\\u{1b}[2J   z\n");
        rows.hide("LONG");
        assert_eq!(rows.text(true, 0), "A   C\nx   z\n");
        rows.hide("C");
        assert_eq!(rows.text(true, 1), " A\n x\n");
    }

    #[test]
    fn however_a_cell_is_written_it_is_the_same() {
        for address in ["10.0.200.7:80", "255.255.255.255:65535", "0.0.0.0:0", "[fd00::1]:443"] {
            for number in [0, 9, 10, 65_536, u64::MAX] {
                for text in ["web", "größer", "a\n\x1b[2J", ""] {
                    let mut quick = Table::new(["A", "B", "C"]);
                    quick.address(address.parse().unwrap());
                    quick.number(number);
                    quick.shared(&Shared::new(text.to_owned()));
                    quick.end_row();
                    let mut plain = Table::new(["A", "B", "C"]);
                    plain.push([address.to_owned(), number.to_string(), text.to_owned()]);
                    assert_eq!(quick.text(true, 0), plain.text(true, 0));
                    assert_eq!(quick.widths, plain.widths);
                }
            }
        }
    }

    #[test]
    fn parts_are_one_table() {
        let rows = [["x", "", "y"], ["größer", "b", ""], ["a", "a long one", "c"]];
        for headers in [false, true] {
            let (mut first, mut second) = (table(&rows[..1]), table(&rows[1..]));
            Table::align([&mut first, &mut second], headers);
            let text = first.text(headers, 0) + &second.text(false, 0);
            assert_eq!(text, table(&rows).text(headers, 0));
        }
    }

    #[test]
    fn columns_align_and_lines_end_in_text() {
        let rows = table(&[["x", "", "y"], ["größer", "b", ""]]);
        assert_eq!(rows.text(true, 0), "A        LONG   C\nx               y\ngrößer   b\n");
        assert_eq!(rows.text(false, 2), "  x            y\n  größer   b\n");
        assert_eq!(table(&[]).text(true, 0), "A   LONG   C\n");
        assert_eq!(table(&[]).text(false, 0), "");
    }

    proptest! {
        #[test]
        fn every_cell_starts_where_its_column_does(
            cells in proptest::collection::vec(["[a-z]{1,9}", "[a-z]{1,9}", "[a-z]{1,9}"], 0..9),
        ) {
            let rows: Vec<[&str; 3]> =
                cells.iter().map(|row| row.each_ref().map(String::as_str)).collect();
            let text = table(&rows).text(true, 0);
            let lines: Vec<&str> = text.lines().collect();
            let starts = ["A", "LONG", "C"].map(|name| lines[0].find(name).unwrap());
            prop_assert_eq!(lines.len(), rows.len() + 1);
            for (line, row) in lines.iter().skip(1).zip(&rows) {
                prop_assert_eq!(line.trim_end(), *line);
                for (start, cell) in starts.iter().zip(row) {
                    prop_assert!(line[*start..].starts_with(cell));
                }
            }
        }
    }
}
