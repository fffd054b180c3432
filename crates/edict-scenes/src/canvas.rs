//! A square of colours that shapes are painted on.

use crate::shape::Point;

pub(crate) type Rgb = [f32; 3];

/// Mixes two colours: `a` where `t` is 0, `b` where it is 1.
pub(crate) fn blend(a: Rgb, b: Rgb, t: f32) -> Rgb {
    [0, 1, 2].map(|c| a[c] + (b[c] - a[c]) * t)
}

/// Multiplies a colour by a light.
pub(crate) fn lit(colour: Rgb, light: Rgb) -> Rgb {
    [0, 1, 2].map(|c| colour[c] * light[c])
}

/// How bright a colour looks, in [0, 1] (Rec. 601 weights).
pub(crate) fn luminance([r, g, b]: Rgb) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

#[derive(Debug, Clone)]
pub(crate) struct Canvas {
    pub(crate) side: usize,
    pub(crate) pixels: Vec<Rgb>,
}

impl Canvas {
    pub(crate) fn new(side: usize) -> Self {
        Self { side, pixels: vec![[0.0; 3]; side * side] }
    }

    /// Paints every pixel from its centre and its present colour.
    pub(crate) fn paint(&mut self, colour: impl Fn(Point, Rgb) -> Rgb) {
        self.paint_within([0.0, 0.0, 1.0, 1.0], colour);
    }

    /// Fills a shape, given by its signed distance in units of the side, inside a box that holds it.
    ///
    /// The share of a pixel that is covered is taken as linear in the distance over one pixel's width, which
    /// is exact for a straight edge along an axis and close for any other that is smooth.
    pub(crate) fn fill(
        &mut self,
        within: [f32; 4],
        colour: Rgb,
        opacity: f32,
        distance: impl Fn(Point) -> f32,
    ) {
        let side = self.side as f32;
        self.paint_within(within, |p, below| {
            let covered = (0.5 - distance(p) * side).clamp(0.0, 1.0);
            if covered > 0.0 { blend(below, colour, covered * opacity) } else { below }
        });
    }

    fn paint_within(&mut self, [left, top, right, bottom]: [f32; 4], colour: impl Fn(Point, Rgb) -> Rgb) {
        let side = self.side as f32;
        // One pixel more on each side for the blended edge.
        let first = |v: f32| (v * side - 1.0).floor().clamp(0.0, side) as usize;
        let end = |v: f32| (v * side + 1.0).ceil().clamp(0.0, side) as usize;
        for row in first(top)..end(bottom) {
            for column in first(left)..end(right) {
                let centre = [(column as f32 + 0.5) / side, (row as f32 + 0.5) / side];
                let pixel = &mut self.pixels[row * self.side + column];
                *pixel = colour(centre, *pixel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Canvas;
    use crate::shape::{disc, rectangle};

    #[test]
    fn fills_the_area_of_a_shape_at_any_side() {
        for side in [32, 64, 128] {
            let mut canvas = Canvas::new(side);
            canvas.fill([0.2, 0.2, 0.8, 0.8], [1.0; 3], 1.0, |p| disc(p, [0.5, 0.5], 0.3));
            let area = canvas.pixels.iter().map(|p| p[0]).sum::<f32>() / (side * side) as f32;
            let exact = std::f32::consts::PI * 0.09;
            // A curved edge's coverage is off by the curvature times a pixel squared.
            assert!((area - exact).abs() < 1.0 / (side * side) as f32, "{side}: {area} for {exact}");
        }
    }

    #[test]
    fn an_edge_through_a_pixel_is_blended() {
        let mut canvas = Canvas::new(32);
        canvas
            .fill([0.0, 0.0, 1.0, 1.0], [1.0; 3], 1.0, |p| rectangle(p, [-1.0, -1.0, 4.25 / 32.0, 2.0], 0.0));
        let row: Vec<f32> = canvas.pixels[..6].iter().map(|p| p[0]).collect();
        assert!((row[4] - 0.25).abs() < 1e-5 && row[3] == 1.0 && row[5] == 0.0, "{row:?}");
    }
}
