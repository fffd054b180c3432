//! The six kinds of object.

use crate::background::Light;
use crate::canvas::{Canvas, Rgb, blend, lit};
use crate::shape::{Point, disc, ellipse, polygon, rectangle, stroke};
use crate::{Colour, Kind, Object};

/// Corners of a star of five points and radius 1 round the origin, inner radius 0.45, y downwards.
const STAR: [Point; 10] = [
    [0.0, -1.0],
    [0.264_503, -0.364_058],
    [0.951_057, -0.309_017],
    [0.427_975, 0.139_058],
    [0.587_785, 0.809_017],
    [0.0, 0.45],
    [-0.587_785, 0.809_017],
    [-0.427_975, 0.139_058],
    [-0.951_057, -0.309_017],
    [-0.264_503, -0.364_058],
];

/// Half the width of the dark line round every part of the object's colour.
const OUTLINE: f32 = 0.035;

/// Paints in the object's own frame: x in [-0.5, 0.5], y from 0 at its foot to -1 at the top of its square.
struct Brush<'a> {
    canvas: &'a mut Canvas,
    object: &'a Object,
    light: Rgb,
}

impl Brush<'_> {
    fn fill(&mut self, colour: Rgb, opacity: f32, distance: impl Fn(Point) -> f32) {
        let Object { x, y, size, .. } = *self.object;
        let [left, top, right, bottom] = self.object.bounds();
        let margin = 0.08 * size;
        let within = [left - margin, top - margin, right + margin, bottom + margin];
        self.canvas.fill(within, lit(colour, self.light), opacity, |[px, py]| {
            size * distance([(px - x) / size, (py - y) / size])
        });
    }

    /// Fills a part with a dark line round it, so that a white thing shows on snow.
    fn fill_outlined(&mut self, colour: Rgb, distance: impl Fn(Point) -> f32) {
        let dark = colour.map(|c| 0.45 * c);
        self.fill(dark, 1.0, |p| distance(p) - 0.5 * OUTLINE);
        self.fill(colour, 1.0, |p| distance(p) + 0.5 * OUTLINE);
    }
}

/// Paints the object with its shadow.
pub(crate) fn draw(canvas: &mut Canvas, object: &Object, light: &Light) {
    let mut brush = Brush { canvas, object, light: light.object };
    let colour = object.colour.rgb();
    let shade = colour.map(|c| 0.68 * c);
    let tint = blend(colour, [1.0; 3], 0.55);
    let cream = [0.96, 0.91, 0.80];
    let black = [0.12, 0.12, 0.14];
    let glass = [0.74, 0.89, 0.97];
    // The same for all kinds: turning one into another leaves it.
    brush.fill([0.0; 3], 0.28, |p| ellipse(p, [0.0, -0.01], [0.46, 0.075]));
    match object.kind {
        Kind::House => {
            brush.fill_outlined(colour, |p| rectangle(p, [-0.38, -0.56, 0.38, 0.0], 0.0));
            brush.fill_outlined(shade, |p| polygon(p, &[[-0.5, -0.52], [0.0, -0.98], [0.5, -0.52]]));
            brush.fill([0.36, 0.22, 0.14], 1.0, |p| rectangle(p, [-0.26, -0.36, -0.06, -0.01], 0.0));
            brush.fill(glass, 1.0, |p| rectangle(p, [0.06, -0.40, 0.26, -0.20], 0.0));
        }
        Kind::Car => {
            brush.fill_outlined(colour, |p| {
                polygon(p, &[[-0.30, -0.36], [-0.20, -0.66], [0.16, -0.66], [0.32, -0.36]]).min(rectangle(
                    p,
                    [-0.5, -0.42, 0.5, -0.12],
                    0.07,
                ))
            });
            brush.fill(glass, 1.0, |p| {
                polygon(p, &[[-0.21, -0.42], [-0.15, -0.59], [-0.03, -0.59], [-0.03, -0.42]])
                    .min(polygon(p, &[[0.03, -0.42], [0.03, -0.59], [0.12, -0.59], [0.21, -0.42]]))
            });
            for x in [-0.27, 0.27] {
                brush.fill(black, 1.0, |p| disc(p, [x, -0.13], 0.135));
                brush.fill([0.75, 0.75, 0.77], 1.0, |p| disc(p, [x, -0.13], 0.06));
            }
        }
        Kind::Tree => {
            brush.fill([0.42, 0.27, 0.15], 1.0, |p| rectangle(p, [-0.08, -0.5, 0.08, 0.0], 0.0));
            brush.fill_outlined(colour, |p| {
                disc(p, [0.0, -0.70], 0.28).min(disc(p, [-0.24, -0.50], 0.24)).min(disc(
                    p,
                    [0.24, -0.50],
                    0.24,
                ))
            });
            brush.fill(tint, 0.8, |p| ellipse(p, [-0.10, -0.77], [0.10, 0.08]));
        }
        Kind::Mushroom => {
            brush.fill_outlined(cream, |p| rectangle(p, [-0.15, -0.5, 0.15, 0.0], 0.06));
            brush.fill_outlined(colour, |p| ellipse(p, [0.0, -0.42], [0.49, 0.52]).max(p[1] + 0.40));
            // Light dots would not show on a white cap.
            let dots = if object.colour == Colour::White { [0.80, 0.62, 0.50] } else { [1.0, 0.98, 0.94] };
            for (x, y, r) in [(-0.24, -0.56, 0.085), (0.05, -0.74, 0.095), (0.25, -0.55, 0.075)] {
                brush.fill(dots, 1.0, |p| disc(p, [x, y], r));
            }
        }
        Kind::Balloon => {
            brush.fill(black, 1.0, |p| stroke(p, [0.0, -0.3], [0.0, 0.0], 0.022));
            brush.fill_outlined(shade, |p| polygon(p, &[[-0.08, -0.20], [0.0, -0.32], [0.08, -0.20]]));
            brush.fill_outlined(colour, |p| ellipse(p, [0.0, -0.64], [0.32, 0.36]));
            brush.fill(tint, 0.9, |p| ellipse(p, [-0.11, -0.76], [0.07, 0.10]));
        }
        Kind::Star => {
            brush.fill_outlined(colour, |[x, y]| 0.53 * polygon([x / 0.53, (y + 0.45) / 0.53], &STAR));
        }
    }
}
