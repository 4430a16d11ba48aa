//! What pages say of the benchmark is what its published results say: tables and plots are made of them anew, and
//! the times that the README picks out are looked up.

use crate::page::{ROOT, page};
use integration::bench::Figure;
use integration::bench::publish::publish;
use integration::bench::results::{self, Results};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A unit of results, one of the page, and how many of the former make one of the latter.
const UNITS: [(&str, &str, f64); 7] = [
    ("us", "µs", 1.0),
    ("us", "ms", 1e3),
    ("us", "s", 1e6),
    ("ms", "ms", 1.0),
    ("ms", "s", 1e3),
    ("MB", "MB", 1.0),
    ("MB", "GB", 1e3),
];

/// Pages that have parts which are made of the results.
const PAGES: [&str; 2] = ["README.md", "docs/scale.md"];

fn published() -> Results {
    Results::read(&Path::new(ROOT).join("docs/bench")).expect("there are published results")
}

#[test]
fn what_is_published_is_of_the_results() {
    let scratch = TempDir::with_prefix("lb-").expect("a directory can be made");
    fs::create_dir(scratch.path().join("docs")).expect("it is writable");
    for page in PAGES {
        fs::copy(Path::new(ROOT).join(page), scratch.path().join(page)).expect("it is writable");
    }
    publish(&published(), scratch.path()).expect("they can be published again");
    let mut names = PAGES.map(str::to_owned).to_vec();
    for entry in fs::read_dir(scratch.path().join("docs/bench")).expect("it was made") {
        let name = entry.expect("a directory can be read").file_name();
        // Of numbers that were read the last digit may be another.
        if name != results::FILE {
            names.push(format!("docs/bench/{}", name.to_string_lossy()));
        }
    }
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let made = fs::read_to_string(scratch.path().join(&name)).expect("it was made");
        assert!(
            made == page(&name).text,
            "{name} is not what docs/bench/results.json makes: copy that to target/bench, and `make bench AGAIN=1 UPDATE=1`"
        );
    }
}

#[test]
fn times_in_the_readme_are_of_the_results() {
    let figures = published().figures;
    let readme = page("README.md").text;
    let (_, times) = readme.split_once("Times, all of that run.").expect("the section of times");
    let mut services = String::new();
    let mut seen = 0;
    for row in times.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let number = cells[0].replace(',', "");
        if !number.is_empty() {
            services = number;
        }
        if services.parse::<u32>().is_err() {
            continue;
        }
        for (cell, wanted) in wanted(&cells) {
            let wanted = wanted.into_iter().map(|(subject, source, metric)| {
                let is_it = |figure: &&Figure| {
                    let group = if source == Some("packets") { "packets" } else { "control" };
                    let case = |name: &str| figure.case.get(name).map(String::as_str);
                    figure.group == group
                        && (&*figure.subject, &*figure.metric) == (subject, metric)
                        && case("services") == Some(services.as_str())
                        && (group == "packets" || case("source") == source)
                };
                let found = figures.iter().find(is_it);
                found.unwrap_or_else(|| panic!("no {metric} of {subject} {source:?}, {services}"))
            });
            seen += agree(cell, &wanted.collect::<Vec<_>>());
        }
    }
    assert!(seen > 40, "{seen} numbers were found");
    let share = |check: &str| {
        let is_it = |figure: &&Figure| {
            figure.group == "probes"
                && figure.metric == "cpu"
                && figure.case.get("check").is_some_and(|what| what == check)
        };
        figures.iter().find(is_it).expect("checks are measured").value
    };
    let checks = format!("take {:.0} % of a core, HTTP ones {:.0} %.", share("tcp"), share("http"));
    assert!(times.contains(&checks), "not {checks}");
}

/// Subject, source (or `packets`) and metric.
type Wanted<'c> = Vec<(&'c str, Option<&'c str>, &'c str)>;

/// The cells of a row that have numbers, with what they are of.
fn wanted<'c>(cells: &[&'c str]) -> Vec<(&'c str, Wanted<'c>)> {
    if cells[1] == "none, chains, ours" {
        let of = |subjects: &[&'c str], metrics: &[&'c str]| -> Wanted<'c> {
            let all =
                subjects.iter().flat_map(|subject| metrics.iter().map(move |m| (*subject, *m)));
            all.map(|(subject, metric)| (subject, Some("packets"), metric)).collect()
        };
        let ruled = ["chains", "ours"];
        return vec![
            (cells[2], of(&["none", "chains", "ours"], &["first packet p50"])),
            (cells[3], of(&ruled, &["load"])),
            (cells[4], of(&ruled, &["change p50", "change p99"])),
        ];
    }
    let metrics: &[&str] = match cells[1] {
        "loaded" => &["load"],
        "a backend changed, median and p99" => &["change p50", "change p99"],
        "agent's memory" => &["memory"],
        other => panic!("what is `{other}`?"),
    };
    let sources = [Some("file"), Some("etcd"), Some("kubernetes"), None];
    let with_numbers =
        cells[2..].iter().zip(sources).filter(|(cell, _)| cell.contains(char::is_numeric));
    with_numbers
        .map(|(cell, source)| {
            let subject = if source.is_some() { "ours" } else { "nftables" };
            let of = |metric: &&'static str| {
                let slowest = cell.contains("the slowest") && *metric == "change p99";
                (subject, source, if slowest { "change max" } else { metric })
            };
            (*cell, metrics.iter().map(of).collect())
        })
        .collect()
}

/// That a cell has these values, rounded as it has them; how many.
#[track_caller]
fn agree(cell: &str, wanted: &[&Figure]) -> usize {
    let text = cell.replace("the slowest of 20 ", "").replace(',', "");
    let words: Vec<&str> =
        text.split_whitespace().filter(|word| !["-", "and"].contains(word)).collect();
    let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let numbers: Vec<usize> = (0..words.len()).filter(|at| is_number(words[*at])).collect();
    assert_eq!(numbers.len(), wanted.len(), "{cell}");
    for (at, figure) in numbers.iter().zip(wanted) {
        // `108, 124 ms`: of both.
        let unit = words[*at..].iter().find(|word| !is_number(word)).expect("a unit");
        let factor =
            UNITS.iter().find(|(of, shown, _)| (figure.unit.as_str(), *unit) == (*of, *shown));
        let (.., factor) = factor.unwrap_or_else(|| panic!("{cell}: {unit}, and {figure:?}"));
        let decimals = words[*at].split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let value = format!("{:.decimals$}", figure.value / factor);
        assert_eq!(words[*at], value, "{cell}: {figure:?}");
    }
    numbers.len()
}
