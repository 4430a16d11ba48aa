//! What the benchmark measures and how it is said: sections measure and report flat records, from
//! which the table, the plots and the document of results come. Ratios are the result; absolute
//! values stand beside them.

mod after;
pub mod check;
mod churn;
mod connect;
mod control;
mod cpu;
mod hooks;
pub mod ipvs;
pub mod machine;
pub mod ours;
mod packets;
pub mod plots;
mod probes;
pub mod publish;
pub mod results;
pub mod scale;
mod scene;
mod servers;
mod station;
pub mod statistics;
pub mod table;
pub mod verdict;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::io::Write as _;

/// All sections, in the order in which they run.
pub const SECTIONS: &[Section] = &[
    Section {
        name: hooks::GROUP,
        about: "nanoseconds per run of each hook's program",
        run: hooks::run,
    },
    Section {
        name: connect::GROUP,
        about: "latency, rate and processor time of connects, beside rules of kube-proxy's shape",
        run: connect::run,
    },
    Section {
        name: ipvs::GROUP,
        about: "the first of that by IPVS, in an emulated Linux 6.1: ratios only",
        run: ipvs::run,
    },
    Section {
        name: after::GROUP,
        about: "latency, throughput and processor time on connections that are made",
        run: after::run,
    },
    Section {
        name: "control-file",
        about: "loading services from a file and changing one; what the agent needs",
        run: control::file,
    },
    Section { name: "control-etcd", about: "the same from etcd", run: control::etcd },
    Section {
        name: "control-kubernetes",
        about: "the same from a cluster's API server",
        run: control::kubernetes,
    },
    Section {
        name: "control-nftables",
        about: "the same as rules, by nft",
        run: control::nftables,
    },
    Section {
        name: "churn",
        about: "connects while 1,000 backends change each second",
        run: churn::run,
    },
    Section {
        name: "packets",
        about: "connections from another host, by the number of services",
        run: packets::run,
    },
    Section { name: "probes", about: "what checks of many backends cost", run: probes::run },
    Section {
        name: "scale",
        about: "many hosts on one store: measured with as many as fit, and extrapolated",
        run: scale::run,
    },
];

/// A part of the benchmark that can be run alone.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// By which it is asked for; the group of its figures is the same, up to a dash.
    pub name: &'static str,
    /// What it measures, for the help.
    pub about: &'static str,
    /// Measures, and reports each figure as soon as it is known.
    pub run: fn(&Plan, &mut Report) -> anyhow::Result<()>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// As little as shows that all can be measured; the figures say nothing.
    Least,
    /// All of it in a few minutes.
    Quick,
    /// As much as the results need that are published.
    Full,
}

/// What a run does.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// How much of it.
    pub extent: Extent,
    /// Of everything that is chosen at random.
    pub seed: u64,
}

/// One measured number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What is measured, one group per section of the table: `hooks`, `connect`, `after`, ...
    pub group: String,
    /// Of what: `ours`, `empty`, `nftables`, `iptables`, `none`, ...
    pub subject: String,
    /// Under which conditions, such as `services` = `10000` or `protocol` = `tcp`.
    pub case: BTreeMap<String, String>,
    /// `p50`, `p99`, `rate`, `cpu`, `memory`, `load`, ...
    pub metric: String,
    /// `ns`, `us`, `ms`, `1/s`, `MB`, `Gbit/s`, ...
    pub unit: String,
    /// In that unit.
    pub value: f64,
    /// Bounds of the 95 % interval, where it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Beside another subject in the same case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
}

/// A value over that of another subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The other subject.
    pub to: String,
    /// Value over its value.
    pub value: f64,
    /// Bounds of the 95 % interval, where it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

/// The figures so far.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    unusable: Vec<String>,
}

// === impl Plan ===

impl Plan {
    /// Of three amounts, the one that goes with the extent.
    fn choose<T>(&self, least: T, quick: T, full: T) -> T {
        match self.extent {
            Extent::Least => least,
            Extent::Quick => quick,
            Extent::Full => full,
        }
    }
}

// === impl Figure ===

impl Figure {
    /// A figure without conditions, interval and ratio.
    pub fn new(group: &str, subject: &str, metric: &str, value: f64, unit: &str) -> Self {
        Self {
            group: group.to_owned(),
            subject: subject.to_owned(),
            case: BTreeMap::new(),
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            value,
            interval: None,
            ratio: None,
        }
    }

