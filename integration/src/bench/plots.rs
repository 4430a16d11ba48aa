//! Which figures are drawn, and how they are grouped: ratios, since they are the result; times where nothing is
//! there to be compared with.

mod drawing;

use self::drawing::{Groups, Series, bars, lines};
use super::Figure;
use anyhow::Context as _;
use std::fs;
use std::path::Path;

/// What is shown in one plot.
struct Plot {
    file: &'static str,
    title: &'static str,
    value: &'static str,
    data: Data,
}

/// Where its data come from.
enum Data {
    /// Values by a condition that is a number; of a figure that belongs to it, the line and the value.
    Lines { by: &'static str, figure: fn(&Figure) -> Option<(String, f64)> },
    /// Groups of bars.
    Bars(fn(&[Figure]) -> Groups),
}

const PLOTS: [Plot; 9] = [
    Plot {
        file: "connect.svg",
        title: "connect() on TCP, median, beside no program at all",
        value: "times as long",
        data: Data::Lines { by: "services", figure: |figure| ratio(figure, "connect", "p50") },
    },
    Plot {
        file: "ipvs.svg",
        title: "connect() on TCP in an emulated Linux 6.1, median, beside no program at all",
        value: "times as long",
        // These figures are ratios themselves.
        data: Data::Lines { by: "services", figure: |figure| value(figure, "ipvs", "p50") },
    },
    Plot {
        file: "hooks.svg",
        title: "connect4 of new UDP sockets, beside an empty program",
        value: "times as long",
        data: Data::Bars(hooks),
    },
    Plot {
        file: "after.svg",
        title: "After connect: median latency of a request, beside no program at all",
        value: "times as long",
        data: Data::Bars(|figures| {
            by_case(figures, "protocol", |figure| {
                is(figure, "after", "p50") && has(figure, "load", "requests")
            })
        }),
    },
    Plot {
        file: "cpu.svg",
        title: "Processor time of the whole machine, beside no program at all",
        value: "times as much",
        data: Data::Bars(processor_time),
    },
    Plot {
        file: "load.svg",
        title: "From the start until all services serve",
        value: "milliseconds",
        data: Data::Lines { by: "services", figure: |figure| by_source(figure, "load") },
    },
    Plot {
        file: "change.svg",
        title: "From a change of one service until a connect sees it, median",
        value: "milliseconds",
        data: Data::Lines { by: "services", figure: |figure| by_source(figure, "change p50") },
    },
    Plot {
        file: "churn.svg",
        title: "connect(), 99th percentile, while 1,000 backends change each second",
        value: "times as long as directly",
        data: Data::Bars(|figures| by_case(figures, "while", |figure| is(figure, "churn", "p99"))),
    },
    Plot {
        file: "scale.svg",
        title: "One etcd and many hosts: processor time of the leading member, extrapolated",
        value: "% of its cores",
        data: Data::Lines {
            by: "hosts",
            figure: |figure| {
                let wanted = is(figure, "scale", "share") && has(figure, "of", "store cpu");
                wanted
                    .then(|| (figure.case.get("fleet").cloned().unwrap_or_default(), figure.value))
            },
        },
    },
];

/// Draws what the figures have data for; the files' names, and what they show.
///
/// # Errors
///
/// If the directory can't be made, or a plot not be drawn or written. Those before it are there.
pub fn draw(
    figures: &[Figure],
    directory: &Path,
) -> anyhow::Result<Vec<(&'static str, &'static str)>> {
    fs::create_dir_all(directory).with_context(|| format!("can't make {}", directory.display()))?;
    let mut drawn = Vec::new();
    for plot in &PLOTS {
        let something = match plot.data {
            Data::Lines { by, figure } => {
                let series = by_number(figures, by, figure);
                if !series.is_empty() {
                    lines(plot, by, &series, directory)?;
                }
                !series.is_empty()
            }
            Data::Bars(groups) => {
                let groups = groups(figures);
                if !groups.is_empty() {
                    bars(plot, &groups, directory)?;
                }
                !groups.is_empty()
            }
        };
        if something {
            drawn.push((plot.file, plot.title));
        }
    }
    Ok(drawn)
}

fn is(figure: &Figure, group: &str, metric: &str) -> bool {
    figure.group == group && figure.metric == metric
}

fn has(figure: &Figure, name: &str, value: &str) -> bool {
    figure.case.get(name).is_some_and(|other| other == value)
}

fn ratio(figure: &Figure, group: &str, metric: &str) -> Option<(String, f64)> {
    let ratio = figure.ratio.as_ref().filter(|_| is(figure, group, metric))?;
    Some((figure.subject.clone(), ratio.value))
}

fn value(figure: &Figure, group: &str, metric: &str) -> Option<(String, f64)> {
    is(figure, group, metric).then(|| (figure.subject.clone(), figure.value))
}

/// Ours by where services come from; others have one way only.
fn by_source(figure: &Figure, metric: &str) -> Option<(String, f64)> {
    let (subject, value) = value(figure, "control", metric)?;
    let source = figure.case.get("source").map(|source| format!(", {source}"));
    Some((subject + &source.unwrap_or_default(), value))
}

fn hooks(figures: &[Figure]) -> Groups {
    by_case(figures, "to", |figure| {
        let case = [("hook", "connect4"), ("protocol", "udp"), ("socket", "new")];
        is(figure, "hooks", "time") && case.iter().all(|(name, value)| has(figure, name, value))
    })
}

fn processor_time(figures: &[Figure]) -> Groups {
    let mut bars = by_case(figures, "protocol", |figure| {
        is(figure, "after", "cpu") && has(figure, "load", "bulk")
    });
    for (label, _) in &mut bars {
        label.push_str(", per GB");
    }
    let connection = by_case(figures, "services", |figure| is(figure, "connect", "cpu"));
    let connection = connection.into_iter().filter(|(services, _)| services == "1000");
    bars.extend(connection.map(|(_, subjects)| ("a connection".to_owned(), subjects)));
    bars
}

/// Lines in the order in which they were measured, each from left to right.
fn by_number(
    figures: &[Figure],
    condition: &str,
    of: impl Fn(&Figure) -> Option<(String, f64)>,
) -> Series {
    let mut series = Series::new();
    for figure in figures {
        let number = figure.case.get(condition).and_then(|value| value.parse().ok());
        if let (Some(number), Some((name, value))) = (number, of(figure)) {
            let place = series.iter().position(|(other, _)| *other == name);
            let place = place.unwrap_or_else(|| {
                series.push((name, Vec::new()));
                series.len() - 1
            });
            series[place].1.push((number, value));
        }
    }
    series.iter_mut().for_each(|(_, values)| values.sort_by(|a, b| a.0.total_cmp(&b.0)));
    series
}

/// Ratios by a condition, the subjects of each value in the order in which they were measured.
fn by_case(figures: &[Figure], condition: &str, of: impl Fn(&Figure) -> bool) -> Groups {
    let mut groups = Groups::new();
    for figure in figures.iter().filter(|figure| of(figure)) {
        let (Some(label), Some(ratio)) = (figure.case.get(condition), &figure.ratio) else {
            continue;
        };
        let place = groups.iter().position(|(other, _)| other == label).unwrap_or_else(|| {
            groups.push((label.clone(), Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push((figure.subject.clone(), ratio.value));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_drawn() {
        let directory = tempfile::tempdir().unwrap();
        let connect = |subject, services, ratio| {
            let figure = Figure::new("connect", subject, "p50", 20.0, "us");
            figure.case("services", services).ratio("none", ratio)
        };
        let figures = [
            connect("ours", 1, 1.02),
            connect("ours", 1000, 1.03),
            connect("iptables", 1, 1.3),
            connect("iptables", 1000, 5.0),
        ];
        let drawn = draw(&figures, directory.path()).unwrap();
        assert_eq!(drawn.iter().map(|(file, _)| *file).collect::<Vec<_>>(), ["connect.svg"]);
        let svg = fs::read_to_string(directory.path().join("connect.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("iptables"), "{svg}");
        assert_eq!(draw(&[], directory.path()).unwrap(), []);
    }

    #[test]
    fn lines_have_the_names_of_sources_and_fleets() {
        let figure = |group, metric, name: &str, of: &str, by: &str, number: u32, value| {
            let figure = Figure::new(group, "ours", metric, value, "ms").case(by, number);
            figure.case(name, of)
        };
        let figures = [
            figure("control", "load", "source", "etcd", "services", 1000, 30.0),
            figure("control", "load", "source", "etcd", "services", 100, 20.0),
            Figure::new("control", "nftables", "load", 40.0, "ms").case("services", 100),
            figure("control", "change p50", "source", "file", "services", 100, 2.0),
        ];
        let load = by_number(&figures, "services", |figure| by_source(figure, "load"));
        let etcd = ("ours, etcd".to_owned(), vec![(100.0, 20.0), (1000.0, 30.0)]);
        assert_eq!(load, [etcd, ("nftables".to_owned(), vec![(100.0, 40.0)])]);
        let share = figure("scale", "share", "fleet", "a small one", "hosts", 100, 3.0);
        let figures = [share.clone().case("of", "store cpu"), share.case("of", "store memory")];
        let directory = tempfile::tempdir().unwrap();
        let drawn = draw(&figures, directory.path()).unwrap();
        assert_eq!(drawn.iter().map(|(file, _)| *file).collect::<Vec<_>>(), ["scale.svg"]);
        let svg = fs::read_to_string(directory.path().join("scale.svg")).unwrap();
        assert_eq!(svg.matches("a small one").count(), 1, "{svg}");
    }
}
