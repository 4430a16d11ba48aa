//! Whether the ratios are what they should be: after a connect, nothing of ours is felt; and, for the
//! shortened run, no ratio has collapsed. Never an absolute time.

use super::after::{self, Load};
use super::results::Results;
use super::{Figure, Ratio};

/// The section that [`felt_afterwards`] judges.
const AFTERWARDS: &str = after::GROUP;
/// What ours may take after a connect, of what it takes without any program.
const AFTER: f64 = 1.01;
/// An interval that is as wide says nothing about a hundredth.
const WIDEST: f64 = 0.05;

/// What a ratio must stay below, or above.
#[derive(Clone, Copy, Debug)]
struct Bound {
    group: &'static str,
    subject: &'static str,
    /// All of it must be in the figure's case.
    case: &'static [(&'static str, &'static str)],
    metric: &'static str,
    to: &'static str,
    above: f64,
    below: f64,
}

/// Far from what is measured on a quiet machine, so that a busy one passes.
const BOUNDS: [Bound; 9] = [
    // A lookup, a choice and a row cost a few times the empty program; 3.6 when this was written.
    Bound {
        group: "hooks",
        subject: "ours",
        case: &[("hook", "connect4"), ("to", "hot")],
        metric: "time",
        to: "empty",
        above: 1.0,
        below: 12.0,
    },
    // Cache misses of large tables; 24 when this was written.
    Bound {
        group: "hooks",
        subject: "ours",
        case: &[("hook", "connect4"), ("to", "random")],
        metric: "time",
        to: "empty",
        above: 1.0,
        below: 80.0,
    },
    // Half a dozen operations on tables, of which one writes; 18 and 20 when this was written.
    Bound {
        group: "hooks",
        subject: "three hashes and an LRU write",
        case: &[("hook", "connect4"), ("to", "hot")],
        metric: "time",
        to: "empty",
        above: 2.0,
        below: f64::INFINITY,
    },
    Bound {
        group: "hooks",
        subject: "prefix match, hash and an LRU write",
        case: &[("hook", "connect4"), ("to", "hot")],
        metric: "time",
        to: "empty",
        above: 2.0,
        below: f64::INFINITY,
    },
    // A connect on TCP takes about a hundred times what our program takes of it.
    Bound {
        group: "connect",
        subject: "ours",
        case: &[],
        metric: "p50",
        to: "none",
        above: 0.5,
        below: 1.6,
    },
    // A rule per service: if this is not slower, the comparison does not measure what it says.
    Bound {
        group: "connect",
        subject: "iptables",
        case: &[("services", "3000")],
        metric: "p50",
        to: "none",
        above: 1.3,
        below: f64::INFINITY,
    },
    // One lookup among however many, and connection tracking; 1.4 when this was written.
    Bound {
        group: "connect",
        subject: "nftables",
        case: &[("services", "3000")],
        metric: "p50",
        to: "none",
        above: 1.0,
        below: 5.0,
    },
    Bound {
        group: "after",
        subject: "ours",
        case: &[("load", "requests")],
        metric: "p50",
        to: "none",
        above: 0.5,
        below: 1.6,
    },
    Bound {
        group: "after",
        subject: "ours",
        case: &[("load", "bulk"), ("protocol", "tcp")],
        metric: "throughput",
        to: "none",
        above: 0.25,
        below: 4.0,
    },
];

/// What is wrong with a run, a line each: what was not measured, and what [`felt_afterwards`] says if that was part of
/// it. Of a shortened run it says nothing, as few turns are too few for that.
pub fn of_run(results: &Results) -> Vec<String> {
    let missing = results.failed.iter().map(|line| format!("not measured: {line}"));
    let judged = !results.quick && results.figures.iter().any(|figure| figure.group == AFTERWARDS);
    let felt = if judged { felt_afterwards(&results.figures) } else { Vec::new() };
    missing.chain(felt).collect()
}

/// What says of ours that it is felt after a connect, a line each: 95 % intervals that lie above
/// [`AFTER`], those that are too wide to tell, and those that are missing. To translate each datagram of a socket that is not connected is
/// what such sockets cost, and is none of it; processor time is too coarse.
pub fn felt_afterwards(figures: &[Figure]) -> Vec<String> {
    let mut lines = Vec::new();
    for load in Load::ALL.into_iter().filter(|load| *load != Load::UnconnectedRequests) {
        let metric = if load.is_bulk() { "throughput" } else { "p50" };
        let is = |figure: &Figure, name: &str, value: &str| {
            figure.case.get(name).is_some_and(|own| own == value)
        };
        let found = figures.iter().find(|figure| {
            figure.group == AFTERWARDS
                && figure.subject == "ours"
                && figure.metric == metric
                && is(figure, "load", load.name())
                && is(figure, "protocol", load.protocol())
        });
        let ratio = found.and_then(|figure| Some((figure, figure.ratio.as_ref()?)));
        let Some((figure, Ratio { interval: Some([low, high]), .. })) = ratio else {
            let (name, protocol) = (load.name(), load.protocol());
            lines
                .push(format!("not measured: {metric} of {name} on {protocol}, with its interval"));
            continue;
        };
        let best = if load.is_bulk() { 1.0 / high } else { *low };
        if best > AFTER {
            lines.push(format!("felt after connect: {figure}"));
        } else if high - low >= WIDEST {
            lines.push(format!("too noisy a machine to tell what is felt after connect: {figure}"));
        }
    }
    lines
}

