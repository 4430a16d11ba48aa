//! Whether the ratios are what they should be: after a connect, nothing of ours is felt; and, for the
//! shortened run, no ratio has collapsed. Never an absolute time.

use super::after::{self, Load};
use super::{Figure, Ratio};

/// The section that [`felt_afterwards`] judges.
pub const AFTERWARDS: &str = after::GROUP;
/// What ours may take after a connect, of what it takes without any program.
const AFTER: f64 = 1.01;

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
const BOUNDS: [Bound; 6] = [
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

/// What says of ours that it is felt after a connect, a line each: 95 % intervals that lie above
/// [`AFTER`], and those that are missing. To translate each datagram of a socket that is not connected is
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
    use super::*;

    fn ours(load: Load, metric: &str, interval: Option<[f64; 2]>) -> Figure {
        let figure = Figure::new("after", "ours", metric, 1.0, "us").case("load", load.name());
        figure.case("protocol", load.protocol()).ratio_within("none", 1.0, interval)
    }

    /// What is not felt.
    fn all() -> Vec<Figure> {
        let metric = |load: Load| if load.is_bulk() { "throughput" } else { "p50" };
        Load::ALL.iter().map(|load| ours(*load, metric(*load), Some([0.9, 1.1]))).collect()
    }

    #[test]
    fn an_interval_may_include_the_bound_or_lie_below() {
        assert!(felt_afterwards(&all()).is_empty());
        for (load, metric, interval, felt) in [
            (Load::TcpRequests, "p50", [0.99, 1.20], false),
            (Load::UdpRequests, "p50", [0.90, 0.95], false),
            (Load::TcpRequests, "p50", [1.011, 1.02], true),
            (Load::UdpBulk, "throughput", [0.90, 1.00], false),
            (Load::TcpBulk, "throughput", [0.90, 0.98], true),
            (Load::TcpRequests, "p99", [1.5, 2.0], false),
            (Load::UnconnectedRequests, "p50", [2.0, 3.0], false),
        ] {
            let figure = ours(load, metric, Some(interval));
            let figures: Vec<Figure> = [figure.clone()].into_iter().chain(all()).collect();
            assert_eq!(felt_afterwards(&figures).len(), usize::from(felt), "{figure}");
        }
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
