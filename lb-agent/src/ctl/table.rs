//! Aligned columns as `kubectl get` has them: three spaces between, no borders, nothing cut off or
//! wrapped, no spaces at the end of a line. Pure.

use crate::shown::clean;

/// Most of a cell, in bytes, that is not fit to be shown as it is.
const LONGEST: usize = 4096;
/// Space between two columns.
const GAP: usize = 3;

/// Rows under column names.
pub(super) struct Table {
    names: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

// === impl Table ===

impl Table {
    /// A table with these columns.
    pub(super) fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self { names: names.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row; a cell for each column. What a cell holds stays in its line.
    pub(super) fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        let on_a_line = |cell: String| match cell.contains(char::is_control) {
            true => clean(&cell, LONGEST),
            false => cell,
        };
        self.rows.push(cells.into_iter().map(on_a_line).collect());
    }

    /// Whether there is nothing to show.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, every line indented by `indent`, with a line of column names if asked.
    pub(super) fn text(&self, headers: bool, indent: usize) -> String {
        let mut widths: Vec<usize> = Vec::new();
        let names: Vec<String> = self.names.iter().map(|name| (*name).to_owned()).collect();
        let lines = || headers.then_some(&names).into_iter().chain(&self.rows);
        for line in lines() {
            widths.resize(widths.len().max(line.len()), 0);
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for line in lines() {
            let mut owed = indent;
            for (cell, width) in line.iter().zip(&widths) {
                // Spaces are written only once something follows them.
                if !cell.is_empty() {
                    text.extend(std::iter::repeat_n(' ', owed));
                    text.push_str(cell);
                    owed = 0;
                }
                owed += width - if cell.is_empty() { 0 } else { cell.chars().count() } + GAP;
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Table;
    use proptest::prelude::*;

    fn table(rows: &[[&str; 3]]) -> Table {
        let mut table = Table::new(["A", "LONG", "C"]);
        for row in rows {
            table.push(row.map(str::to_owned));
        }
        table
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