/// Ratios that have collapsed, or were not measured, a line each. Here a ratio is that of the values of
/// all turns: on a busy machine a single turn's may be anything.
pub fn collapsed(figures: &[Figure]) -> Vec<String> {
    let mut lines = Vec::new();
    for bound in &BOUNDS {
        let Bound { to, above, below, .. } = bound;
        let mut found = false;
        for figure in figures.iter().filter(|figure| bound.is_about(figure)) {
            let other = figures.iter().find(|other| {
                other.subject == *to
                    && (&other.group, &other.case, &other.metric)
                        == (&figure.group, &figure.case, &figure.metric)
            });
            let Some(other) = other else { continue };
            found = true;
            let ratio = figure.value / other.value;
            if !(*above < ratio && ratio < *below) {
                lines.push(format!("{ratio:.2} is not between {above} and {below}: {figure}"));
            }
        }
        if !found {
            lines.push(format!("not measured: {bound:?}"));
        }
    }
    lines
}

// === impl Bound ===

impl Bound {
    fn is_about(&self, figure: &Figure) -> bool {
        let Self { group, subject, case, metric, .. } = self;
        let is = |(name, value): &(&str, &str)| figure.case.get(*name).is_some_and(|v| v == value);
        figure.group == *group
            && figure.subject == *subject
            && figure.metric == *metric
            && case.iter().all(is)
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::Machine;
    use super::*;

    fn ours(load: Load, metric: &str, interval: Option<[f64; 2]>) -> Figure {
        let figure = Figure::new("after", "ours", metric, 1.0, "us").case("load", load.name());
        figure.case("protocol", load.protocol()).ratio_within("none", 1.0, interval)
    }

    /// What is not felt.
    fn all() -> Vec<Figure> {
        let metric = |load: Load| if load.is_bulk() { "throughput" } else { "p50" };
        Load::ALL.iter().map(|load| ours(*load, metric(*load), Some([0.98, 1.02]))).collect()
    }

    #[test]
    fn an_interval_may_include_the_bound_or_lie_below() {
        assert!(felt_afterwards(&all()).is_empty());
        for (load, metric, interval, felt) in [
            (Load::TcpRequests, "p50", [0.99, 1.03], false),
            (Load::UdpRequests, "p50", [0.91, 0.95], false),
            (Load::TcpRequests, "p50", [1.011, 1.02], true),
            (Load::UdpBulk, "throughput", [0.96, 1.00], false),
            (Load::TcpBulk, "throughput", [0.94, 0.98], true),
            // Neither is shown.
            (Load::TcpRequests, "p50", [0.99, 1.20], true),
            (Load::UdpBulk, "throughput", [0.90, 1.00], true),
            (Load::TcpRequests, "p99", [1.5, 2.0], false),
            (Load::UnconnectedRequests, "p50", [2.0, 3.0], false),
        ] {
            let figure = ours(load, metric, Some(interval));
            let figures: Vec<Figure> = [figure.clone()].into_iter().chain(all()).collect();
            assert_eq!(felt_afterwards(&figures).len(), usize::from(felt), "{figure}");
        }
    }

    #[test]
    fn a_shortened_run_and_a_part_of_one_are_not_judged() {
        let felt = ours(Load::TcpRequests, "p50", Some([1.02, 1.03]));
        let hooks = Figure::new("hooks", "ours", "time", 1.0, "ns");
        let run = |quick, figures: &[Figure], failed: &[&str]| {
            let failed = failed.iter().map(|line| (*line).to_owned()).collect();
            let (machine, figures) = (Machine::here(), figures.to_vec());
            of_run(&Results { machine, finished: 0, quick, seed: 1, failed, figures }).len()
        };
        // The other three are missing.
        assert_eq!(run(false, std::slice::from_ref(&felt), &[]), 4);
        assert_eq!(run(false, &all(), &[]), 0);
        assert_eq!(run(true, &[felt], &[]), 0);
        assert_eq!(run(false, std::slice::from_ref(&hooks), &[]), 0);
        assert_eq!(run(true, &[hooks], &["section churn: no etcd"]), 1);
    }

    #[test]
    fn what_is_missing_does_not_pass() {
        assert_eq!(felt_afterwards(&[]).len(), 4);
        let mut figures = all();
        figures[0] = ours(Load::TcpRequests, "p50", None);
        let expected = "not measured: p50 of requests on tcp, with its interval";
        assert_eq!(felt_afterwards(&figures), [expected]);
    }

    #[test]
    fn a_ratio_that_is_missing_has_collapsed() {
        assert_eq!(collapsed(&[]).len(), BOUNDS.len());
        let figure = |subject, value| {
            Figure::new("hooks", subject, "time", value, "ns")
                .case("hook", "connect4")
                .case("to", "hot")
        };
        let empty = figure("empty", 50.0);
        let figures = [empty.clone(), figure("ours", 200.0)];
        assert_eq!(collapsed(&figures).len(), BOUNDS.len() - 1);
        let lines = collapsed(&[empty, figure("ours", 1000.0)]);
        assert!(lines[0].starts_with("20.00 is not between 1 and 12: hooks ours"), "{lines:?}");
    }
}
