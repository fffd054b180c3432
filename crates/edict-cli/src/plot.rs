//! The table of samplers as a picture.

use plotters::prelude::*;

use crate::failure::Failure;
use crate::measure::{Measured, Row, share};
use edict_stable_diffusion::psnr;

/// Errors below this are drawn as it: an error of 0 has no place on a logarithmic axis.
const FLOOR: f64 = 1e-18;
/// Errors above this are drawn as it.
const CEILING: f64 = 1e3;

/// Draws the largest latent error of each sampler as a bar, and its other numbers beside it.
pub(crate) fn svg(rows: &[Row], vae_mse: f64) -> Result<String, Failure> {
    let mut text = String::new();
    draw(&mut text, rows, vae_mse).map_err(|error| Failure::running(format!("the plot: {error}")))?;
    Ok(text)
}

fn draw(text: &mut String, rows: &[Row], vae_mse: f64) -> Result<(), Box<dyn std::error::Error>> {
    let height = 90 + 36 * rows.len() as u32;
    let root = SVGBackend::with_string(text, (900, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let caption = format!("image -> noise -> image (autoencoder alone: {:.2} dB)", psnr(vae_mse));
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 18))
        .margin(10)
        .margin_right(260)
        .x_label_area_size(36)
        .y_label_area_size(100)
        .build_cartesian_2d((FLOOR..CEILING).log_scale(), (0..rows.len()).into_segmented())?;
    let name = |segment: &SegmentValue<usize>| match segment {
        SegmentValue::CenterOf(at) => {
            rows.get(rows.len().wrapping_sub(at + 1)).map_or("", |row| row.0).to_owned()
        }
        _ => String::new(),
    };
    (chart.configure_mesh())
        .disable_y_mesh()
        .y_label_formatter(&name)
        .y_labels(rows.len())
        .x_label_formatter(&|error| format!("{error:.0e}"))
        .x_desc("largest error of the latent")
        .draw()?;
    for (at, (_, row)) in rows.iter().rev().enumerate() {
        let (error, colour, label) = match row {
            Ok(measured) => (measured.latent_max_abs_error, colour(measured), numbers(measured)),
            Err(_) => (FLOOR, BLACK, "failed".to_owned()),
        };
        let end = if error.is_finite() { error.clamp(FLOOR, CEILING) } else { CEILING };
        let (bottom, top) = (SegmentValue::Exact(at), SegmentValue::Exact(at + 1));
        let mut bar = Rectangle::new([(FLOOR, bottom), (end, top)], colour.filled());
        bar.set_margin(6, 6, 0, 0);
        chart.draw_series([bar])?;
        let place = chart.backend_coord(&(CEILING, SegmentValue::CenterOf(at)));
        root.draw(&Text::new(label, (place.0 + 8, place.1 - 7), ("sans-serif", 13)))?;
    }
    root.present()?;
    Ok(())
}

fn colour(measured: &Measured) -> RGBColor {
    if measured.bit_identical.equal == measured.bit_identical.total { GREEN } else { RED }
}

fn numbers(measured: &Measured) -> String {
    format!(
        "{:.1e}, {} bit-identical, {:.2} dB",
        measured.latent_max_abs_error,
        share(measured.bit_identical),
        psnr(measured.pixel_mse)
    )
}
