//! Draws series and groups as SVG.

use super::Plot;
use plotters::prelude::*;
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

/// Lines by name, each with its values by place on the horizontal axis.
pub(super) type Series = Vec<(String, Vec<(f64, f64)>)>;

/// Groups of bars by label, each with a value for each subject.
pub(super) type Groups = Vec<(String, Vec<(String, f64)>)>;

/// Lines on axes that are logarithms.
pub(super) fn lines(
    plot: &Plot,
    axis: &str,
    series: &Series,
    directory: &Path,
) -> anyhow::Result<()> {
    let all = || series.iter().flat_map(|(_, values)| values);
    let right = all().map(|(x, _)| *x).fold(10.0, f64::max) * 1.5;
    let left = all().map(|(x, _)| *x).fold(right, f64::min) * 0.8;
    let top = all().map(|(_, y)| *y).fold(2.0, f64::max);
    // A logarithm ends nowhere.
    let bottom = all().map(|(_, y)| *y * 0.8).fold(0.8, f64::min).max(top / 1e6);
    // The legend is above all lines.
    let top = top * (top / bottom).powf(0.4);
    let path = directory.join(plot.file);
    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow::anyhow!("{}: {error}", plot.file);
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(plot.title, (FONT, 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d((left..right).log_scale(), (bottom..top).log_scale())
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .x_labels(5)
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
            .label(subject.as_str())
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
pub(super) fn bars(
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
