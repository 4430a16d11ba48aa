//! A run's results among the documents: `docs/bench`, and what the README and `docs/scale.md` say of it.

use super::control::INSTALLED;
use super::machine::Machine;
use super::results::Results;
use super::scale::page;
use super::table::{Table, tables};
use super::{Figure, SECTIONS, ipvs, machine, plots, verdict};
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

/// Writes results, tables and plots into `docs/bench` of a work tree, the summary into its README, and what many
/// hosts come to into `docs/scale.md`.
///
/// # Errors
///
/// If a file can't be written, a plot not be drawn, or one of those pages of `root` can't be read or has no lines for
/// what belongs there. What comes before that is written.
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
    write(&readme, &text)?;
    let scale = root.join("docs/scale.md");
    let text =
        fs::read_to_string(&scale).with_context(|| format!("can't read {}", scale.display()))?;
    let text = page::filled(&text, &results.figures)
        .with_context(|| format!("{} can't be written anew", scale.display()))?;
    write(&scale, &text)
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("can't write {}", file.display()))
}

/// All tables.
fn document(results: &Results) -> String {
    let Results { machine, figures, quick, seed, finished: _, failed: _ } = results;
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
                (Some(one), ..) if one == "1" => format!("{name}, 1 service"),
                (Some(services), ..) => format!("{name}, {services} services"),
                (_, Some(protocol), Some(load)) => format!("{name}, {protocol} {load}"),
                _ => name.to_owned(),
            };
            // Figures of some groups are ratios themselves.
            let ratio = match (&figure.ratio, figure.unit.as_str()) {
                (Some(ratio), _) => Some((ratio.value, ratio.interval)),
                (None, "of none") => Some((figure.value, figure.interval)),
                _ => None,
            };
            let ratio = ratio.map(|(ratio, interval)| match interval {
                Some([low, high]) => format!("{ratio:.2} [{low:.2}, {high:.2}]"),
                None => format!("{ratio:.2}"),
            });
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
        "Times what it is without any program or rule, with the ratio's 95 % interval; on a {}.\n\n\
         | | {} |\n|---|{}\n",
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
///
/// # Errors
///
/// If only some sections run, the build is not optimised, or what is measured is not committed.
pub fn check(machine: &Machine, names: &[String]) -> anyhow::Result<()> {
    ensure!(
        names.is_empty() && machine.optimised,
        "only all sections of an optimised build are published: `make bench UPDATE=1`, without SECTIONS"
    );
    ensure!(
        !machine.commit.ends_with("-dirty"),
        "what is measured is not committed ({}): commit it, so that the results can name what they are of",
        machine.commit
    );
    Ok(())
}

/// That these are the results of a whole run that is as it should be, of what is in this work tree. Only IPVS may
/// lack: not every machine can have it.
///
/// # Errors
///
/// If a section other than IPVS has no figures, which the error names, or failed; if ours is felt after connect; if
/// what is measured has changed since; and as [`check`].
pub fn whole(results: &Results, root: &Path) -> anyhow::Result<()> {
    let missing = missing(&results.figures);
    ensure!(
        missing.is_empty(),
        "that run has not measured {}: `make bench` does, without SECTIONS",
        missing.join(", ")
    );
    let wrong = verdict::of_run(results);
    ensure!(wrong.is_empty(), "that run is not what it should be:\n{}", wrong.join("\n"));
    let installed = |figure: &&Figure| {
        figure.metric == "program" && figure.case.get("build").is_some_and(|b| b == INSTALLED)
    };
    ensure!(
        results.quick || results.figures.iter().filter(installed).count() == 2,
        "that run has no sizes of both programs as they are installed: `make bench UPDATE=1` builds them"
    );
    check(&results.machine, &[])?;
    machine::unchanged_since(root, &results.machine.commit)
}

/// Sections of which there are no figures.
pub fn missing(figures: &[Figure]) -> Vec<&'static str> {
    let is_of = |figure: &Figure, name: &str| match name.split_once('-') {
        None => figure.group == name,
        // Rules come from nowhere.
        Some((group, source)) => {
            let own = figure.case.get("source").unwrap_or(&figure.subject);
            figure.group == group && own == source
        }
    };
    let names = SECTIONS.iter().map(|section| section.name).filter(|name| *name != ipvs::GROUP);
    names.filter(|name| !figures.iter().any(|figure| is_of(figure, name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_the_ratios() {
        let figure = |subject, ratio| {
            let figure = Figure::new("connect", subject, "p50", 20.0, "us").case("services", 100);
            figure.ratio_within("none", ratio, Some([1.0, ratio]))
        };
        let there = Figure::new("ipvs", "ipvs", "p50", 1.5, "of none").case("services", 1);
        let figures = vec![figure("ours", 1.02), figure("iptables", 2.5), there];
        let machine = Machine { optimised: true, ..Machine::here() };
        let results =
            Results { machine, finished: 0, quick: true, seed: 1, failed: Vec::new(), figures };
        let summary = summary(&results, &[("connect.svg", "Connects")]);
        assert!(
            summary.ends_with(
                "\n| connect(), median, 100 services | 1.02 [1.00, 1.02] |  | 2.50 [1.00, 2.50] |  |\n\
                 | connect(), median, in an emulated Linux 6.1, 1 service |  |  |  | 1.50 |\n"
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
    }

    #[test]
    fn only_a_whole_run_of_what_is_committed_is_published() {
        let machine = Machine { optimised: true, commit: "abc".into(), ..Machine::here() };
        assert!(check(&machine, &[]).is_ok());
        assert!(check(&machine, &["hooks".to_owned()]).is_err());
        assert!(check(&Machine { optimised: false, ..machine.clone() }, &[]).is_err());
        assert!(check(&Machine { commit: "abc-dirty".into(), ..machine.clone() }, &[]).is_err());

        let scratch = tempfile::tempdir().unwrap();
        let results = |quick, failed: &[&str], figures: &[Figure]| Results {
            machine: machine.clone(),
            finished: 0,
            quick,
            seed: 1,
            failed: failed.iter().map(|line| (*line).to_owned()).collect(),
            figures: figures.to_vec(),
        };
        let why = |results: &Results| whole(results, scratch.path()).unwrap_err().to_string();
        let file = Figure::new("control", "ours", "load", 1.0, "ms").case("source", "file");
        let said = why(&results(false, &[], &[file]));
        assert!(
            said.contains("hooks, connect, after, control-etcd, control-kubernetes, "),
            "{said}"
        );
        assert!(said.contains(", control-nftables, ") && !said.contains("control-file"), "{said}");

        let all: Vec<Figure> = SECTIONS
            .iter()
            .map(|section| match section.name.split_once('-') {
                None => Figure::new(section.name, "ours", "p50", 1.0, "us"),
                Some((group, "nftables")) => Figure::new(group, "nftables", "load", 1.0, "ms"),
                Some((group, from)) => {
                    Figure::new(group, "ours", "load", 1.0, "ms").case("source", from)
                }
            })
            .collect();
        let said = why(&results(true, &["section churn: no etcd"], &all));
        assert!(said.contains("not measured: section churn"), "{said}");
        let said = why(&results(false, &[], &all));
        assert!(said.contains("p50 of requests on tcp, with its interval"), "{said}");
        // There is no such commit.
        let said = why(&results(true, &[], &all));
        assert!(said.contains("git knows no commit abc"), "{said}");
    }
}
