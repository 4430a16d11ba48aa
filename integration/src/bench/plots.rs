//! Figures as SVG: ratios, since they are the result.

use super::Figure;
use anyhow::Context as _;
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SIZE: (u32, u32) = (760, 420);
const FONT: &str = "sans-serif";
/// Of subjects, in the order in which they come.
const COLOURS: [RGBColor; 9] = [
    RGBColor(120, 120, 120),
    RGBColor(0, 110, 190),
    RGBColor(220, 110, 0),
    RGBColor(170, 30, 30),
    RGBColor(100, 70, 150),
    RGBColor(40, 140, 60),
    RGBColor(0, 150, 150),
    RGBColor(190, 80, 140),
    RGBColor(130, 110, 40),
];

/// What is shown in one plot.
struct Plot {
    file: &'static str,
    title: &'static str,
    value: &'static str,
}

/// A subject and its values by place on the horizontal axis.
type Series = BTreeMap<String, Vec<(f64, f64)>>;

/// Draws what the figures have data for; the files' names.
pub fn draw(figures: &[Figure], directory: &Path) -> anyhow::Result<Vec<&'static str>> {
    fs::create_dir_all(directory).with_context(|| format!("can't make {}", directory.display()))?;
    let mut drawn = Vec::new();
    let connects = Plot {
        file: "connect.svg",
        title: "connect() on TCP, median, beside no program at all",
        value: "times as long",
    };
    let series = by_number(figures, "connect", "p50", "services");
    if !series.is_empty() {
        lines(&connects, "services", &series, directory)?;
        drawn.push(connects.file);
    }
    let hooks = Plot {
        file: "hooks.svg",
        title: "connect4 of new UDP sockets, beside an empty program",
        value: "times as long",
    };
    let bars = by_case(figures, "to", |figure| {
        let is = |name: &str, value: &str| figure.case.get(name).is_some_and(|v| v == value);
        figure.group == "hooks"
            && figure.metric == "time"
            && is("hook", "connect4")
            && is("protocol", "udp")
            && is("socket", "new")
    });
    if !bars.is_empty() {
        self::bars(&hooks, &bars, directory)?;
        drawn.push(hooks.file);
    }
    let after = Plot {
        file: "after.svg",
        title: "After connect: median latency of a request, beside no program at all",
        value: "times as long",
    };
    let bars = by_case(figures, "protocol", |figure| {
        figure.group == "after"
            && figure.metric == "p50"
            && figure.case.get("load").is_some_and(|load| load == "requests")
    });
    if !bars.is_empty() {
        self::bars(&after, &bars, directory)?;
        drawn.push(after.file);
    }
    let spent = Plot {
        file: "cpu.svg",
        title: "Processor time of the whole machine, beside no program at all",
        value: "times as much",
    };
    let mut bars = by_case(figures, "protocol", |figure| {
        figure.group == "after"
            && figure.metric == "cpu"
            && figure.case.get("load").is_some_and(|load| load == "bulk")
    });
    for (label, _) in &mut bars {
        label.push_str(", per GB");
    }
    let connection =
        by_case(figures, "services", |figure| figure.group == "connect" && figure.metric == "cpu");
    let connection = connection.into_iter().filter(|(services, _)| services == "1000");
    bars.extend(connection.map(|(_, subjects)| ("a connection".to_owned(), subjects)));
    if !bars.is_empty() {
        self::bars(&spent, &bars, directory)?;
        drawn.push(spent.file);
    }
    Ok(drawn)
}

/// Ratios by a condition that is a number.
fn by_number(figures: &[Figure], group: &str, metric: &str, condition: &str) -> Series {
    let mut series = Series::new();
    for figure in figures.iter().filter(|f| f.group == group && f.metric == metric) {
        let number = figure.case.get(condition).and_then(|value| value.parse().ok());
        if let (Some(number), Some(ratio)) = (number, &figure.ratio) {
            let values = series.entry(figure.subject.clone()).or_default();
            values.push((number, ratio.value));
        }
    }
    series.values_mut().for_each(|values| values.sort_by(|a, b| a.0.total_cmp(&b.0)));
    series
}

