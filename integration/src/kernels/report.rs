//! What a guest says: a JSON object a line, over a serial line that nobody else writes to.

use super::programs::Job;
use crate::bench::Figure;
use serde::{Deserialize, Serialize};

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first: which kernel runs.
    Kernel {
        /// `uname -r`.
        release: String,
    },
    /// What preflight found of one feature.
    Feature {
        /// Its name in [`lb_agent::dataplane::features`].
        name: String,
        /// Whether the kernel has it.
        present: bool,
    },
    /// A test program has ended.
    Tests(Tests),
    /// It had measured this.
    Figure(Figure),
    /// The last: nothing is missing before it.
    End,
}

/// How a test program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tests {
    /// Its name, without cargo's hash.
    pub program: String,
    /// Names of the tests that passed.
    pub passed: Vec<String>,
    /// Names of those that failed.
    pub failed: Vec<String>,
    /// What the program came to, if not to an exit code of 0.
    pub trouble: Option<String>,
    /// Seconds that it took.
    pub seconds: u64,
    /// What it printed, if it failed.
    pub output: String,
}

/// What `kernels` says of a benchmark in a guest, in one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figures {
    /// There was no guest.
    Skipped {
        /// What is missing here.
        reason: String,
    },
    /// There was one.
    Measured {
        /// `uname -r` of its kernel.
        release: String,
        /// In the order in which they were measured.
        figures: Vec<Figure>,
    },
}

/// Everything a guest said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// `uname -r`; empty if the kernel did not come up.
    pub release: String,
    /// Features, in preflight's order.
    pub features: Vec<(String, bool)>,
    /// Test programs, in the order in which they ran.
    pub tests: Vec<Tests>,
    /// What they measured.
    pub figures: Vec<Figure>,
    /// Whether the guest came to its end by itself.
    pub complete: bool,
}

// === impl Tests ===

impl Tests {
    /// Reads what a test program printed; `trouble` if it did not end with 0.
    pub fn read(program: &str, output: &str, trouble: Option<String>, seconds: u64) -> Self {
        let (mut passed, mut failed) = (Vec::new(), Vec::new());
        for line in output.lines() {
            let Some(rest) = line.strip_prefix("test ") else { continue };
            let Some((name, verdict)) = rest.rsplit_once(" ... ") else { continue };
            match verdict.trim() {
                "ok" => passed.push(name.trim().to_owned()),
                "FAILED" => failed.push(name.trim().to_owned()),
                _ => {}
            }
        }
        let has_failed = trouble.is_some() || !failed.is_empty();
        let output = if has_failed { output.to_owned() } else { String::new() };
        Self { program: program.to_owned(), passed, failed, trouble, seconds, output }
    }

    /// Whether every test passed, and there were any.
    pub fn is_good(&self) -> bool {
        !self.passed.is_empty() && self.failed.is_empty() && self.trouble.is_none()
    }
}

/// The figures among what a program printed, each a line of JSON.
pub fn figures(output: &str) -> Vec<Figure> {
    let lines = output.lines().filter(|line| line.starts_with('{'));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

// === impl Report ===

impl Report {
    /// Reads a serial line's log. A line that is cut short ends it.
    pub fn read(log: &str) -> Self {
        let mut report = Self::default();
        for line in log.lines().filter(|line| line.starts_with(['{', '"'])) {
            match serde_json::from_str(line) {
                Ok(Line::Kernel { release }) => report.release = release,
                Ok(Line::Feature { name, present }) => report.features.push((name, present)),
                Ok(Line::Tests(tests)) => report.tests.push(tests),
                Ok(Line::Figure(figure)) => report.figures.push(figure),
                Ok(Line::End) => report.complete = true,
                Err(_) => break,
            }
        }
        report
    }

    /// The programs that were to run, and of which nothing was said.
    pub fn missing<'a>(&self, jobs: &'a [Job]) -> Vec<&'a str> {
        let said = |job: &&Job| self.tests.iter().any(|tests| tests.program == job.program);
        jobs.iter().filter(|job| !said(job)).map(|job| &*job.program).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 4 tests\ntest one ... ok\ntest a::two ... FAILED\n\
                          test three - should panic ... ok\ntest four ... ignored\n\n\
                          test result: FAILED. 2 passed; 1 failed\n";

    #[test]
    fn a_programs_output_names_its_tests() {
        let tests = Tests::read("tcp", OUTPUT, Some("exit status: 101".to_owned()), 3);
        assert_eq!(tests.passed, ["one", "three - should panic"]);
        assert_eq!(tests.failed, ["a::two"]);
        assert_eq!(tests.output, OUTPUT);
        assert!(!tests.is_good());
        assert!(Tests::read("tcp", "test one ... ok\n", None, 3).is_good());
        assert!(
            !Tests::read("tcp", "test one ... ok\n", Some("signal: 9".to_owned()), 3).is_good()
        );
        assert!(!Tests::read("tcp", "running 0 tests\n", None, 3).is_good(), "nothing ran");
    }

    #[test]
    fn figures_are_lines_of_their_own() {
        let figure = Figure::new("connect", "ours", "p50", 1.0, "us").case("services", 1);
        let line = serde_json::to_string(&figure).unwrap();
        let output = format!("{figure}\n{line}\n{{\"level\":\"INFO\"}}\n");
        assert_eq!(figures(&output), [figure]);
    }

    #[test]
    fn a_report_is_whole_or_says_so() {
        let tests = Tests::read("tcp", "test one ... ok\n", None, 1);
        let figure = Figure::new("connect", "ours", "p50", 1.0, "us");
        let lines = [
            Line::Kernel { release: "6.1.0-x".to_owned() },
            Line::Feature { name: "mptcp".to_owned(), present: true },
            Line::Tests(tests.clone()),
            Line::Figure(figure.clone()),
            Line::End,
        ];
        let lines = lines.map(|line| serde_json::to_string(&line).unwrap());
        let report = Report::read(&lines.join("\r\n"));
        let expected = Report {
            release: "6.1.0-x".to_owned(),
            features: vec![("mptcp".to_owned(), true)],
            tests: vec![tests],
            figures: vec![figure],
            complete: true,
        };
        assert_eq!(report, expected);
        let cut = &lines.join("\n")[..lines.join("\n").len() - 20];
        assert!(!Report::read(cut).complete);
        assert_eq!(Report::read("no kernel"), Report::default());
        let jobs = ["tcp", "udp"]
            .map(|program| Job { program: program.to_owned(), arguments: Vec::new() });
        assert_eq!(report.missing(&jobs), ["udp"]);
        assert_eq!(report.missing(&jobs[..1]), [""; 0]);
    }
}
