//! Styles, as changes made to the finished plain picture.

use crate::Style;
use crate::canvas::{Canvas, Rgb, blend, luminance};

/// Tiles a side of the mosaic: four pixels each at 64, a good match for the demo VAE's factor of four.
const TILES: usize = 16;

const PAPER: Rgb = [0.98, 0.96, 0.92];

/// Applies a style.
pub(crate) fn apply(style: Style, canvas: Canvas) -> Canvas {
    match style {
        Style::Plain => canvas,
        Style::Pencil => pencil(&canvas),
        Style::Mosaic => mosaic(&canvas),
    }
}

/// Lines where brightness or colour changes, pale colours between them, hatching over the dark.
///
/// Some colour is kept on purpose: without it an edit of colour, or one from pencil back to plain, would have
/// no right answer.
fn pencil(canvas: &Canvas) -> Canvas {
    let side = canvas.side;
    let step = (side / 64).max(1);
    let at = |row: usize, column: usize| canvas.pixels[row * side + column];
    let mut drawn = Canvas::new(side);
    for row in 0..side {
        for column in 0..side {
            let pixel = at(row, column);
            let (left, right) =
                (at(row, column.saturating_sub(step)), at(row, (column + step).min(side - 1)));
            let (up, down) = (at(row.saturating_sub(step), column), at((row + step).min(side - 1), column));
            let slope: f32 = (0..3).map(|c| (right[c] - left[c]).abs() + (down[c] - up[c]).abs()).sum();
            let line = ((slope - 0.25) * 0.7).clamp(0.0, 0.75);
            let bright = luminance(pixel);
            // Diagonal strokes, 16 periods a side; lighter ones over lighter tones.
            let period = side / 16;
            let stripe = (row + column) % period < period / 2;
            let hatch = if stripe { 0.14 * (0.75 - bright).max(0.0) } else { 0.0 };
            let tone = 1.0 - 0.42 * (1.0 - bright) - hatch;
            let pale = [0, 1, 2].map(|c| PAPER[c] * tone + 0.45 * (pixel[c] - bright));
            drawn.pixels[row * side + column] = blend(pale, [0.18, 0.17, 0.20], line);
        }
    }
    drawn
}

/// Tiles of the mean colour with a dark joint at their right and lower edge.
fn mosaic(canvas: &Canvas) -> Canvas {
    let side = canvas.side;
    let tile = side / TILES;
    let joint = (tile / 4).max(1);
    let mut drawn = Canvas::new(side);
    for top in (0..side).step_by(tile) {
        for left in (0..side).step_by(tile) {
            let mut sum = [0.0; 3];
            for row in top..top + tile {
                for pixel in &canvas.pixels[row * side + left..row * side + left + tile] {
                    sum = [0, 1, 2].map(|c| sum[c] + pixel[c]);
                }
            }
            let mean = sum.map(|s| s / (tile * tile) as f32);
            for row in top..top + tile {
                for column in left..left + tile {
                    let in_joint = row - top >= tile - joint || column - left >= tile - joint;
                    let colour = if in_joint { blend(mean, [0.16, 0.15, 0.15], 0.38) } else { mean };
                    drawn.pixels[row * side + column] = colour;
                }
            }
        }
    }
    drawn
}
