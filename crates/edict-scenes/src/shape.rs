//! Signed distances to plane shapes: negative inside, in units of the coordinates.
//!
//! The formulas are the well-known exact ones (I. Quilez, "2D distance functions"), save the ellipse's, which
//! is the first-order estimate: it is only used to blend one pixel's width of edge.

pub(crate) type Point = [f32; 2];

fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// Distance to a disc.
pub(crate) fn disc([x, y]: Point, [cx, cy]: Point, radius: f32) -> f32 {
    length(x - cx, y - cy) - radius
}

/// Distance to an ellipse with its axes along the coordinates, to first order.
pub(crate) fn ellipse([x, y]: Point, [cx, cy]: Point, [rx, ry]: Point) -> f32 {
    let (u, v) = ((x - cx) / rx, (y - cy) / ry);
    let gradient = length(u / rx, v / ry);
    // At the centre the estimate is 0/0: the nearer vertex it is.
    if gradient < 1e-6 { -rx.min(ry) } else { length(u, v) * (length(u, v) - 1.0) / gradient }
}

/// Distance to a rectangle `[left, top, right, bottom]` whose corners are rounded by `radius`.
pub(crate) fn rectangle([x, y]: Point, [left, top, right, bottom]: [f32; 4], radius: f32) -> f32 {
    let dx = (x - 0.5 * (left + right)).abs() - 0.5 * (right - left) + radius;
    let dy = (y - 0.5 * (top + bottom)).abs() - 0.5 * (bottom - top) + radius;
    length(dx.max(0.0), dy.max(0.0)) + dx.max(dy).min(0.0) - radius
}

/// Distance to a line of the given half width with round ends.
pub(crate) fn stroke([x, y]: Point, [ax, ay]: Point, [bx, by]: Point, half_width: f32) -> f32 {
    let (px, py, dx, dy) = (x - ax, y - ay, bx - ax, by - ay);
    let along = ((px * dx + py * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    length(px - along * dx, py - along * dy) - half_width
}

/// Distance to a simple polygon.
pub(crate) fn polygon([x, y]: Point, corners: &[Point]) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    for (i, &[bx, by]) in corners.iter().enumerate() {
        let [ax, ay] = corners[(i + corners.len() - 1) % corners.len()];
        nearest = nearest.min(stroke([x, y], [ax, ay], [bx, by], 0.0));
        if (ay > y) != (by > y) && x < ax + (bx - ax) * (y - ay) / (by - ay) {
            inside = !inside;
        }
    }
    if inside { -nearest } else { nearest }
}

/// A smooth periodic curve of period 1 and range [-1, 1] made of parabola arcs.
///
/// In place of a sine, whose last bits differ between platforms.
pub(crate) fn wave(t: f32) -> f32 {
    let f = t - t.floor();
    if f < 0.5 { 16.0 * f * (0.5 - f) } else { -16.0 * (f - 0.5) * (1.0 - f) }
}

/// A zigzag of period 1 and range [0, 1].
pub(crate) fn zigzag(t: f32) -> f32 {
    let f = t - t.floor();
    1.0 - (2.0 * f - 1.0).abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_plane() {
        let square = [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]];
        for p in [[1.0, 1.0], [3.0, 1.0], [0.25, 1.0], [3.0, 3.0], [-1.0, 0.5]] {
            let (a, b) = (polygon(p, &square), rectangle(p, [0.0, 0.0, 2.0, 2.0], 0.0));
            assert!((a - b).abs() < 1e-6, "{p:?}: {a} and {b}");
        }
        assert_eq!(disc([3.0, 4.0], [0.0, 0.0], 1.0), 4.0);
        assert!(ellipse([2.0, 0.0], [0.0, 0.0], [2.0, 1.0]).abs() < 1e-6);
        assert!(ellipse([0.0, 0.0], [0.0, 0.0], [2.0, 1.0]) < 0.0);
        assert_eq!(stroke([0.5, 2.0], [0.0, 0.0], [1.0, 0.0], 0.5), 1.5);
    }

    #[test]
    fn curves_stay_in_range() {
        for i in -100..100 {
            let t = i as f32 * 0.037;
            assert!((-1.0..=1.0).contains(&wave(t)));
            assert!((0.0..=1.0).contains(&zigzag(t)));
        }
    }
}