/// Ratios by a condition, the subjects of each value in the order in which they were measured.
fn by_case(
    figures: &[Figure],
    condition: &str,
    of: impl Fn(&Figure) -> bool,
) -> Vec<(String, Vec<(String, f64)>)> {
    let mut groups: Vec<(String, Vec<(String, f64)>)> = Vec::new();
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

fn lines(plot: &Plot, axis: &str, series: &Series, directory: &Path) -> anyhow::Result<()> {
    let all = || series.values().flatten();
    let right = all().map(|(x, _)| *x).fold(10.0, f64::max) * 1.5;
    let top = all().map(|(_, y)| *y).fold(2.0, f64::max) * 1.2;
    let path = directory.join(plot.file);
    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow::anyhow!("{}: {error}", plot.file);
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(plot.title, (FONT, 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d((0.8..right).log_scale(), (0.5..top).log_scale())
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .y_desc(plot.value)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y}"))
        .light_line_style(WHITE)
        .draw()
        .map_err(|e| failed(&e))?;
    for (index, (subject, values)) in series.iter().enumerate() {
        let colour = COLOURS[(index + 1) % COLOURS.len()];
        let line = LineSeries::new(values.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(line)
            .map_err(|e| failed(&e))?
            .label(subject)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        let points = values.iter().map(|at| Circle::new(*at, 3, colour.filled()));
        chart.draw_series(points).map_err(|e| failed(&e))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(COLOURS[0])
        .draw()
        .map_err(|e| failed(&e))?;
    root.present().map_err(|e| failed(&e))
}

/// Bars in groups; the line at 1 is what they are compared with.
fn bars(
    plot: &Plot,
    groups: &[(String, Vec<(String, f64)>)],
    directory: &Path,
) -> anyhow::Result<()> {
    let subjects: Vec<&String> = groups.iter().fold(Vec::new(), |mut all, (_, values)| {
        for (subject, _) in values {
            if !all.contains(&subject) {
                all.push(subject);
            }
        }
        all
    });
    let top = groups.iter().flat_map(|(_, values)| values).map(|(_, value)| *value);
    let top = top.fold(1.2, f64::max) * 1.15;
    // Each group is one wide, with a gap; beside them there is room for the legend.
    let width = 0.8 / subjects.len() as f64;
    let right = groups.len() as f64 * 1.6;
    let path = directory.join(plot.file);
    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow::anyhow!("{}: {error}", plot.file);
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(plot.title, (FONT, 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..right, 0.0..top)
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(plot.value)
        .light_line_style(WHITE)
        .draw()
        .map_err(|e| failed(&e))?;
    for (index, subject) in subjects.iter().enumerate() {
        let colour = COLOURS[(index + 1) % COLOURS.len()];
        let own = groups.iter().enumerate().filter_map(|(group, (_, values))| {
            let (_, value) = values.iter().find(|(other, _)| other == *subject)?;
            let left = group as f64 + 0.1 + index as f64 * width;
            Some(Rectangle::new([(left, 0.0), (left + 0.9 * width, *value)], colour.filled()))
        });
        chart
            .draw_series(own)
            .map_err(|e| failed(&e))?
            .label(subject.as_str())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
    }
    let one = LineSeries::new([(0.0, 1.0), (groups.len() as f64, 1.0)], BLACK);
    chart.draw_series(one).map_err(|e| failed(&e))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|e| failed(&e))?;
    for (group, (label, _)) in groups.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(group as f64 + 0.2, 0.0));
        let style = TextStyle::from((FONT, 14).into_font());
        root.draw_text(label, &style, (x, y + 8)).map_err(|e| failed(&e))?;
    }
    root.present().map_err(|e| failed(&e))
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
        assert_eq!(draw(&figures, directory.path()).unwrap(), ["connect.svg"]);
        let svg = fs::read_to_string(directory.path().join("connect.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("iptables"), "{svg}");
        assert_eq!(draw(&[], directory.path()).unwrap(), Vec::<&str>::new());
    }
}
