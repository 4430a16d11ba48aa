//! Figures as tables, one for each set of conditions in each group: a row for each subject in each case, a column
//! for each metric; or, of a single metric, for each number of a condition. Conditions that are the same in a whole
//! table are said above it.

use super::{Figure, Ratio, short};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A table, not yet laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The group; with the conditions, where it has several tables.
    pub title: String,
    /// What holds for all rows.
    pub conditions: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// As many cells as there are columns, each row.
    pub rows: Vec<Vec<String>>,
}

/// What has the same conditions, by their names.
type Part<'a> = (Vec<&'a str>, Vec<&'a Figure>);

/// The tables of all groups, in the order in which they were measured.
pub fn tables(figures: &[Figure]) -> Vec<Table> {
    let mut groups: Vec<(&str, Vec<Part<'_>>)> = Vec::new();
    for figure in figures {
        let group = place(&mut groups, &figure.group.as_str());
        let names: Vec<&str> = figure.case.keys().map(String::as_str).collect();
        let table = place(&mut groups[group].1, &names);
        groups[group].1[table].1.push(figure);
    }
    let of_group = |(group, parts): (&str, Vec<Part<'_>>)| -> Vec<Table> {
        let alone = parts.len() == 1;
        let title = |names: &[&str]| match alone || names.is_empty() {
            true => group.to_owned(),
            false => format!("{group}, by {}", names.join(", ")),
        };
        let parts = parts.into_iter();
        parts.map(|(names, figures)| by_numbers(table(title(&names), figures), &names)).collect()
    };
    groups.into_iter().flat_map(of_group).collect()
}

/// Where what goes with a key is, which is made if it is not there.
fn place<K: PartialEq + Clone, V: Default>(all: &mut Vec<(K, V)>, key: &K) -> usize {
    all.iter().position(|(other, _)| other == key).unwrap_or_else(|| {
        all.push((key.clone(), V::default()));
        all.len() - 1
    })
}

/// The same with a column for each number, if there is but one metric and a condition whose values are numbers beside
/// others: what is a curve is read in a line.
fn by_numbers(table: Table, names: &[&str]) -> Table {
    let conditions = table.header.iter().take_while(|name| names.contains(&name.as_str())).count();
    let is_number =
        |column: &usize| table.rows.iter().all(|row| row[*column].parse::<f64>().is_ok());
    let column = (0..conditions).find(is_number);
    let (Some(column), 2.., 2) = (column, conditions, table.header.len() - conditions) else {
        return table;
    };
    let Table { title, conditions: same, mut header, rows } = table;
    let (name, metric) = (header.remove(column), header.pop().unwrap_or_default());
    let mut numbers: Vec<(String, ())> = Vec::new();
    let mut lines: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for mut row in rows {
        let (number, value) = (row.remove(column), row.pop().unwrap_or_default());
        let (number, line) = (place(&mut numbers, &number), place(&mut lines, &row));
        let cells = &mut lines[line].1;
        cells.resize(cells.len().max(number + 1), String::new());
        cells[number] = value;
    }
    header.extend(numbers.iter().map(|(number, ())| format!("{name} {number}")));
    let line = |(mut key, mut cells): (Vec<String>, Vec<String>)| {
        cells.resize(numbers.len(), String::new());
        key.append(&mut cells);
        key
    };
    let rows = lines.into_iter().map(line).collect();
    let said = [same, metric].into_iter().filter(|said| !said.is_empty());
    Table { title, conditions: said.collect::<Vec<_>>().join("; "), header, rows }
}

fn table(title: String, figures: Vec<&Figure>) -> Table {
    let mut values: BTreeMap<&str, BTreeSet<Option<&str>>> = BTreeMap::new();
    let names: BTreeSet<&str> =
        figures.iter().flat_map(|figure| figure.case.keys().map(String::as_str)).collect();
    for figure in &figures {
        for name in &names {
            values.entry(name).or_default().insert(figure.case.get(*name).map(String::as_str));
        }
    }
    let (same, differ): (Vec<_>, Vec<_>) =
        values.iter().partition(|(_, values)| values.len() == 1 && figures.len() > 1);
    let said = |(name, values): &(&&str, &BTreeSet<Option<&str>>)| {
        let value = values.iter().flatten().next().copied().unwrap_or_default();
        format!("{name} {value}")
    };
    let conditions = same.iter().map(said).collect::<Vec<_>>().join(", ");
    let differ: Vec<&str> = differ.into_iter().map(|(name, _)| *name).collect();

    let mut metrics: Vec<String> = Vec::new();
    let mut rows: Vec<(Vec<String>, BTreeMap<String, String>)> = Vec::new();
    for figure in figures {
        let metric = format!("{}, {}", figure.metric, figure.unit);
        if !metrics.contains(&metric) {
            metrics.push(metric.clone());
        }
        let case = differ.iter().map(|name| figure.case.get(*name).cloned().unwrap_or_default());
        let key: Vec<String> = case.chain([figure.subject.clone()]).collect();
        let row = place(&mut rows, &key);
        rows[row].1.insert(metric, cell(figure));
    }
    let header = differ.iter().map(|name| (*name).to_owned());
    let header = header.chain(["subject".to_owned()]).chain(metrics.iter().cloned()).collect();
    let row = |(key, cells): (Vec<String>, BTreeMap<String, String>)| {
        let cells = metrics.iter().map(|metric| cells.get(metric).cloned().unwrap_or_default());
        key.into_iter().chain(cells.collect::<Vec<_>>()).collect()
    };
    let rows = rows.into_iter().map(row).collect();
    Table { title, conditions, header, rows }
}

/// The value, and how many times another's it is.
fn cell(figure: &Figure) -> String {
    let mut text = short(figure.value);
    if let Some([low, high]) = figure.interval {
        write_to(&mut text, format_args!(" [{}, {}]", short(low), short(high)));
    }
    if let Some(Ratio { value, interval, .. }) = &figure.ratio {
        write_to(&mut text, format_args!(" ×{value:.2}"));
        if let Some([low, high]) = interval {
            write_to(&mut text, format_args!(" [{low:.3}, {high:.3}]"));
        }
    }
    text
}

fn write_to(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to a string succeeds");
}

// === impl Table ===

impl Table {
    /// Laid out with spaces.
    pub fn text(&self) -> String {
        let Self { title, conditions, header, rows } = self;
        let mut text = match conditions.as_str() {
            "" => format!("{title}\n\n"),
            conditions => format!("{title}: {conditions}\n\n"),
        };
        let width = |column: usize| {
            let cells = rows.iter().map(|row| &row[column]).chain([&header[column]]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        let upper: Vec<String> = header.iter().map(|name| name.to_uppercase()).collect();
        for row in [&upper].into_iter().chain(rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let Self { title, conditions, header, rows } = self;
        let mut text = format!("## {title}\n\n");
        if !conditions.is_empty() {
            write_to(&mut text, format_args!("In all rows: {conditions}.\n\n"));
        }
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        text += &line(header);
        text += &format!("|{}\n", "---|".repeat(header.len()));
        text.extend(rows.iter().map(|row| line(row)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Vec<Figure> {
        let figure = |subject, metric, value| {
            Figure::new("connect", subject, metric, value, "us").case("backends", 2)
        };
        vec![
            figure("none", "p50", 20.0).case("services", 1),
            figure("none", "p99", 40.0).case("services", 1),
            figure("ours", "p50", 21.0).case("services", 1).ratio_within(
                "none",
                1.05,
                Some([1.0, 1.1]),
            ),
            figure("ours", "p50", 22.0).case("services", 100),
            Figure::new("after", "none", "p50", 1.5, "us"),
        ]
    }

    #[test]
    fn a_group_is_a_table_and_a_metric_is_a_column() {
        let tables = tables(&figures());
        let [connect, after] = tables.as_slice() else { panic!("{tables:?}") };
        assert_eq!(connect.conditions, "backends 2");
        assert_eq!(connect.header, ["services", "subject", "p50, us", "p99, us"]);
        assert_eq!(
            connect.rows,
            [
                ["1", "none", "20.0", "40.0"],
                ["1", "ours", "21.0 ×1.05 [1.000, 1.100]", ""],
                ["100", "ours", "22.0", ""]
            ]
        );
        assert_eq!((after.title.as_str(), after.rows.len()), ("after", 1));
    }

    #[test]
    fn other_conditions_are_another_table_and_a_curve_is_a_line() {
        let figure = |metric, value| Figure::new("scale", "model", metric, value, "%");
        let share = |of, hosts, value| figure("share", value).case("of", of).case("hosts", hosts);
        let figures = [
            share("cpu", 100, 2.0),
            share("cpu", 5000, 100.0),
            share("memory", 5000, 0.0),
            figure("most", 70.0).case("of", "cpu"),
            figure("in all", 1.0),
        ];
        let tables = tables(&figures);
        let titles: Vec<&str> = tables.iter().map(|table| table.title.as_str()).collect();
        assert_eq!(titles, ["scale, by hosts, of", "scale, by of", "scale"]);
        assert_eq!(tables[0].conditions, "share, %");
        assert_eq!(tables[0].header, ["of", "subject", "hosts 100", "hosts 5000"]);
        assert_eq!(tables[0].rows, [["cpu", "model", "2.00", "100"], ["memory", "model", "", "0"]]);
        assert_eq!(tables[1].header, ["of", "subject", "most, %"]);
        assert_eq!(tables[2].rows, [["model", "1.00"]]);
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let text = tables(&figures())[0].text();
        let expected = "connect: backends 2\n\n\
                        SERVICES  SUBJECT  P50, US                    P99, US\n\
                        1         none     20.0                       40.0\n\
                        1         ours     21.0 ×1.05 [1.000, 1.100]\n\
                        100       ours     22.0\n";
        assert_eq!(text, expected);
        let markdown = tables(&figures())[0].markdown();
        assert!(markdown.contains("\n| 1 | none | 20.0 | 40.0 |\n"), "{markdown}");
    }
}