    /// With one more condition.
    #[must_use]
    pub fn case(mut self, name: &str, value: impl Display) -> Self {
        self.case.insert(name.to_owned(), value.to_string());
        self
    }

    /// With the bounds of its 95 % interval.
    #[must_use]
    pub fn interval(mut self, interval: [f64; 2]) -> Self {
        self.interval = Some(interval);
        self
    }

    /// With its value over that of another subject.
    #[must_use]
    pub fn ratio(self, to: &str, value: f64) -> Self {
        self.ratio_within(to, value, None)
    }

    /// [`Figure::ratio`], with the bounds of the ratio's 95 % interval.
    #[must_use]
    pub fn ratio_within(mut self, to: &str, value: f64, interval: Option<[f64; 2]>) -> Self {
        self.ratio = Some(Ratio { to: to.to_owned(), value, interval });
        self
    }
}

impl Figure {
    /// Without a ratio and intervals that are no numbers, and whether there was one.
    fn of_numbers(mut self) -> (Self, bool) {
        let whole = self.clone();
        let finite = |interval: &[f64; 2]| interval.iter().all(|bound| bound.is_finite());
        self.interval = self.interval.filter(finite);
        self.ratio = self.ratio.filter(|ratio| ratio.value.is_finite());
        if let Some(ratio) = &mut self.ratio {
            ratio.interval = ratio.interval.filter(finite);
        }
        // What is no number is not equal to itself either.
        let lost = self != whole;
        (self, lost)
    }
}

impl Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.group, self.subject)?;
        for (name, value) in &self.case {
            write!(f, " {name}={value}")?;
        }
        write!(f, " {}: {} {}", self.metric, short(self.value), self.unit)?;
        if let Some(interval) = self.interval {
            write!(f, " {}", Between(interval))?;
        }
        if let Some(Ratio { to, value, interval }) = &self.ratio {
            write!(f, "; {value:.3} of {to}")?;
            if let Some(interval) = interval {
                write!(f, " [{:.3}, {:.3}]", interval[0], interval[1])?;
            }
        }
        Ok(())
    }
}

/// The bounds of an interval.
struct Between([f64; 2]);

impl Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([low, high]) = self;
        write!(f, "[{}, {}]", short(*low), short(*high))
    }
}

/// A number with as many digits as are of use.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

// === impl Report ===

impl Report {
    /// Keeps a figure, and says it on standard error: a run takes long. What is no number is left out, as JSON
    /// has no word for it: a figure without a value, of which [`Report::unusable`] tells, or a ratio or an
    /// interval, of which it is said here that there was none.
    pub fn figure(&mut self, figure: Figure) {
        // Nobody may be reading that; what counts is written at the end.
        let mut out = std::io::stderr().lock();
        let _ = writeln!(out, "{figure}");
        if !figure.value.is_finite() {
            self.unusable.push(figure.to_string());
            return;
        }
        let (figure, lost) = figure.of_numbers();
        if lost {
            let _ = writeln!(
                out,
                "  too little was seen for all of that; what is no number is left out"
            );
        }
        self.figures.push(figure);
    }

    /// Figures that have no value, in words: there were no samples.
    pub fn unusable(&self) -> &[String] {
        &self.unusable
    }

    /// All figures, in the order in which they were reported.
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_not_kept() {
        let figure = |value| Figure::new("connect", "ours", "cpu", value, "us");
        let mut report = Report::default();
        for figure in [
            figure(1.0).interval([0.5, 2.0]).ratio_within("none", 2.0, Some([1.0, 3.0])),
            figure(2.0).interval([0.5, f64::NAN]).ratio_within(
                "none",
                2.0,
                Some([1.0, f64::INFINITY]),
            ),
            figure(3.0).ratio("none", f64::INFINITY),
            figure(f64::NAN),
        ] {
            report.figure(figure);
        }
        let whole = figure(1.0).interval([0.5, 2.0]).ratio_within("none", 2.0, Some([1.0, 3.0]));
        assert_eq!(report.figures(), [whole, figure(2.0).ratio("none", 2.0), figure(3.0)]);
        assert_eq!(report.unusable(), ["connect ours cpu: NaN us"]);
        let text = serde_json::to_string(report.figures()).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Figure>>(&text).unwrap(), report.figures());
    }
}
