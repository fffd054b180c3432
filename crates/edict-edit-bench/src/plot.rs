//! Preservation against success, a curve for each method.

use plotters::prelude::*;

use crate::Fault;
use crate::pareto::is_beaten;
use crate::runs::{Run, methods};

const COLOURS: [RGBColor; 5] =
    [RGBColor(0, 110, 60), RGBColor(30, 90, 200), RGBColor(130, 60, 180), RED, RGBColor(120, 120, 120)];

/// Draws a point for every setting, and joins those of a method that no other of its own beats in both.
pub(crate) fn svg(runs: &[Run]) -> Result<String, Fault> {
    let mut text = String::new();
    draw(&mut text, runs).map_err(|error| error.to_string())?;
    Ok(text)
}

fn draw(text: &mut String, runs: &[Run]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(text, (820, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let points_of = |name: &str| -> Vec<(f64, f64)> {
        let of = runs.iter().filter(|run| run.method == name);
        of.map(|run| (run.preservation(), run.success())).filter(|point| point.0.is_finite()).collect()
    };
    let all = methods(runs).into_iter().flat_map(points_of);
    let (low, high) =
        all.fold((f64::MAX, f64::MIN), |(low, high), point| (low.min(point.0), high.max(point.0)));
    if low > high {
        return Err("there is nothing to draw".into());
    }
    let mut chart = ChartBuilder::on(&root)
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d((low - 1.0)..(high + 1.0), 0.0..1.0)?;
    chart.configure_mesh().x_desc("preservation, dB").y_desc("share of edits that succeed").draw()?;
    for (name, colour) in methods(runs).into_iter().zip(COLOURS) {
        let points = points_of(name);
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.mix(0.5).filled())))?;
        let mut front: Vec<_> = points.iter().filter(|point| !is_beaten(**point, &points)).copied().collect();
        front.sort_by(|a, b| a.0.total_cmp(&b.0));
        chart
            .draw_series(LineSeries::new(front, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    root.present()?;
    Ok(())
}
