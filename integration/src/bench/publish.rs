//! A run's results among the documents: `docs/bench`, and what the README says of it.

use super::machine::Machine;
use super::results::Results;
use super::table::{Table, tables};
use super::{Figure, plots};
use anyhow::{Context as _, ensure};
use std::fs;
use std::path::Path;

/// Lines of the README between which the summary stands.
const BEGIN: &str = "<!-- bench: begin -->\n";
const END: &str = "<!-- bench: end -->";
/// Whose ratios the summary has.
const SUBJECTS: [&str; 4] = ["ours", "nftables", "iptables", "ipvs"];
/// Of which groups and metrics, and what it calls them.
const ROWS: [(&str, &str, &str); 7] = [
    ("connect", "p50", "connect(), median"),
    ("connect", "cpu", "processor time of a connection"),
    ("ipvs", "p50", "connect(), median, in an emulated Linux 6.1"),
    ("ipvs", "cpu", "processor time of a connection there"),
    ("after", "p50", "request and response, median"),
    ("after", "throughput", "throughput"),
    ("after", "cpu", "processor time"),
];

/// Writes results, tables and plots into `docs/bench` of a work tree, and the summary into its README.
pub fn publish(results: &Results, root: &Path) -> anyhow::Result<()> {
    let directory = root.join("docs/bench");
    results.write(&directory)?;
    let drawn = plots::draw(&results.figures, &directory)?;
    write(&directory.join("README.md"), &document(results))?;
    let readme = root.join("README.md");
    let text =
        fs::read_to_string(&readme).with_context(|| format!("can't read {}", readme.display()))?;
    let text = replaced(&text, &summary(results, &drawn))
        .with_context(|| format!("{} has no lines {BEGIN}and {END}", readme.display()))?;
    write(&readme, &text)
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("can't write {}", file.display()))
}

/// All tables.
fn document(results: &Results) -> String {
    let Results { machine, figures, quick, seed, finished: _ } = results;
    let kind = if *quick { "A shortened run" } else { "A run" };
    let tables: Vec<String> = tables(figures).iter().map(Table::markdown).collect();
    format!(
        "# Benchmark\n\n\
         {kind} of `make bench` on a {machine}; seed {seed}. `×` is the value over that of the \
         subject compared with (`empty`: a program that does nothing; `none`: no program and no \
         rules), in brackets the ratio's 95 % interval: median of paired turns, percentile bootstrap \
         over the turns. [How it is measured](../benchmark.md).\n\n{}",
        tables.join("\n")
    )
}

/// The plots, and ratios only.
fn summary(results: &Results, drawn: &[(&str, &str)]) -> String {
    let mut rows: Vec<(String, [String; SUBJECTS.len()])> = Vec::new();
    for (group, metric, name) in ROWS {
        let of = |figure: &&Figure| figure.group == group && figure.metric == metric;
        for figure in results.figures.iter().filter(of) {
            let Some(subject) = SUBJECTS.iter().position(|subject| *subject == figure.subject)
            else {
                continue;
            };
            let case = |name: &str| figure.case.get(name);
            let what = match (case("services"), case("protocol"), case("load")) {
                (Some(services), ..) => format!("{name}, {services} services"),
                (_, Some(protocol), Some(load)) => format!("{name}, {protocol} {load}"),
                _ => name.to_owned(),
            };
            // Figures of some groups are ratios themselves.
            let ratio = match (&figure.ratio, figure.unit.as_str()) {
                (Some(ratio), _) => Some(ratio.value),
                (None, "of none") => Some(figure.value),
                _ => None,
            };
            let ratio = ratio.map(|ratio| format!("{ratio:.2}"));
            let place = rows.iter().position(|(other, _)| *other == what).unwrap_or_else(|| {
                rows.push((what, Default::default()));
                rows.len() - 1
            });
            rows[place].1[subject] = ratio.unwrap_or_default();
        }
    }
    let plots = drawn.iter().map(|(file, title)| format!("![{title}](docs/bench/{file})\n\n"));
    let mut text = plots.collect::<String>();
    text += &format!(
        "Times what it is without any program or rule; on a {}.\n\n| | {} |\n|---|{}\n",
        results.machine,
        SUBJECTS.join(" | "),
        "---|".repeat(SUBJECTS.len())
    );
    for (what, cells) in rows {
        text += &format!("| {what} | {} |\n", cells.join(" | "));
    }
    text
}

/// The document with another summary in it.
fn replaced(document: &str, summary: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{summary}{END}{after}"))
}

/// That a run of these sections is one to be published.
pub fn check(machine: &Machine, names: &[String]) -> anyhow::Result<()> {
    ensure!(
        names.is_empty() && machine.optimised,
        "only all sections of an optimised build are published: `make bench UPDATE=1`, without SECTIONS"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_the_ratios() {
        let figure = |subject, ratio| {
            let figure = Figure::new("connect", subject, "p50", 20.0, "us").case("services", 100);
            figure.ratio("none", ratio)
        };
        let there = Figure::new("ipvs", "ipvs", "p50", 1.5, "of none").case("services", 1);
        let figures = vec![figure("ours", 1.02), figure("iptables", 2.5), there];
        let machine = Machine { optimised: true, ..Machine::here() };
        let results = Results { machine, finished: 0, quick: true, seed: 1, figures };
        let summary = summary(&results, &[("connect.svg", "Connects")]);
        assert!(
            summary.ends_with(
                "\n| connect(), median, 100 services | 1.02 |  | 2.50 |  |\n\
                 | connect(), median, in an emulated Linux 6.1, 1 services |  |  |  | 1.50 |\n"
            ),
            "{summary}"
        );
        assert!(summary.starts_with("![Connects](docs/bench/connect.svg)\n\n"), "{summary}");
        let readme = format!("before\n{BEGIN}old\n{END}\nafter\n");
        let readme = replaced(&readme, &summary).unwrap();
        assert!(readme.contains("2.50") && !readme.contains("old"), "{readme}");
        assert!(readme.ends_with(&format!("{END}\nafter\n")), "{readme}");
        assert_eq!(replaced("nothing", &summary), None);
        assert!(document(&results).contains("# Benchmark\n\nA shortened run"));
        assert!(check(&results.machine, &[]).is_ok());
        assert!(check(&results.machine, &["hooks".to_owned()]).is_err());
        assert!(check(&Machine { optimised: false, ..results.machine }, &[]).is_err());
    }
}
