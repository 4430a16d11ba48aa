//! The ratios of the benchmark have not collapsed, in a shortened run; and all that it measures can be measured,
//! told and drawn. What was compiled without optimisation says nothing about ratios.

use integration::bench::machine::Machine;
use integration::bench::results::Results;
use integration::bench::{
    Extent, Figure, Plan, Report, SECTIONS, Section, check, publish, verdict,
};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

const SEED: u64 = 1;
/// Runs, of which one has to be quiet enough: what else the machine does shows in short turns, and what has
/// collapsed has in all.
const RUNS: usize = 4;
/// Emulates a machine, which takes longer than all others.
const EMULATED: &str = "ipvs";
/// Sections that wait most of the time.
const WAITING: [&str; 2] = ["probes", "scale"];
/// Where ratios are judged, nothing else is measured.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
#[cfg_attr(debug_assertions, ignore = "judged by `cargo test --release` only")]
fn have_not_collapsed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut collapsed = Vec::new();
    for run in 1..=RUNS {
        let mut report = Report::default();
        check::run(check::SERVICES, SEED, &mut report).expect("everything can be measured");
        collapsed = verdict::collapsed(report.figures());
        if collapsed.is_empty() {
            return;
        }
        println!("run {run}: {}", collapsed.join("\n"));
    }
    panic!("in each of {RUNS} runs, the last time: {}", collapsed.join("\n"));
}

/// Nobody else runs most of the sections before a whole run does, which takes half an hour.
#[test]
#[cfg_attr(debug_assertions, ignore = "takes long where nothing is optimised")]
fn every_section_can_be_measured_and_published() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let sections = SECTIONS.iter().filter(|section| section.name != EMULATED);
    let (waiting, busy): (Vec<&Section>, Vec<&Section>) =
        sections.partition(|section| WAITING.contains(&section.name));
    let figures = thread::scope(|scope| {
        let meanwhile = waiting.into_iter().map(|section| scope.spawn(move || figures_of(section)));
        let meanwhile: Vec<_> = meanwhile.collect();
        let mut figures: Vec<Figure> = busy.into_iter().flat_map(figures_of).collect();
        for thread in meanwhile {
            figures.extend(thread.join().expect("each can be measured"));
        }
        figures
    });
    assert_eq!(publish::missing(&figures), [""; 0]);

    let (scratch, machine) = (tempfile::tempdir().unwrap(), Machine::here());
    let readme = scratch.path().join("README.md");
    fs::write(&readme, "<!-- bench: begin -->\n<!-- bench: end -->\n").unwrap();
    let scale = scratch.path().join("docs/scale.md");
    fs::create_dir(scratch.path().join("docs")).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scale.md"), &scale).unwrap();
    let results =
        Results { machine, finished: 0, quick: true, seed: SEED, failed: Vec::new(), figures };
    publish::publish(&results, scratch.path()).unwrap();
    let directory = scratch.path().join("docs/bench");
    assert_eq!(Results::read(&directory).unwrap().figures.len(), results.figures.len());
    let (readme, document) =
        (fs::read_to_string(readme).unwrap(), fs::read_to_string(directory.join("README.md")));
    // What takes more samples, or another machine, has no plots.
    for plot in ["connect", "hooks", "after", "load", "change", "scale"] {
        assert!(directory.join(format!("{plot}.svg")).is_file(), "{plot} is not drawn");
        assert!(readme.contains(&format!("(docs/bench/{plot}.svg)")), "{readme}");
    }
    let scale = fs::read_to_string(scale).unwrap();
    assert!(scale.contains("\n| 4 | ") && scale.contains("\n| a host, checking | "), "{scale}");
    let document = document.unwrap();
    for Section { name, .. } in SECTIONS.iter().filter(|section| section.name != EMULATED) {
        let group = name.split('-').next().unwrap();
        assert!(document.contains(&format!("\n## {group}")), "{group} is not in {document}");
    }
}

/// As few as there can be.
fn figures_of(section: &Section) -> Vec<Figure> {
    let mut report = Report::default();
    let done = (section.run)(&Plan { extent: Extent::Least, seed: SEED }, &mut report);
    done.unwrap_or_else(|error| panic!("section {}: {error:#}", section.name));
    assert_eq!(report.unusable(), [""; 0], "section {}", section.name);
    report.figures().to_vec()
}
